//! Writes what is in the queue, several at a time, and deletes what is too old or too much.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use yantra_store::{Store, StoreError};

use super::trace::Pending;
use super::{Redactor, Traces};
use crate::app::App;
use crate::storage::{Storage, now};

/// Traces in one transaction.
const AT_ONCE: usize = 64;
/// How often it is looked whether there are too many.
const TIDY_INTERVAL: Duration = Duration::from_secs(2);
/// How often it is told that traces can not be written.
const TELL_INTERVAL: Duration = Duration::from_secs(60);
/// How long the last ones may take when the server stops.
const LAST_WRITES: Duration = Duration::from_secs(3);

/// The task that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    traces: Traces,
    task: JoinHandle<()>,
}

impl Writer {
    /// Begins to write, if traces are kept.
    pub(crate) fn start(app: &App, receiver: Receiver<Pending>) -> Option<Self> {
        let (traces, storage) = (app.traces()?.clone(), app.storage()?.clone());
        let patterns = Arc::clone(&traces.inner.config.redact);
        let configured = (!patterns.is_empty()).then_some(patterns as Arc<dyn Redactor>);
        let hook = app.hooks().redactor.clone();
        let redactors = hook.into_iter().chain(configured).collect();
        let work = Work { traces: traces.clone(), storage, redactors, told: None };
        Some(Self { traces, task: tokio::spawn(work.run(receiver)) })
    }

    /// Takes no more, and writes what is on its way.
    pub(crate) async fn finish(mut self) {
        self.traces.close();
        if timeout(LAST_WRITES, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the last traces could not be written in time");
        }
    }
}

struct Work {
    traces: Traces,
    storage: Storage,
    redactors: Arc<[Arc<dyn Redactor>]>,
    /// When it was last told that something fails.
    told: Option<Instant>,
}

impl Work {
    async fn run(mut self, mut receiver: Receiver<Pending>) {
        let mut tidy = interval(TIDY_INTERVAL);
        tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending = Vec::new();
        loop {
            let count = tokio::select! {
                count = receiver.recv_many(&mut pending, AT_ONCE) => count,
                _ = tidy.tick() => {
                    self.prune().await;
                    continue;
                }
            };
            // None are left, and no more will come.
            if count == 0 {
                return;
            }
            self.write(std::mem::take(&mut pending)).await;
        }
    }

    async fn write(&mut self, pending: Vec<Pending>) {
        let (redactors, count) = (Arc::clone(&self.redactors), pending.len() as u64);
        let write = move |store: &Store| {
            let redacted = pending.into_iter().map(|one| one.redacted(&redactors));
            // Those that are not JSON after all are none of ours: both sides have been written by `serde_json`.
            let traces: Vec<_> = redacted.filter_map(Result::ok).collect();
            store.add_traces(&traces)?;
            Ok(traces.len() as u64)
        };
        let written = self.attempt(write).await.unwrap_or(0);
        let counters = self.traces.counters();
        counters.written.fetch_add(written, Relaxed);
        counters.dropped_failed.fetch_add(count - written, Relaxed);
    }

    async fn prune(&mut self) {
        let config = &self.traces.inner.config;
        let before_ms = now().saturating_sub(config.retention.as_secs()) * 1000;
        let max_bytes = config.max_bytes;
        while self.attempt(move |store| store.prune_traces(before_ms, max_bytes)).await.is_some_and(|some| some > 0) {}
    }

    /// Does something with the store. That it fails is told now and then, not each time.
    async fn attempt<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<T> {
        match self.storage.attempt(work).await? {
            Ok(done) => Some(done),
            Err(error) => {
                if self.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
                    self.told = Some(Instant::now());
                    tracing::error!(%error, "traces can not be kept; requests go on without");
                }
                None
            }
        }
    }
}
