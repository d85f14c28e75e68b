//! Top-k (Fan et al. 2018, section 5.4): only the k most likely tokens may be drawn, exactly k, the lower ids among
//! equals.

use super::{
    Candidate,
    cut::{Cut, descending},
};

/// Puts the `k` largest logits of the row into `candidates`, in order of id, with the logit as their weight. Tokens of
/// logit −∞ or NaN are never candidates.
pub fn select(row: &[f32], k: usize, values: &mut Vec<f32>, candidates: &mut Vec<Candidate>) {
    let mut cut = find_cut(row, k, values);
    candidates.clear();
    for (id, &logit) in (0u32..).zip(row) {
        if logit >= cut.value && cut.keeps(logit) {
            candidates.push(Candidate { id, weight: logit });
        }
    }
}

/// The cut that keeps the `k` largest values.
///
/// One pass: values above the best lower bound known for the k-th largest are collected; whenever twice `k` have come
/// together, the smaller half goes and the bound rises. On real logits nearly all values fail the one comparison.
pub fn find_cut(row: &[f32], k: usize, values: &mut Vec<f32>) -> Cut {
    values.clear();
    let k = k.max(1);
    let capacity = k.saturating_mul(2).max(64);
    let mut bound = f32::NEG_INFINITY;
    for &value in row {
        // False for NaN, too.
        if value > bound {
            values.push(value);
            if values.len() == capacity {
                let (_, kth, _) = values.select_nth_unstable_by(k - 1, descending);
                bound = *kth;
                values.truncate(k);
            }
        }
    }
    if values.len() <= k {
        // `values` may lack copies of `bound` that came later, but then it holds k values already.
        let lowest = values.iter().copied().fold(f32::INFINITY, f32::min);
        return Cut { value: lowest, ties: values.iter().filter(|&&value| value == lowest).count() };
    }
    let (above, &mut kth, _) = values.select_nth_unstable_by(k - 1, descending);
    let higher = above.iter().filter(|&&value| value > kth).count();
    Cut { value: kth, ties: k - higher }
}
