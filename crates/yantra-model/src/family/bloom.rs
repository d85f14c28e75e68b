//! BLOOM (BigScience, 2022): scores that fall with distance (ALiBi) in place of positions, embeddings normalised.

use super::{Family, FusedRows, LLAMA_LIKE, check, without_rope};
use crate::{
    AlibiSpec, ModelError, ModelSpec, NormKind,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
    parameters::{Parameters, key},
};
use yantra_kernels::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "BLOOM",
    gguf: &["bloom"],
    hugging_face: &["BloomForCausalLM"],
    aliases: &[
        ("hidden_size", "n_embed"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("max_position_embeddings", "seq_length"),
        ("rms_norm_eps", "layer_norm_epsilon"),
    ],
    // What it was trained with; any length can be run.
    defaults: &[("max_position_embeddings", 2048.0)],
    names: TensorNames {
        embedding: "word_embeddings",
        output_norm: "ln_f",
        layers: "h",
        roles: &[
            (Role::Query, "self_attention.query_key_value"),
            (Role::Key, "self_attention.query_key_value"),
            (Role::Value, "self_attention.query_key_value"),
            (Role::Output, "self_attention.dense"),
            (Role::Up, "mlp.dense_h_to_4h"),
            (Role::Down, "mlp.dense_4h_to_h"),
        ],
        fused_qkv: Some(FusedRows::ByGroup),
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    gated: false,
    activation: ActivationFn::GeluTanh,
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    spec.embedding.norm = true;
    spec.attention.alibi = Some(AlibiSpec { max_bias: 8.0, scale: 1.0 });
    without_rope(spec);
    let unusual = "apply_residual_connection_post_layernorm";
    check(p.flag(key(unusual, unusual))? != Some(true), unusual, || "is not supported".to_owned())
}
