//! Mistral (Jiang et al., 2023): Llama whose layers may all see only a window.

use super::{Family, LLAMA_LIKE, window_everywhere};

pub(super) const FAMILY: Family = Family {
    name: "Mistral",
    hugging_face: &["MistralForCausalLM"],
    neighbours_in_gguf: true,
    adapt: window_everywhere,
    ..LLAMA_LIKE
};
