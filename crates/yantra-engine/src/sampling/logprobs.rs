//! Log-probabilities under the model's own distribution, before any sampling step.

use super::{cut::descending, math, top_k};
use crate::{TokenLogprobs, TopLogprob};

/// The log-probability of `id` in a row of raw logits, and those of the `top` most likely tokens, best first and the
/// lower id first among equals. `None` when the row has no finite value.
pub fn of_token(row: &[f32], id: u32, top: usize, values: &mut Vec<f32>) -> Option<TokenLogprobs> {
    let log_total = math::log_sum_exp(row)?;
    let logprob = |logit: f32| if logit.is_nan() { f32::NEG_INFINITY } else { (f64::from(logit) - log_total) as f32 };
    let alternatives = if top == 0 { Vec::new() } else { most_likely(row, top, values, logprob) };
    Some(TokenLogprobs { id, logprob: logprob(*row.get(id as usize)?), top: alternatives })
}

fn most_likely(row: &[f32], top: usize, values: &mut Vec<f32>, logprob: impl Fn(f32) -> f32) -> Vec<TopLogprob> {
    let mut cut = top_k::find_cut(row, top, values);
    let mut best = Vec::with_capacity(top);
    for (id, &logit) in (0u32..).zip(row) {
        if logit >= cut.value && cut.keeps(logit) {
            best.push(TopLogprob { id, logprob: logprob(logit) });
        }
    }
    // Stable: equals stay in order of id.
    best.sort_by(|a, b| descending(&a.logprob, &b.logprob));
    best
}
