//! Rotary embeddings as checkpoints describe them.
//!
//! `config.json` has had three forms: `rope_theta` beside `rope_scaling`; `rope_parameters` with both (transformers 5);
//! and `rope_parameters` with a section for each kind of layer. A kind of scaling that is not known is refused by name:
//! a model run with the wrong angles answers fluently and wrongly.

use super::check;
use crate::{
    ModelError, RopeScaling, RopeSpec,
    parameters::{Parameters, key},
};
use yantra_formats::{Checkpoint, hf::Config};

/// Layers that see everything before them, as `config.json` calls them.
pub(super) const FULL: &str = "full_attention";
/// Layers that see a window.
pub(super) const SLIDING: &str = "sliding_attention";

const DEFAULT_THETA: f32 = 10_000.0;

/// The rotary embedding of the layers of a `kind`; only the newest form of `config.json` tells kinds apart.
pub(super) fn rope(
    p: &Parameters<'_>,
    checkpoint: &Checkpoint,
    head_dim: usize,
    kind: &str,
) -> Result<RopeSpec, ModelError> {
    let (theta, scaling) = match p.config() {
        Some(config) => in_config(p, config, kind)?,
        None => (p.real(key("rope.freq_base", ""))?.unwrap_or(DEFAULT_THETA), in_gguf(p, checkpoint)?),
    };
    let rotary_dim = p.count(key("rope.dimension_count", ""))?.unwrap_or(head_dim);
    check(rotary_dim.is_multiple_of(2) && rotary_dim <= head_dim, "rope.dimension_count", || {
        format!("{rotary_dim} is odd or wider than a head ({head_dim})")
    })?;
    check(theta > 0.0, "rope_theta", || format!("{theta} is not positive"))?;
    Ok(RopeSpec { theta, rotary_dim, scaling })
}

fn in_gguf(p: &Parameters<'_>, checkpoint: &Checkpoint) -> Result<RopeScaling, ModelError> {
    match p.text(key("rope.scaling.type", ""))? {
        None | Some("none" | "linear") => {}
        Some(kind) => return Err(unsupported(kind)),
    }
    if checkpoint.tensor("rope_factors_long.weight").is_some() {
        return Err(unsupported("longrope"));
    }
    let factor = p.real(key("rope.scaling.factor", ""))?;
    let factor = if factor.is_some() { factor } else { p.real(key("rope.scale_linear", ""))? };
    // Zero is how some writers say that there is none.
    let factor = factor.filter(|factor| *factor != 0.0 && *factor != 1.0);
    match (factor, checkpoint.tensor("rope_freqs.weight")) {
        (None, None) => Ok(RopeScaling::None),
        (None, Some(_)) => Ok(RopeScaling::Stored),
        (Some(factor), None) => linear(factor),
        (Some(_), Some(_)) => Err(unsupported("linear with stored frequencies")),
    }
}

fn in_config(p: &Parameters<'_>, config: &Config, kind: &str) -> Result<(f32, RopeScaling), ModelError> {
    let section = config.section("rope_scaling").or_else(|| config.section("rope_parameters"));
    let by_kind = section.as_ref().is_some_and(|section| [FULL, SLIDING].iter().any(|kind| is_object(section, kind)));
    let section = match section {
        Some(section) if by_kind => Some(section.section(kind).ok_or_else(|| ModelError::Parameter {
            key: format!("rope_parameters.{kind}"),
            message: "missing, though there are layers of this kind".to_owned(),
        })?),
        other => other,
    };
    let own_theta = section.as_ref().map(|section| section.find("rope_theta")).transpose()?.flatten();
    let theta = match own_theta {
        Some(theta) => theta,
        None => p.real(key("", "rope_theta"))?.unwrap_or(DEFAULT_THETA),
    };
    for place in [Some(config), section.as_ref()].into_iter().flatten() {
        if let Some(part) = place.find::<f32>("partial_rotary_factor")?.filter(|part| *part != 1.0) {
            return Err(ModelError::Unsupported { feature: format!("partial_rotary_factor {part}") });
        }
    }
    Ok((theta, section.as_ref().map_or(Ok(RopeScaling::None), scaling)?))
}

fn is_object(section: &Config, key: &str) -> bool {
    section.value().get(key).is_some_and(|value| value.is_object())
}

fn scaling(section: &Config) -> Result<RopeScaling, ModelError> {
    let kind: Option<&str> = section.find("rope_type")?;
    let kind = if kind.is_some() { kind } else { section.find("type")? };
    match kind {
        None if section.find::<f32>("factor")?.is_some() => Err(ModelError::Parameter {
            key: "rope_type".to_owned(),
            message: "missing, though there is a factor to scale by".to_owned(),
        }),
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => linear(section.get("factor")?),
        Some("llama3") => llama3(section),
        Some(kind) => Err(unsupported(kind)),
    }
}

fn linear(factor: f32) -> Result<RopeScaling, ModelError> {
    check(factor > 0.0, "factor", || format!("{factor} is no factor to scale rotary frequencies by"))?;
    Ok(RopeScaling::Linear { factor })
}

fn llama3(section: &Config) -> Result<RopeScaling, ModelError> {
    let number = |key: &str| -> Result<f32, ModelError> {
        let value = section.get(key)?;
        check(value > 0.0, key, || format!("{value} is not positive"))?;
        Ok(value)
    };
    let (low_freq_factor, high_freq_factor) = (number("low_freq_factor")?, number("high_freq_factor")?);
    check(low_freq_factor < high_freq_factor, "low_freq_factor", || {
        format!("{low_freq_factor} is not below high_freq_factor, {high_freq_factor}")
    })?;
    Ok(RopeScaling::Llama3 {
        factor: number("factor")?,
        low_freq_factor,
        high_freq_factor,
        original_context: number("original_max_position_embeddings")?,
    })
}

fn unsupported(kind: &str) -> ModelError {
    ModelError::Unsupported { feature: format!("rotary scaling '{kind}'") }
}
