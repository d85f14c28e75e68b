//! What sampling needs from a row of logits: the largest, the k largest, softmax and its logarithm.
//!
//! These run on one thread, at the fastest level of the processor: a row of 150k logits is 600 KB, a few tens of
//! microseconds of reading, and the sampler of each sequence runs by itself.

use crate::{
    CpuLevel,
    simd::{self, Simd, simd_dispatch},
};

/// Values whose largest is compared at once when the k largest are selected.
const BLOCK: usize = 128;

/// Index of the largest value; the lowest such index on ties, 0 for an empty slice. NaN is never chosen over a number.
pub fn argmax(logits: &[f32]) -> usize {
    argmax_at(CpuLevel::detect(), logits)
}

fn argmax_at(level: CpuLevel, logits: &[f32]) -> usize {
    // Per block only the maximum is taken; the place is then looked up in the one block that holds it.
    let mut best = (f32::NEG_INFINITY, 0);
    for (index, block) in logits.chunks(16 * BLOCK).enumerate() {
        let max = max_at(level, block);
        if max > best.0 {
            best = (max, index * 16 * BLOCK);
        }
    }
    let found = logits.get(best.1..).and_then(|rest| rest.iter().position(|&x| x == best.0));
    found.map_or(0, |place| best.1 + place)
}

/// The natural logarithm of the sum of exponentials, without overflow; negative infinity for an empty slice.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    log_sum_exp_at(CpuLevel::detect(), logits)
}

fn log_sum_exp_at(level: CpuLevel, logits: &[f32]) -> f32 {
    let max = max_at(level, logits);
    if max.is_finite() { max + sum_exp_at(level, logits, max).ln() } else { max }
}

/// Log-probabilities: `logits - log_sum_exp(logits)`, in place.
pub fn log_softmax_in_place(logits: &mut [f32]) {
    let level = CpuLevel::detect();
    let total = log_sum_exp_at(level, logits);
    subtract_at(level, logits, total);
}

/// Log-probabilities: `out = logits - log_sum_exp(logits)`.
///
/// # Panics
/// If the lengths differ.
pub fn log_softmax(logits: &[f32], out: &mut [f32]) {
    out.copy_from_slice(logits);
    log_softmax_in_place(out);
}

/// Probabilities: exponentials divided by their sum, in place.
pub fn softmax_in_place(logits: &mut [f32]) {
    softmax_at(CpuLevel::detect(), logits);
}

fn softmax_at(level: CpuLevel, logits: &mut [f32]) {
    let max = max_at(level, logits);
    if max.is_finite() {
        let sum = exp_in_place_at(level, logits, max);
        crate::norm::scale_row(level, logits, 1.0 / sum);
    }
}

/// The `k` largest values and their indices, largest first; the lowest index first on ties.
///
/// Gives all of them, sorted, when `k` is more than there are. NaN counts as the smallest value.
pub fn top_k(logits: &[f32], k: usize) -> (Vec<u32>, Vec<f32>) {
    top_k_at(CpuLevel::detect(), logits, k)
}

