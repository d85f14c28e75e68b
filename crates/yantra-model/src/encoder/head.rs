//! What turns a pooled text into a score.

use super::{
    matrix::{Input, Matrix},
    names::{HeadNames, Names},
    norm::Norm,
};
use crate::{
    EncoderSpec, HeadActivation, ModelError, ScoreSpec,
    footprint::Sizes,
    weights::{Place, WeightSource},
};
use yantra_kernels::{ActivationFn, Compute, DenseThen, activate, sigmoid};

/// The head of a cross-encoder. It reads one row of a text, so its matrices stay as the checkpoint has them.
pub(super) struct Head {
    spec: ScoreSpec,
    dense: Matrix,
    norm: Option<Norm>,
    output: Vec<f32>,
    bias: f32,
}

impl Head {
    pub(super) fn load(
        source: &WeightSource<'_>,
        cx: &Compute,
        spec: &EncoderSpec,
        head: ScoreSpec,
        names: &Names,
    ) -> Result<Self, ModelError> {
        let HeadNames { dense, norm, output } = names.head();
        let hidden = spec.hidden_size;
        let bias = source.optional_vector(&format!("{output}.bias"), 1)?;
        Ok(Self {
            spec: head,
            dense: Matrix::load(source, cx, None, &Place::whole(dense, hidden), hidden)?,
            norm: head.norm.then(|| Norm::load(source, norm, hidden, spec.norm_eps)).transpose()?,
            output: source.table(&format!("{output}.weight"), 1, hidden)?,
            bias: bias.map_or(0.0, |bias| bias.iter().sum()),
        })
    }

    /// Counts what [`Head::load`] will make.
    pub(super) fn count(sizes: &mut Sizes<'_>, spec: &EncoderSpec, names: &Names) -> Result<(), ModelError> {
        let hidden = spec.hidden_size;
        sizes.matrix(&Place::whole(names.head().dense, hidden), hidden)?;
        sizes.weight_bytes += hidden * size_of::<f32>();
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        self.dense.bytes() + self.output.len() * size_of::<f32>()
    }

    /// The score of each row of `pooled`, `[num_texts, hidden_size]`.
    pub(super) fn scores(&self, cx: &Compute, pooled: &[f32]) -> Vec<f32> {
        let width = self.output.len();
        let num_texts = pooled.len() / width;
        let mut input = Input::new(cx.level(), None, [&self.dense].into_iter());
        input.set(cx, pooled, num_texts, width);
        let mut inner = vec![0.0; pooled.len()];
        self.dense.multiply(cx, &input, &mut inner, DenseThen::Store);
        match self.spec.activation {
            HeadActivation::Tanh => inner.iter_mut().for_each(|value| *value = value.tanh()),
            HeadActivation::Gelu => activate(cx, ActivationFn::Gelu, &mut inner),
        }
        if let Some(norm) = &self.norm {
            let given = inner.clone();
            norm.apply(cx, &given, &mut inner);
        }
        let score = |row: &[f32]| row.iter().zip(&self.output).map(|(x, weight)| x * weight).sum::<f32>() + self.bias;
        let mut scores: Vec<f32> = inner.chunks_exact(width).map(score).collect();
        if self.spec.sigmoid {
            sigmoid(&mut scores);
        }
        scores
    }
}
