//! Qwen3-MoE (Yang et al., 2025): Qwen3 with many small experts and none that all tokens share.

use super::{Family, LLAMA_LIKE, experts, qwen3, sparse_layers};
use crate::{ExpertsSpec, ModelError, ModelSpec, parameters::Parameters};

pub(super) const FAMILY: Family = Family {
    name: "Qwen3-MoE",
    gguf: &["qwen3moe"],
    hugging_face: &["Qwen3MoeForCausalLM"],
    aliases: &[("num_experts", "num_local_experts")],
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let experts = experts(p, spec)?;
    // GGUF does not record it; all models of the family have it so.
    let experts = ExpertsSpec { normalize: experts.normalize || p.is_gguf(), ..experts };
    sparse_layers(p, spec, experts)?;
    qwen3::adapt(p, spec)
}
