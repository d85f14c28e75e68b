//! Which requests are kept, for how long, and what of them is not.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::patterns::Patterns;
use crate::config::ConfigError;

const DAY_S: u64 = 86_400;
const MAX_DAYS: u64 = 36_500;
const MIN_BYTES: u64 = 1 << 20;

/// Which requests are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceMode {
    /// None.
    #[default]
    Off,
    /// A part of them.
    Sampled,
    /// All.
    Full,
}

/// The `[server.traces]` table of the configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawTracesConfig {
    /// Which requests are kept: `off`, `sampled` or `full`.
    pub mode: TraceMode,
    /// The part of them that is, 0 to 1, where they are sampled.
    pub sample_rate: f64,
    /// Days that they are kept.
    pub retention_days: u64,
    /// Most bytes of requests and answers together; the oldest go first.
    pub max_bytes: u64,
    /// What is taken out of them before they are written.
    pub redact: Vec<RawRedaction>,
}

/// One kind of thing that is taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RawRedaction {
    /// One that is known: `email`, `phone`, `credit_card`, `ip`, `api_key`.
    Known(String),
    /// Whatever a regular expression matches.
    Own(RawPattern),
}

/// A regular expression and what its matches are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPattern {
    /// What is written in their place: `[redacted:NAME]`.
    pub name: String,
    /// As Rust's `regex` has them.
    pub pattern: String,
}

impl Default for RawTracesConfig {
    fn default() -> Self {
        Self { mode: TraceMode::Off, sample_rate: 0.1, retention_days: 30, max_bytes: 1 << 30, redact: Vec::new() }
    }
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TracesConfig {
    /// `None`: all are kept.
    pub(super) sample_rate: Option<f64>,
    pub(super) retention: Duration,
    pub(super) max_bytes: u64,
    pub(super) redact: Arc<Patterns>,
}

impl RawTracesConfig {
    /// Checked; `None` where nothing is to be kept.
    pub(crate) fn validate(&self, has_state_dir: bool) -> Result<Option<TracesConfig>, ConfigError> {
        let fail = |field, message: String| Err(ConfigError { field, message });
        if !(0.0..=1.0).contains(&self.sample_rate) {
            return fail("traces.sample_rate", format!("{} given, 0 to 1 expected", self.sample_rate));
        }
        if !(1..=MAX_DAYS).contains(&self.retention_days) {
            return fail("traces.retention_days", format!("{} given, 1 to {MAX_DAYS} expected", self.retention_days));
        }
        if self.max_bytes < MIN_BYTES {
            return fail("traces.max_bytes", format!("{} given, at least {MIN_BYTES} expected", self.max_bytes));
        }
        let patterns = Patterns::compile(&self.redact);
        let redact = patterns.map_err(|message| ConfigError { field: "traces.redact", message })?;
        if self.mode == TraceMode::Off {
            return Ok(None);
        }
        if !has_state_dir {
            let message = "there is nowhere to keep them: give state_dir (`serve --state-dir DIR`) too";
            return fail("traces.mode", message.to_owned());
        }
        Ok(Some(TracesConfig {
            sample_rate: (self.mode == TraceMode::Sampled).then_some(self.sample_rate),
            retention: Duration::from_secs(self.retention_days * DAY_S),
            max_bytes: self.max_bytes,
            redact: Arc::new(redact),
        }))
    }
}
