//! Rotary frequencies of a layer from its specification.

use crate::{LayerSpec, ModelError, RopeScaling, RopeSpec, weights::WeightSource};
use std::f32::consts::TAU;
use yantra_kernels::RopeTable;

/// Builds one table per distinct specification; returns the tables and each layer's index among them.
pub(crate) fn tables<'a>(
    specs: impl Iterator<Item = Option<&'a RopeSpec>>,
    max_positions: usize,
    source: &WeightSource<'_>,
) -> Result<(Vec<RopeTable>, Vec<Option<usize>>), ModelError> {
    let mut distinct: Vec<&RopeSpec> = Vec::new();
    let mut index_of = |spec| {
        distinct.iter().position(|known| *known == spec).unwrap_or_else(|| {
            distinct.push(spec);
            distinct.len() - 1
        })
    };
    let indices = specs.map(|spec| spec.map(&mut index_of)).collect();
    let table = |spec: &&RopeSpec| {
        let stored = match spec.scaling {
            RopeScaling::Stored => source.vector("rope_freqs.weight", spec.rotary_dim / 2)?,
            _ => Vec::new(),
        };
        let (frequencies, attention_factor) = frequencies(spec, max_positions, &stored);
        Ok(RopeTable::new(spec.rotary_dim, &frequencies, attention_factor, max_positions))
    };
    Ok((distinct.iter().map(table).collect::<Result<_, ModelError>>()?, indices))
}

/// Bytes of cosines and sines of every position, once for each kind of rotation.
pub(crate) fn table_bytes<'a>(layers: impl Iterator<Item = &'a LayerSpec>, max_positions: usize) -> usize {
    let mut distinct: Vec<&RopeSpec> = Vec::new();
    for rope in layers.filter_map(|layer| layer.rope.as_ref()) {
        if !distinct.contains(&rope) {
            distinct.push(rope);
        }
    }
    distinct.iter().map(|rope| max_positions * rope.rotary_dim * size_of::<f32>()).sum()
}

/// Angular frequency of each rotated pair, in radians per position, `[rotary_dim / 2]`, and the factor on what is rotated;
/// `stored` are the checkpoint's divisors, if it has any.
pub(crate) fn frequencies(spec: &RopeSpec, max_positions: usize, stored: &[f32]) -> (Vec<f32>, f32) {
    let dim = spec.rotary_dim as f64;
    let with_base = |base: f64| (0..spec.rotary_dim / 2).map(move |i| base.powf(-2.0 * i as f64 / dim) as f32);
    let theta = f64::from(spec.theta);
    let plain = with_base(theta);
    let divided = |divisors: &[f32]| with_base(theta).zip(divisors).map(|(frequency, by)| frequency / by).collect();
    let context = max_positions as f32;
    match spec.scaling {
        RopeScaling::None => (plain.collect(), 1.0),
        RopeScaling::Linear { factor } => (plain.map(|frequency| frequency / factor).collect(), 1.0),
        RopeScaling::Dynamic { factor, original_context } => {
            let stretch = f64::from(factor * context.max(original_context) / original_context - (factor - 1.0));
            (with_base(theta * stretch.powf(dim / (dim - 2.0))).collect(), 1.0)
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let scaled = plain.map(|frequency| {
                let wavelength = TAU / frequency;
                let smooth = (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                mix(frequency, factor, smooth)
            });
            (scaled.collect(), 1.0)
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, truncate, attention_factor } => {
            // The dimension whose frequency turns so many times in the training's context.
            let dimension = |turns: f32| dim * (original_context / (turns * TAU)).ln() as f64 / (2.0 * theta.ln());
            let (low, high) = (dimension(beta_fast), dimension(beta_slow));
            let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
            let (low, high) = (low.max(0.0), high.min(dim - 1.0));
            let width = if low == high { 0.001 } else { high - low };
            let ramp = |i: usize| ((i as f64 - low) / width) as f32;
            let scaled = plain.enumerate().map(|(i, frequency)| mix(frequency, factor, 1.0 - ramp(i).clamp(0.0, 1.0)));
            (scaled.collect(), attention_factor)
        }
        RopeScaling::LongRope { ref short, ref long, original_context, attention_factor } => {
            (divided(if context > original_context { long } else { short }), attention_factor)
        }
        RopeScaling::Stored => (divided(stored), 1.0),
    }
}

/// Between a frequency divided by the factor, where nothing of it is `kept`, and as it is, where all is.
fn mix(frequency: f32, factor: f32, kept: f32) -> f32 {
    let kept = kept.clamp(0.0, 1.0);
    frequency * (kept + (1.0 - kept) / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scaling: RopeScaling, expected: &[(usize, f32)]) {
        let spec = RopeSpec { theta: 500_000.0, rotary_dim: 128, scaling };
        let (found, _) = frequencies(&spec, 4096, &[]);
        for (index, value) in expected {
            assert!((found[*index] / value - 1.0).abs() < 1e-5, "{index}: {} is not {value}", found[*index]);
        }
    }

    /// Values of `transformers.modeling_rope_utils` for Llama 3.1 (theta 500000, 128 dimensions).
    #[test]
    fn llama3_scaling_matches_transformers() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192.0 };
        check(scaling, LLAMA3_REFERENCE);
        check(RopeScaling::Linear { factor: 4.0 }, &[(0, 0.25), (32, 0.25 / 500_000f32.sqrt())]);
    }

    const LLAMA3_REFERENCE: &[(usize, f32)] = &[
        (0, 1.0),
        (10, 0.128_687_37),
        (28, 0.003_211_446),
        (32, 0.000_524_846),
        (40, 3.428_102_4e-5),
        (63, 3.068_926e-7),
    ];
}
