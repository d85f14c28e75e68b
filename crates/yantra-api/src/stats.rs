//! Yantra's own endpoints: liveness, readiness and the engines' figures for the console.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /health`: the process lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The server's version.
    pub version: String,
}

/// `GET /ready`: whether every model is loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether requests to all models will be taken.
    pub ready: bool,
    /// Every model's state.
    pub models: Vec<ModelLoad>,
}

/// How far a model is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelLoad {
    /// The model's name.
    pub model: String,
    /// Its state.
    pub state: LoadState,
    /// 0 to 1.
    pub progress: f32,
    /// What is being done, or why it failed.
    pub message: Option<String>,
}

/// A model's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadState {
    /// It is being loaded.
    Loading,
    /// It takes requests.
    Ready,
    /// It could not be loaded, or its engine keeps failing.
    Failed,
    /// It takes no new requests because the server stops.
    Draining,
}

/// `GET /v1/engine/stats`, and every event of `GET /v1/engine/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EngineStatsResponse {
    /// The server's version.
    pub version: String,
    /// Seconds since the server started.
    pub uptime_s: f64,
    /// Every generating model's figures.
    pub models: Vec<ModelStats>,
}

/// A model's figures. Counters count from the start and never fall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelStats {
    /// The model's name.
    pub model: String,
    /// False while forward passes keep failing.
    pub healthy: bool,
    /// Requests waiting.
    pub queued_requests: usize,
    /// Sequences waiting, preempted ones included.
    pub waiting_sequences: usize,
    /// Sequences in the batch.
    pub running_sequences: usize,
    /// Most sequences the batch holds.
    pub max_sequences: usize,
    /// KV pages that sequences hold.
    pub kv_pages_used: usize,
    /// KV pages kept for later prompts.
    pub kv_pages_cached: usize,
    /// KV pages there are.
    pub kv_pages_total: usize,
    /// Prompt tokens found in the prefix cache (counter).
    pub prefix_hit_tokens: u64,
    /// Prompt tokens looked for in the prefix cache (counter).
    pub prefix_query_tokens: u64,
    /// Sequences put back to make room (counter).
    pub preemptions: u64,
    /// Requests taken in (counter).
    pub requests_accepted: u64,
    /// Requests refused (counter).
    pub requests_refused: u64,
    /// Requests that ended by themselves (counter).
    pub requests_completed: u64,
    /// Requests cancelled (counter).
    pub requests_cancelled: u64,
    /// Requests that failed (counter).
    pub requests_failed: u64,
    /// Prompt tokens (counter).
    pub prompt_tokens: u64,
    /// Generated tokens (counter).
    pub generated_tokens: u64,
    /// Prompt tokens per second since the previous event, in `/v1/engine/events`; 0 elsewhere.
    pub prompt_tokens_per_s: f64,
    /// Generated tokens per second since the previous event, in `/v1/engine/events`; 0 elsewhere.
    pub generated_tokens_per_s: f64,
    /// Forward passes (counter).
    pub steps: u64,
    /// Seconds spent in steps (counter).
    pub busy_s: f64,
    /// From submission to the first step.
    pub queue_time: LatencySummary,
    /// From submission to the first token.
    pub time_to_first_token: LatencySummary,
    /// Between consecutive tokens.
    pub inter_token: LatencySummary,
    /// From submission to the end.
    pub request_time: LatencySummary,
}

/// A distribution of times, in milliseconds, since the start; null without values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LatencySummary {
    /// Values.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_ms: Option<f64>,
    /// Median, interpolated within a histogram's bucket like the others.
    pub p50_ms: Option<f64>,
    /// 95th percentile.
    pub p95_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
}
