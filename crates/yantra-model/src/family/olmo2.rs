//! OLMo 2 (Team OLMo, 2024): outputs of blocks are normalised, not their inputs; queries and keys over all heads.

use super::{Family, LLAMA_LIKE};
use crate::{ModelError, ModelSpec, QkNorm, parameters::Parameters};

pub(super) const FAMILY: Family =
    Family { name: "OLMo 2", gguf: &["olmo2"], hugging_face: &["Olmo2ForCausalLM"], adapt, ..LLAMA_LIKE };

fn adapt(_: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    (spec.block.pre_norms, spec.block.post_norms) = (false, true);
    spec.attention.qk_norm = QkNorm::Token;
    Ok(())
}
