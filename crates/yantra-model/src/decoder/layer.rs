//! A layer's weights, as the specification says which there are.

use super::names::{Names, Role};
use crate::{
    AttentionSpec, LayerSpec, MlpSpec, ModelError, ModelSpec, NormKind, NormSpec, QkNorm,
    weights::{Linear, WeightSource},
};
use yantra_kernels::{Activations, Compute, PackedLinear, layer_norm_in_place, rms_norm_in_place};

/// The weights of a layer.
pub(super) struct Layer {
    pub(super) spec: LayerSpec,
    /// Which of the decoder's tables, if any.
    pub(super) rope: Option<usize>,
    pub(super) attention_norm: Option<Norm>,
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) query_norm: Option<Norm>,
    pub(super) key_norm: Option<Norm>,
    /// A logit of each query head that stands for no token.
    pub(super) sinks: Option<Vec<f32>>,
    pub(super) output: Linear,
    pub(super) post_attention_norm: Option<Norm>,
    pub(super) mlp_norm: Option<Norm>,
    /// What is gated by, if the network is.
    pub(super) gate: Option<Linear>,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) post_mlp_norm: Option<Norm>,
}

impl Layer {
    pub(super) fn load(
        source: &WeightSource<'_>,
        cx: &Compute,
        spec: &ModelSpec,
        names: &Names<'_>,
        index: usize,
        rope: Option<usize>,
    ) -> Result<Self, ModelError> {
        let layer = &spec.layers[index];
        let matrix = |role| {
            let [rows, cols] = shape(spec, layer, role);
            source.linear(cx, &names.matrix(spec, index, role, rows), cols)
        };
        let norm = |wanted: bool, role, len| {
            wanted.then(|| Norm::load(source, spec.norm, &names.layer(index, role), len)).transpose()
        };
        let (pre_norms, post_norms, hidden) = (spec.block.pre_norms, spec.block.post_norms, spec.hidden_size);
        let (query_norm, key_norm) = qk_norm_sizes(spec);
        let AttentionSpec { num_heads, sinks, .. } = spec.attention;
        Ok(Self {
            spec: layer.clone(),
            rope,
            attention_norm: norm(pre_norms, Role::AttentionNorm, hidden)?,
            query: matrix(Role::Query)?,
            key: matrix(Role::Key)?,
            value: matrix(Role::Value)?,
            query_norm: norm(query_norm > 0, Role::QueryNorm, query_norm)?,
            key_norm: norm(key_norm > 0, Role::KeyNorm, key_norm)?,
            sinks: sinks.then(|| source.vector(&names.sinks(index), num_heads)).transpose()?,
            output: matrix(Role::Output)?,
            post_attention_norm: norm(post_norms, Role::PostAttentionNorm, hidden)?,
            mlp_norm: norm(pre_norms, Role::MlpNorm, hidden)?,
            gate: matches!(layer.mlp, MlpSpec::Gated { .. }).then(|| matrix(Role::Gate)).transpose()?,
            up: matrix(Role::Up)?,
            down: matrix(Role::Down)?,
            post_mlp_norm: norm(post_norms, Role::PostMlpNorm, hidden)?,
        })
    }

    pub(super) fn matrices(&self) -> impl Iterator<Item = &PackedLinear> {
        let Self { query, key, value, output, gate, up, down, .. } = self;
        [query, key, value, output, up, down].into_iter().chain(gate).map(|linear| &linear.weight)
    }
}

/// The matrices of a layer.
pub(super) fn roles(layer: &LayerSpec) -> impl Iterator<Item = Role> {
    let gate = matches!(layer.mlp, MlpSpec::Gated { .. }).then_some(Role::Gate);
    [Role::Query, Role::Key, Role::Value, Role::Output, Role::Up, Role::Down].into_iter().chain(gate)
}

/// Rows and columns of a layer's matrix.
pub(super) fn shape(spec: &ModelSpec, layer: &LayerSpec, role: Role) -> [usize; 2] {
    let (hidden, inner) = (spec.hidden_size, layer.mlp.intermediate_size());
    match role {
        Role::Query => [spec.query_size(), hidden],
        Role::Key | Role::Value => [spec.kv_size(), hidden],
        Role::Output => [hidden, spec.query_size()],
        Role::Down => [hidden, inner],
        _ => [inner, hidden],
    }
}

/// Values that the norms of queries and keys have; 0 where there are none.
fn qk_norm_sizes(spec: &ModelSpec) -> (usize, usize) {
    match spec.attention.qk_norm {
        QkNorm::None => (0, 0),
        QkNorm::Head => (spec.attention.head_dim, spec.attention.head_dim),
        QkNorm::Token => (spec.query_size(), spec.kv_size()),
    }
}

/// The weights of a normalisation.
pub(super) struct Norm {
    spec: NormSpec,
    weight: Vec<f32>,
    /// Zeros where the checkpoint has none; empty where the kind has none.
    bias: Vec<f32>,
}

impl Norm {
    /// `name` comes without `.weight`.
    pub(super) fn load(source: &WeightSource<'_>, spec: NormSpec, name: &str, len: usize) -> Result<Self, ModelError> {
        let mut weight = source.vector(&format!("{name}.weight"), len)?;
        weight.iter_mut().for_each(|weight| *weight += spec.weight_offset);
        let bias = match spec.kind {
            NormKind::Rms => Vec::new(),
            NormKind::Layer => source.optional_vector(&format!("{name}.bias"), len)?.unwrap_or_else(|| vec![0.0; len]),
        };
        Ok(Self { spec, weight, bias })
    }

    /// Normalises the rows of `x`, `[_, width]`, that `rows` names into what matrices read.
    pub(super) fn rows(&self, cx: &Compute, x: &[f32], rows: &[u32], out: &mut Activations) {
        let (eps, width) = (self.spec.eps, self.weight.len());
        match self.spec.kind {
            NormKind::Rms => out.set_rms_norm_rows(cx, x, rows, &self.weight, eps, width),
            NormKind::Layer => out.set_layer_norm_rows(cx, x, rows, &self.weight, &self.bias, eps, width),
        }
    }

    /// As [`Self::rows`] of all rows.
    pub(super) fn all(&self, cx: &Compute, x: &[f32], out: &mut Activations) {
        let (eps, width) = (self.spec.eps, self.weight.len());
        let num_rows = x.len() / width;
        match self.spec.kind {
            NormKind::Rms => out.set_rms_norm(cx, x, &self.weight, eps, num_rows, width),
            NormKind::Layer => out.set_layer_norm(cx, x, &self.weight, &self.bias, eps, num_rows, width),
        }
    }

    /// Normalises each row of `x`, `[_, width]`, where it stands.
    pub(super) fn in_place(&self, cx: &Compute, x: &mut [f32]) {
        let (eps, width) = (self.spec.eps, self.weight.len());
        let num_rows = x.len() / width;
        match self.spec.kind {
            NormKind::Rms => rms_norm_in_place(cx, x, &self.weight, eps, num_rows, width),
            NormKind::Layer => layer_norm_in_place(cx, x, &self.weight, &self.bias, eps, num_rows, width),
        }
    }
}
