//! gpt-oss (OpenAI, 2025): every head has a logit that stands for no token, every other layer a window, and experts a gate
//! that is clamped.

use super::{Family, FusedGate, LLAMA_LIKE, check, experts, sliding_layers, window};
use crate::{
    ExpertsSpec, MlpSpec, ModelError, ModelSpec, RopeScaling, RopeSpec,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
    parameters::{Parameters, key},
};
use yantra_kernels::{ActivationFn, ExpertScoring};

pub(super) const FAMILY: Family = Family {
    name: "gpt-oss",
    gguf: &["gpt-oss"],
    hugging_face: &["GptOssForCausalLM"],
    aliases: &[("num_experts", "num_local_experts")],
    names: TensorNames {
        roles: &[
            (Role::Router, "mlp.router"),
            (Role::ExpertGate, "mlp.experts.gate_up_proj"),
            (Role::ExpertUp, "mlp.experts.gate_up_proj"),
            (Role::ExpertDown, "mlp.experts.down_proj"),
        ],
        gguf_roles: &[(Role::MlpNorm, "post_attention_norm")],
        fused_expert_gate: Some(FusedGate::Alternating),
        ..LLAMA_NAMES
    },
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    spec.attention.sinks = true;
    if p.is_gguf() {
        spec.layers.iter_mut().for_each(|layer| untruncated(layer.rope.as_mut()));
    }
    for (setting, usual) in [("swiglu_limit", 7.0), ("swiglu_alpha", 1.702)] {
        let value = p.real(key("", setting))?.unwrap_or(usual);
        check(value == usual, setting, || format!("{value} is not supported, only {usual}"))?;
    }
    let experts = ExpertsSpec {
        scoring: ExpertScoring::SoftmaxOfChosen,
        activation: ActivationFn::ClampedQuickGelu,
        ..experts(p, spec)?
    };
    let listed = sliding_layers(p, spec.layers.len())?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let sliding = listed.as_ref().map_or(index % 2 == 0, |listed| listed[index]);
        layer.window = sliding.then(|| window(p)).transpose()?;
        layer.mlp = MlpSpec::Experts(experts);
    }
    Ok(())
}

/// All published models have `"truncate": false`, which GGUF does not record: their ramp begins and ends between dimensions.
/// llama.cpp rounds it to whole ones all the same.
fn untruncated(rope: Option<&mut RopeSpec>) {
    if let Some(RopeSpec { scaling: RopeScaling::Yarn { truncate, .. }, .. }) = rope {
        *truncate = false;
    }
}
