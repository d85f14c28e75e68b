//! Gemma 3, text (Gemma Team, 2025): local and global layers, norms on both sides of each block, scaled embeddings.

use super::{Family, LLAMA_LIKE, WINDOW, gemma, gemma2, rope, sliding_layers, window};
use crate::{
    ModelError, ModelSpec, QkNorm, RopeScaling, RopeSpec,
    parameters::{Defaults, Parameters, key},
};
use yantra_formats::hf::Config;
use yantra_kernels::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "Gemma 3",
    gguf: &["gemma3"],
    hugging_face: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    aliases: &[("hidden_act", "hidden_activation")],
    defaults: DEFAULTS,
    names: gemma2::NAMES,
    activation: ActivationFn::GeluTanh,
    adapt,
    ..LLAMA_LIKE
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

/// Every sixth layer is global unless the checkpoint says otherwise.
const PATTERN: usize = 6;
/// Layers of the 27B model.
const LAYERS_OF_27B: usize = 62;

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    gemma::adapt(p, spec)?;
    spec.block.post_norms = true;
    spec.attention.qk_norm = QkNorm::Head;
    spec.attention.scale = gemma2::scale(p, spec, LAYERS_OF_27B)?;
    spec.attention.softcap = p.real(key("", "attn_logit_softcapping"))?;
    spec.logit_softcap = p.real(key("final_logit_softcapping", "final_logit_softcapping"))?;
    if p.is_gguf() && p.count_or_zero(WINDOW)? == 0 {
        // A model without windows is written so.
        return Ok(());
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
        layer.rope = Some(local_rope(p, spec.attention.head_dim)?);
    }
    Ok(())
}

/// Local layers have a base of their own and are never stretched, unless `config.json` has a section for them.
pub(super) fn local_rope(p: &Parameters<'_>, head_dim: usize) -> Result<RopeSpec, ModelError> {
    let by_kind = |config: &Config| config.value().pointer("/rope_parameters/sliding_attention").is_some();
    if p.config().is_some_and(by_kind) {
        return rope::rope(p, head_dim, rope::SLIDING);
    }
    let of_global = rope::rope(p, head_dim, rope::FULL)?;
    let theta = p.real(key("rope.freq_base_swa", "rope_local_base_freq"))?.unwrap_or(10_000.0);
    Ok(RopeSpec { theta, scaling: RopeScaling::None, ..of_global })
}
