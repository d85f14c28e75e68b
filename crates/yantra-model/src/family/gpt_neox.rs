//! GPT-NeoX and Pythia (Black et al., 2022; Biderman et al., 2023): part of a head is rotated, and both blocks of a
//! layer read the same residual stream.

use super::{Family, FusedRows, LLAMA_LIKE};
use crate::{
    ModelError, ModelSpec, NormKind,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
    parameters::{Parameters, key},
};
use yantra_kernels::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "GPT-NeoX",
    gguf: &["gptneox"],
    hugging_face: &["GPTNeoXForCausalLM"],
    aliases: &[
        ("rms_norm_eps", "layer_norm_eps"),
        ("partial_rotary_factor", "rotary_pct"),
        ("rope_theta", "rotary_emb_base"),
    ],
    names: TensorNames {
        embedding: "embed_in",
        head: "embed_out.weight",
        output_norm: "final_layer_norm",
        roles: &[
            (Role::Query, "attention.query_key_value"),
            (Role::Key, "attention.query_key_value"),
            (Role::Value, "attention.query_key_value"),
            (Role::Output, "attention.dense"),
            (Role::Up, "mlp.dense_h_to_4h"),
            (Role::Down, "mlp.dense_4h_to_h"),
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
    spec.block.parallel = p.flag(key("use_parallel_residual", "use_parallel_residual"))?.unwrap_or(true);
    Ok(())
}
