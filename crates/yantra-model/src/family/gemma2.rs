//! Gemma 2 (Gemma Team, 2024): every other layer sees a window, soft caps, norms on both sides of each block.

use super::{Family, LLAMA_LIKE, WINDOW, gemma, sliding_layers, window};
use crate::{
    ModelError, ModelSpec,
    decoder::names::{LLAMA_NAMES, Role, TensorNames},
    parameters::{Parameters, key},
};
use yantra_kernels::ActivationFn;

pub(super) const FAMILY: Family = Family {
    name: "Gemma 2",
    gguf: &["gemma2"],
    hugging_face: &["Gemma2ForCausalLM"],
    aliases: &[("hidden_act", "hidden_activation")],
    names: NAMES,
    activation: ActivationFn::GeluTanh,
    adapt,
    ..LLAMA_LIKE
};

/// Gemma 3's too.
pub(super) const NAMES: TensorNames =
    TensorNames { roles: &[(Role::MlpNorm, "pre_feedforward_layernorm")], ..LLAMA_NAMES };

/// Layers of the 27B model.
const LAYERS_OF_27B: usize = 46;
/// The window of all published models.
const USUAL_WINDOW: usize = 4096;

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    gemma::adapt(p, spec)?;
    spec.block.post_norms = true;
    spec.attention.scale = scale(p, spec, LAYERS_OF_27B)?;
    spec.attention.softcap = p.real(key("attn_logit_softcapping", "attn_logit_softcapping"))?;
    spec.logit_softcap = p.real(key("final_logit_softcapping", "final_logit_softcapping"))?;
    let listed = sliding_layers(p, spec.layers.len())?;
    // The first files do not record it.
    let window = if p.is_gguf() { p.count(WINDOW)?.unwrap_or(USUAL_WINDOW) } else { window(p)? };
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let sliding = listed.as_ref().map_or(index % 2 == 0, |listed| listed[index]);
        layer.window = sliding.then_some(window);
    }
    Ok(())
}

/// `config.json` records the scale. GGUF does not: llama.cpp knows the 27B model, the one whose scores are not scaled by
/// the width of a head, by its number of layers, and so must we.
pub(super) fn scale(p: &Parameters<'_>, spec: &ModelSpec, layers_of_27b: usize) -> Result<f32, ModelError> {
    let scalar = p.real(key("", "query_pre_attn_scalar"))?;
    let of_27b = p.is_gguf() && spec.layers.len() == layers_of_27b;
    let per_head = of_27b.then(|| spec.hidden_size as f32 / spec.attention.num_heads as f32);
    Ok(scalar.or(per_head).map_or(spec.attention.scale, |width| width.sqrt().recip()))
}
