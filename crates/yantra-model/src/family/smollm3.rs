//! SmolLM3 (Hugging Face, 2025): Llama in which every fourth layer has no rotary embedding (Yang et al., 2025).

use super::{Family, LLAMA_LIKE, check, qwen2};
use crate::{
    ModelError, ModelSpec,
    parameters::{Parameters, key},
};

pub(super) const FAMILY: Family = Family {
    name: "SmolLM3",
    gguf: &["smollm3"],
    hugging_face: &["SmolLM3ForCausalLM"],
    neighbours_in_gguf: true,
    adapt,
    ..LLAMA_LIKE
};

/// Every fourth layer goes without unless the checkpoint says otherwise.
const INTERVAL: usize = 4;

fn adapt(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    drop_rope(p, spec)?;
    qwen2::adapt(p, spec)
}

/// Takes the rotary embedding away from the layers that the checkpoint says have none.
pub(super) fn drop_rope(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    // One for each layer: 1 where there is a rotary embedding, in spite of the name.
    let rotated: Option<Vec<u32>> = p.numbers("no_rope_layers")?;
    let rotated: Vec<bool> = match rotated {
        Some(rotated) => rotated.into_iter().map(|rotated| rotated != 0).collect(),
        None => {
            let interval = p.count(key("", "no_rope_layer_interval"))?.unwrap_or(INTERVAL);
            (1..=spec.layers.len()).map(|number| number % interval != 0).collect()
        }
    };
    let num_layers = spec.layers.len();
    check(rotated.len() == num_layers, "no_rope_layers", || format!("{} for {num_layers} layers", rotated.len()))?;
    for (layer, _) in spec.layers.iter_mut().zip(rotated).filter(|(_, rotated)| !rotated) {
        layer.rope = None;
    }
    Ok(())
}
