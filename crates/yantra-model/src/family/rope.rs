//! Rotary embeddings as checkpoints describe them.
//!
//! `config.json` has had three forms: `rope_theta` beside `rope_scaling`; `rope_parameters` with both (transformers 5);
//! and `rope_parameters` with a section for each kind of layer. A kind of scaling that is not known is refused by name:
//! a model run with the wrong angles answers fluently and wrongly.

use super::{CONTEXT_LENGTH, check};
use crate::{
    ModelError, RopeScaling, RopeSpec,
    parameters::{Key, Parameters, key},
};
use yantra_formats::{TensorView, hf::Config};
use yantra_kernels::{KernelError, dequantize_row};

/// Layers that see everything before them, as `config.json` calls them.
pub(super) const FULL: &str = "full_attention";
/// Layers that see a window.
pub(super) const SLIDING: &str = "sliding_attention";

const DEFAULT_THETA: f32 = 10_000.0;

/// The rotary embedding of the layers of a `kind`; only the newest form of `config.json` tells kinds apart.
pub(super) fn rope(p: &Parameters<'_>, head_dim: usize, kind: &str) -> Result<RopeSpec, ModelError> {
    let (theta, rotary_dim, scaling) = match p.config() {
        Some(config) => in_config(p, config, head_dim, kind)?,
        None => (
            p.real(key("rope.freq_base", ""))?.unwrap_or(DEFAULT_THETA),
            p.count(key("rope.dimension_count", ""))?.unwrap_or(head_dim),
            in_gguf(p)?,
        ),
    };
    check(rotary_dim.is_multiple_of(2) && rotary_dim <= head_dim, "rope.dimension_count", || {
        format!("{rotary_dim} is odd or wider than a head ({head_dim})")
    })?;
    check(theta > 0.0, "rope_theta", || format!("{theta} is not positive"))?;
    Ok(RopeSpec { theta, rotary_dim, scaling })
}

fn in_gguf(p: &Parameters<'_>) -> Result<RopeScaling, ModelError> {
    let checkpoint = p.checkpoint();
    let factor = p.real(key("rope.scaling.factor", ""))?;
    let factor = if factor.is_some() { factor } else { p.real(key("rope.scale_linear", ""))? };
    // Zero is how some writers say that there is none.
    let factor = factor.filter(|factor| *factor != 0.0 && *factor != 1.0);
    let attention_factor = p.real(key("rope.scaling.attn_factor", ""))?.unwrap_or(1.0);
    let original_context = || required(p, key("rope.scaling.original_context_length", ""), "original_context_length");
    if checkpoint.tensor("rope_factors_long.weight").is_some() {
        let divisors = |name: &str| Ok::<_, ModelError>(floats(&checkpoint.require(name)?)?);
        return Ok(RopeScaling::LongRope {
            short: divisors("rope_factors_short.weight")?,
            long: divisors("rope_factors_long.weight")?,
            original_context: original_context()?,
            attention_factor,
        });
    }
    match p.text(key("rope.scaling.type", ""))? {
        None | Some("none" | "linear") => {}
        Some("yarn") => {
            let factor = required(p, key("rope.scaling.factor", ""), "rope.scaling.factor")?;
            // llama.cpp reads the second key nowhere, but its converter writes what `config.json` has there.
            let given = p.real(key("rope.scaling.yarn_attn_factor", ""))?;
            return Ok(RopeScaling::Yarn {
                factor,
                beta_fast: p.real(key("rope.scaling.yarn_beta_fast", ""))?.unwrap_or(32.0),
                beta_slow: p.real(key("rope.scaling.yarn_beta_slow", ""))?.unwrap_or(1.0),
                original_context: original_context()?,
                truncate: true,
                attention_factor: attention_factor * given.unwrap_or_else(|| yarn_scale(factor, 1.0)),
            });
        }
        Some(kind) => return Err(unsupported(kind)),
    }
    match (factor, checkpoint.tensor("rope_freqs.weight")) {
        (None, None) => Ok(RopeScaling::None),
        (None, Some(_)) => Ok(RopeScaling::Stored),
        (Some(factor), None) => linear(factor),
        (Some(_), Some(_)) => Err(unsupported("linear with stored frequencies")),
    }
}

fn floats(view: &TensorView<'_>) -> Result<Vec<f32>, KernelError> {
    let mut values = vec![0.0; view.num_elements()];
    dequantize_row(view.format, view.data, &mut values)?;
    Ok(values)
}

fn required(p: &Parameters<'_>, key: Key, name: &str) -> Result<f32, ModelError> {
    let missing = || ModelError::Parameter { key: name.to_owned(), message: "missing from the checkpoint".to_owned() };
    p.real(key)?.filter(|value| *value > 0.0).ok_or_else(missing)
}

