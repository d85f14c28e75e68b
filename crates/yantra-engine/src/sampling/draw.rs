//! The draw itself: the first token, in order of id, at which the running sum of weights passes a point.

use super::{Candidate, math};

/// The candidates' weights together.
pub fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// Draws a candidate; `uniform` in `[0, 1)`. `None` when there is no weight to draw from.
pub fn from_candidates(candidates: &[Candidate], uniform: f64) -> Option<u32> {
    let mut left = uniform * total(candidates);
    for candidate in candidates {
        left -= f64::from(candidate.weight);
        if left < 0.0 {
            return Some(candidate.id);
        }
    }
    // Rounding can leave a crumb.
    candidates.iter().rev().find(|candidate| candidate.weight > 0.0).map(|candidate| candidate.id)
}

/// Draws from a whole row of weights: first the block, then the token in it.
pub fn from_weights(row: &[f32], uniform: f64) -> Option<u32> {
    let mut left = uniform * math::sum(row);
    for (block, weights) in (0u32..).zip(row.chunks(math::BLOCK)) {
        let sum = math::block_sum(weights);
        if left >= sum {
            left -= sum;
            continue;
        }
        for (offset, &weight) in (0u32..).zip(weights) {
            left -= f64::from(weight);
            if left < 0.0 {
                return Some(block * math::BLOCK as u32 + offset);
            }
        }
    }
    row.iter().rposition(|&weight| weight > 0.0).map(|id| id as u32)
}
