//! GPT-2 (Radford et al., 2019): learned positions, layer norms, one matrix for query, key and value.

use super::{Family, FusedRows, LLAMA_LIKE, check, without_rope};
use crate::{
    ModelError, ModelSpec, NormKind,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
    parameters::{Parameters, key},
};
use yantra_kernels::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "GPT-2",
    gguf: &["gpt2"],
    hugging_face: &["GPT2LMHeadModel"],
    aliases: &[
        ("hidden_size", "n_embd"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("intermediate_size", "n_inner"),
        ("max_position_embeddings", "n_positions"),
        ("rms_norm_eps", "layer_norm_epsilon"),
        ("hidden_act", "activation_function"),
    ],
    names: TensorNames {
        embedding: "wte",
        output_norm: "ln_f",
        layers: "h",
        roles: &[
            (Role::AttentionNorm, "ln_1"),
            (Role::Query, "attn.c_attn"),
            (Role::Key, "attn.c_attn"),
            (Role::Value, "attn.c_attn"),
            (Role::Output, "attn.c_proj"),
            (Role::MlpNorm, "ln_2"),
            (Role::Up, "mlp.c_fc"),
            (Role::Down, "mlp.c_proj"),
        ],
        fused_qkv: Some(FusedRows::OneAfterAnother),
        transposed: true,
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    gated: false,
    activation: ActivationFn::GeluTanh,
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    spec.embedding.learned_positions = true;
    without_rope(spec);
    for unusual in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        let set = p.flag(key(unusual, unusual))?;
        check(set != Some(true), unusual, || "is not supported".to_owned())?;
    }
    Ok(())
}
