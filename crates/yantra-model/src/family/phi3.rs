//! Phi-3 and Phi-4 (Abdin et al., 2024): Llama with fused matrices and LongRoPE.
//!
//! llama.cpp reads a file's window and then sees all tokens; the window is part of the model, so here it is kept.

use super::{Family, FusedGate, FusedRows, LLAMA_LIKE, window_everywhere};
use crate::decoder::names::{LLAMA_NAMES, Role, TensorNames};

pub(super) const FAMILY: Family = Family {
    name: "Phi-3",
    gguf: &["phi3"],
    hugging_face: &["Phi3ForCausalLM"],
    names: TensorNames {
        roles: &[
            (Role::Query, "self_attn.qkv_proj"),
            (Role::Key, "self_attn.qkv_proj"),
            (Role::Value, "self_attn.qkv_proj"),
            (Role::Gate, "mlp.gate_up_proj"),
            (Role::Up, "mlp.gate_up_proj"),
        ],
        fused_qkv: Some(FusedRows::OneAfterAnother),
        fused_gate: Some(FusedGate::Halves),
        ..LLAMA_NAMES
    },
    adapt: window_everywhere,
    ..LLAMA_LIKE
};
