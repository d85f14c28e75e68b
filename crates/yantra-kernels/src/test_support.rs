//! What the tests of several operations share.

use crate::{Compute, CpuLevel};

/// A pool for every level this processor has, with one and with three threads.
pub(crate) fn computes() -> Vec<Compute> {
    let pools =
        CpuLevel::supported().into_iter().flat_map(|level| [1, 3].map(|threads| Compute::with_level(threads, level)));
    pools.filter_map(Result::ok).collect()
}

/// Reproducible values in [-1, 1) (splitmix64).
pub(crate) fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Every value within `tolerance` of what is expected, relative to the larger of 1 and the expected magnitude.
#[track_caller]
pub(crate) fn assert_close(given: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(given.len(), expected.len());
    for (index, (&given, &expected)) in given.iter().zip(expected).enumerate() {
        let allowed = tolerance * expected.abs().max(1.0);
        assert!((given - expected).abs() <= allowed, "value {index}: {given} given, {expected} expected");
    }
}
