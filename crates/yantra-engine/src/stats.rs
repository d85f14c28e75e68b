//! The engine's figures: atomics that its thread writes and anybody reads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use serde::Serialize;

use crate::{
    HistogramSnapshot,
    histogram::{Histogram, MASK_SECONDS, REQUEST_SECONDS, STEP_TOKENS, TOKEN_SECONDS},
    spill::{SpillStore, SpillStoreStats},
};

/// The live figures.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Requests submitted and not yet started; handles count it up, the engine's thread down.
    pub(crate) queued: AtomicUsize,
    pub(crate) running: AtomicUsize,
    pub(crate) waiting_sequences: AtomicUsize,
    pub(crate) pages_used: AtomicUsize,
    pub(crate) pages_cached: AtomicUsize,
    pub(crate) pages_total: usize,
    pub(crate) page_tokens: usize,
    pub(crate) prefix_hit_tokens: AtomicU64,
    pub(crate) prefix_query_tokens: AtomicU64,
    pub(crate) preemptions: AtomicU64,
    pub(crate) requests_accepted: AtomicU64,
    pub(crate) requests_refused: AtomicU64,
    pub(crate) requests_completed: AtomicU64,
    pub(crate) requests_cancelled: AtomicU64,
    pub(crate) requests_failed: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) generated_tokens: AtomicU64,
    pub(crate) drafts: AtomicU64,
    pub(crate) draft_tokens: AtomicU64,
    pub(crate) accepted_draft_tokens: AtomicU64,
    pub(crate) grammars_compiled: Counter,
    pub(crate) grammars_reused: Counter,
    pub(crate) constrained_tokens: Counter,
    pub(crate) forced_tokens: Counter,
    pub(crate) steps: AtomicU64,
    pub(crate) failed_steps: AtomicU64,
    pub(crate) busy_us: AtomicU64,
    pub(crate) forward_us: AtomicU64,
    pub(crate) healthy: AtomicBool,
    pub(crate) step: StepClock,
    pub(crate) queue_seconds: Histogram,
    pub(crate) time_to_first_token_seconds: Histogram,
    pub(crate) inter_token_seconds: Histogram,
    pub(crate) request_seconds: Histogram,
    pub(crate) step_tokens: Histogram,
    pub(crate) grammar_mask_seconds: Histogram,
    pub(crate) grammar_compile_seconds: Histogram,
    /// Of an engine with a spill store.
    pub(crate) spill: Option<SpillCounters>,
}

/// A counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        add(&self.0, count);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Tells how long the step under way has run, so that others can see one that does not end.
#[derive(Debug)]
pub(crate) struct StepClock {
    epoch: Instant,
    /// Microseconds from `epoch` to when the step began, and one; 0: none is under way.
    began: AtomicU64,
}

impl Default for StepClock {
    fn default() -> Self {
        Self { epoch: Instant::now(), began: AtomicU64::new(0) }
    }
}

impl StepClock {
    pub(crate) fn begin(&self) {
        self.began.store(self.epoch.elapsed().as_micros() as u64 + 1, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.began.store(0, Relaxed);
    }

    /// 0 between steps.
    pub(crate) fn running_seconds(&self) -> f64 {
        match self.began.load(Relaxed) {
            0 => 0.0,
            began => (self.epoch.elapsed().as_micros() as u64).saturating_sub(began - 1) as f64 / 1e6,
        }
    }
}

/// A mean that may not be known.
#[derive(Debug)]
pub(crate) struct Mean(AtomicU64);

impl Default for Mean {
    fn default() -> Self {
        Self(AtomicU64::new(f64::NAN.to_bits()))
    }
}

impl Mean {
    pub(crate) fn set(&self, value: Option<f64>) {
        self.0.store(value.unwrap_or(f64::NAN).to_bits(), Relaxed);
    }

    fn get(&self) -> Option<f64> {
        Some(f64::from_bits(self.0.load(Relaxed))).filter(|value| !value.is_nan())
    }
}

/// The live figures of spilling.
#[derive(Debug)]
pub(crate) struct SpillCounters {
    pub(crate) store: Arc<SpillStore>,
    pub(crate) pages_spilled: Counter,
    pub(crate) pages_dropped: Counter,
    pub(crate) pages_loaded: Counter,
    pub(crate) sequences_restored: Counter,
    pub(crate) sequences_declined: Counter,
    pub(crate) sequences_abandoned: Counter,
    pub(crate) load_page_seconds: Mean,
    pub(crate) compute_page_seconds: Mean,
}

impl SpillCounters {
    fn new(store: Arc<SpillStore>) -> Self {
        Self {
            store,
            pages_spilled: Counter::default(),
            pages_dropped: Counter::default(),
            pages_loaded: Counter::default(),
            sequences_restored: Counter::default(),
            sequences_declined: Counter::default(),
            sequences_abandoned: Counter::default(),
            load_page_seconds: Mean::default(),
            compute_page_seconds: Mean::default(),
        }
    }

