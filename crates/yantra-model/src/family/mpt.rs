//! MPT (MosaicML, 2023): ALiBi, and queries, keys and values kept within bounds.

use super::{Family, FusedRows, LLAMA_LIKE, check, without_rope};
use crate::{
    AlibiSpec, ModelError, ModelSpec, NormKind,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
    parameters::{Parameters, key},
};
use yantra_kernels::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "MPT",
    gguf: &["mpt"],
    hugging_face: &["MptForCausalLM", "MPTForCausalLM"],
    aliases: &[
        ("hidden_size", "d_model"),
        ("num_hidden_layers", "n_layers"),
        ("num_attention_heads", "n_heads"),
        ("max_position_embeddings", "max_seq_len"),
        ("rms_norm_eps", "layer_norm_epsilon"),
    ],
    names: TensorNames {
        embedding: "wte",
        output_norm: "norm_f",
        layers: "blocks",
        roles: &[
            (Role::AttentionNorm, "norm_1"),
            (Role::Query, "attn.Wqkv"),
            (Role::Key, "attn.Wqkv"),
            (Role::Value, "attn.Wqkv"),
            (Role::Output, "attn.out_proj"),
            (Role::MlpNorm, "norm_2"),
            (Role::Up, "ffn.up_proj"),
            (Role::Down, "ffn.down_proj"),
        ],
        fused_qkv: Some(FusedRows::OneAfterAnother),
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    gated: false,
    activation: ActivationFn::Gelu,
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    without_rope(spec);
    let max_bias = p.real(key("attention.max_alibi_bias", "attn_config.alibi_bias_max"))?;
    let has_alibi = p.is_gguf() || p.flag(key("", "attn_config.alibi"))? == Some(true);
    check(has_alibi && max_bias != Some(0.0), "alibi", || "MPT without ALiBi is not supported".to_owned())?;
    spec.attention.alibi = Some(AlibiSpec { max_bias: max_bias.unwrap_or(8.0), scale: 1.0 });
    spec.attention.clip = p.real(key("attention.clamp_kqv", "attn_config.clip_qkv"))?.filter(|clip| *clip != 0.0);
    if let Some(scale) = p.real(key("", "attn_config.softmax_scale"))? {
        spec.attention.scale = scale;
    }
    check(p.flag(key("", "attn_config.qk_ln"))? != Some(true), "qk_ln", || "is not supported".to_owned())
}
