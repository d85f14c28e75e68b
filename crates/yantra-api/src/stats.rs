//! Yantra's own endpoints: liveness, readiness and the engines' figures for the console.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /health`: the process lives, and works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or `stuck`.
    pub status: String,
    /// The server's version.
    pub version: String,
    /// What is stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
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
    /// Seconds since the server started: the clock for rates between two snapshots.
    pub uptime_seconds: f64,
    /// Every generating model's figures.
    pub models: Vec<ModelStats>,
    /// Every embedding model's figures.
    #[serde(default)]
    pub embedders: Vec<EmbedderStats>,
}

/// An embedding model's figures. What ends in `_total` counts from the start and never falls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbedderStats {
    /// The model's name.
    pub id: String,
    /// Requests being embedded.
    pub running: usize,
    /// Requests waiting that have not begun.
    pub queued_requests: usize,
    /// Requests taken in.
    pub requests_accepted_total: u64,
    /// Requests refused because too many waited.
    pub requests_refused_total: u64,
    /// Requests answered.
    pub requests_completed_total: u64,
    /// Requests nobody waited for any more.
    pub requests_cancelled_total: u64,
    /// Requests that failed.
    pub requests_failed_total: u64,
    /// Tokens embedded.
    pub tokens_total: u64,
    /// Seconds spent in the model.
    pub busy_seconds_total: f64,
    /// From submission to the first computation.
    pub queue_ms: LatencySummary,
    /// From submission to the answer.
    pub end_to_end_ms: LatencySummary,
}

/// A model's figures. What ends in `_total`, and the prefix cache's tokens, count from the start and never fall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelStats {
    /// The model's name.
    pub id: String,
    /// False while forward passes keep failing.
    pub healthy: bool,
    /// Sequences in the batch.
    pub running: usize,
    /// Most sequences the batch holds.
    pub max_running: usize,
    /// Sequences waiting, preempted ones included.
    pub waiting: usize,
    /// Requests waiting that have not begun.
    pub queued_requests: usize,
    /// KV pages that sequences hold.
    pub kv_pages_used: usize,
    /// KV pages kept for later prompts.
    pub kv_pages_cached: usize,
    /// KV pages there are.
    pub kv_pages_total: usize,
    /// Prompt tokens found in the prefix cache, those loaded into it from disk included.
    pub prefix_hit_tokens: u64,
    /// Prompt tokens looked for in the prefix cache.
    pub prefix_query_tokens: u64,
    /// Sequences put back to make room.
    pub preemptions_total: u64,
    /// Requests taken in.
    pub requests_accepted_total: u64,
    /// Requests refused.
    pub requests_refused_total: u64,
    /// Requests that ended by themselves.
    pub requests_completed_total: u64,
    /// Requests cancelled.
    pub requests_cancelled_total: u64,
    /// Requests that failed.
    pub requests_failed_total: u64,
    /// Prompt tokens.
    pub prompt_tokens_total: u64,
    /// Generated tokens.
    pub output_tokens_total: u64,
    /// Drafted tokens computed.
    #[serde(default)]
    pub draft_tokens_total: u64,
    /// Drafted tokens that were right; each has saved a step.
    #[serde(default)]
    pub accepted_draft_tokens_total: u64,
    /// Forward passes.
    pub steps_total: u64,
    /// Seconds spent in steps.
    pub busy_seconds_total: f64,
    /// Pages that went to disk and came back; absent without `--kv-spill`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_spill: Option<KvSpillStats>,
    /// From submission to the first step.
    pub queue_ms: LatencySummary,
    /// From submission to the first token.
    pub time_to_first_token_ms: LatencySummary,
    /// Between consecutive tokens.
    pub inter_token_ms: LatencySummary,
    /// From submission to the end.
    pub end_to_end_ms: LatencySummary,
}

/// What went to disk and came back. What ends in `_total` counts from the start and never falls.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KvSpillStats {
    /// Pages queued to be written.
    pub pages_spilled_total: u64,
    /// Pages not written because too many waited.
    pub pages_dropped_total: u64,
    /// Pages loaded instead of computed.
    pub pages_loaded_total: u64,
    /// Sequences whose pages were found on disk and read.
    pub sequences_restored_total: u64,
    /// Sequences whose pages were on disk, but faster to compute.
    pub sequences_declined_total: u64,
    /// Sequences that the disk let wait too long.
    pub sequences_abandoned_total: u64,
    /// What loading a page takes, a running mean; null before it was measured.
    pub load_page_ms: Option<f64>,
    /// What computing the tokens of a page takes, a running mean; null before it was measured.
    pub compute_page_ms: Option<f64>,
    /// Pages on disk, of all models.
    pub disk_pages: u64,
    /// Their bytes.
    pub disk_bytes: u64,
    /// Most bytes there may be.
    pub disk_limit_bytes: u64,
    /// Pages deleted to keep the limit.
    pub pages_deleted_total: u64,
    /// Pages that could not be written.
    pub write_failures_total: u64,
    /// Pages that could not be read, or did not hold what they should.
    pub read_failures_total: u64,
}

/// A distribution of times since the start, in milliseconds; null without values. Percentiles are interpolated within a
/// histogram's buckets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LatencySummary {
    /// Values.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}
