//! Encoders on a thread of their own, which embed texts or score pairs of them: a bounded queue, batches of whole texts over all requests, one slice at a time.
//!
//! Submitting never blocks: the answer comes to an [`EmbedSink`]. Before every slice the sinks are asked whether anybody
//! still waits; requests nobody waits for cost nothing more. A slice takes one text of each request in turn, so a small
//! request is not held up by a large one.

mod stats;
mod worker;

use std::{
    sync::{
        Arc,
        atomic::Ordering::SeqCst,
        mpsc::{Sender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use yantra_kernels::Compute;
use yantra_model::{Encoder, EncoderText};

use crate::EngineError;
use stats::Counters;
pub use stats::EmbedderStats;
use worker::Worker;

/// What the embedding thread runs: the real encoder, or a fake in tests.
pub trait EmbedModel: Send {
    /// Longest text, in tokens with the special ones.
    fn context_length(&self) -> usize;
    /// Length of an embedding.
    fn dimensions(&self) -> usize;
    /// Whether texts are pairs, of which it gives a score each: a vector of one number.
    fn scores_pairs(&self) -> bool {
        false
    }
    /// One vector of [`EmbedModel::dimensions`] per text.
    ///
    /// # Errors
    /// If a text is empty, too long or has a token outside the vocabulary; the other requests of the batch are tried again
    /// without it.
    fn embed(&mut self, texts: &[EncoderText<'_>]) -> Result<Vec<Vec<f32>>, EngineError>;
}

/// Receives one request's vectors on the embedding thread.
pub trait EmbedSink: Send {
    /// Whether anybody still waits; must be cheap, and must not block.
    fn is_wanted(&self) -> bool;
    /// Takes the answer: one vector per text, in order. Dropped without it when the thread ends.
    fn finish(self: Box<Self>, answer: Result<Vec<Vec<f32>>, EmbedError>);
}

/// Why texts were not embedded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// Too many requests wait already.
    #[error("{queued} embedding requests are waiting already; try again in {} s", retry_after.as_secs())]
    Overloaded {
        /// Requests waiting.
        queued: usize,
        /// An estimate of when a place will be free, in whole seconds.
        retry_after: Duration,
    },
    /// The texts do not fit the model, or it failed.
    #[error(transparent)]
    Model(EngineError),
    /// The model's thread could not be started.
    #[error("could not start the embedding thread: {message}")]
    Spawn {
        /// What the system said.
        message: String,
    },
    /// The model's thread has ended.
    #[error("the embedding thread has stopped")]
    Stopped,
}

/// A text as token ids (special tokens included), or two that are read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedText {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Where the tokens of the second text begin, as in [`EncoderText`].
    pub second: usize,
}

impl EmbedText {
    fn view(&self) -> EncoderText<'_> {
        EncoderText { tokens: &self.tokens, second: self.second }
    }
}

impl From<Vec<u32>> for EmbedText {
    fn from(tokens: Vec<u32>) -> Self {
        Self { second: tokens.len(), tokens }
    }
}

/// A request on its way to the embedding thread.
struct Job {
    texts: Vec<EmbedText>,
    sink: Box<dyn EmbedSink>,
    submitted: Instant,
}

/// What handles and the thread share.
struct Shared {
    counters: Counters,
    max_queue: usize,
}

/// A running embedding model; clones share it. The thread ends when the last clone is dropped.
#[derive(Clone)]
pub struct EmbedderHandle {
    jobs: Sender<Job>,
    shared: Arc<Shared>,
    context_length: usize,
    dimensions: usize,
    scores_pairs: bool,
}

impl std::fmt::Debug for EmbedderHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbedderHandle")
            .field("context_length", &self.context_length)
            .field("dimensions", &self.dimensions)
            .field("scores_pairs", &self.scores_pairs)
            .finish_non_exhaustive()
    }
}

impl EmbedderHandle {
    /// Tokens computed at once; a longer text is computed alone.
    pub const SLICE_TOKENS: usize = worker::SLICE_TOKENS;

