//! StarCoder2 (Lozhkov et al., 2024): Llama with layer norms, biases and no gate.

use super::{Family, LLAMA_LIKE, window_everywhere};
use crate::{
    NormKind,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
};
use yantra_kernels::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "StarCoder2",
    gguf: &["starcoder2"],
    hugging_face: &["Starcoder2ForCausalLM"],
    aliases: &[("rms_norm_eps", "norm_epsilon")],
    names: TensorNames { roles: &[(Role::Up, "mlp.c_fc"), (Role::Down, "mlp.c_proj")], ..LLAMA_NAMES },
    norm: NormKind::Layer,
    gated: false,
    activation: ActivationFn::GeluTanh,
    adapt: window_everywhere,
    ..LLAMA_LIKE
};
