//! Qwen3 (Yang et al., 2025): Qwen2 without biases, with queries and keys normalised per head.

use super::{Family, LLAMA_LIKE, qwen2};
use crate::{ModelError, ModelSpec, QkNorm, parameters::Parameters};

pub(super) const FAMILY: Family =
    Family { name: "Qwen3", gguf: &["qwen3"], hugging_face: &["Qwen3ForCausalLM"], adapt, ..LLAMA_LIKE };

pub(super) fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    spec.attention.qk_norm = QkNorm::Head;
    qwen2::adapt(p, spec)
}
