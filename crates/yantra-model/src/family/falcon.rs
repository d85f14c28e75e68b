//! Falcon (Almazrouei et al., 2023): one key/value head (7B) or a few (40B), both blocks reading the same residual stream;
//! RefinedWeb models have ALiBi and Llama's order.

use super::{Family, FusedRows, LLAMA_LIKE, without_rope};
use crate::{
    AlibiSpec, ModelError, ModelSpec, NormKind,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
    parameters::{Parameters, key},
};
use yantra_kernels::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "Falcon",
    gguf: &["falcon"],
    hugging_face: &["FalconForCausalLM", "RWForCausalLM"],
    aliases: &[
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("intermediate_size", "ffn_hidden_size"),
        ("rms_norm_eps", "layer_norm_epsilon"),
        ("hidden_act", "activation"),
        ("num_kv_heads", "n_head_kv"),
    ],
    defaults: &[("max_position_embeddings", 2048.0)],
    names: TensorNames {
        embedding: "word_embeddings",
        output_norm: "ln_f",
        layers: "h",
        roles: &[
            (Role::AttentionNorm, "ln_attn"),
            (Role::AttentionNorm, "input_layernorm"),
            (Role::MlpNorm, "ln_mlp"),
            (Role::MlpNorm, "post_attention_layernorm"),
            (Role::MlpNorm, "input_layernorm"),
            (Role::Query, "self_attention.query_key_value"),
            (Role::Key, "self_attention.query_key_value"),
            (Role::Value, "self_attention.query_key_value"),
            (Role::Output, "self_attention.dense"),
            (Role::Up, "mlp.dense_h_to_4h"),
            (Role::Down, "mlp.dense_4h_to_h"),
        ],
        gguf_roles: &[
            (Role::AttentionNorm, "attn_norm_2"),
            (Role::AttentionNorm, "attn_norm"),
            (Role::MlpNorm, "attn_norm"),
        ],
        fused_qkv: Some(FusedRows::ByGroup),
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    gated: false,
    activation: ActivationFn::Gelu,
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    spec.block.parallel = true;
    if p.is_gguf() {
        return Ok(());
    }
    let flag = |name, default| Ok::<_, ModelError>(p.flag(key("", name))?.unwrap_or(default));
    let is_new = flag("new_decoder_architecture", false)?;
    let num_heads = spec.attention.num_heads;
    spec.attention.num_kv_heads = match (is_new, flag("multi_query", true)?) {
        (true, _) => p.count(key("", "num_kv_heads"))?.unwrap_or(num_heads),
        (false, true) => 1,
        (false, false) => num_heads,
    };
    spec.block.parallel = is_new || flag("parallel_attn", true)?;
    if flag("alibi", false)? {
        spec.attention.alibi = Some(AlibiSpec { max_bias: 8.0, scale: spec.attention.scale });
        without_rope(spec);
    }
    Ok(())
}
