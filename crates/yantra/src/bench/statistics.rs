//! Percentiles, medians and spreads, defined once.

use serde::Serialize;

/// The spread of a set of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Distribution {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Distribution {
    /// `None` without measurements.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let max = *values.last()?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let at = |q| percentile(&values, q);
        Some(Self { mean, p50: at(0.50), p90: at(0.90), p99: at(0.99), max })
    }
}

/// The value below which the fraction `q` of `sorted` lies, linearly interpolated between neighbours (NumPy's default).
pub(crate) fn percentile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = q.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

/// The middle of `values` and half the distance between their quartiles.
pub(crate) fn median_and_spread(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (percentile(&sorted, 0.5), (percentile(&sorted, 0.75) - percentile(&sorted, 0.25)) / 2.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn as_numpy_computes_them() {
        // numpy.percentile([1, 2, 3, 4], [0, 25, 50, 90, 100]) -> 1, 1.75, 2.5, 3.7, 4
        let values = [1.0, 2.0, 3.0, 4.0];
        for (q, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 2.5), (0.9, 3.7), (1.0, 4.0)] {
            assert!((percentile(&values, q) - expected).abs() < 1e-12, "{q}");
        }
        assert!(percentile(&[], 0.5).is_nan());
        assert_eq!(median_and_spread(&[4.0, 1.0, 3.0, 2.0]), (2.5, 0.75));
        assert_eq!(Distribution::of(vec![]), None);
        assert_eq!(Distribution::of(vec![3.0, 1.0]).unwrap().mean, 2.0);
    }
}
