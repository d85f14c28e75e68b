//! The engine's thread: `schedule → forward → commit` until told to stop.
//!
//! Between steps it takes in messages; with nothing to compute it sleeps on them. During a forward pass it holds no lock
//! and nothing waits for it but the next step.

mod active;
mod commit;
mod constrain;
mod fair;
mod intake;
mod record;
mod speculate;
mod spilling;

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
        mpsc::{Receiver, SyncSender, channel},
    },
    time::Instant,
};

use active::{ActiveRequest, Choice};
use fair::FairShare;
use speculate::Speculating;
use spilling::Spilling;

use crate::{
    AdapterSpan, AttentionSequence, Batch, EngineConfig, EngineError, EngineHandle, RequestId, Scheduler, StepModel,
    TextDecoder,
    constraint::masks::MaskThreads,
    handle::{Message, Shared},
    request::ModelLimits,
    sampling::SamplingScratch,
    scheduler::{SchedulerConfig, StepPlan},
    speculation::{Drafter, PromptLookup, SpeculationMethod},
    spill::Spill,
    stats::{self, Counters},
};

/// Failed forward passes in a row after which the engine calls itself unhealthy.
const UNHEALTHY_AFTER: u32 = 3;

/// Starts engines.
#[derive(Debug)]
pub struct Engine;

impl Engine {
    /// Puts `model` on a thread of its own and returns a handle to it. Without a tokenizer events carry no text, no token
    /// ends a choice by itself, and stop strings are refused.
    ///
    /// # Errors
    /// A setting is out of range, or the thread can not be started.
    pub fn spawn(
        model: Box<dyn StepModel>,
        tokenizer: Option<Arc<dyn TextDecoder>>,
        config: EngineConfig,
    ) -> Result<EngineHandle, EngineError> {
        let drafter: Option<Box<dyn Drafter>> = match config.speculation.method {
            SpeculationMethod::None => None,
            SpeculationMethod::Lookup => Some(Box::new(PromptLookup::default())),
            SpeculationMethod::DraftModel => {
                let message = "a draft model was asked for, but none was given".to_owned();
                return Err(EngineError::Config { field: "speculation", message });
            }
        };
        Self::spawn_with(model, tokenizer, config, drafter, None)
    }

    /// As [`Engine::spawn`], with a drafter in place of the one that `config` names, and a store for pages that leave the
    /// prefix cache, which are loaded from it when that is faster than computing them.
    ///
    /// # Errors
    /// As [`Engine::spawn`], and if the model's pages can not be spilled or there is no prefix cache.
    pub fn spawn_with(
        mut model: Box<dyn StepModel>,
        tokenizer: Option<Arc<dyn TextDecoder>>,
        config: EngineConfig,
        drafter: Option<Box<dyn Drafter>>,
        spill: Option<Spill>,
    ) -> Result<EngineHandle, EngineError> {
        config.validate()?;
        if spill.is_some() && !config.prefix_cache {
            let message = "spilling pages needs the prefix cache, which is off".to_owned();
            return Err(EngineError::Config { field: "kv_spill", message });
        }
        let (vocab_size, page_tokens, num_pages) = (model.vocab_size(), model.page_tokens(), model.num_pages());
        let context = model.max_context().min(page_tokens.saturating_mul(num_pages));
        if vocab_size == 0 || context < 2 || num_pages.saturating_mul(page_tokens) > u32::MAX as usize {
            let message = format!(
                "a vocabulary of {vocab_size} and {num_pages} pages of {page_tokens} tokens for a context of {}: \
                 room for 2 to 2^32 tokens expected",
                model.max_context()
            );
            return Err(EngineError::Config { field: "model", message });
        }
        let limits = ModelLimits { vocab_size, context, has_text: tokenizer.is_some() };
        let mut scheduler = Scheduler::new(SchedulerConfig {
            max_sequences: config.max_sequences,
            token_budget: config.token_budget,
            max_scored_rows: config.max_scored_rows,
            page_tokens,
            num_pages,
            prefix_cache: config.prefix_cache,
        });
        let mut spilling = None;
        if let Some(spill) = &spill {
            spilling = Some(Spilling::new(spill, &mut *model)?);
            scheduler.keep_evicted(spill.fingerprint);
        }
        let max_draft = config.speculation.max_draft;
        let counters = Counters::new(num_pages, page_tokens, spill.map(|spill| spill.store));
        let shared = Arc::new(Shared::new(counters, limits, config, tokenizer.clone()));
        let (sender, messages) = channel();
        let mut core = Core::new(model, tokenizer, Arc::clone(&shared), messages, scheduler);
        core.spilling = spilling;
        core.speculating = drafter.map(|drafter| Speculating::new(drafter, max_draft));
        let thread = std::thread::Builder::new()
            .name("yantra-engine".to_owned())
            .spawn(move || core.run())
            .map_err(|error| EngineError::Spawn { message: error.to_string() })?;
        Ok(EngineHandle::new(sender, shared, thread))
    }
}

