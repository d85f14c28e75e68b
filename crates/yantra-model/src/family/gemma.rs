//! Gemma (Gemma Team, 2024): wide heads, scaled embeddings, norms that store their distance from one.

use super::{Family, LLAMA_LIKE};
use crate::{ModelError, ModelSpec, parameters::Parameters};
use yantra_kernels::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "Gemma",
    gguf: &["gemma"],
    hugging_face: &["GemmaForCausalLM"],
    // The first checkpoints say `gelu` in `hidden_act` and mean what `hidden_activation` says.
    aliases: &[("hidden_act", "hidden_activation")],
    activation: ActivationFn::GeluTanh,
    adapt,
    ..LLAMA_LIKE
};

/// What all Gemmas have in common.
pub(super) fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    spec.embedding.scale = (spec.hidden_size as f32).sqrt();
    // GGUF stores the norms with the one added.
    spec.norm.weight_offset = if p.is_gguf() { 0.0 } else { 1.0 };
    let both_ways = p.config().map(|config| config.find("use_bidirectional_attention")).transpose()?.flatten();
    if both_ways == Some(true) {
        return Err(ModelError::Unsupported { feature: format!("{} with bidirectional attention", spec.family) });
    }
    Ok(())
}
