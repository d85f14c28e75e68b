//! Llama 2 and 3.x, and SmolLM (Touvron et al., 2023; Dubey et al., 2024). In GGUF Mistral is a Llama, too.

use super::{Family, LLAMA_LIKE, interleaved_in_gguf, window_everywhere};
use crate::{ModelError, ModelSpec, parameters::Parameters};

pub(super) const FAMILY: Family =
    Family { name: "Llama", gguf: &["llama"], hugging_face: &["LlamaForCausalLM"], adapt, ..LLAMA_LIKE };

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    interleaved_in_gguf(p, spec);
    if p.is_gguf() { window_everywhere(p, spec) } else { Ok(()) }
}