    fn snapshot(&self) -> SpillStats {
        SpillStats {
            pages_spilled: self.pages_spilled.get(),
            pages_dropped: self.pages_dropped.get(),
            pages_loaded: self.pages_loaded.get(),
            sequences_restored: self.sequences_restored.get(),
            sequences_declined: self.sequences_declined.get(),
            sequences_abandoned: self.sequences_abandoned.get(),
            load_page_seconds: self.load_page_seconds.get(),
            compute_page_seconds: self.compute_page_seconds.get(),
            store: self.store.stats(),
        }
    }
}

/// Adds to a counter that only one thread writes or whose order does not matter.
pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Relaxed);
}

impl Counters {
    pub(crate) fn new(pages_total: usize, page_tokens: usize, spill: Option<Arc<SpillStore>>) -> Self {
        Self {
            queued: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            waiting_sequences: AtomicUsize::new(0),
            pages_used: AtomicUsize::new(0),
            pages_cached: AtomicUsize::new(0),
            pages_total,
            page_tokens,
            prefix_hit_tokens: AtomicU64::new(0),
            prefix_query_tokens: AtomicU64::new(0),
            preemptions: AtomicU64::new(0),
            requests_accepted: AtomicU64::new(0),
            requests_refused: AtomicU64::new(0),
            requests_completed: AtomicU64::new(0),
            requests_cancelled: AtomicU64::new(0),
            requests_failed: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            drafts: AtomicU64::new(0),
            draft_tokens: AtomicU64::new(0),
            accepted_draft_tokens: AtomicU64::new(0),
            grammars_compiled: Counter::default(),
            grammars_reused: Counter::default(),
            constrained_tokens: Counter::default(),
            forced_tokens: Counter::default(),
            steps: AtomicU64::new(0),
            failed_steps: AtomicU64::new(0),
            busy_us: AtomicU64::new(0),
            forward_us: AtomicU64::new(0),
            healthy: AtomicBool::new(true),
            step: StepClock::default(),
            queue_seconds: Histogram::new(REQUEST_SECONDS),
            time_to_first_token_seconds: Histogram::new(REQUEST_SECONDS),
            inter_token_seconds: Histogram::new(TOKEN_SECONDS),
            request_seconds: Histogram::new(REQUEST_SECONDS),
            step_tokens: Histogram::new(STEP_TOKENS),
            grammar_mask_seconds: Histogram::new(MASK_SECONDS),
            grammar_compile_seconds: Histogram::new(REQUEST_SECONDS),
            spill: spill.map(SpillCounters::new),
        }
    }

    pub(crate) fn snapshot(&self) -> EngineStats {
        EngineStats {
            healthy: self.healthy.load(Relaxed),
            step_running_seconds: self.step.running_seconds(),
            queued_requests: self.queued.load(Relaxed),
            waiting_sequences: self.waiting_sequences.load(Relaxed),
            running_sequences: self.running.load(Relaxed),
            pages_used: self.pages_used.load(Relaxed),
            pages_cached: self.pages_cached.load(Relaxed),
            pages_total: self.pages_total,
            page_tokens: self.page_tokens,
            prefix_hit_tokens: self.prefix_hit_tokens.load(Relaxed),
            prefix_query_tokens: self.prefix_query_tokens.load(Relaxed),
            preemptions: self.preemptions.load(Relaxed),
            requests_accepted: self.requests_accepted.load(Relaxed),
            requests_refused: self.requests_refused.load(Relaxed),
            requests_completed: self.requests_completed.load(Relaxed),
            requests_cancelled: self.requests_cancelled.load(Relaxed),
            requests_failed: self.requests_failed.load(Relaxed),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            generated_tokens: self.generated_tokens.load(Relaxed),
            drafts: self.drafts.load(Relaxed),
            draft_tokens: self.draft_tokens.load(Relaxed),
            accepted_draft_tokens: self.accepted_draft_tokens.load(Relaxed),
            grammars_compiled: self.grammars_compiled.get(),
            grammars_reused: self.grammars_reused.get(),
            constrained_tokens: self.constrained_tokens.get(),
            forced_tokens: self.forced_tokens.get(),
            steps: self.steps.load(Relaxed),
            failed_steps: self.failed_steps.load(Relaxed),
            busy_seconds: self.busy_us.load(Relaxed) as f64 / 1e6,
            forward_seconds: self.forward_us.load(Relaxed) as f64 / 1e6,
            queue_seconds: self.queue_seconds.snapshot(),
            time_to_first_token_seconds: self.time_to_first_token_seconds.snapshot(),
            inter_token_seconds: self.inter_token_seconds.snapshot(),
            request_seconds: self.request_seconds.snapshot(),
            step_tokens: self.step_tokens.snapshot(),
            grammar_mask_seconds: self.grammar_mask_seconds.snapshot(),
            grammar_compile_seconds: self.grammar_compile_seconds.snapshot(),
            spill: self.spill.as_ref().map(SpillCounters::snapshot),
        }
    }
}

