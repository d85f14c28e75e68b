//! The embedder's figures: atomics that its thread writes and anybody reads.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use serde::Serialize;

use crate::{
    HistogramSnapshot,
    histogram::{Histogram, REQUEST_SECONDS, STEP_TOKENS},
    stats::StepClock,
};

/// The live figures.
#[derive(Debug)]
pub(super) struct Counters {
    /// Requests submitted and not yet begun; handles count it up, the thread down.
    pub(super) queued: AtomicUsize,
    pub(super) running: AtomicUsize,
    pub(super) requests_accepted: AtomicU64,
    pub(super) requests_refused: AtomicU64,
    pub(super) requests_completed: AtomicU64,
    pub(super) requests_cancelled: AtomicU64,
    pub(super) requests_failed: AtomicU64,
    pub(super) tokens: AtomicU64,
    pub(super) busy_us: AtomicU64,
    pub(super) step: StepClock,
    pub(super) queue_seconds: Histogram,
    pub(super) request_seconds: Histogram,
    pub(super) step_tokens: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            queued: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            requests_accepted: AtomicU64::new(0),
            requests_refused: AtomicU64::new(0),
            requests_completed: AtomicU64::new(0),
            requests_cancelled: AtomicU64::new(0),
            requests_failed: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            busy_us: AtomicU64::new(0),
            step: StepClock::default(),
            queue_seconds: Histogram::new(REQUEST_SECONDS),
            request_seconds: Histogram::new(REQUEST_SECONDS),
            step_tokens: Histogram::new(STEP_TOKENS),
        }
    }
}

impl Counters {
    pub(super) fn snapshot(&self) -> EmbedderStats {
        EmbedderStats {
            queued_requests: self.queued.load(Relaxed),
            running_requests: self.running.load(Relaxed),
            step_running_seconds: self.step.running_seconds(),
            requests_accepted: self.requests_accepted.load(Relaxed),
            requests_refused: self.requests_refused.load(Relaxed),
            requests_completed: self.requests_completed.load(Relaxed),
            requests_cancelled: self.requests_cancelled.load(Relaxed),
            requests_failed: self.requests_failed.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            busy_seconds: self.busy_us.load(Relaxed) as f64 / 1e6,
            queue_seconds: self.queue_seconds.snapshot(),
            request_seconds: self.request_seconds.snapshot(),
            step_tokens: self.step_tokens.snapshot(),
        }
    }
}

/// The embedder's figures at one moment. Counters count from the start and never fall.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EmbedderStats {
    /// Requests accepted and not yet begun (gauge).
    pub queued_requests: usize,
    /// Requests being embedded (gauge).
    pub running_requests: usize,
    /// How long the slice being computed has taken so far, 0 between slices (gauge, seconds).
    pub step_running_seconds: f64,
    /// Requests taken in (counter).
    pub requests_accepted: u64,
    /// Requests refused because the queue was full (counter).
    pub requests_refused: u64,
    /// Requests answered (counter).
    pub requests_completed: u64,
    /// Requests nobody waited for any more (counter).
    pub requests_cancelled: u64,
    /// Requests that ended in an error (counter).
    pub requests_failed: u64,
    /// Tokens embedded (counter).
    pub tokens: u64,
    /// Time spent in the model (counter, seconds).
    pub busy_seconds: f64,
    /// From submission to the first slice.
    pub queue_seconds: HistogramSnapshot,
    /// From submission to the answer.
    pub request_seconds: HistogramSnapshot,
    /// Tokens computed per slice.
    pub step_tokens: HistogramSnapshot,
}
