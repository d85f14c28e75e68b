//! The engine's settings.

use std::time::Duration;

use crate::{EngineError, Speculation};

/// How much the engine does at once and how much it lets wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Sequences (choices of requests) computed at the same time.
    pub max_sequences: usize,
    /// Tokens computed per step over all sequences; at least `max_sequences`, so that decoding never waits for prefill.
    pub token_budget: usize,
    /// Requests that may wait; more are refused with [`crate::SubmitError::QueueFull`].
    pub max_queue: usize,
    /// Whether finished work stays in the KV cache for later requests that begin alike.
    pub prefix_cache: bool,
    /// Prompt positions scored per step for requests with `prompt_logprobs`; bounds the logits buffer
    /// (`max_sequences + max_scored_rows` rows of the vocabulary, 4 bytes each).
    pub max_scored_rows: usize,
    /// Whether and how tokens are guessed ahead.
    pub speculation: Speculation,
    /// Most time that the masks of one choice's grammar may take in all.
    pub grammar_time: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_sequences: 64,
            token_budget: 512,
            max_queue: 256,
            prefix_cache: true,
            max_scored_rows: 64,
            speculation: Speculation::default(),
            grammar_time: Duration::from_secs(30),
        }
    }
}

impl EngineConfig {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// [`EngineError::Config`] naming the first field that is out of range.
    pub fn validate(&self) -> Result<(), EngineError> {
        let fail = |field, message: String| Err(EngineError::Config { field, message });
        if self.max_sequences == 0 || self.max_sequences > 4096 {
            return fail("max_sequences", format!("{} given, 1 to 4096 expected", self.max_sequences));
        }
        if self.token_budget < self.max_sequences || self.token_budget > 1 << 20 {
            let least = self.max_sequences;
            return fail("token_budget", format!("{} given, {least} to 1048576 expected", self.token_budget));
        }
        if self.max_queue == 0 || self.max_queue > 1 << 20 {
            return fail("max_queue", format!("{} given, 1 to 1048576 expected", self.max_queue));
        }
        if self.max_scored_rows == 0 {
            return fail("max_scored_rows", "0 given, at least 1 expected".to_owned());
        }
        let (drafted, most) = (self.speculation.max_draft, Speculation::MAX_DRAFT);
        if drafted == 0 || drafted > most {
            return fail("max_draft", format!("{drafted} given, 1 to {most} expected"));
        }
        Ok(())
    }
}
