//! How the rest of the program talks to the engine's thread.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        mpsc::{Sender, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    Constraint, ConstraintError, EngineConfig, EngineStats, EventSink, Grammar, Request, RequestId, SubmitError,
    TextDecoder,
    constraint::GrammarCompiler,
    queue::{Place, Tenants},
    request::ModelLimits,
    sink::RequestSink,
    stats::Counters,
};

/// What handles tell the engine's thread.
pub(crate) enum Message {
    Submit(Box<Submission>),
    Cancel(RequestId),
    Drain { until: Instant, done: SyncSender<bool> },
    Shutdown,
}

/// An accepted request on its way to the engine's thread.
pub(crate) struct Submission {
    pub(crate) id: RequestId,
    pub(crate) request: Request,
    pub(crate) sink: RequestSink,
    pub(crate) place: Place,
    pub(crate) submitted: Instant,
}

/// What handles and the engine's thread share.
pub(crate) struct Shared {
    pub(crate) counters: Counters,
    pub(crate) accepting: AtomicBool,
    pub(crate) limits: ModelLimits,
    pub(crate) config: EngineConfig,
    pub(crate) grammars: GrammarCompiler,
    pub(crate) tenants: Tenants,
    next_id: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        counters: Counters,
        limits: ModelLimits,
        config: EngineConfig,
        decoder: Option<Arc<dyn TextDecoder>>,
    ) -> Self {
        let (accepting, next_id) = (AtomicBool::new(true), AtomicU64::new(0));
        Self {
            counters,
            accepting,
            limits,
            config,
            grammars: GrammarCompiler::new(decoder),
            tenants: Tenants::default(),
            next_id,
        }
    }
}

/// Submits requests to a running engine; cheap to clone. When the last handle goes, the engine cancels what it has and
/// stops.
#[derive(Clone)]
pub struct EngineHandle {
    inner: Arc<Inner>,
}

struct Inner {
    messages: Sender<Message>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineHandle").field("config", &self.inner.shared.config).finish_non_exhaustive()
    }
}

impl EngineHandle {
    pub(crate) fn new(messages: Sender<Message>, shared: Arc<Shared>, thread: JoinHandle<()>) -> Self {
        Self { inner: Arc::new(Inner { messages, shared, thread: Mutex::new(Some(thread)) }) }
    }

    /// Queues a request. Its events arrive at `sink` on the engine's thread; the last is `Done` or `Error`.
    ///
    /// # Errors
    /// The request breaks a limit, the queue is full, or the engine is draining; the sink is then dropped unused.
    pub fn submit(&self, request: Request, sink: Box<dyn EventSink>) -> Result<RequestId, SubmitError> {
        let accepted = self.try_submit(request, sink);
        let counters = &self.inner.shared.counters;
        let counter = if accepted.is_ok() { &counters.requests_accepted } else { &counters.requests_refused };
        crate::stats::add(counter, 1);
        accepted
    }

    /// Compiles what answers must be, for [`Request::grammar`]; remembers what it compiled last. May take long (a large
    /// schema, the first grammar of a large vocabulary): not for threads that others wait for.
    ///
    /// # Errors
    /// The constraint is no grammar, is not supported or too large, or the model has no tokenizer.
    pub fn compile(&self, constraint: &Constraint) -> Result<Grammar, ConstraintError> {
        let shared = &self.inner.shared;
        shared.grammars.compile(constraint, &shared.counters)
    }

    /// Whether a request would find a place in the queue: asked before costly preparations.
    ///
    /// # Errors
    /// The queue is full or the engine is draining; this counts as a refused request.
    pub fn check_queue(&self) -> Result<(), SubmitError> {
        let shared = &self.inner.shared;
        let queued = shared.counters.queued.load(SeqCst);
        let refusal = if !shared.accepting.load(SeqCst) {
            SubmitError::ShuttingDown
        } else if queued >= shared.config.max_queue {
            SubmitError::QueueFull { queued, retry_after: self.retry_after(queued) }
        } else {
            return Ok(());
        };
        crate::stats::add(&shared.counters.requests_refused, 1);
        Err(refusal)
    }

    fn try_submit(&self, request: Request, sink: Box<dyn EventSink>) -> Result<RequestId, SubmitError> {
        let shared = &self.inner.shared;
        request.validate(shared.limits)?;
        if !shared.accepting.load(SeqCst) {
            return Err(SubmitError::ShuttingDown);
        }
        let place = Place::take(shared, request.tenant.as_ref())
            .map_err(|queued| SubmitError::QueueFull { queued, retry_after: self.retry_after(queued) })?;
        let id = RequestId(shared.next_id.fetch_add(1, SeqCst));
        let submission = Submission { id, request, sink: RequestSink::new(sink), place, submitted: Instant::now() };
        self.inner.messages.send(Message::Submit(Box::new(submission))).map_err(|unsent| {
            if let Message::Submit(mut submission) = unsent.0 {
                submission.sink.forget();
            }
            SubmitError::ShuttingDown
        })?;
        Ok(id)
    }

    /// How long the queue should take to shrink: the mean request time, shared by all places in the batch.
    fn retry_after(&self, queued: usize) -> Duration {
        let shared = &self.inner.shared;
        let request_seconds = shared.counters.request_seconds.snapshot().mean().unwrap_or(1.0);
        let seconds = request_seconds * queued as f64 / shared.config.max_sequences as f64;
        Duration::from_secs(seconds.ceil().clamp(1.0, 60.0) as u64)
    }

    /// Cancels a request; its choices end with [`crate::FinishReason::Cancelled`], its pages are free within one step.
    /// Unknown and finished requests are left alone.
    pub fn cancel(&self, id: RequestId) {
        // A closed channel means that the engine has stopped, and with it the request.
        let _ = self.inner.messages.send(Message::Cancel(id));
    }

    /// The engine's figures.
    pub fn stats(&self) -> EngineStats {
        self.inner.shared.counters.snapshot()
    }

    /// The settings in force.
    pub fn config(&self) -> &EngineConfig {
        &self.inner.shared.config
    }

    /// Most tokens (prompt and answer) a sequence may have.
    pub fn context_limit(&self) -> usize {
        self.inner.shared.limits.context
    }

    /// Whether requests are taken in.
    pub fn is_accepting(&self) -> bool {
        self.inner.shared.accepting.load(SeqCst)
    }

    /// Refuses new requests from now on and waits until all accepted ones have ended; those that have not after
    /// `deadline` are cancelled. Returns whether none had to be.
    ///
    /// Must not be called from a sink: it would wait for the thread it is on.
    pub fn drain(&self, deadline: Duration) -> bool {
        self.inner.shared.accepting.store(false, SeqCst);
        let (done, finished) = sync_channel(1);
        let until = Instant::now() + deadline.min(Duration::from_secs(365 * 24 * 3600));
        if self.inner.messages.send(Message::Drain { until, done }).is_err() {
            return true;
        }
        finished.recv().unwrap_or(true)
    }

    /// Cancels everything and stops the engine's thread; for a gentle end call [`Self::drain`] first.
    pub fn shutdown(self) {
        self.inner.shared.accepting.store(false, SeqCst);
        let _ = self.inner.messages.send(Message::Shutdown);
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread ended in a panic");
        }
    }
}