/// Base, rotated components and scaling.
fn in_config(
    p: &Parameters<'_>,
    config: &Config,
    head_dim: usize,
    kind: &str,
) -> Result<(f32, usize, RopeScaling), ModelError> {
    let section = config.section("rope_scaling").or_else(|| config.section("rope_parameters"));
    let by_kind = section.as_ref().is_some_and(|section| [FULL, SLIDING].iter().any(|kind| is_object(section, kind)));
    let section = match section {
        Some(section) if by_kind => Some(section.section(kind).ok_or_else(|| ModelError::Parameter {
            key: format!("rope_parameters.{kind}"),
            message: "missing, though there are layers of this kind".to_owned(),
        })?),
        other => other,
    };
    let number = |name: &'static str| -> Result<Option<f32>, ModelError> {
        let own = section.as_ref().map(|section| section.find(name)).transpose()?.flatten();
        if own.is_some() { Ok(own) } else { p.real(key("", name)) }
    };
    let theta = number("rope_theta")?.unwrap_or(DEFAULT_THETA);
    let rotary_dim = (head_dim as f32 * number("partial_rotary_factor")?.unwrap_or(1.0)) as usize;
    let scaling = section.as_ref().map_or(Ok(RopeScaling::None), |section| scaling(p, section, rotary_dim))?;
    Ok((theta, rotary_dim, scaling))
}

fn is_object(section: &Config, key: &str) -> bool {
    section.value().get(key).is_some_and(|value| value.is_object())
}

fn scaling(p: &Parameters<'_>, section: &Config, rotary_dim: usize) -> Result<RopeScaling, ModelError> {
    let kind: Option<&str> = section.find("rope_type")?;
    let kind = if kind.is_some() { kind } else { section.find("type")? };
    match kind {
        None if section.find::<f32>("factor")?.is_some() => Err(ModelError::Parameter {
            key: "rope_type".to_owned(),
            message: "missing, though there is a factor to scale by".to_owned(),
        }),
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => linear(section.get("factor")?),
        Some("dynamic") => Ok(RopeScaling::Dynamic {
            factor: positive(section, "factor")?,
            original_context: p.required_count(CONTEXT_LENGTH)? as f32,
        }),
        Some("llama3") => llama3(section),
        Some("yarn") => yarn(p, section),
        Some("longrope" | "su") => long_rope(p, section, rotary_dim),
        Some("mrope") => Err(ModelError::Unsupported {
            feature: "rotary scaling 'mrope' (positions of three axes, for models that also see)".to_owned(),
        }),
        Some(kind) => Err(unsupported(kind)),
    }
}

fn positive(section: &Config, key: &str) -> Result<f32, ModelError> {
    let value = section.get(key)?;
    check(value > 0.0, key, || format!("{value} is not positive"))?;
    Ok(value)
}

/// The context of the first training, from the section or from beside it.
fn original_context(p: &Parameters<'_>, section: &Config) -> Result<f32, ModelError> {
    const KEY: &str = "original_max_position_embeddings";
    match section.find::<f32>(KEY)? {
        Some(_) => positive(section, KEY),
        None => required(p, key("", KEY), KEY),
    }
}

/// How many times longer contexts are than in the first training.
fn stretch(p: &Parameters<'_>, section: &Config, original_context: f32) -> Result<f32, ModelError> {
    match section.find::<f32>("factor")? {
        Some(_) => positive(section, "factor"),
        None => Ok(p.required_count(CONTEXT_LENGTH)? as f32 / original_context),
    }
}

fn yarn(p: &Parameters<'_>, section: &Config) -> Result<RopeScaling, ModelError> {
    let number = |key: &str| section.find::<f32>(key).map(|number| number.filter(|number| *number != 0.0));
    let original_context = original_context(p, section)?;
    let factor = stretch(p, section, original_context)?;
    let attention_factor = match (number("attention_factor")?, number("mscale")?, number("mscale_all_dim")?) {
        (Some(given), ..) => given,
        (None, Some(part), Some(all)) => yarn_scale(factor, part) / yarn_scale(factor, all),
        _ => yarn_scale(factor, 1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: number("beta_fast")?.unwrap_or(32.0),
        beta_slow: number("beta_slow")?.unwrap_or(1.0),
        original_context,
        truncate: section.find("truncate")?.unwrap_or(true),
        attention_factor,
    })
}

/// The factor that YaRN puts on scores of stretched contexts (Peng et al., 2023, section 3.4), as a root.
pub(super) fn yarn_scale(factor: f32, multiplier: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { 0.1 * multiplier * factor.ln() + 1.0 }
}

fn long_rope(p: &Parameters<'_>, section: &Config, rotary_dim: usize) -> Result<RopeScaling, ModelError> {
    let divisors = |key: &str| -> Result<Vec<f32>, ModelError> {
        let divisors: Vec<f32> = section.get(key)?;
        check(divisors.len() == rotary_dim / 2, key, || {
            format!("{} divisors for {} frequencies", divisors.len(), rotary_dim / 2)
        })?;
        Ok(divisors)
    };
    let original_context = original_context(p, section)?;
    let stretch = p.required_count(CONTEXT_LENGTH)? as f32 / original_context;
    let usual = if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / original_context.ln()).sqrt() };
    Ok(RopeScaling::LongRope {
        short: divisors("short_factor")?,
        long: divisors("long_factor")?,
        original_context,
        attention_factor: section.find("attention_factor")?.unwrap_or(usual),
    })
}

fn linear(factor: f32) -> Result<RopeScaling, ModelError> {
    check(factor > 0.0, "factor", || format!("{factor} is no factor to scale rotary frequencies by"))?;
    Ok(RopeScaling::Linear { factor })
}

fn llama3(section: &Config) -> Result<RopeScaling, ModelError> {
    let number = |key: &str| positive(section, key);
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
