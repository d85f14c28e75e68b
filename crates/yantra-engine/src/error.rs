//! What can go wrong: while submitting, and while running.

use std::time::Duration;

/// A request, or the engine itself, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The model refused or failed a forward pass.
    #[error("the forward pass failed: {message}")]
    Forward {
        /// What the model said.
        message: String,
    },
    /// The model panicked in a forward pass.
    #[error("the forward pass panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// The model returned logits of the wrong size.
    #[error("the model returned {given} logits, {expected} expected")]
    LogitsShape {
        /// Values returned.
        given: usize,
        /// Values expected: rows × vocabulary.
        expected: usize,
    },
    /// The logits of a row hold no number to sample from.
    #[error("the model returned no finite logit for token {position} of the sequence")]
    NonFiniteLogits {
        /// Position of the token that was to be sampled.
        position: usize,
    },
    /// A request's grammar can not be followed any further.
    #[error("the grammar: {message}")]
    Grammar {
        /// What happened.
        message: String,
    },
    /// A setting is out of range.
    #[error("engine setting '{field}': {message}")]
    Config {
        /// Its name.
        field: &'static str,
        /// What was given and what was expected.
        message: String,
    },
    /// The engine's thread could not be started.
    #[error("could not start the engine's thread: {message}")]
    Spawn {
        /// What the system said.
        message: String,
    },
    /// The engine stopped before the request was done.
    #[error("the engine was shut down")]
    ShutDown,
    /// The engine contradicted itself; the request is dropped, the engine goes on.
    #[error("engine bug: {message}")]
    Internal {
        /// What was found.
        message: String,
    },
}

/// A request was not accepted; its sink was dropped unused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// Too many requests wait already.
    #[error("{queued} requests are waiting already; try again in {} s", retry_after.as_secs())]
    QueueFull {
        /// Requests waiting.
        queued: usize,
        /// An estimate of when a place will be free, in whole seconds.
        retry_after: Duration,
    },
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, at most {limit} fit")]
    PromptTooLong {
        /// Tokens in the prompt.
        tokens: usize,
        /// The longest prompt that fits.
        limit: usize,
    },
    /// A field is out of range.
    #[error("'{field}': {message}")]
    Invalid {
        /// Its name, as in [`crate::Request`] or [`crate::SamplingParams`].
        field: &'static str,
        /// What was given and what was expected.
        message: String,
    },
    /// The engine takes no more requests.
    #[error("the engine is shutting down")]
    ShuttingDown,
}
