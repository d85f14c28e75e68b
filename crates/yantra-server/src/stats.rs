//! The engines' figures as JSON, once or every second.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::Event;
use futures_util::stream::{self, Stream};
use tokio::time::{Interval, MissedTickBehavior, interval};
use yantra_api::{EmbedderStats, EngineStatsResponse, KvSpillStats, LatencySummary, ModelStats};
use yantra_engine::{EmbedderHandle, EngineHandle, HistogramSnapshot, SpillStats};

use crate::app::App;
use crate::registry::ModelKind;
use crate::shutdown::{Stage, reached};

/// The engines' figures now.
#[utoipa::path(get, path = "/v1/engine/stats", tag = "Operation", responses((status = 200, body = EngineStatsResponse)))]
pub(crate) async fn engine_stats(State(app): State<App>) -> Json<EngineStatsResponse> {
    Json(snapshot(&app))
}

/// The engines' figures every second, as server-sent events.
#[utoipa::path(
    get, path = "/v1/engine/events", tag = "Operation",
    responses((status = 200, description = "A stream of events, each with the engines' figures as its data",
        body = EngineStatsResponse, content_type = "text/event-stream"))
)]
pub(crate) async fn engine_events(State(app): State<App>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Sse::new(stream::unfold((app, ticks), |(app, ticks)| next_event(app, ticks)))
}

/// The next snapshot; the stream ends when the server stops, so that it holds nothing up.
async fn next_event(app: App, mut ticks: Interval) -> Option<(Result<Event, Infallible>, (App, Interval))> {
    let mut stage = app.stage();
    tokio::select! {
        () = reached(&mut stage, Stage::Draining) => return None,
        _ = ticks.tick() => {}
    }
    let event = Event::default().json_data(snapshot(&app)).ok()?;
    Some((Ok(event), (app, ticks)))
}

fn snapshot(app: &App) -> EngineStatsResponse {
    let models = app.registry().all_ready();
    let (mut generating, mut embedders) = (Vec::new(), Vec::new());
    for model in &models {
        match &model.kind {
            ModelKind::Generate(generator) => generating.push(model_stats(&model.id, &generator.engine)),
            ModelKind::Embed(embedder) => embedders.push(embedder_stats(&model.id, &embedder.handle)),
        }
    }
    EngineStatsResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: app.uptime_seconds(),
        models: generating,
        embedders,
    }
}

fn model_stats(id: &str, engine: &EngineHandle) -> ModelStats {
    let stats = engine.stats();
    ModelStats {
        id: id.to_owned(),
        healthy: stats.healthy,
        running: stats.running_sequences,
        max_running: engine.config().max_sequences,
        waiting: stats.waiting_sequences,
        queued_requests: stats.queued_requests,
        kv_pages_used: stats.pages_used,
        kv_pages_cached: stats.pages_cached,
        kv_pages_total: stats.pages_total,
        prefix_hit_tokens: stats.prefix_hit_tokens,
        prefix_query_tokens: stats.prefix_query_tokens,
        preemptions_total: stats.preemptions,
        requests_accepted_total: stats.requests_accepted,
        requests_refused_total: stats.requests_refused,
        requests_completed_total: stats.requests_completed,
        requests_cancelled_total: stats.requests_cancelled,
        requests_failed_total: stats.requests_failed,
        prompt_tokens_total: stats.prompt_tokens,
        output_tokens_total: stats.generated_tokens,
        draft_tokens_total: stats.draft_tokens,
        accepted_draft_tokens_total: stats.accepted_draft_tokens,
        steps_total: stats.steps,
        busy_seconds_total: stats.busy_seconds,
        kv_spill: stats.spill.map(spill_stats),
        queue_ms: summary(&stats.queue_seconds),
        time_to_first_token_ms: summary(&stats.time_to_first_token_seconds),
        inter_token_ms: summary(&stats.inter_token_seconds),
        end_to_end_ms: summary(&stats.request_seconds),
    }
}

fn spill_stats(stats: SpillStats) -> KvSpillStats {
    let milliseconds = |seconds: Option<f64>| seconds.map(|seconds| seconds * 1e3);
    KvSpillStats {
        pages_spilled_total: stats.pages_spilled,
        pages_dropped_total: stats.pages_dropped,
        pages_loaded_total: stats.pages_loaded,
        sequences_restored_total: stats.sequences_restored,
        sequences_declined_total: stats.sequences_declined,
        sequences_abandoned_total: stats.sequences_abandoned,
        load_page_ms: milliseconds(stats.load_page_seconds),
        compute_page_ms: milliseconds(stats.compute_page_seconds),
        disk_pages: stats.store.pages,
        disk_bytes: stats.store.bytes,
        disk_limit_bytes: stats.store.limit_bytes,
        pages_deleted_total: stats.store.pages_deleted,
        write_failures_total: stats.store.write_failures,
        read_failures_total: stats.store.read_failures,
    }
}

fn embedder_stats(id: &str, embedder: &EmbedderHandle) -> EmbedderStats {
    let stats = embedder.stats();
    EmbedderStats {
        id: id.to_owned(),
        running: stats.running_requests,
        queued_requests: stats.queued_requests,
        requests_accepted_total: stats.requests_accepted,
        requests_refused_total: stats.requests_refused,
        requests_completed_total: stats.requests_completed,
        requests_cancelled_total: stats.requests_cancelled,
        requests_failed_total: stats.requests_failed,
        tokens_total: stats.tokens,
        busy_seconds_total: stats.busy_seconds,
        queue_ms: summary(&stats.queue_seconds),
        end_to_end_ms: summary(&stats.request_seconds),
    }
}

fn summary(histogram: &HistogramSnapshot) -> LatencySummary {
    let ms = |seconds: Option<f64>| seconds.map(|seconds| seconds * 1e3);
    LatencySummary {
        count: histogram.count,
        mean: ms(histogram.mean()),
        p50: ms(histogram.quantile(0.5)),
        p95: ms(histogram.quantile(0.95)),
        p99: ms(histogram.quantile(0.99)),
    }
}
