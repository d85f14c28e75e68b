//! Llama 2 and 3.x, and SmolLM (Touvron et al., 2023; Dubey et al., 2024). In GGUF Mistral is a Llama, too.

use super::{Family, HIDDEN_ACT, LLAMA_NORMS, WINDOW};
use crate::{ModelError, ModelSpec, parameters::Parameters};
use yantra_formats::Checkpoint;
use yantra_kernels::RopeStyle;

pub(super) const FAMILY: Family = Family {
    name: "Llama",
    gguf: &["llama"],
    hugging_face: &["LlamaForCausalLM"],
    defaults: &[],
    activation: HIDDEN_ACT,
    adapt,
    norms: LLAMA_NORMS,
};

fn adapt(p: &Parameters<'_>, _: &Checkpoint, spec: &mut ModelSpec) -> Result<(), ModelError> {
    if p.is_gguf() {
        // GGUF stores Llama's query and key rows permuted, so that neighbouring components pair up.
        spec.attention.rope_style = RopeStyle::Interleaved;
        let window = p.count(WINDOW)?;
        spec.layers.iter_mut().for_each(|layer| layer.window = window);
    }
    Ok(())
}
