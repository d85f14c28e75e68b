//! What was asked and answered, kept to be searched, exported and learned from: `/v1/traces`. Off unless it is wanted.
//!
//! A [`Trace`] goes with each request that is wanted and takes over its body and its answer, whole or put together from
//! what was streamed. When the last who knows of it lets it go, it is put into a bounded queue; what has no place there is
//! dropped and counted. The [`Writer`] takes out what is not to be kept ([`Redactor`]) before anything is written, and
//! deletes what is too old or too much.

pub(crate) mod api;
mod config;
mod content;
mod patterns;
mod redact;
mod trace;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::keys::digest;
use crate::work::BodyBudget;

pub use api::{trace_record, trace_summary};
pub(crate) use config::TracesConfig;
pub use config::{RawPattern, RawRedaction, RawTracesConfig, TraceMode};
pub use redact::Redactor;
use trace::Pending;
pub(crate) use trace::Trace;
pub(crate) use writer::Writer;

/// Traces that may wait to be written.
const QUEUE: usize = 1024;
/// Bytes that traces may hold in memory, those of running requests included; more where bodies may be larger.
const HELD_BYTES: usize = 64 << 20;

/// What keeps traces; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Traces {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: TracesConfig,
    /// Gone when no more are taken.
    queue: Mutex<Option<Sender<Pending>>>,
    held: Arc<BodyBudget>,
    counters: Counters,
}

/// What became of traces.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) written: AtomicU64,
    /// Dropped because too many waited, or they held too much memory.
    pub(crate) dropped_full: AtomicU64,
    /// Dropped because they could not be written.
    pub(crate) dropped_failed: AtomicU64,
}

impl Traces {
    /// With the end of the queue that the writer reads.
    pub(crate) fn new(config: TracesConfig, max_body_bytes: usize) -> (Self, Receiver<Pending>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let held = BodyBudget::new(HELD_BYTES.max(max_body_bytes.saturating_mul(2)));
        let inner = Inner { config, queue: Mutex::new(Some(sender)), held, counters: Counters::default() };
        (Self { inner: Arc::new(inner) }, receiver)
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Whether a request to this endpoint is to be kept. Of those that are sampled the id decides: it is, if the first
    /// eight bytes of its SHA-256, as a big-endian fraction of 2⁶⁴, are below the rate.
    pub(crate) fn wants(&self, endpoint: &str, request_id: &str) -> bool {
        if !content::is_traced(endpoint) {
            return false;
        }
        let Some(rate) = self.inner.config.sample_rate else { return true };
        let digest = digest(request_id.as_bytes());
        let begin = digest.first_chunk().map_or(0, |begin| u64::from_be_bytes(*begin));
        (begin as f64) < rate * (u64::MAX as f64)
    }

    /// A place in the queue, unless no more are taken.
    fn queue(&self) -> Option<Sender<Pending>> {
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes no more than those that are on their way.
    fn close(&self) {
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn count_full(&self) {
        self.inner.counters.dropped_full.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn traces(raw: RawTracesConfig) -> Traces {
        Traces::new(raw.validate(true).unwrap().unwrap(), 1024).0
    }

    #[test]
    fn samples_are_told_by_the_request_id() {
        let sampled = |sample_rate| {
            traces(RawTracesConfig { mode: TraceMode::Sampled, sample_rate, ..RawTracesConfig::default() })
        };
        let wants = |rate, id: &str| sampled(rate).wants("/v1/chat/completions", id);
        // `printf a | sha256sum` is ca978112…: 0.7914 of the whole.
        assert_eq!([0.0, 0.79, 0.8, 1.0].map(|rate| wants(rate, "a")), [false, false, true, true]);
        let tenth = sampled(0.1);
        let kept = (0..10_000).filter(|number| tenth.wants("/v1/embeddings", &format!("request-{number}"))).count();
        assert!((900..1100).contains(&kept), "{kept}");
        assert!(!wants(1.0, "x") || !sampled(1.0).wants("/v1/tokenize", "x"));
        let full = traces(RawTracesConfig { mode: TraceMode::Full, sample_rate: 0.0, ..RawTracesConfig::default() });
        assert!(full.wants("/v1/score", "a") && !full.wants("/v1/files", "a"));
    }
}
