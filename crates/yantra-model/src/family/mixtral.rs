//! Mixtral (Jiang et al., 2024): Mistral with eight experts, two of which each token goes to. In GGUF it is a Llama.

use super::{Family, LLAMA_LIKE, experts, window_everywhere};
use crate::{
    ExpertsSpec, MlpSpec, ModelError, ModelSpec,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
    parameters::Parameters,
};

pub(super) const FAMILY: Family = Family {
    name: "Mixtral",
    hugging_face: &["MixtralForCausalLM"],
    aliases: &[("num_experts", "num_local_experts")],
    names: TensorNames {
        roles: &[
            (Role::Router, "block_sparse_moe.gate"),
            (Role::ExpertGate, "block_sparse_moe.experts.{}.w1"),
            (Role::ExpertUp, "block_sparse_moe.experts.{}.w3"),
            (Role::ExpertDown, "block_sparse_moe.experts.{}.w2"),
        ],
        ..LLAMA_NAMES
    },
    neighbours_in_gguf: true,
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let experts = ExpertsSpec { normalize: true, ..experts(p, spec)? };
    spec.layers.iter_mut().for_each(|layer| layer.mlp = MlpSpec::Experts(experts));
    window_everywhere(p, spec)
}