fn top_k_at(level: CpuLevel, logits: &[f32], k: usize) -> (Vec<u32>, Vec<f32>) {
    let k = k.min(logits.len());
    if k == 0 {
        return (Vec::new(), Vec::new());
    }
    let key = |&index: &u32| {
        let value = logits[index as usize];
        if value.is_nan() { f32::NEG_INFINITY } else { value }
    };
    let order = |a: &u32, b: &u32| key(b).total_cmp(&key(a)).then(a.cmp(b));
    let mut candidates = candidates_at(level, logits, k);
    if candidates.len() > k {
        candidates.select_nth_unstable_by(k - 1, order);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(order);
    let values = candidates.iter().map(|&index| logits[index as usize]).collect();
    (candidates, values)
}

/// Indices that hold the `k` largest values, and few more: everything not below the k-th largest block maximum.
fn candidates_at(level: CpuLevel, logits: &[f32], k: usize) -> Vec<u32> {
    if k > logits.len() / BLOCK {
        return (0..logits.len() as u32).collect();
    }
    let maxima: Vec<f32> = logits.chunks(BLOCK).map(|block| max_at(level, block)).collect();
    let mut sorted = maxima.clone();
    // At least k values are as large as the k-th largest block maximum.
    let (_, &mut threshold, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let mut candidates = Vec::with_capacity(4 * k);
    for (index, block) in logits.chunks(BLOCK).enumerate().filter(|(index, _)| maxima[*index] >= threshold) {
        let first = (index * BLOCK) as u32;
        let large =
            (first..).zip(block).filter(|(_, x)| **x >= threshold || x.is_nan() && threshold == f32::NEG_INFINITY);
        candidates.extend(large.map(|(index, _)| index));
    }
    candidates
}

simd_dispatch! {
    fn max_at(x: &[f32]) -> f32 = max_body;
    fn sum_exp_at(x: &[f32], max: f32) -> f32 = sum_exp_body;
    fn exp_in_place_at(x: &mut [f32], max: f32) -> f32 = exp_in_place_body;
    fn subtract_at(x: &mut [f32], shift: f32) = subtract_body;
}

/// The largest value; NaN is passed over.
#[inline(always)]
fn max_body<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let lowest = simd.splat(f32::NEG_INFINITY);
    let mut maxima = [lowest; 4];
    let mut blocks = x.chunks_exact(4 * S::LANES);
    for block in &mut blocks {
        for (lane, max) in maxima.iter_mut().enumerate() {
            // The second operand is the result where the first is NaN.
            *max = simd.max(simd.load_slice(&block[lane * S::LANES..]), *max);
        }
    }
    for vector in blocks.remainder().chunks(S::LANES) {
        maxima[0] = simd.max(simd.load_partial(vector, f32::NEG_INFINITY), maxima[0]);
    }
    simd.reduce_max(simd.max(simd.max(maxima[0], maxima[1]), simd.max(maxima[2], maxima[3])))
}

#[inline(always)]
fn sum_exp_body<S: Simd>(simd: S, x: &[f32], max: f32) -> f32 {
    let shift = simd.splat(max);
    let mut sums = [simd.splat(0.0); 2];
    let mut blocks = x.chunks_exact(2 * S::LANES);
    for block in &mut blocks {
        for (lane, sum) in sums.iter_mut().enumerate() {
            let value = simd.sub(simd.load_slice(&block[lane * S::LANES..]), shift);
            *sum = simd.add(*sum, simd::exp_of_negative(simd, value));
        }
    }
    for vector in blocks.remainder().chunks(S::LANES) {
        let value = simd.sub(simd.load_partial(vector, f32::NEG_INFINITY), shift);
        sums[0] = simd.add(sums[0], simd::exp_of_negative(simd, value));
    }
    simd.reduce_add(simd.add(sums[0], sums[1]))
}

#[inline(always)]
fn exp_in_place_body<S: Simd>(simd: S, x: &mut [f32], max: f32) -> f32 {
    let shift = simd.splat(max);
    let mut sums = [simd.splat(0.0); 2];
    let mut blocks = x.chunks_exact_mut(2 * S::LANES);
    for block in &mut blocks {
        for (lane, sum) in sums.iter_mut().enumerate() {
            let part = &mut block[lane * S::LANES..];
            let value = simd::exp_of_negative(simd, simd.sub(simd.load_slice(part), shift));
            simd.store_slice(part, value);
            *sum = simd.add(*sum, value);
        }
    }
    for vector in blocks.into_remainder().chunks_mut(S::LANES) {
        let value = simd::exp_of_negative(simd, simd.sub(simd.load_partial(vector, f32::NEG_INFINITY), shift));
        simd.store_partial(vector, value);
        sums[0] = simd.add(sums[0], value);
    }
    simd.reduce_add(simd.add(sums[0], sums[1]))
}

#[inline(always)]
fn subtract_body<S: Simd>(_simd: S, x: &mut [f32], shift: f32) {
    for x in x {
        *x -= shift;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{assert_close, random};

    const LENGTHS: [usize; 9] = [1, 2, 7, 127, 128, 129, 2049, 5000, 49_152];

    fn reference_top_k(logits: &[f32], k: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        order.truncate(k);
        order
    }

    #[test]
    fn argmax_takes_the_lowest_index_of_ties() {
        for level in CpuLevel::supported() {
            for len in LENGTHS {
                // Few distinct values, so that ties abound.
                let logits: Vec<f32> = random(len as u64, len).iter().map(|x| (x * 8.0).round()).collect();
                let expected = reference_top_k(&logits, 1)[0] as usize;
                assert_eq!(argmax_at(level, &logits), expected);
            }
            assert_eq!(argmax_at(level, &[]), 0);
            assert_eq!(argmax_at(level, &[f32::NEG_INFINITY; 3]), 0);
            assert_eq!(argmax_at(level, &[f32::NAN, 1.0, f32::NAN, 2.0]), 3);
        }
    }

    #[test]
    fn top_k_is_a_sorted_prefix() {
        for level in CpuLevel::supported() {
            for len in LENGTHS {
                for coarse in [false, true] {
                    let mut logits = random(len as u64, len);
                    if coarse {
                        logits.iter_mut().for_each(|x| *x = (*x * 8.0).round());
                    }
                    // -0.0 and 0.0 tie as numbers but not in a total order.
                    logits.iter_mut().for_each(|x| *x += 0.0);
                    for k in [0, 1, 2, 20, 300, len, len + 1] {
                        let (ids, values) = top_k_at(level, &logits, k);
                        assert_eq!(ids, reference_top_k(&logits, k));
                        assert!(ids.iter().zip(&values).all(|(&id, value)| logits[id as usize] == *value));
                    }
                }
            }
            let masked = vec![f32::NEG_INFINITY; 1000];
            assert_eq!(top_k_at(level, &masked, 3).0, [0, 1, 2]);
            assert_eq!(top_k_at(level, &[f32::NAN, 1.0, 2.0], 3).0, [2, 1, 0]);
        }
    }

    #[test]
    fn softmax_agrees_with_f64() {
        for level in CpuLevel::supported() {
            for len in LENGTHS {
                let logits: Vec<f32> = random(len as u64, len).iter().map(|x| x * 30.0).collect();
                let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
                let probabilities: Vec<f32> = logits.iter().map(|&x| (f64::from(x).exp() / total) as f32).collect();
                let mut given = logits.clone();
                softmax_at(level, &mut given);
                assert_close(&given, &probabilities, 1e-6);
                assert_close(&[log_sum_exp_at(level, &logits)], &[total.ln() as f32], 1e-6);
            }
        }
        let mut given = vec![1.0, f32::NEG_INFINITY];
        softmax_in_place(&mut given);
        assert_eq!(given, [1.0, 0.0]);
        log_softmax(&[0.0, 0.0], &mut given);
        assert_close(&given, &[-std::f32::consts::LN_2; 2], 1e-7);
        assert_eq!(log_sum_exp(&[]), f32::NEG_INFINITY);
    }
}
