//! OLMo 2 (Team OLMo, 2024): outputs of blocks are normalised, not their inputs; queries and keys over all heads.

use super::{Family, LLAMA_LIKE, WINDOW};
use crate::{ModelError, ModelSpec, QkNorm, parameters::Parameters};

pub(super) const FAMILY: Family =
    Family { name: "OLMo 2", gguf: &["olmo2"], hugging_face: &["Olmo2ForCausalLM"], adapt, ..LLAMA_LIKE };

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    // OLMo 3 has the same name in GGUF.
    if p.is_gguf() && p.count_or_zero(WINDOW)? > 0 {
        return Err(ModelError::Unsupported { feature: "OLMo 3 (layers that see a window)".to_owned() });
    }
    (spec.block.pre_norms, spec.block.post_norms) = (false, true);
    spec.attention.qk_norm = QkNorm::Token;
    Ok(())
}
