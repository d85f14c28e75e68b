//! Qwen2 and Qwen2.5 (Yang et al., 2024): Llama with biases on queries, keys and values.
//!
//! The biases need no mention here: a matrix brings its bias if the checkpoint has one.

use super::{Family, LLAMA_LIKE, sliding_layers, window};
use crate::{ModelError, ModelSpec, parameters::Parameters};

pub(super) const FAMILY: Family =
    Family { name: "Qwen2", gguf: &["qwen2"], hugging_face: &["Qwen2ForCausalLM"], adapt, ..LLAMA_LIKE };

/// Windows only if the checkpoint asks for them: on the layers of its list, else from `max_window_layers` on.
pub(super) fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let Some(config) = p.config() else { return Ok(()) };
    if config.find("use_sliding_window")? != Some(true) {
        return Ok(());
    }
    let first = config.find::<usize>("max_window_layers")?.unwrap_or(0);
    let listed = sliding_layers(p, spec.layers.len())?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let sliding = listed.as_ref().map_or(index >= first, |listed| listed[index]);
        layer.window = sliding.then(|| window(p)).transpose()?;
    }
    Ok(())
}