/// A [`Message::Drain`] that is not answered yet.
struct Drain {
    until: Instant,
    done: SyncSender<bool>,
}

/// All that the thread owns.
struct Core {
    model: Box<dyn StepModel>,
    decoder: Option<Arc<dyn TextDecoder>>,
    shared: Arc<Shared>,
    messages: Receiver<Message>,
    scheduler: Scheduler,
    spilling: Option<Spilling>,
    plan: StepPlan,
    /// Empty between steps; kept for its buffer.
    spans: Vec<AttentionSequence<'static>>,
    logits: Vec<f32>,
    /// A row of logits as the model returned it, while the original is sampled from.
    raw_row: Vec<f32>,
    scratch: SamplingScratch,
    values: Vec<f32>,
    /// By the scheduler's sequence keys.
    choices: Vec<Option<Choice>>,
    requests: Vec<Option<ActiveRequest>>,
    vacant_requests: Vec<usize>,
    by_id: HashMap<RequestId, usize>,
    /// Requests whose other choices start after this step.
    to_fork: Vec<usize>,
    speculating: Option<Speculating>,
    /// Started with the first grammar.
    masks: Option<MaskThreads>,
    fair: FairShare,
    failures_in_a_row: u32,
    drains: Vec<Drain>,
    drained: bool,
}

impl Core {
    fn new(
        model: Box<dyn StepModel>,
        decoder: Option<Arc<dyn TextDecoder>>,
        shared: Arc<Shared>,
        messages: Receiver<Message>,
        scheduler: Scheduler,
    ) -> Self {
        Self {
            model,
            decoder,
            shared,
            messages,
            scheduler,
            spilling: None,
            plan: StepPlan::default(),
            spans: Vec::new(),
            logits: Vec::new(),
            raw_row: Vec::new(),
            scratch: SamplingScratch::default(),
            values: Vec::new(),
            choices: Vec::new(),
            requests: Vec::new(),
            vacant_requests: Vec::new(),
            by_id: HashMap::new(),
            to_fork: Vec::new(),
            speculating: None,
            masks: None,
            fair: FairShare::default(),
            failures_in_a_row: 0,
            drains: Vec::new(),
            drained: false,
        }
    }

    fn run(mut self) {
        while self.take_messages() {
            if !self.scheduler.is_empty() {
                self.shared.counters.step.begin();
                self.step();
                self.shared.counters.step.end();
            }
            self.publish_gauges();
        }
        self.shared.accepting.store(false, SeqCst);
        self.cancel_all();
        self.publish_gauges();
    }

    fn step(&mut self) {
        let start = Instant::now();
        self.propose();
        self.propose_forced();
        let scheduled = Instant::now();
        let mut plan = std::mem::take(&mut self.plan);
        self.restore_pages();
        self.record_restores(scheduled);
        self.scheduler.schedule(&mut plan);
        self.record_preemptions(scheduled);
        self.spill_evicted();
        if plan.is_empty() {
            self.plan = plan;
            if !self.wait_for_disk() {
                self.drop_stuck_requests();
            }
            return;
        }
        let forward_start = Instant::now();
        let outcome = self.forward(&plan);
        let end = Instant::now();
        stats::add(&self.shared.counters.forward_us, (end - forward_start).as_micros() as usize);
        match outcome {
            Ok(()) => {
                self.note_success(&plan);
                self.learn_speed(&plan, end - forward_start);
                self.scheduler.advance(&plan);
                self.commit(&plan, start, end);
                self.learn(&plan, scheduled.elapsed().as_secs_f64());
            }
            Err(error) => self.note_failure(&plan, &error),
        }
        self.plan = plan;
        stats::add(&self.shared.counters.busy_us, start.elapsed().as_micros() as usize);
    }

