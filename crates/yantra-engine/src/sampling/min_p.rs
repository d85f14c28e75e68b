//! Min-p (Nguyen et al. 2024): tokens less likely than a fraction of the most likely one's probability are not drawn.

use super::Candidate;

/// Puts the tokens of a whole row of weights that are likely enough into `candidates`, in order of id.
pub fn select(row: &[f32], min_p: f32, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    let likely = (0u32..).zip(row).filter(|&(_, &weight)| weight >= min_p);
    candidates.extend(likely.map(|(id, &weight)| Candidate { id, weight }));
}

/// Keeps candidates that are likely enough; the most likely one has weight 1.
pub fn retain(candidates: &mut Vec<Candidate>, min_p: f32) {
    if min_p > 0.0 {
        candidates.retain(|candidate| candidate.weight >= min_p);
    }
}
