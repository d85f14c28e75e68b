//! Penalties on tokens that were seen before.
//!
//! Repetition (Keskar et al. 2019, CTRL, section 4.1) divides positive and multiplies negative logits of tokens in the
//! prompt or the answer. Frequency and presence (OpenAI's) are subtracted for tokens in the answer: frequency once per
//! occurrence, presence once. Repetition comes first, as in vLLM.

use std::collections::HashMap;

use crate::SamplingParams;

/// How often each token occurred.
#[derive(Debug, Clone, Default)]
pub struct TokenCounts {
    /// Occurrences in the answer by token; 0 for tokens of the prompt only.
    in_answer: HashMap<u32, u32>,
}

impl TokenCounts {
    /// Counts for an empty answer to `prompt`.
    pub fn new(prompt: &[u32]) -> Self {
        Self { in_answer: prompt.iter().map(|&id| (id, 0)).collect() }
    }

    /// Counts one more token of the answer.
    pub fn push(&mut self, id: u32) {
        *self.in_answer.entry(id).or_default() += 1;
    }
}

/// Whether the parameters penalise anything.
pub fn apply_to(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0
}

/// Applies all three penalties; takes time proportional to the number of distinct tokens seen.
pub fn apply(row: &mut [f32], params: &SamplingParams, counts: &TokenCounts) {
    for (&id, &count) in &counts.in_answer {
        let Some(logit) = row.get_mut(id as usize) else { continue };
        if *logit > 0.0 {
            *logit /= params.repetition_penalty;
        } else {
            *logit *= params.repetition_penalty;
        }
        if count > 0 {
            *logit -= params.frequency_penalty * count as f32;
            *logit -= params.presence_penalty;
        }
    }
}
