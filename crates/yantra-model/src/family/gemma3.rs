//! Gemma 3, text (Gemma Team, 2025): local and global layers, norms on both sides of each block, scaled embeddings.

use super::{Family, NormNames, WINDOW};
use crate::{
    MlpSpec, ModelError, ModelSpec, RopeScaling,
    parameters::{Parameters, key},
};
use yantra_kernels::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "Gemma 3",
    gguf: &["gemma3"],
    hugging_face: &["Gemma3ForCausalLM"],
    adapt,
    norms: NormNames {
        before_mlp: "pre_feedforward_layernorm",
        after_attention: "post_attention_layernorm",
        after_mlp: "post_feedforward_layernorm",
    },
};

/// Every sixth layer is global unless the checkpoint says otherwise.
const PATTERN: usize = 6;

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    spec.embedding_scale = (spec.hidden_size as f32).sqrt();
    spec.post_norms = true;
    spec.attention.qk_norm = true;
    // GGUF stores the norms with the one added.
    spec.norm.weight_offset = if p.is_gguf() { 0.0 } else { 1.0 };
    if let Some(scalar) = p.real(key("", "query_pre_attn_scalar"))? {
        spec.attention.scale = scalar.sqrt().recip();
    }
    let MlpSpec::Gated { activation, .. } = &mut spec.mlp;
    *activation = ActivationFn::GeluTanh;

    let window = p.count(WINDOW)?;
    let pattern = p.count(key("", "sliding_window_pattern"))?.unwrap_or(PATTERN);
    let local_theta = p.real(key("rope.freq_base_swa", "rope_local_base_freq"))?;
    let kinds: Option<Vec<&str>> = p.config().map(|config| config.find("layer_types")).transpose()?.flatten();
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let listed = kinds.as_ref().and_then(|kinds| kinds.get(index));
        let global = listed.map_or((index + 1) % pattern == 0, |kind| *kind == "full_attention");
        if !global {
            layer.window = window;
            layer.rope.theta = local_theta.unwrap_or(10_000.0);
            layer.rope.scaling = RopeScaling::None;
        }
    }
    Ok(())
}
