//! What a request's sink is told, in order: tokens, the end of each choice, then one `Done` or `Error`.

use crate::{EngineError, Timeline};

/// Receives one request's events on the engine's thread.
///
/// It must not block: everything else waits for it. Put a bounded channel behind it and return `false` when it is full
/// or its receiver is gone.
pub trait EventSink: Send {
    /// Takes an event; `false` means that nobody listens any more, and the request is cancelled. Only its last event, which
    /// tells what it took, comes after that.
    fn send(&mut self, event: Event) -> bool;
}

impl<F: FnMut(Event) -> bool + Send> EventSink for F {
    fn send(&mut self, event: Event) -> bool {
        self(event)
    }
}

/// One thing that happened to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt's log-probabilities, one entry per prompt token (the first is `None`: nothing predicts it). Sent once,
    /// before the first token, when `prompt_logprobs` was asked for.
    PromptLogprobs(Vec<Option<TokenLogprobs>>),
    /// A choice got a token. The token that ends a generation (an end-of-sequence or stop token) is not sent.
    Token {
        /// The choice, `0..n`.
        index: usize,
        /// The token.
        id: u32,
        /// The text that became certain with it; empty while text is held back.
        text: String,
        /// Log-probabilities, when asked for.
        logprob: Option<TokenLogprobs>,
    },
    /// A choice ended.
    Finished {
        /// The choice, `0..n`.
        index: usize,
        /// Why.
        reason: FinishReason,
        /// Text that was held back until now.
        text: String,
    },
    /// All choices ended. The last event.
    Done {
        /// Tokens used.
        usage: Usage,
        /// Time taken.
        timings: Timings,
        /// Where it went.
        timeline: Box<Timeline>,
    },
    /// The request failed. The last event.
    Error(EngineError),
}

/// Why a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its answer.
    Stop,
    /// One of the request's stop tokens came.
    StopToken(u32),
    /// One of the request's stop strings came.
    StopString(String),
    /// `max_tokens` or the context's end was reached.
    Length,
    /// The request was cancelled.
    Cancelled,
}

/// How likely a token was, from the model's own distribution (before temperature, penalties and bias).
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token.
    pub id: u32,
    /// Its natural-log probability.
    pub logprob: f32,
    /// The most likely tokens, best first; as many as were asked for.
    pub top: Vec<TopLogprob>,
}

/// An alternative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopLogprob {
    /// The token.
    pub id: u32,
    /// Its natural-log probability.
    pub logprob: f32,
}

/// Tokens a request used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens in the prompt (counted once, whatever `n`).
    pub prompt_tokens: usize,
    /// How many of them were found in the KV cache.
    pub cached_prompt_tokens: usize,
    /// Tokens generated over all choices, ending tokens included.
    pub completion_tokens: usize,
}

/// How long a request took, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timings {
    /// From submission to the first step that computed something for it.
    pub queue_ms: f64,
    /// From submission to the first token; `None` when there was none.
    pub time_to_first_token_ms: Option<f64>,
    /// From submission to the end.
    pub total_ms: f64,
}
