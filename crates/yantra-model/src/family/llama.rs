//! Llama 2 and 3.x, SmolLM and Mistral (Touvron et al., 2023; Dubey et al., 2024; Jiang et al., 2023).

use super::{Family, LLAMA_NORMS, WINDOW};
use crate::{ModelError, ModelSpec, parameters::Parameters};
use yantra_kernels::RopeStyle;

pub(super) const FAMILY: Family = Family {
    name: "Llama",
    gguf: &["llama"],
    hugging_face: &["LlamaForCausalLM", "MistralForCausalLM"],
    adapt,
    norms: LLAMA_NORMS,
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    if p.is_gguf() {
        // GGUF stores Llama's query and key rows permuted, so that neighbouring components pair up.
        spec.attention.rope_style = RopeStyle::Interleaved;
    }
    let window = p.count(WINDOW)?;
    spec.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(())
}
