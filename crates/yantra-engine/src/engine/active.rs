//! Requests and choices while they are in the engine.

use std::{sync::Arc, time::Instant};

use crate::{
    Detokenizer, Event, FinishReason, Request, RequestId, Timings, TokenLogprobs, Usage,
    constraint::Following,
    handle::Submission,
    kv::CacheScope,
    queue::Place,
    sampling::{Sampler, rng},
    scheduler::SequenceKey,
    sink::RequestSink,
    stop::{StopMatcher, Stopping},
    timeline::Recorder,
};

/// How far a choice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Waits for the first choice's prompt.
    NotStarted,
    Running(SequenceKey),
    Finished,
}

/// A request the engine works on.
pub(super) struct ActiveRequest {
    pub(super) id: RequestId,
    pub(super) request: Request,
    pub(super) sink: RequestSink,
    /// Its place in the queue, until it begins.
    pub(super) place: Option<Place>,
    pub(super) scope: Arc<CacheScope>,
    /// Its place in the order of service.
    pub(super) tag: u64,
    pub(super) seed: u64,
    pub(super) choices: Vec<Progress>,
    pub(super) prompt_logprobs: Vec<Option<TokenLogprobs>>,
    pub(super) usage: Usage,
    pub(super) submitted: Instant,
    pub(super) started: Option<Instant>,
    pub(super) first_token: Option<Instant>,
    pub(super) recorder: Recorder,
}

impl ActiveRequest {
    /// Begins with `running` sequences in the batch and `waiting` ones before it.
    pub(super) fn new(submission: Submission, tag: u64, running: usize, waiting: usize) -> Self {
        let Submission { id, mut request, sink, place, submitted } = submission;
        Self {
            id,
            sink,
            place: Some(place),
            scope: Arc::new(CacheScope {
                salt: request.cache_salt.take(),
                adapter: request.adapter.as_ref().map(|adapter| *adapter.content_hash()),
            }),
            tag,
            seed: request.sampling.seed.unwrap_or_else(rng::unpredictable_seed),
            choices: vec![Progress::NotStarted; request.n],
            prompt_logprobs: Vec::new(),
            usage: Usage { prompt_tokens: request.prompt.len(), ..Usage::default() },
            submitted,
            started: None,
            first_token: None,
            recorder: Recorder::new(submitted, running, waiting),
            request,
        }
    }

    /// Whether all choices have ended.
    pub(super) fn is_done(&self) -> bool {
        self.choices.iter().all(|&choice| choice == Progress::Finished)
    }

    /// One of its choices is over.
    pub(super) fn note_masks(&mut self, choice: &Choice) {
        if let Some(following) = &choice.following {
            self.recorder.masks(following.time, following.waited);
        }
    }

    /// The last event of a request that did not fail.
    pub(super) fn done(&mut self, now: Instant) -> Event {
        let since = |then: Instant| (then - self.submitted).as_secs_f64() * 1e3;
        let timings = Timings {
            queue_ms: since(self.started.unwrap_or(now)),
            time_to_first_token_ms: self.first_token.map(since),
            total_ms: since(now),
        };
        let timeline = self.recorder.finish(self.started, self.first_token, now);
        Event::Done { usage: self.usage, timings, timeline }
    }
}

/// One choice of a request while it is generated.
pub(super) struct Choice {
    /// The request's place in the engine.
    pub(super) request: usize,
    pub(super) index: usize,
    pub(super) sampler: Sampler,
    pub(super) text: ChoiceText,
    /// Its place in the request's grammar.
    pub(super) following: Option<Box<Following>>,
    pub(super) generated: usize,
    pub(super) last_token: Option<Instant>,
    /// Whether it has lost its place in the batch.
    pub(super) is_preempted: bool,
    /// The most tokens that it ever had in the KV cache.
    pub(super) reached: usize,
}

/// From a choice's tokens to the text let out.
pub(super) struct ChoiceText {
    pub(super) detokenizer: Option<Box<dyn Detokenizer + Send>>,
    pub(super) stop: StopMatcher,
}

impl ChoiceText {
    pub(super) fn push(&mut self, id: u32) -> Stopping {
        match &mut self.detokenizer {
            Some(detokenizer) => self.stop.push(detokenizer.push(id)),
            None => Stopping::Continue(String::new()),
        }
    }

    /// Ends the text for `reason`, unless its last characters complete a stop string.
    pub(super) fn finish(&mut self, reason: FinishReason) -> (String, FinishReason) {
        let rest = self.detokenizer.as_mut().map(|detokenizer| detokenizer.finish()).unwrap_or_default();
        match self.stop.push(&rest) {
            Stopping::Continue(text) => (text + &self.stop.finish(), reason),
            Stopping::Stop { text, stop } => (text, FinishReason::StopString(stop)),
        }
    }
}