    /// Runs the model; a panic in it is an error like any other (where the program unwinds at all).
    fn forward(&mut self, plan: &StepPlan) -> Result<(), EngineError> {
        let Self { model, scheduler, logits, choices, requests, .. } = self;
        let adapters = adapter_spans(plan, choices, requests);
        let mut spans = recycle(std::mem::take(&mut self.spans));
        scheduler.spans(plan, &mut spans);
        let batch = Batch {
            tokens: plan.tokens(),
            positions: plan.positions(),
            slots: plan.slots(),
            sequences: &spans,
            logit_rows: plan.logit_rows(),
            adapters: &adapters,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            plan.copies().iter().for_each(|&(from, to)| model.copy_page(from, to));
            model.forward(&batch, logits)
        }));
        let expected = plan.logit_rows().len() * self.shared.limits.vocab_size;
        self.spans = recycle(spans);
        match outcome {
            Ok(Ok(())) if logits.len() == expected => Ok(()),
            Ok(Ok(())) => Err(EngineError::LogitsShape { given: logits.len(), expected }),
            Ok(Err(error)) => Err(error),
            Err(panic) => Err(EngineError::Panicked { message: panic_message(&*panic) }),
        }
    }

    fn note_success(&mut self, plan: &StepPlan) {
        let counters = &self.shared.counters;
        stats::add(&counters.steps, 1);
        counters.step_tokens.record(plan.tokens().len() as f64);
        if std::mem::take(&mut self.failures_in_a_row) >= UNHEALTHY_AFTER {
            tracing::info!("the forward pass works again");
            counters.healthy.store(true, Relaxed);
        }
    }

    /// Fails every request in the batch; the others have lost nothing.
    fn note_failure(&mut self, plan: &StepPlan, error: &EngineError) {
        self.failures_in_a_row += 1;
        stats::add(&self.shared.counters.failed_steps, 1);
        tracing::error!(%error, sequences = plan.entries().len(), in_a_row = self.failures_in_a_row, "step failed");
        if self.failures_in_a_row >= UNHEALTHY_AFTER {
            self.shared.counters.healthy.store(false, Relaxed);
        }
        for entry in plan.entries() {
            if let Some(slot) = self.request_of(entry.key) {
                self.fail_request(slot, error.clone());
            }
        }
    }

    /// The scheduler promises never to come here; should it, an error is better than a thread that spins.
    fn drop_stuck_requests(&mut self) {
        for slot in 0..self.requests.len() {
            let message = "the scheduler found nothing to compute for waiting requests".to_owned();
            self.fail_request(slot, EngineError::Internal { message });
        }
    }

    fn publish_gauges(&self) {
        let (counters, pages, counts) = (&self.shared.counters, self.scheduler.pages(), self.scheduler.counts());
        counters.running.store(self.scheduler.num_running(), Relaxed);
        counters.waiting_sequences.store(self.scheduler.num_waiting(), Relaxed);
        counters.pages_used.store(pages.used(), Relaxed);
        counters.pages_cached.store(pages.cached(), Relaxed);
        counters.preemptions.store(counts.preemptions, Relaxed);
        counters.prefix_hit_tokens.store(counts.prefix_hit_tokens, Relaxed);
        counters.prefix_query_tokens.store(counts.prefix_query_tokens, Relaxed);
    }
}

impl Drop for Core {
    /// Also runs when the thread panics: what is left in `requests` and `messages` then tells its sinks.
    fn drop(&mut self) {
        self.shared.accepting.store(false, SeqCst);
        self.shared.counters.step.end();
        if std::thread::panicking() {
            self.shared.counters.healthy.store(false, Relaxed);
        }
    }
}

/// The tokens of a plan that belong to adapters; neighbours of one adapter are one span.
fn adapter_spans<'a>(
    plan: &StepPlan,
    choices: &[Option<Choice>],
    requests: &'a [Option<ActiveRequest>],
) -> Vec<AdapterSpan<'a>> {
    let mut spans: Vec<AdapterSpan<'a>> = Vec::new();
    for entry in plan.entries() {
        let choice = choices.get(entry.key.index()).and_then(Option::as_ref);
        let active = choice.and_then(|choice| requests.get(choice.request)?.as_ref());
        let Some(adapter) = active.and_then(|active| active.request.adapter.as_deref()) else { continue };
        let (start, end) = (entry.query_start, entry.query_start + entry.query_len);
        match spans.last_mut() {
            Some(last) if last.tokens.end == start && std::ptr::eq(last.adapter, adapter) => last.tokens.end = end,
            _ => spans.push(AdapterSpan { tokens: start..end, adapter }),
        }
    }
    spans
}

/// Empties a buffer of spans for another lifetime, keeping its memory.
fn recycle<'b>(mut spans: Vec<AttentionSequence<'_>>) -> Vec<AttentionSequence<'b>> {
    spans.clear();
    let emptied = |span: AttentionSequence<'_>| AttentionSequence {
        query_start: span.query_start,
        query_len: span.query_len,
        context_len: span.context_len,
        pages: &[],
    };
    // Nothing is left to map; collecting in place keeps the allocation.
    spans.into_iter().map(emptied).collect()
}

pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
