//! Qwen2 and Qwen2.5 (Yang et al., 2024): Llama with biases on queries, keys and values.
//!
//! The biases need no mention here: a matrix brings its bias if the checkpoint has one.

use super::{Family, LLAMA_NORMS, WINDOW};
use crate::{
    ModelError, ModelSpec,
    parameters::{Parameters, key},
};

pub(super) const FAMILY: Family =
    Family { name: "Qwen2", gguf: &["qwen2"], hugging_face: &["Qwen2ForCausalLM"], adapt, norms: LLAMA_NORMS };

/// Layers from `max_window_layers` on see a window, if the checkpoint asks for windows at all.
pub(super) fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let windowed = p.config().map(|config| config.find("use_sliding_window")).transpose()?.flatten();
    if windowed == Some(true) {
        let window = p.count(WINDOW)?;
        let first = p.count(key("", "max_window_layers"))?.unwrap_or(0);
        spec.layers.iter_mut().skip(first).for_each(|layer| layer.window = window);
    }
    Ok(())
}
