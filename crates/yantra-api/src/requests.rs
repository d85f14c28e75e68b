//! What the server remembers of requests: `/v1/requests`. Ours.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Usage;

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    /// It is being answered.
    Running,
    /// It was answered.
    Done,
    /// It was answered with an error.
    Failed,
    /// Its client went away.
    Cancelled,
}

/// The main figures of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RequestSummary {
    /// `x-request-id` of its answer.
    pub id: String,
    /// `request`.
    pub object: String,
    /// The answer's own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_id: Option<String>,
    /// Whose key it came with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The endpoint's path.
    pub endpoint: String,
    /// The model.
    pub model: String,
    /// Its priority.
    pub priority: i32,
    /// Whether the answer was streamed.
    pub stream: bool,
    /// How far it is.
    pub state: RequestState,
    /// The answer's HTTP status, when it has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The code of the error that it ended in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it came, in seconds since 1970.
    pub created: f64,
    /// From its coming to its submission to the engine: reading, checking, rendering, tokenising.
    pub prepare_ms: f64,
    /// From submission to the first step; of several prompts the longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<f64>,
    /// From submission to the first token; of several prompts the shortest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_to_first_token_ms: Option<f64>,
    /// From its coming to the last byte of its answer, or until now.
    pub total_ms: f64,
    /// Tokens used, as far as prompts have ended.
    pub usage: Usage,
    /// Why choices ended.
    pub finish_reasons: Vec<String>,
}

/// A request, with where its time went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RequestRecord {
    /// The main figures.
    #[serde(flatten)]
    pub summary: RequestSummary,
    /// Whether what it said is kept, for `/v1/traces/{id}`.
    pub traced: bool,
    /// What took longest, in words, the longest first.
    pub why: Vec<String>,
    /// The engine's work, by prompt; of the first eight that ended.
    pub timelines: Vec<RequestTimeline>,
}

/// Requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RequestList {
    /// `list`.
    pub object: String,
    /// The requests.
    pub data: Vec<RequestSummary>,
}

/// A prompt's way through the engine. Times count from its submission.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RequestTimeline {
    /// Which of the request's prompts it is.
    pub prompt: usize,
    /// Tokens used.
    pub usage: Usage,
    /// Sequences in the batch when it came.
    pub running_at_arrival: usize,
    /// Sequences that waited when it came.
    pub waiting_at_arrival: usize,
    /// When its first step began.
    pub admitted_ms: Option<f64>,
    /// When its first token was there.
    pub first_token_ms: Option<f64>,
    /// When it ended.
    pub ended_ms: f64,
    /// The steps that computed its prompt, at most 1,024 of them.
    pub chunks: Vec<RequestChunk>,
    /// How many there were.
    pub num_chunks: usize,
    /// How long they took.
    pub prefill_ms: f64,
    /// Prompt tokens computed.
    pub prefill_tokens: usize,
    /// Those of them that had been computed before a preemption.
    pub prefill_tokens_again: usize,
    /// The time between its tokens, at most 4,096 times: microseconds, sequences in the step, prompt tokens in the step.
    pub gaps: Vec<[u32; 3]>,
    /// The longest of those that came later.
    pub long_gaps: Vec<RequestGap>,
    /// How many there were.
    pub num_gaps: usize,
    /// How long they were together.
    pub decode_ms: f64,
    /// How long the longest was.
    pub longest_gap_ms: f64,
    /// Sequences in the steps that brought tokens, on average.
    pub mean_step_sequences: f64,
    /// Tokens computed in those steps, on average.
    pub mean_step_tokens: f64,
    /// When it lost its place in the batch, at most 256 times.
    pub preemptions: Vec<RequestInterruption>,
    /// How often it did.
    pub num_preemptions: usize,
    /// When it waited for pages from disk, at most 256 times.
    pub restores: Vec<RequestInterruption>,
    /// Guessed tokens computed for it.
    pub drafted_tokens: usize,
    /// Those of them that were right.
    pub accepted_tokens: usize,
    /// Work on masks of its grammar.
    pub mask_ms: f64,
    /// How long steps waited for those.
    pub mask_wait_ms: f64,
}

/// A step's part in computing a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RequestChunk {
    /// When the step began.
    pub at_ms: f64,
    /// How long it took.
    pub took_ms: f64,
    /// The choice it was for.
    pub choice: u32,
    /// The first position computed; what lies before was there already.
    pub from: u32,
    /// Tokens computed.
    pub tokens: u32,
    /// Tokens that the step computed for others.
    pub other_tokens: u32,
    /// Tokens that had been computed before a preemption.
    pub tokens_again: u32,
}

/// A time between two tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RequestGap {
    /// When it began.
    pub at_ms: f64,
    /// As in `gaps`.
    pub gap: [u32; 3],
}

/// A time in which nothing was computed for a choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RequestInterruption {
    /// When it began.
    pub at_ms: f64,
    /// How long it was.
    pub took_ms: f64,
    /// The choice.
    pub choice: u32,
    /// Pages that came from disk.
    pub pages: u32,
}
