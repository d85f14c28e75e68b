//! Mistral (Jiang et al., 2023): Llama whose layers may all see only a window.

use super::{Family, HIDDEN_ACT, LLAMA_NORMS, WINDOW};
use crate::{ModelError, ModelSpec, parameters::Parameters};
use yantra_formats::Checkpoint;

pub(super) const FAMILY: Family = Family {
    name: "Mistral",
    gguf: &[],
    hugging_face: &["MistralForCausalLM"],
    defaults: &[],
    activation: HIDDEN_ACT,
    adapt,
    norms: LLAMA_NORMS,
};

fn adapt(p: &Parameters<'_>, _: &Checkpoint, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let window = p.count(WINDOW)?;
    spec.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(())
}
