//! The embedding thread: takes requests in, drops those nobody waits for, computes slice after slice.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
        mpsc::Receiver,
    },
    time::Instant,
};

use yantra_model::EncoderText;

use super::{EmbedError, EmbedModel, EmbedText, Job, Shared};
use crate::{EngineError, engine::panic_message, stats::add};

/// Tokens of a slice; a longer text is a slice of its own.
pub(super) const SLICE_TOKENS: usize = 4096;
/// Requests computed at the same time, even when fewer would fill a slice: the share of a newcomer.
const MIN_RUNNING: usize = 16;

/// A request being computed.
struct Running {
    job: Job,
    /// The vectors of its first texts.
    vectors: Vec<Vec<f32>>,
}

impl Running {
    fn is_done(&self) -> bool {
        self.vectors.len() >= self.job.texts.len()
    }

    fn tokens_left(&self) -> usize {
        self.job.texts[self.vectors.len()..].iter().map(|text| text.tokens.len()).sum()
    }
}

pub(super) struct Worker {
    model: Box<dyn EmbedModel>,
    jobs: Receiver<Job>,
    shared: Arc<Shared>,
    waiting: VecDeque<Job>,
    running: VecDeque<Running>,
}

impl Worker {
    pub(super) fn new(model: Box<dyn EmbedModel>, jobs: Receiver<Job>, shared: Arc<Shared>) -> Self {
        Self { model, jobs, shared, waiting: VecDeque::new(), running: VecDeque::new() }
    }

    pub(super) fn run(mut self) {
        while self.take_jobs() {
            self.drop_abandoned();
            self.begin();
            self.shared.counters.step.begin();
            self.step();
            self.shared.counters.step.end();
            self.finish();
            self.shared.counters.running.store(self.running.len(), Relaxed);
        }
    }

    /// Takes in all requests there are, waiting for one when there is nothing to do. `false`: stop.
    fn take_jobs(&mut self) -> bool {
        if self.waiting.is_empty() && self.running.is_empty() {
            match self.jobs.recv() {
                Ok(job) => self.waiting.push_back(job),
                Err(_) => return false,
            }
        }
        self.waiting.extend(self.jobs.try_iter());
        true
    }

    fn drop_abandoned(&mut self) {
        let counters = &self.shared.counters;
        let waiting = self.waiting.len();
        self.waiting.retain(|job| job.sink.is_wanted());
        let left = waiting - self.waiting.len();
        counters.queued.fetch_sub(left, SeqCst);
        let running = self.running.len();
        self.running.retain(|running| running.job.sink.is_wanted());
        add(&counters.requests_cancelled, left + running - self.running.len());
    }

    /// Begins waiting requests until they fill a slice and [`MIN_RUNNING`] run.
    fn begin(&mut self) {
        let counters = &self.shared.counters;
        let mut tokens: usize = self.running.iter().map(Running::tokens_left).sum();
        while self.running.len() < MIN_RUNNING || tokens < SLICE_TOKENS {
            let Some(job) = self.waiting.pop_front() else { break };
            counters.queued.fetch_sub(1, SeqCst);
            counters.queue_seconds.record(job.submitted.elapsed().as_secs_f64());
            let running = Running { job, vectors: Vec::new() };
            tokens += running.tokens_left();
            self.running.push_back(running);
        }
        counters.running.store(self.running.len(), Relaxed);
    }

    /// Computes one slice; if that fails, each request's part on its own, so that only the faulty one fails.
    fn step(&mut self) {
        let counts = self.plan();
        if counts.iter().all(|&count| count == 0) {
            return;
        }
        let begun = Instant::now();
        if let Err(error) = self.compute(&counts) {
            for index in (0..counts.len()).rev().filter(|&index| counts[index] > 0) {
                let mut alone = vec![0; counts.len()];
                alone[index] = counts[index];
                let several = counts.iter().filter(|&&count| count > 0).count() > 1;
                let outcome = if several { self.compute(&alone) } else { Err(error.clone()) };
                if let Err(error) = outcome {
                    self.fail(index, error);
                }
            }
        }
        add(&self.shared.counters.busy_us, begun.elapsed().as_micros() as usize);
        // Who had no turn comes first next time.
        let served = counts.iter().take_while(|&&count| count > 0).count();
        if served < self.running.len() {
            self.running.rotate_left(served);
        }
    }

    /// How many texts of each request the next slice computes: one of each in turn, until it is full.
    fn plan(&self) -> Vec<usize> {
        let mut counts = vec![0; self.running.len()];
        let mut tokens = 0;
        loop {
            let mut found = false;
            for (running, count) in self.running.iter().zip(&mut counts) {
                let Some(text) = running.job.texts.get(running.vectors.len() + *count) else { continue };
                if tokens > 0 && tokens + text.tokens.len() > SLICE_TOKENS {
                    return counts;
                }
                tokens += text.tokens.len();
                *count += 1;
                found = true;
            }
            if !found {
                return counts;
            }
        }
    }

    /// Computes the next `counts[i]` texts of every request `i`.
    fn compute(&mut self, counts: &[usize]) -> Result<(), EngineError> {
        let parts = self.running.iter().zip(counts);
        let texts: Vec<EncoderText<'_>> = parts
            .flat_map(|(running, &count)| running.job.texts[running.vectors.len()..].iter().take(count))
            .map(EmbedText::view)
            .collect();
        let tokens: usize = texts.iter().map(|text| text.tokens.len()).sum();
        let model = &mut self.model;
        let vectors = catch_unwind(AssertUnwindSafe(|| model.embed(&texts)))
            .unwrap_or_else(|panic| Err(EngineError::Panicked { message: panic_message(&*panic) }))?;
        if vectors.len() != texts.len() {
            let message = format!("the model returned {} vectors for {} texts", vectors.len(), texts.len());
            return Err(EngineError::Internal { message });
        }
        let mut vectors = vectors.into_iter();
        for (running, &count) in self.running.iter_mut().zip(counts) {
            running.vectors.extend(vectors.by_ref().take(count));
        }
        add(&self.shared.counters.tokens, tokens);
        self.shared.counters.step_tokens.record(tokens as f64);
        Ok(())
    }

    fn fail(&mut self, index: usize, error: EngineError) {
        let Some(running) = self.running.remove(index) else { return };
        add(&self.shared.counters.requests_failed, 1);
        running.job.sink.finish(Err(EmbedError::Model(error)));
    }

    /// Answers the requests whose texts are all computed.
    fn finish(&mut self) {
        let counters = &self.shared.counters;
        let (done, rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.running).into_iter().partition(Running::is_done);
        self.running = rest;
        counters.running.store(self.running.len(), Relaxed);
        for Running { job, vectors } in done {
            add(&counters.requests_completed, 1);
            counters.request_seconds.record(job.submitted.elapsed().as_secs_f64());
            job.sink.finish(Ok(vectors));
        }
    }
}
