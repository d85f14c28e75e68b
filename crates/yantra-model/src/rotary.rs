//! Rotary frequencies of a layer from its specification.

use crate::{ModelError, RopeScaling, RopeSpec, weights::WeightSource};
use std::f32::consts::TAU;
use yantra_kernels::RopeTable;

/// Builds one table per distinct specification; returns the tables and each layer's index among them.
pub(crate) fn tables(
    specs: impl Iterator<Item = Option<RopeSpec>>,
    max_positions: usize,
    source: &WeightSource<'_>,
) -> Result<(Vec<RopeTable>, Vec<Option<usize>>), ModelError> {
    let mut distinct: Vec<RopeSpec> = Vec::new();
    let mut index_of = |spec: RopeSpec| {
        distinct.iter().position(|known| *known == spec).unwrap_or_else(|| {
            distinct.push(spec);
            distinct.len() - 1
        })
    };
    let indices = specs.map(|spec| spec.map(&mut index_of)).collect();
    let table = |spec: &RopeSpec| {
        let divisors = match spec.scaling {
            RopeScaling::Stored => source.vector("rope_freqs.weight", spec.rotary_dim / 2)?,
            _ => Vec::new(),
        };
        let frequencies = frequencies(spec, &divisors);
        Ok(RopeTable::new(spec.rotary_dim, &frequencies, 1.0, max_positions))
    };
    Ok((distinct.iter().map(table).collect::<Result<_, ModelError>>()?, indices))
}

/// Angular frequency of each rotated pair, in radians per position, `[rotary_dim / 2]`; `stored` are the checkpoint's
/// divisors, if it has any.
fn frequencies(spec: &RopeSpec, stored: &[f32]) -> Vec<f32> {
    let half = spec.rotary_dim / 2;
    let plain = (0..half).map(|i| (f64::from(spec.theta)).powf(-2.0 * i as f64 / spec.rotary_dim as f64) as f32);
    match spec.scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => plain
            .map(|frequency| {
                let wavelength = TAU / frequency;
                let smooth = (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let kept = smooth.clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            })
            .collect(),
        RopeScaling::Stored => plain.zip(stored).map(|(frequency, divisor)| frequency / divisor).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scaling: RopeScaling, expected: &[(usize, f32)]) {
        let spec = RopeSpec { theta: 500_000.0, rotary_dim: 128, scaling };
        let found = frequencies(&spec, &[]);
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
