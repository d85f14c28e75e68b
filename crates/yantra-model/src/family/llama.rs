//! Llama 2 and 3.x, and SmolLM (Touvron et al., 2023; Dubey et al., 2024). In GGUF Mistral is a Llama, too, and so is
//! Mixtral.

use super::{Family, LLAMA_LIKE, NUM_EXPERTS, experts, window_everywhere};
use crate::{ExpertsSpec, MlpSpec, ModelError, ModelSpec, parameters::Parameters};

pub(super) const FAMILY: Family = Family {
    name: "Llama",
    gguf: &["llama"],
    hugging_face: &["LlamaForCausalLM"],
    neighbours_in_gguf: true,
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    if !p.is_gguf() {
        return Ok(());
    }
    if p.count_or_zero(NUM_EXPERTS)? > 0 {
        let experts = ExpertsSpec { normalize: true, ..experts(p, spec)? };
        spec.layers.iter_mut().for_each(|layer| layer.mlp = MlpSpec::Experts(experts));
    }
    window_everywhere(p, spec)
}
