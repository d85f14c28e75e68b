//! Histograms with fixed buckets, as Prometheus wants them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

/// Bounds for whole requests and waiting, in seconds.
pub(crate) const REQUEST_SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0];
/// Bounds for the gap between tokens, in seconds.
pub(crate) const TOKEN_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5];
/// Bounds for the mask of a grammar, in seconds.
pub(crate) const MASK_SECONDS: &[f64] =
    &[0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
/// Bounds for the tokens of a step.
pub(crate) const STEP_TOKENS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

/// A live histogram.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// One per bound and one for everything above.
    counts: Vec<AtomicU64>,
    sum_bits: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_bits: AtomicU64::new(0) }
    }

    /// Counts one value.
    pub(crate) fn record(&self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.counts[bucket].fetch_add(1, Relaxed);
        let plus = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure never refuses.
        let _ = self.sum_bits.fetch_update(Relaxed, Relaxed, plus);
    }

    pub(crate) fn snapshot(&self) -> HistogramSnapshot {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        let count = counts.iter().sum();
        HistogramSnapshot { bounds: self.bounds, counts, sum: f64::from_bits(self.sum_bits.load(Relaxed)), count }
    }
}

/// A histogram's values at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistogramSnapshot {
    /// Upper bounds of the buckets, ascending, inclusive; one more bucket without a bound follows.
    pub bounds: &'static [f64],
    /// Values per bucket (not cumulative), `[bounds + 1]`.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: f64,
    /// Number of all values.
    pub count: u64,
}

impl HistogramSnapshot {
    /// `(upper bound, values up to it)` for every bucket, the last bound infinite: Prometheus' `le` buckets.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(&self.counts).scan(0, |total, (bound, count)| {
            *total += count;
            Some((bound, *total))
        })
    }

    /// The arithmetic mean; `None` without values.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// The value below which the fraction `q` of all values lies, interpolated within its bucket; `None` without values.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * self.count as f64;
        let mut below = 0u64;
        for (i, &count) in self.counts.iter().enumerate() {
            let upto = below + count;
            if count > 0 && upto as f64 >= rank {
                let low = if i == 0 { 0.0 } else { self.bounds[i - 1] };
                let high = self.bounds.get(i).copied().unwrap_or(low);
                return Some(low + (high - low) * ((rank - below as f64) / count as f64).clamp(0.0, 1.0));
            }
            below = upto;
        }
        self.bounds.last().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let histogram = Histogram::new(&[1.0, 2.0, 4.0]);
        for value in [0.5, 1.0, 1.5, 2.0, 3.0, 9.0] {
            histogram.record(value);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.counts, [2, 2, 1, 1]);
        assert_eq!((snapshot.count, snapshot.sum), (6, 17.0));
        let cumulative: Vec<_> = snapshot.cumulative().collect();
        assert_eq!(cumulative, [(1.0, 2), (2.0, 4), (4.0, 5), (f64::INFINITY, 6)]);
    }

    #[test]
    fn quantiles_interpolate_and_survive_emptiness() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        assert_eq!(histogram.snapshot().quantile(0.5), None);
        for _ in 0..10 {
            histogram.record(1.5);
        }
        assert_eq!(histogram.snapshot().quantile(0.5), Some(1.5));
        assert_eq!(histogram.snapshot().mean(), Some(1.5));
    }
}
