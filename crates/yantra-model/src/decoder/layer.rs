//! A layer's weights, as the specification says which there are.

use super::{
    heads::{self, Heads},
    latent::{self, Latent},
    mlp::{self, Mlp},
    names::{Names, Role},
};
use crate::{
    AttentionSpec, LayerSpec, MlpSpec, ModelError, ModelSpec, NormKind, NormSpec,
    footprint::Sizes,
    weights::{Linear, Place, WeightSource},
};
use yantra_kernels::{Activations, Compute, PackedLinear, layer_norm_in_place, rms_norm_in_place};

/// The weights of a layer.
pub(super) struct Layer {
    pub(super) spec: LayerSpec,
    /// Which of the decoder's tables, if any.
    pub(super) rope: Option<usize>,
    pub(super) attention_norm: Option<Norm>,
    pub(super) attention: Attention,
    /// A logit of each query head that stands for no token.
    pub(super) sinks: Option<Vec<f32>>,
    pub(super) output: Linear,
    pub(super) post_attention_norm: Option<Norm>,
    pub(super) mlp_norm: Option<Norm>,
    pub(super) mlp: Mlp,
    pub(super) post_mlp_norm: Option<Norm>,
}

/// What makes queries, keys and values.
pub(super) enum Attention {
    Heads(Heads),
    Latent(Latent),
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
        let norm = |wanted: bool, role| {
            wanted.then(|| Norm::load(source, spec.norm, &names.layer(index, role), spec.hidden_size)).transpose()
        };
        let (pre_norms, post_norms) = (spec.block.pre_norms, spec.block.post_norms);
        let AttentionSpec { num_heads, sinks, latent, .. } = spec.attention;
        let attention = match &latent {
            None => Attention::Heads(Heads::load(source, cx, spec, names, index)?),
            Some(latent) => Attention::Latent(Latent::load(source, cx, spec, latent, names, index)?),
        };
        Ok(Self {
            spec: spec.layers[index].clone(),
            rope,
            attention_norm: norm(pre_norms, Role::AttentionNorm)?,
            attention,
            sinks: sinks.then(|| source.vector(&names.sinks(index), num_heads)).transpose()?,
            output: source.linear(cx, &output_place(spec, names, index), spec.output_size())?,
            post_attention_norm: norm(post_norms, Role::PostAttentionNorm)?,
            mlp_norm: norm(pre_norms, Role::MlpNorm)?,
            mlp: Mlp::load(source, cx, spec, names, index)?,
            post_mlp_norm: norm(post_norms, Role::PostMlpNorm)?,
        })
    }

    pub(super) fn matrices(&self) -> impl Iterator<Item = &PackedLinear> {
        let attention: Box<dyn Iterator<Item = &PackedLinear>> = match &self.attention {
            Attention::Heads(heads) => Box::new(heads.matrices()),
            Attention::Latent(latent) => Box::new(latent.matrices()),
        };
        attention.chain([&self.output.weight]).chain(self.mlp.matrices())
    }
}

pub(super) fn output_place(spec: &ModelSpec, names: &Names<'_>, index: usize) -> Place {
    names.matrix(spec, index, Role::Output, spec.hidden_size)
}

/// Counts what [`Layer::load`] makes.
pub(super) fn count(
    sizes: &mut Sizes<'_>,
    source: &WeightSource<'_>,
    spec: &ModelSpec,
    names: &Names<'_>,
    index: usize,
) -> Result<(), ModelError> {
    match &spec.attention.latent {
        None => {
            for place in heads::places(spec, names, index) {
                sizes.matrix(&place, spec.hidden_size)?;
            }
        }
        Some(latent) => latent::count(sizes, source, spec, latent, names, index)?,
    }
    sizes.matrix(&output_place(spec, names, index), spec.output_size())?;
    let places = mlp::places(spec, names, index);
    let of_experts = match spec.layers[index].mlp {
        MlpSpec::Experts(experts) if source.options().expert_directory.is_some() => 3 * experts.num_experts,
        _ => 0,
    };
    let (in_memory, in_file) = places.split_at(places.len() - of_experts);
    in_memory.iter().try_for_each(|(place, cols)| sizes.matrix(place, *cols))?;
    in_file.iter().try_for_each(|(place, cols)| sizes.matrix_in_file(place, *cols))?;
    Ok(())
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
        // Grok-1's are called otherwise.
        let scale = format!("{name}.scale");
        let weight = if source.has(&scale) { scale } else { format!("{name}.weight") };
        let mut weight = source.vector(&weight, len)?;
        weight.iter_mut().for_each(|weight| *weight += spec.weight_offset);
        let bias = match spec.kind {
            NormKind::Rms => Vec::new(),
            NormKind::Layer => source.optional_vector(&format!("{name}.bias"), len)?.unwrap_or_else(|| vec![0.0; len]),
        };
        Ok(Self { spec, weight, bias })
    }

    pub(super) fn without_weights(spec: NormSpec, len: usize) -> Self {
        Self { spec, weight: vec![1.0; len], bias: Vec::new() }
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
