//! Llama 4, text (Meta, 2025): three layers of four see a chunk of the context and are rotated, the fourth sees everything and
//! has no positions; one expert of many beside a shared one.

use super::{Family, FusedGate, LLAMA_LIKE, experts, smollm3};
use crate::{
    ExpertsSpec, MlpSpec, ModelError, ModelSpec, QkNorm, SharedExpertSpec, SharpeningSpec,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
    parameters::{Parameters, key},
};
use yantra_kernels::{ExpertScoring, RopeStyle};

pub(super) const FAMILY: Family = Family {
    name: "Llama 4",
    hugging_face: &["Llama4ForCausalLM", "Llama4ForConditionalGeneration"],
    aliases: &[("num_experts", "num_local_experts")],
    names: TensorNames {
        roles: &[
            (Role::Gate, "feed_forward.gate_proj"),
            (Role::Up, "feed_forward.up_proj"),
            (Role::Down, "feed_forward.down_proj"),
            (Role::Router, "feed_forward.router"),
            (Role::ExpertGate, "feed_forward.experts.gate_up_proj"),
            (Role::ExpertUp, "feed_forward.experts.gate_up_proj"),
            (Role::ExpertDown, "feed_forward.experts.down_proj"),
            (Role::SharedGate, "feed_forward.shared_expert.gate_proj"),
            (Role::SharedUp, "feed_forward.shared_expert.up_proj"),
            (Role::SharedDown, "feed_forward.shared_expert.down_proj"),
        ],
        fused_expert_gate: Some(FusedGate::Halves),
        ..LLAMA_NAMES
    },
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let set = |name, default| Ok::<_, ModelError>(p.flag(key("", name))?.unwrap_or(default));
    let real = |name, default| Ok::<_, ModelError>(p.real(key("", name))?.unwrap_or(default));
    spec.attention.rope_style = RopeStyle::Interleaved;
    if set("use_qk_norm", true)? {
        spec.attention.qk_norm = QkNorm::RotatedHead;
    }
    if set("attn_temperature_tuning", true)? {
        let (interval, scale) = (real("floor_scale", 8192.0)?, real("attn_scale", 0.1)?);
        spec.attention.sharpening = Some(SharpeningSpec { interval, scale });
    }
    smollm3::drop_rope(p, spec)?;
    let experts = experts(p, spec)?;
    let shared = SharedExpertSpec { intermediate_size: experts.intermediate_size, weighed: false };
    let shared = Some(shared);
    let experts = ExpertsSpec { scoring: ExpertScoring::Sigmoid, weighs_input: true, shared, ..experts };
    let step = p.count(key("", "interleave_moe_layer_step"))?.unwrap_or(1);
    let listed: Option<Vec<u32>> = p.numbers("moe_layers")?;
    let dense_width = p.required_count(key("", "intermediate_size_mlp"))?;
    let chunk = p.count(key("", "attention_chunk_size"))?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        layer.chunk = chunk.filter(|_| layer.rope.is_some());
        let is_listed = |listed: &Vec<u32>| listed.contains(&(index as u32));
        if listed.as_ref().map_or((index + 1).is_multiple_of(step), is_listed) {
            layer.mlp = MlpSpec::Experts(experts);
        } else {
            layer.mlp = MlpSpec::Gated { intermediate_size: dense_width, activation: experts.activation };
        }
    }
    Ok(())
}
