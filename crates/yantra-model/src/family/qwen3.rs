//! Qwen3 (Yang et al., 2025): Qwen2 without biases, with queries and keys normalised per head.

use super::{Family, HIDDEN_ACT, LLAMA_NORMS, qwen2};
use crate::{ModelError, ModelSpec, parameters::Parameters};
use yantra_formats::Checkpoint;

pub(super) const FAMILY: Family = Family {
    name: "Qwen3",
    gguf: &["qwen3"],
    hugging_face: &["Qwen3ForCausalLM"],
    defaults: &[],
    activation: HIDDEN_ACT,
    adapt,
    norms: LLAMA_NORMS,
};

fn adapt(p: &Parameters<'_>, checkpoint: &Checkpoint, spec: &mut ModelSpec) -> Result<(), ModelError> {
    spec.attention.qk_norm = true;
    qwen2::adapt(p, checkpoint, spec)
}
