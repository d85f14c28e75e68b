//! Top-p, or nucleus sampling (Holtzman et al. 2020, section 3.1): only the fewest most likely tokens whose
//! probabilities sum to at least p may be drawn, the lower ids among equals.

use super::{
    Candidate,
    cut::{Cut, descending},
    draw, math,
};

/// Puts the nucleus of a whole row of weights into `candidates`, in order of id.
pub fn select(row: &[f32], p: f32, values: &mut Vec<f32>, candidates: &mut Vec<Candidate>) {
    let total = math::sum(row);
    // Most of the vocabulary is far too unlikely to matter: look among the likely first.
    for floor in [1e-3, 1e-5, 0.0] {
        candidates.clear();
        let likely = (0u32..).zip(row).filter(|&(_, &weight)| weight > floor);
        candidates.extend(likely.map(|(id, &weight)| Candidate { id, weight }));
        if draw::total(candidates) >= f64::from(p) * total {
            break;
        }
    }
    retain(candidates, p, total, values);
}

/// Keeps the fewest largest candidates whose weights sum to `p * total`.
pub fn retain(candidates: &mut Vec<Candidate>, p: f32, total: f64, values: &mut Vec<f32>) {
    values.clear();
    values.extend(candidates.iter().map(|candidate| candidate.weight));
    let mut cut = find_cut(values, f64::from(p) * total);
    candidates.retain(|candidate| cut.keeps(candidate.weight));
}

/// The cut that keeps the fewest largest values whose sum reaches `target`, at least one; reorders `values`.
///
/// Selection by halving: the larger half of the undecided values is either more than enough, then the rest falls away,
/// or not enough, then all of it stays. Each round halves what is undecided, so the whole is linear.
pub fn find_cut(values: &mut [f32], target: f64) -> Cut {
    let (mut from, mut to) = (0, values.len());
    let mut sum_before = 0.0;
    while to - from > 1 {
        let half = (to - from) / 2;
        values[from..to].select_nth_unstable_by(half - 1, descending);
        let sum_half: f64 = values[from..from + half].iter().map(|&value| f64::from(value)).sum();
        if sum_before + sum_half >= target {
            to = from + half;
        } else {
            sum_before += sum_half;
            from += half;
        }
    }
    // values[..to] stay, and the last of them is the smallest.
    let Some(&value) = values.get(from) else { return Cut { value: f32::INFINITY, ties: 0 } };
    Cut { value, ties: values[..to].iter().filter(|&&kept| kept == value).count() }
}
