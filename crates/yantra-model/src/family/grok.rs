//! Grok-1 (xAI, 2024): two experts of eight, norms on both sides of each block, capped scores, factors everywhere.
//!
//! Implementations differ in whether a token's two weights are made to sum to one; the norm behind the experts makes that
//! one and the same.

use super::{Family, LLAMA_LIKE, check, experts};
use crate::{
    MlpSpec, ModelError, ModelSpec,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
    parameters::{Parameters, key},
};
use yantra_kernels::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "Grok-1",
    gguf: &["grok"],
    hugging_face: &["Grok1ModelForCausalLM", "Grok1ForCausalLM"],
    names: TensorNames {
        roles: &[
            (Role::AttentionNorm, "pre_attn_norm"),
            (Role::Query, "attn.q_proj"),
            (Role::Key, "attn.k_proj"),
            (Role::Value, "attn.v_proj"),
            (Role::Output, "attn.o_proj"),
            (Role::PostAttentionNorm, "post_attn_norm"),
            (Role::MlpNorm, "pre_moe_norm"),
            (Role::Router, "moe_block.gate"),
            (Role::ExpertGate, "moe_block.experts.{}.linear"),
            (Role::ExpertUp, "moe_block.experts.{}.linear_v"),
            (Role::ExpertDown, "moe_block.experts.{}.linear_1"),
            (Role::PostMlpNorm, "post_moe_norm"),
        ],
        gguf_roles: &[
            (Role::PostAttentionNorm, "attn_output_norm"),
            (Role::PostMlpNorm, "layer_output_norm"),
            (Role::PostMlpNorm, "post_ffw_norm"),
        ],
        ..LLAMA_NAMES
    },
    activation: ActivationFn::GeluTanh,
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let factor =
        |gguf, hugging_face, usual: f32| Ok::<_, ModelError>(p.real(key(gguf, hugging_face))?.unwrap_or(usual));
    spec.embedding.scale = factor("embedding_scale", "embedding_multiplier_scale", 78.383_67)?;
    spec.logit_scale = factor("logit_scale", "output_multiplier_scale", 0.577_350_26)?;
    spec.attention.scale = factor("attention.output_scale", "attn_output_multiplier", 0.088_388_35)?;
    spec.attention.softcap = Some(factor("attn_logit_softcapping", "max_attn_value", 30.0)?);
    spec.block.post_norms = true;
    check(p.flag(key("", "residual_moe"))? != Some(true), "residual_moe", || {
        "is Grok-2's and not supported".to_owned()
    })?;
    let experts = experts(p, spec)?;
    spec.layers.iter_mut().for_each(|layer| layer.mlp = MlpSpec::Experts(experts));
    Ok(())
}
