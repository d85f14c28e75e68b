//! Command R (Cohere, 2024), Aya 23: both blocks read one normalised stream; the head is the embedding, its logits scaled.

use super::{Family, LLAMA_LIKE, check};
use crate::{
    ModelError, ModelSpec, NormKind,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
    parameters::{Parameters, key},
};
use yantra_kernels::RopeStyle;

pub(super) const FAMILY: Family = Family {
    name: "Command R",
    gguf: &["command-r"],
    hugging_face: &["CohereForCausalLM"],
    aliases: &[("rms_norm_eps", "layer_norm_eps")],
    names: TensorNames {
        roles: &[(Role::MlpNorm, "input_layernorm")],
        gguf_roles: &[(Role::MlpNorm, "attn_norm")],
        ..LLAMA_NAMES
    },
    norm: NormKind::Layer,
    adapt,
    ..LLAMA_LIKE
};

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    spec.block.parallel = true;
    spec.attention.rope_style = RopeStyle::Interleaved;
    spec.logit_scale = p.real(key("logit_scale", "logit_scale"))?.unwrap_or(0.0625);
    let normed = p.flag(key("", "use_qk_norm"))? == Some(true);
    let normed = normed || p.checkpoint().tensor("blk.0.attn_q_norm.weight").is_some();
    check(!normed, "use_qk_norm", || "queries and keys normalised by head (Command R+) are not supported".to_owned())
}
