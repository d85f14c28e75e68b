//! The weights of a layer.

use super::{matrix::Matrix, names::Names, norm::Norm};
use crate::{EncoderSpec, LayerSpec, MlpSpec, ModelError, NormPlacement, weights::WeightSource};
use yantra_kernels::{ActivationFn, Compute, DenseType};

pub(super) struct Layer {
    pub(super) query: Matrix,
    pub(super) key: Matrix,
    pub(super) value: Matrix,
    pub(super) output: Matrix,
    /// Before attention or after it, as the specification says.
    pub(super) attention_norm: Option<Norm>,
    pub(super) up: Matrix,
    /// What the activated values are multiplied with.
    pub(super) gated: Option<Matrix>,
    pub(super) activation: ActivationFn,
    pub(super) down: Matrix,
    /// Before the feed-forward network or after it.
    pub(super) mlp_norm: Norm,
    /// Which of the encoder's tables rotates queries and keys.
    pub(super) rope: Option<usize>,
    pub(super) window: Option<usize>,
}

impl Layer {
    pub(super) fn load(
        source: &WeightSource<'_>,
        cx: &Compute,
        spec: &EncoderSpec,
        names: &Names,
        dense: Option<DenseType>,
        index: usize,
        rope: Option<usize>,
    ) -> Result<Self, ModelError> {
        let LayerSpec { window, mlp, .. } = spec.layers[index];
        let (MlpSpec::Plain { activation, .. } | MlpSpec::Gated { activation, .. }) = mlp else {
            return Err(ModelError::Unsupported { feature: format!("layer {index}: experts in an encoder") });
        };
        let norm = |name: String| Norm::load(source, &name, spec.hidden_size, spec.norm_eps);
        let has_attention_norm = spec.norms == NormPlacement::Post || index > 0;
        let mut matrices = names.matrices(spec, index).into_iter();
        let mut next = || {
            let missing = || ModelError::Unsupported { feature: format!("layer {index}: fewer matrices than parts") };
            let (place, cols) = matrices.next().ok_or_else(missing)?;
            Matrix::load(source, cx, dense, &place, cols)
        };
        Ok(Self {
            query: next()?,
            key: next()?,
            value: next()?,
            output: next()?,
            attention_norm: has_attention_norm.then(|| norm(names.layer(index, |it| it.attention_norm))).transpose()?,
            up: next()?,
            gated: matches!(mlp, MlpSpec::Gated { .. }).then(&mut next).transpose()?,
            activation,
            down: next()?,
            mlp_norm: norm(names.layer(index, |it| it.mlp_norm))?,
            rope,
            window,
        })
    }

    pub(super) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        [&self.query, &self.key, &self.value, &self.output, &self.up, &self.down].into_iter().chain(&self.gated)
    }
}