/// The engine's figures at one moment. Counters count from the engine's start and never fall.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EngineStats {
    /// False after three failed forward passes in a row, until one succeeds.
    pub healthy: bool,
    /// How long the step under way has run, 0 between steps (gauge, seconds).
    pub step_running_seconds: f64,
    /// Requests accepted and not yet started (gauge).
    pub queued_requests: usize,
    /// Sequences that wait for a place, preempted ones included (gauge).
    pub waiting_sequences: usize,
    /// Sequences in the batch (gauge).
    pub running_sequences: usize,
    /// KV pages that sequences hold (gauge).
    pub pages_used: usize,
    /// KV pages kept only for later prompts; they can be had at once (gauge).
    pub pages_cached: usize,
    /// KV pages there are.
    pub pages_total: usize,
    /// Tokens that a page holds.
    pub page_tokens: usize,
    /// Prompt tokens found in the prefix cache, those loaded into it from disk included (counter).
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
    /// Requests cancelled, by call or because their sink went away (counter).
    pub requests_cancelled: u64,
    /// Requests that ended in an error (counter).
    pub requests_failed: u64,
    /// Prompt tokens of started requests (counter).
    pub prompt_tokens: u64,
    /// Tokens generated (counter).
    pub generated_tokens: u64,
    /// Drafts computed (counter).
    pub drafts: u64,
    /// Drafted tokens computed (counter).
    pub draft_tokens: u64,
    /// Drafted tokens that were right (counter); each has saved its sequence a step.
    pub accepted_draft_tokens: u64,
    /// Grammars compiled (counter).
    pub grammars_compiled: u64,
    /// Grammars wanted that were compiled already (counter).
    pub grammars_reused: u64,
    /// Tokens chosen among those that a grammar allowed (counter).
    pub constrained_tokens: u64,
    /// Tokens that a grammar left no choice in (counter).
    pub forced_tokens: u64,
    /// Forward passes that succeeded (counter).
    pub steps: u64,
    /// Forward passes that failed (counter).
    pub failed_steps: u64,
    /// Time spent in steps (counter, seconds).
    pub busy_seconds: f64,
    /// Time spent in forward passes (counter, seconds); the rest of `busy_seconds` is scheduling, sampling and text.
    pub forward_seconds: f64,
    /// From submission to the first step.
    pub queue_seconds: HistogramSnapshot,
    /// From submission to the first token.
    pub time_to_first_token_seconds: HistogramSnapshot,
    /// Between consecutive tokens of a choice.
    pub inter_token_seconds: HistogramSnapshot,
    /// From submission to the end.
    pub request_seconds: HistogramSnapshot,
    /// Tokens computed per step.
    pub step_tokens: HistogramSnapshot,
    /// To work out which tokens may come next.
    pub grammar_mask_seconds: HistogramSnapshot,
    /// To compile a grammar.
    pub grammar_compile_seconds: HistogramSnapshot,
    /// Pages on disk; `None` without a spill store.
    pub spill: Option<SpillStats>,
}

/// What went to disk and came back. Counters count from the engine's start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SpillStats {
    /// Pages queued to be written (counter).
    pub pages_spilled: u64,
    /// Pages not written because too many waited (counter).
    pub pages_dropped: u64,
    /// Pages loaded instead of computed (counter).
    pub pages_loaded: u64,
    /// Sequences whose pages were looked for on disk, found, and read (counter).
    pub sequences_restored: u64,
    /// Sequences whose pages were on disk, but faster to compute (counter).
    pub sequences_declined: u64,
    /// Sequences that the disk let wait too long (counter).
    pub sequences_abandoned: u64,
    /// What loading a page takes, a running mean (gauge, seconds).
    pub load_page_seconds: Option<f64>,
    /// What computing the tokens of a page takes, a running mean (gauge, seconds).
    pub compute_page_seconds: Option<f64>,
    /// The directory's figures; all models of a process share it.
    pub store: SpillStoreStats,
}
