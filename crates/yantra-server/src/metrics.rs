//! `/metrics` in Prometheus' text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! Written by hand: the engines keep their own counters and histograms, a metrics library would count everything a
//! second time. Names follow vLLM's, so that its dashboards need only another prefix.

use std::fmt::{Display, Write};
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::http::{HeaderName, header};
use yantra_api::LoadState;
use yantra_engine::{EmbedderStats, EngineStats, HistogramSnapshot, SpillStats};
use yantra_store::Used;

use crate::app::App;
use crate::registry::ModelKind;
use crate::storage::now;
use crate::traces::Traces;
use crate::watchdog;

/// All figures for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "Operation",
    responses((status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain"))
)]
pub(crate) async fn metrics(State(app): State<App>) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&app))
}

fn render(app: &App) -> String {
    let mut page = Page::default();
    page.family("yantra_build_info", "gauge", "The server's version.");
    page.sample("yantra_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("yantra_uptime_seconds", "gauge", "Seconds since the server started.");
    page.sample("yantra_uptime_seconds", &[], app.uptime_seconds());
    http(app, &mut page);
    page.family("yantra_model_ready", "gauge", "1 when the model takes requests.");
    for model in watchdog::states(app) {
        let ready = u8::from(model.state == LoadState::Ready);
        page.sample("yantra_model_ready", &[("model_name", &model.model)], ready);
    }
    let models = app.registry().all_ready();
    let (mut engines, mut embedders) = (Vec::new(), Vec::new());
    for model in &models {
        match &model.kind {
            ModelKind::Generate(generator) => engines.push((model.id.as_str(), generator.engine.stats())),
            ModelKind::Embed(embedder) => embedders.push((model.id.as_str(), embedder.handle.stats())),
        }
    }
    page.models(FIGURES, DISTRIBUTIONS, &engines);
    cache_config(&engines, &mut page);
    adapters(app, &mut page);
    let spilling: Vec<_> = engines.iter().filter_map(|(model, stats)| Some((*model, stats.spill?))).collect();
    if !spilling.is_empty() {
        page.models(SPILL_FIGURES, &[], &spilling);
    }
    tenants(app, &mut page);
    page.models(EMBEDDER_FIGURES, EMBEDDER_DISTRIBUTIONS, &embedders);
    traces(app, &mut page);
    page.text
}

/// What the model server protocol of Kubernetes' Gateway API inference extension wants to know of the cache, under the
/// labels it looks for (the README has the whole protocol).
fn cache_config(engines: &[(&str, EngineStats)], page: &mut Page) {
    page.family("yantra_cache_config_info", "gauge", "Tokens of a KV page (block) and how many pages there are.");
    for (model, stats) in engines {
        let (tokens, pages) = (stats.page_tokens.to_string(), stats.pages_total.to_string());
        let labels = [("model_name", *model), ("block_size", &tokens), ("num_gpu_blocks", &pages)];
        page.sample("yantra_cache_config_info", &labels, 1);
    }
}

/// What the same protocol wants to know of LoRA adapters. The value is the time: of several samples it takes the latest.
fn adapters(app: &App, page: &mut Page) {
    let models = app.registry().with_adapters();
    let loaded: Vec<&str> =
        models.iter().filter(|model| model.parent.is_some()).map(|model| model.id.as_str()).collect();
    let name = "yantra_lora_requests_info";
    page.family(
        name,
        "gauge",
        "Names of the LoRA adapters that take requests; there is no limit, so max_lora is large.",
    );
    let labels = [("max_lora", "65535"), ("running_lora_adapters", &*loaded.join(",")), ("waiting_lora_adapters", "")];
    page.sample(name, &labels, now());
}

fn http(app: &App, page: &mut Page) {
    let counters = app.counters();
    page.family("yantra_http_requests_total", "counter", "HTTP requests by route, method and status.");
    for (key, count) in counters.requests() {
        let status = key.status.to_string();
        let labels = [("route", key.route.as_str()), ("method", key.method.as_str()), ("status", status.as_str())];
        page.sample("yantra_http_requests_total", &labels, count);
    }
    page.family("yantra_http_connections", "gauge", "Open connections.");
    page.sample("yantra_http_connections", &[], counters.connections.load(Relaxed));
    page.family("yantra_http_connections_refused_total", "counter", "Connections refused because all were in use.");
    page.sample("yantra_http_connections_refused_total", &[], counters.connections_refused.load(Relaxed));
}

/// What became of traces, where they are kept.
fn traces(app: &App, page: &mut Page) {
    let Some(counters) = app.traces().map(Traces::counters) else { return };
    page.family("yantra_traces_written_total", "counter", "Requests and answers that were kept.");
    page.sample("yantra_traces_written_total", &[], counters.written.load(Relaxed));
    let name = "yantra_traces_dropped_total";
    page.family(name, "counter", "Those that were not: too many waited, or they could not be written.");
    page.sample(name, &[("reason", "full")], counters.dropped_full.load(Relaxed));
    page.sample(name, &[("reason", "failed")], counters.dropped_failed.load(Relaxed));
}

/// What tenants used, where there are some.
fn tenants(app: &App, page: &mut Page) {
    let mut totals = app.usage().totals();
    totals.retain(|(tenant, _), _| tenant.is_some());
    let figures: [TenantFigure; 3] = [
        ("yantra_tenant_requests_total", "Requests by key.", |used| used.requests),
        ("yantra_tenant_prompt_tokens_total", "Prompt tokens by key.", |used| used.prompt_tokens),
        ("yantra_tenant_generation_tokens_total", "Generated tokens by key.", |used| used.completion_tokens),
    ];
    for (name, help, value) in figures.into_iter().filter(|_| !totals.is_empty()) {
        page.family(name, "counter", help);
        for ((tenant, model), used) in &totals {
            page.sample(name, &[("tenant", tenant.as_deref().unwrap_or_default()), ("model_name", model)], value(used));
        }
    }
}

/// One figure of a tenant: name, help, value.
type TenantFigure = (&'static str, &'static str, fn(&Used) -> u64);

/// One figure of a model: name, type, help, value.
type Figure<S> = (&'static str, &'static str, &'static str, fn(&S) -> f64);

/// One histogram of a model: name, help, value.
type Distribution<S> = (&'static str, &'static str, fn(&S) -> &HistogramSnapshot);

const FIGURES: &[Figure<EngineStats>] = &[
    ("yantra_num_requests_waiting", "gauge", "Sequences waiting to run.", |s| s.waiting_sequences as f64),
    ("yantra_num_requests_queued", "gauge", "Requests that have not begun.", |s| s.queued_requests as f64),
    ("yantra_num_requests_running", "gauge", "Sequences in the batch.", |s| s.running_sequences as f64),
    ("yantra_kv_cache_usage_perc", "gauge", "Share of the KV pages in use, 0 to 1.", |s| {
        s.pages_used as f64 / s.pages_total.max(1) as f64
    }),
    ("yantra_kv_cache_pages_used", "gauge", "KV pages that sequences hold.", |s| s.pages_used as f64),
    ("yantra_kv_cache_pages_cached", "gauge", "KV pages kept for later prompts.", |s| s.pages_cached as f64),
    ("yantra_kv_cache_pages", "gauge", "KV pages there are.", |s| s.pages_total as f64),
    ("yantra_prefix_cache_queries_total", "counter", "Prompt tokens looked for in the prefix cache.", |s| {
        s.prefix_query_tokens as f64
    }),
    ("yantra_prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.", |s| {
        s.prefix_hit_tokens as f64
    }),
    ("yantra_num_preemptions_total", "counter", "Sequences put back to make room.", |s| s.preemptions as f64),
    ("yantra_prompt_tokens_total", "counter", "Prompt tokens.", |s| s.prompt_tokens as f64),
    ("yantra_generation_tokens_total", "counter", "Generated tokens.", |s| s.generated_tokens as f64),
    ("yantra_spec_decode_num_drafts_total", "counter", "Drafts computed.", |s| s.drafts as f64),
    ("yantra_spec_decode_num_draft_tokens_total", "counter", "Drafted tokens computed.", |s| s.draft_tokens as f64),
    ("yantra_spec_decode_num_accepted_tokens_total", "counter", "Drafted tokens that were right.", |s| {
        s.accepted_draft_tokens as f64
    }),
    ("yantra_grammars_compiled_total", "counter", "Grammars compiled.", |s| s.grammars_compiled as f64),
    ("yantra_grammars_reused_total", "counter", "Grammars wanted that were compiled already.", |s| {
        s.grammars_reused as f64
    }),
    ("yantra_grammar_constrained_tokens_total", "counter", "Tokens chosen among those a grammar allowed.", |s| {
        s.constrained_tokens as f64
    }),
    ("yantra_grammar_forced_tokens_total", "counter", "Tokens a grammar left no choice in.", |s| {
        s.forced_tokens as f64
    }),
    ("yantra_engine_steps_total", "counter", "Forward passes.", |s| s.steps as f64),
    ("yantra_engine_failed_steps_total", "counter", "Forward passes that failed.", |s| s.failed_steps as f64),
    ("yantra_engine_busy_seconds_total", "counter", "Time spent in steps.", |s| s.busy_seconds),
    ("yantra_engine_forward_seconds_total", "counter", "Time spent in forward passes.", |s| s.forward_seconds),
    ("yantra_engine_step_running_seconds", "gauge", "How long the step under way has run, 0 between steps.", |s| {
        s.step_running_seconds
    }),
    ("yantra_requests_accepted_total", "counter", "Requests taken in.", |s| s.requests_accepted as f64),
    ("yantra_requests_refused_total", "counter", "Requests refused.", |s| s.requests_refused as f64),
    ("yantra_requests_completed_total", "counter", "Requests that ended by themselves.", |s| {
        s.requests_completed as f64
    }),
    ("yantra_requests_cancelled_total", "counter", "Requests cancelled.", |s| s.requests_cancelled as f64),
    ("yantra_requests_failed_total", "counter", "Requests that failed.", |s| s.requests_failed as f64),
];

const DISTRIBUTIONS: &[Distribution<EngineStats>] = &[
    ("yantra_request_queue_time_seconds", "From submission to the first step.", |s| &s.queue_seconds),
    ("yantra_time_to_first_token_seconds", "From submission to the first token.", |s| &s.time_to_first_token_seconds),
    ("yantra_inter_token_latency_seconds", "Between consecutive tokens.", |s| &s.inter_token_seconds),
    ("yantra_e2e_request_latency_seconds", "From submission to the end.", |s| &s.request_seconds),
    ("yantra_iteration_tokens", "Tokens computed per step.", |s| &s.step_tokens),
    ("yantra_grammar_mask_seconds", "To work out which tokens may come next.", |s| &s.grammar_mask_seconds),
    ("yantra_grammar_compile_seconds", "To compile a grammar.", |s| &s.grammar_compile_seconds),
];

const SPILL_FIGURES: &[Figure<SpillStats>] = &[
    ("yantra_kv_spill_pages_spilled_total", "counter", "KV pages queued to be written to disk.", |s| {
        s.pages_spilled as f64
    }),
    ("yantra_kv_spill_pages_dropped_total", "counter", "KV pages not written because too many waited.", |s| {
        s.pages_dropped as f64
    }),
    ("yantra_kv_spill_pages_loaded_total", "counter", "KV pages loaded from disk instead of computed.", |s| {
        s.pages_loaded as f64
    }),
    (
        "yantra_kv_spill_sequences_restored_total",
        "counter",
        "Sequences whose pages were found on disk and read.",
        |s| s.sequences_restored as f64,
    ),
    ("yantra_kv_spill_sequences_declined_total", "counter", "Sequences whose pages were faster to compute.", |s| {
        s.sequences_declined as f64
    }),
    ("yantra_kv_spill_sequences_abandoned_total", "counter", "Sequences the disk let wait too long.", |s| {
        s.sequences_abandoned as f64
    }),
    ("yantra_kv_spill_load_page_seconds", "gauge", "What loading a page takes, a running mean.", |s| {
        s.load_page_seconds.unwrap_or(f64::NAN)
    }),
    ("yantra_kv_spill_compute_page_seconds", "gauge", "What computing a page takes, a running mean.", |s| {
        s.compute_page_seconds.unwrap_or(f64::NAN)
    }),
    ("yantra_kv_spill_disk_pages", "gauge", "KV pages on disk, of all models.", |s| s.store.pages as f64),
    ("yantra_kv_spill_disk_bytes", "gauge", "Bytes of the KV pages on disk.", |s| s.store.bytes as f64),
    ("yantra_kv_spill_disk_limit_bytes", "gauge", "Most bytes there may be.", |s| s.store.limit_bytes as f64),
    ("yantra_kv_spill_pages_deleted_total", "counter", "KV pages deleted to keep the limit.", |s| {
        s.store.pages_deleted as f64
    }),
    ("yantra_kv_spill_write_failures_total", "counter", "KV pages that could not be written.", |s| {
        s.store.write_failures as f64
    }),
    ("yantra_kv_spill_read_failures_total", "counter", "KV pages that could not be read or were not right.", |s| {
        s.store.read_failures as f64
    }),
];

const EMBEDDER_FIGURES: &[Figure<EmbedderStats>] = &[
    ("yantra_embedding_requests_queued", "gauge", "Embedding requests that have not begun.", |s| {
        s.queued_requests as f64
    }),
    ("yantra_embedding_requests_running", "gauge", "Embedding requests being computed.", |s| s.running_requests as f64),
    ("yantra_embedding_step_running_seconds", "gauge", "How long texts have been embedded, 0 between steps.", |s| {
        s.step_running_seconds
    }),
    ("yantra_embedding_tokens_total", "counter", "Tokens embedded.", |s| s.tokens as f64),
    ("yantra_embedding_busy_seconds_total", "counter", "Time spent embedding.", |s| s.busy_seconds),
    ("yantra_embedding_requests_accepted_total", "counter", "Embedding requests taken in.", |s| {
        s.requests_accepted as f64
    }),
    ("yantra_embedding_requests_refused_total", "counter", "Embedding requests refused.", |s| {
        s.requests_refused as f64
    }),
    ("yantra_embedding_requests_completed_total", "counter", "Embedding requests answered.", |s| {
        s.requests_completed as f64
    }),
    ("yantra_embedding_requests_cancelled_total", "counter", "Embedding requests nobody waited for.", |s| {
        s.requests_cancelled as f64
    }),
    ("yantra_embedding_requests_failed_total", "counter", "Embedding requests that failed.", |s| {
        s.requests_failed as f64
    }),
];

const EMBEDDER_DISTRIBUTIONS: &[Distribution<EmbedderStats>] = &[
    ("yantra_embedding_queue_time_seconds", "From submission to the first computation.", |s| &s.queue_seconds),
    ("yantra_embedding_request_latency_seconds", "From submission to the answer.", |s| &s.request_seconds),
    ("yantra_embedding_iteration_tokens", "Tokens computed at once.", |s| &s.step_tokens),
];

#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    fn models<S>(&mut self, figures: &[Figure<S>], distributions: &[Distribution<S>], models: &[(&str, S)]) {
        for (name, kind, help, value) in figures {
            self.family(name, kind, help);
            for (model, stats) in models {
                self.sample(name, &[("model_name", model)], value(stats));
            }
        }
        for (name, help, value) in distributions {
            self.family(name, "histogram", help);
            for (model, stats) in models {
                self.histogram(name, model, value(stats));
            }
        }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        if !labels.is_empty() {
            let labels: Vec<String> =
                labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
            let _ = write!(self.text, "{{{}}}", labels.join(","));
        }
        let _ = writeln!(self.text, " {value}");
    }

    fn histogram(&mut self, name: &str, model: &str, histogram: &HistogramSnapshot) {
        for (bound, count) in histogram.cumulative() {
            let bound = if bound.is_infinite() { "+Inf".to_owned() } else { bound.to_string() };
            self.sample(&format!("{name}_bucket"), &[("model_name", model), ("le", &bound)], count);
        }
        self.sample(&format!("{name}_sum"), &[("model_name", model)], histogram.sum);
        self.sample(&format!("{name}_count"), &[("model_name", model)], histogram.count);
    }
}

/// A label's value, as the format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative_and_labels_escaped() {
        let mut page = Page::default();
        let histogram = HistogramSnapshot { bounds: &[0.5, 1.0], counts: vec![1, 2, 3], sum: 9.5, count: 6 };
        page.family("x", "histogram", "Help.");
        page.histogram("x", "a\"b", &histogram);
        insta::assert_snapshot!(page.text, @r#"
        # HELP x Help.
        # TYPE x histogram
        x_bucket{model_name="a\"b",le="0.5"} 1
        x_bucket{model_name="a\"b",le="1"} 3
        x_bucket{model_name="a\"b",le="+Inf"} 6
        x_sum{model_name="a\"b"} 9.5
        x_count{model_name="a\"b"} 6
        "#);
    }
}
