//! Temperature, and with it the step from logits to weights: `exp((logit − highest) / temperature)`.
//!
//! Weights are probabilities relative to the most likely token's, so nothing overflows and top-p and min-p can compare
//! them without normalising.

use super::{Candidate, math};

/// Turns a row of logits into weights, in place. NaN becomes 0.
pub fn weigh(row: &mut [f32], highest: f32, temperature: f32) {
    let scale = 1.0 / temperature;
    if !scale.is_finite() {
        return weigh_coldest(row, highest);
    }
    for value in row {
        *value = math::exp((*value - highest) * scale);
    }
}

/// Turns candidates' logits (in `weight`) into weights.
pub fn weigh_candidates(candidates: &mut [Candidate], highest: f32, temperature: f32) {
    for candidate in candidates {
        let mut weight = [candidate.weight];
        weigh(&mut weight, highest, temperature);
        candidate.weight = weight[0];
    }
}

/// The limit of a temperature whose reciprocal is no number: the highest logits share everything.
fn weigh_coldest(row: &mut [f32], highest: f32) {
    for value in row {
        *value = if *value == highest { 1.0 } else { 0.0 };
    }
}
