//! The one module that reads environment variables.
//!
//! `YANTRA_` and a setting's name in capitals (`YANTRA_PORT`, `YANTRA_KV_MEMORY`) sets it below the configuration file.
//! (`YANTRA_MODELS`, where pulled models live, is read by `yantra-hub`.)

use crate::config::{RawConfig, otlp_endpoint};
use crate::failure::usage;
use anyhow::Result;
use std::{env, path::PathBuf};

/// A variable that is set, not empty and text.
fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn parsed<T: std::str::FromStr>(name: &str, expected: &str) -> Result<Option<T>> {
    let Some(value) = text(name) else { return Ok(None) };
    let parsed = value.parse();
    parsed.map(Some).map_err(|_| usage(format!("environment variable {name} is `{value}`, expected {expected}")))
}

/// The settings that the environment gives.
pub(crate) fn config() -> Result<RawConfig> {
    let mut raw = RawConfig::default();
    let keys = api_key().map(|keys| keys.split(',').map(|key| key.trim().into()).collect::<Vec<serde_json::Value>>());
    let server = [
        ("host", text("YANTRA_HOST").map(Into::into)),
        ("port", parsed::<u16>("YANTRA_PORT", "a port from 0 to 65535")?.map(Into::into)),
        ("api_keys", keys.map(Into::into)),
        ("allow_no_auth", parsed::<bool>("YANTRA_ALLOW_NO_AUTH", "true or false")?.map(Into::into)),
        // OpenTelemetry's own name; the other variables of its kind are read by its exporter.
        ("telemetry", text("OTEL_EXPORTER_OTLP_ENDPOINT").as_deref().map(otlp_endpoint)),
    ];
    raw.log = log_filter();
    raw.server = server.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    raw.engine.threads = parsed("YANTRA_THREADS", "a number of threads")?;
    raw.engine.context = parsed("YANTRA_CONTEXT", "a number of tokens")?;
    raw.engine.max_sequences = parsed("YANTRA_MAX_SEQUENCES", "a number of sequences")?;
    raw.engine.token_budget = parsed("YANTRA_TOKEN_BUDGET", "a number of tokens")?;
    raw.engine.kv_memory = text("YANTRA_KV_MEMORY");
    raw.engine.kv_dtype = text("YANTRA_KV_DTYPE");
    raw.engine.quantize = text("YANTRA_QUANTIZE");
    raw.engine.embedding_dtype = text("YANTRA_EMBEDDING_DTYPE");
    raw.engine.experts_on_disk = text("YANTRA_EXPERTS_ON_DISK").map(PathBuf::from);
    raw.engine.max_queue = parsed("YANTRA_MAX_QUEUE", "a number of requests")?;
    raw.engine.prefix_cache = parsed("YANTRA_PREFIX_CACHE", "true or false")?;
    raw.engine.kv_spill = text("YANTRA_KV_SPILL").map(PathBuf::from);
    raw.engine.kv_spill_limit = text("YANTRA_KV_SPILL_LIMIT");
    raw.engine.generation_config = text("YANTRA_GENERATION_CONFIG");
    raw.engine.speculate = text("YANTRA_SPECULATE");
    raw.engine.draft_model = text("YANTRA_DRAFT_MODEL");
    raw.engine.draft_max = parsed("YANTRA_DRAFT_MAX", "a number of tokens")?;
    Ok(raw)
}

/// `YANTRA_API_KEY`: what clients send and, split at commas, what a server accepts.
pub(crate) fn api_key() -> Option<String> {
    text("YANTRA_API_KEY")
}

/// `NO_COLOR` (<https://no-color.org>): no colours, whatever the terminal can do.
pub(crate) fn no_color() -> bool {
    text("NO_COLOR").is_some()
}

/// `YANTRA_CONFIG`: the configuration file when no flag names one.
pub(crate) fn config_path() -> Option<PathBuf> {
    text("YANTRA_CONFIG").map(PathBuf::from)
}

/// `YANTRA_LOG`: what to log, as `tracing` filters are written; warnings when unset.
pub(crate) fn log_filter() -> Option<String> {
    text("YANTRA_LOG")
}
