//! Qwen2-MoE (Qwen Team, 2024): small experts beside one that every token goes through, weighed by a sigmoid.

use super::{Family, LLAMA_LIKE, experts, qwen2, sparse_layers};
use crate::{
    ExpertsSpec, ModelError, ModelSpec, SharedExpertSpec,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
    parameters::{Parameters, key},
};

pub(super) const FAMILY: Family = Family {
    name: "Qwen2-MoE",
    gguf: &["qwen2moe"],
    hugging_face: &["Qwen2MoeForCausalLM"],
    names: TensorNames {
        roles: &[
            (Role::SharedGate, "mlp.shared_expert.gate_proj"),
            (Role::SharedUp, "mlp.shared_expert.up_proj"),
            (Role::SharedDown, "mlp.shared_expert.down_proj"),
        ],
        ..LLAMA_NAMES
    },
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let width = key("expert_shared_feed_forward_length", "shared_expert_intermediate_size");
    let shared = SharedExpertSpec { intermediate_size: p.required_count(width)?, weighed: true };
    let experts = ExpertsSpec { shared: Some(shared), ..experts(p, spec)? };
    sparse_layers(p, spec, experts)?;
    qwen2::adapt(p, spec)
}
