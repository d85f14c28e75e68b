//! From a row of logits to a token.
//!
//! The steps and their order are those of vLLM and Hugging Face's `generate`, one file each:
//! [`bias`] → [`penalties`] → [`temperature`] → [`top_k`] → [`top_p`] → [`min_p`] → [`draw`]. At temperature 0 the most
//! likely token after bias and penalties is taken, the lowest id among equals. Log-probabilities ([`logprobs`]) are the
//! model's own: they are taken before any step.
//!
//! Nothing sorts the vocabulary. Top-k and top-p look for the *value* below which tokens fall away (a [`Cut`]), by
//! selection in linear time, and candidates stay in order of token id throughout. Draws are a function of seed, choice
//! and position ([`rng`]), so a request's tokens do not depend on its batch. Buffers are kept from token to token.

pub mod bias;
pub mod cut;
pub mod draw;
pub mod logprobs;
pub mod math;
pub mod min_p;
pub mod penalties;
pub mod rng;
pub mod temperature;
pub mod top_k;
pub mod top_p;

pub use cut::Cut;
pub use penalties::TokenCounts;

use crate::SamplingParams;

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its probability relative to the most likely token's, which has weight 1.
    pub weight: f32,
}

/// One choice's sampling state.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    seed: u64,
    choice: u32,
    /// Which tokens the penalties apply to; unused (and empty) without penalties.
    counts: Option<TokenCounts>,
}

/// Buffers shared by all samplers of a thread.
#[derive(Debug, Default)]
pub struct SamplingScratch {
    candidates: Vec<Candidate>,
    values: Vec<f32>,
}

impl Sampler {
    /// A sampler for the given choice of a request. `seed` is used when the parameters have none.
    pub fn new(params: &SamplingParams, prompt: &[u32], choice: usize, seed: u64) -> Self {
        let counts = penalties::apply_to(params).then(|| TokenCounts::new(prompt));
        Self { seed: params.seed.unwrap_or(seed), params: params.clone(), choice: choice as u32, counts }
    }

    /// Chooses the token at `position` (counted from the prompt's start) from `row` (`[vocab_size]`), which is
    /// overwritten, and remembers it for the penalties. `None` when the row holds nothing but NaN and −∞.
    pub fn sample(&mut self, row: &mut [f32], position: usize, scratch: &mut SamplingScratch) -> Option<u32> {
        bias::apply(row, &self.params.logit_bias);
        if let Some(counts) = &self.counts {
            penalties::apply(row, &self.params, counts);
        }
        let (best, highest) = math::argmax(row)?;
        let id = if self.params.temperature == 0.0 {
            best
        } else {
            let uniform = rng::uniform(self.seed, self.choice, position as u64);
            self.draw(row, highest, uniform, scratch).unwrap_or(best)
        };
        self.note(id);
        Some(id)
    }

    /// Remembers for the penalties a token that came without being chosen.
    pub fn note(&mut self, id: u32) {
        if let Some(counts) = &mut self.counts {
            counts.push(id);
        }
    }

    /// The random part: `highest` is the row's largest value, `uniform` in `[0, 1)`.
    fn draw(&self, row: &mut [f32], highest: f32, uniform: f64, scratch: &mut SamplingScratch) -> Option<u32> {
        let SamplingParams { temperature, top_k, top_p, min_p, .. } = self.params;
        let SamplingScratch { candidates, values } = scratch;
        if top_k > 0 && top_k < row.len() {
            top_k::select(row, top_k, values, candidates);
            temperature::weigh_candidates(candidates, highest, temperature);
            if top_p < 1.0 {
                let total = draw::total(candidates);
                top_p::retain(candidates, top_p, total, values);
            }
        } else {
            temperature::weigh(row, highest, temperature);
            if top_p >= 1.0 && min_p == 0.0 {
                return draw::from_weights(row, uniform);
            }
            if top_p < 1.0 {
                top_p::select(row, top_p, values, candidates);
            } else {
                min_p::select(row, min_p, candidates);
            }
        }
        min_p::retain(candidates, min_p);
        draw::from_candidates(candidates, uniform)
    }
}

#[cfg(test)]
mod tests;
