//! Gemma 3, text (Gemma Team, 2025): local and global layers, norms on both sides of each block, scaled embeddings.

use super::{Family, NormNames, rope, sliding_layers, window};
use crate::{
    MlpSpec, ModelError, ModelSpec, RopeScaling,
    parameters::{Defaults, Key, Parameters, key},
};
use yantra_formats::{Checkpoint, hf::Config};
use yantra_kernels::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "Gemma 3",
    gguf: &["gemma3"],
    hugging_face: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    defaults: DEFAULTS,
    activation: ACTIVATION,
    adapt,
    norms: NormNames {
        before_mlp: "pre_feedforward_layernorm",
        after_attention: "post_attention_layernorm",
        after_mlp: "post_feedforward_layernorm",
    },
};

/// The `text_config` of a model that also sees holds only what differs from these, the values of `Gemma3TextConfig`.
const DEFAULTS: Defaults = &[
    ("hidden_size", 2304.0),
    ("intermediate_size", 9216.0),
    ("num_hidden_layers", 26.0),
    ("num_attention_heads", 8.0),
    ("num_key_value_heads", 4.0),
    ("head_dim", 256.0),
    ("max_position_embeddings", 131_072.0),
    ("rms_norm_eps", 1e-6),
    ("rope_theta", 1_000_000.0),
    ("rope_local_base_freq", 10_000.0),
    ("query_pre_attn_scalar", 256.0),
    ("sliding_window", 4096.0),
];

const ACTIVATION: Key = key("", "hidden_activation");
/// Every sixth layer is global unless the checkpoint says otherwise.
const PATTERN: usize = 6;
/// Layers of the 27B model, the one whose scores are not scaled by the width of a head.
const LAYERS_OF_27B: usize = 62;

fn adapt(p: &Parameters<'_>, checkpoint: &Checkpoint, spec: &mut ModelSpec) -> Result<(), ModelError> {
    spec.embedding_scale = (spec.hidden_size as f32).sqrt();
    spec.post_norms = true;
    spec.attention.qk_norm = true;
    // GGUF stores the norms with the one added.
    spec.norm.weight_offset = if p.is_gguf() { 0.0 } else { 1.0 };
    spec.attention.scale = scale(p, spec)?;
    spec.attention.softcap = p.real(key("", "attn_logit_softcapping"))?;
    spec.logit_softcap = p.real(key("", "final_logit_softcapping"))?;
    let both_ways = p.config().map(|config| config.find("use_bidirectional_attention")).transpose()?.flatten();
    if both_ways == Some(true) {
        return Err(ModelError::Unsupported { feature: "Gemma 3 with bidirectional attention".to_owned() });
    }
    if super::activation(p, ACTIVATION)?.is_none() {
        let MlpSpec::Gated { activation, .. } = &mut spec.mlp;
        *activation = ActivationFn::GeluTanh;
    }
    let sliding = match sliding_layers(p, spec.layers.len())? {
        Some(sliding) => sliding,
        None => {
            let pattern = p.count(key("", "sliding_window_pattern"))?.unwrap_or(PATTERN);
            (1..=spec.layers.len()).map(|number| number % pattern != 0).collect()
        }
    };
    for (layer, _) in spec.layers.iter_mut().zip(sliding).filter(|(_, sliding)| *sliding) {
        layer.window = Some(window(p)?);
        layer.rope = Some(local_rope(p, checkpoint, spec.attention.head_dim)?);
    }
    Ok(())
}

/// `config.json` records the scale. GGUF does not: llama.cpp knows the 27B model by its number of layers, and so must we.
fn scale(p: &Parameters<'_>, spec: &ModelSpec) -> Result<f32, ModelError> {
    let scalar = p.real(key("", "query_pre_attn_scalar"))?;
    let of_27b = p.is_gguf() && spec.layers.len() == LAYERS_OF_27B;
    let per_head = of_27b.then(|| spec.hidden_size as f32 / spec.attention.num_heads as f32);
    Ok(scalar.or(per_head).map_or(spec.attention.scale, |width| width.sqrt().recip()))
}

/// Local layers have a base of their own and are never stretched, unless `config.json` has a section for them.
fn local_rope(p: &Parameters<'_>, checkpoint: &Checkpoint, head_dim: usize) -> Result<crate::RopeSpec, ModelError> {
    let by_kind = |config: &Config| config.value().pointer("/rope_parameters/sliding_attention").is_some();
    if p.config().is_some_and(by_kind) {
        return rope::rope(p, checkpoint, head_dim, rope::SLIDING);
    }
    let of_global = rope::rope(p, checkpoint, head_dim, rope::FULL)?;
    let theta = p.real(key("rope.freq_base_swa", "rope_local_base_freq"))?.unwrap_or(10_000.0);
    Ok(crate::RopeSpec { theta, scaling: RopeScaling::None, ..of_global })
}
