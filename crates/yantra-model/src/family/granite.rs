//! Granite 3 (IBM, 2024): Llama with factors on embeddings, scores, blocks and logits.

use super::{Family, LLAMA_LIKE};
use crate::{
    ModelError, ModelSpec,
    parameters::{Parameters, key},
};

pub(super) const FAMILY: Family = Family {
    name: "Granite",
    gguf: &["granite"],
    hugging_face: &["GraniteForCausalLM"],
    neighbours_in_gguf: true,
    adapt,
    ..LLAMA_LIKE
};

pub(super) fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let factor = |gguf, hugging_face| Ok::<_, ModelError>(p.real(key(gguf, hugging_face))?.unwrap_or(1.0));
    spec.embedding.scale = factor("embedding_scale", "embedding_multiplier")?;
    spec.attention.scale = factor("attention.scale", "attention_multiplier")?;
    spec.block.residual_scale = factor("residual_scale", "residual_multiplier")?;
    spec.logit_scale = factor("logit_scale", "logits_scaling")?.recip();
    Ok(())
}