    /// Starts the model's thread; at most `max_queue` requests may wait.
    ///
    /// # Errors
    /// If the thread can not be started.
    pub fn spawn(model: Box<dyn EmbedModel>, max_queue: usize) -> Result<Self, EmbedError> {
        let (jobs, received) = channel();
        let (context_length, dimensions) = (model.context_length(), model.dimensions());
        let scores_pairs = model.scores_pairs();
        let shared = Arc::new(Shared { counters: Counters::default(), max_queue });
        let worker = Worker::new(model, received, Arc::clone(&shared));
        thread::Builder::new()
            .name("yantra-embedder".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| EmbedError::Spawn { message: error.to_string() })?;
        Ok(Self { jobs, shared, context_length, dimensions, scores_pairs })
    }

    /// Longest text, in tokens with the special ones.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Length of an embedding.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Whether texts are pairs, of which it gives a score each.
    pub fn scores_pairs(&self) -> bool {
        self.scores_pairs
    }

    /// The figures now.
    pub fn stats(&self) -> EmbedderStats {
        self.shared.counters.snapshot()
    }

    /// Whether a request would find a place in the queue: asked before costly preparations.
    ///
    /// # Errors
    /// [`EmbedError::Overloaded`] when it would not; this counts as a refused request.
    pub fn check_queue(&self) -> Result<(), EmbedError> {
        let queued = self.shared.counters.queued.load(SeqCst);
        if queued < self.shared.max_queue {
            return Ok(());
        }
        crate::stats::add(&self.shared.counters.requests_refused, 1);
        Err(self.overloaded(queued))
    }

    /// Queues texts, or pairs of texts, given as token ids; never blocks.
    ///
    /// # Errors
    /// If the queue is full or the thread has ended; the sink is then dropped unused.
    pub fn submit(&self, texts: Vec<EmbedText>, sink: Box<dyn EmbedSink>) -> Result<(), EmbedError> {
        let Shared { counters, max_queue } = &*self.shared;
        let take = |queued| (queued < *max_queue).then_some(queued + 1);
        if let Err(queued) = counters.queued.fetch_update(SeqCst, SeqCst, take) {
            crate::stats::add(&counters.requests_refused, 1);
            return Err(self.overloaded(queued));
        }
        self.jobs.send(Job { texts, sink, submitted: Instant::now() }).map_err(|_| {
            counters.queued.fetch_sub(1, SeqCst);
            EmbedError::Stopped
        })?;
        crate::stats::add(&counters.requests_accepted, 1);
        Ok(())
    }

    /// Embeds texts and blocks until it is done.
    ///
    /// # Errors
    /// If the queue is full, or a text is empty, too long or has a token outside the vocabulary.
    pub fn embed(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, EmbedError> {
        let (reply, answer) = sync_channel(1);
        self.submit(texts.into_iter().map(EmbedText::from).collect(), Box::new(Blocking(reply)))?;
        answer.recv().map_err(|_| EmbedError::Stopped)?
    }

    /// The mean request time, for all that wait: what a newcomer would wait at most.
    fn overloaded(&self, queued: usize) -> EmbedError {
        let mean = self.shared.counters.request_seconds.snapshot().mean().unwrap_or(1.0);
        EmbedError::Overloaded { queued, retry_after: Duration::from_secs(mean.ceil().clamp(1.0, 60.0) as u64) }
    }
}

/// The sink of a caller that waits on its own thread.
struct Blocking(std::sync::mpsc::SyncSender<Result<Vec<Vec<f32>>, EmbedError>>);

impl EmbedSink for Blocking {
    fn is_wanted(&self) -> bool {
        true
    }

    fn finish(self: Box<Self>, answer: Result<Vec<Vec<f32>>, EmbedError>) {
        // The caller waits for as long as it lives.
        let _ = self.0.send(answer);
    }
}

/// The real encoder behind [`EmbedModel`].
pub struct EncoderRunner {
    encoder: Encoder,
    compute: Arc<Compute>,
}

impl EncoderRunner {
    /// An encoder and the threads it computes with.
    pub fn new(encoder: Encoder, compute: Arc<Compute>) -> Self {
        Self { encoder, compute }
    }
}

impl EmbedModel for EncoderRunner {
    fn context_length(&self) -> usize {
        self.encoder.spec().context_length
    }

    fn dimensions(&self) -> usize {
        self.encoder.spec().dimensions()
    }

    fn scores_pairs(&self) -> bool {
        self.encoder.spec().scores_pairs()
    }

    fn embed(&mut self, texts: &[EncoderText<'_>]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.encoder.embed(&self.compute, texts).map_err(|error| EngineError::Forward { message: error.to_string() })
    }
}
