//! Has the items of all open batches answered, a bounded number at the same time; batches take turns.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use yantra_api::ApiError;
use yantra_store::{Batch, BatchStatus, Item, ItemState};

use super::finish::finish;
use super::item::{Answer, answer};
use super::validate::validate;
use crate::app::{self, App};
use crate::shutdown::{Stage, reached};
use crate::storage::{Storage, now};

/// How long a batch pauses whose items are to be tried again, and after a failure of the store.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(30);
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// How often an item is tried whose answer takes too long.
const MAX_TRIES: u32 = 3;
/// After the engines have ended, how long the last answers may take to the store.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The batches of a running server.
#[derive(Debug)]
pub(crate) struct Batches(JoinHandle<()>);

/// Goes on with whatever is open, if the server has a state directory.
pub(crate) fn start(app: &App) -> Option<Batches> {
    let storage = app.storage()?.clone();
    let places = Arc::new(Semaphore::new(app.config().batch_concurrency));
    let worker = Worker { app: app.clone(), router: app::bulk_router(app), storage, places };
    Some(Batches(tokio::spawn(worker.run())))
}

impl Batches {
    /// Waits for the answers that are under way. What is not answered by then is asked again at the next start.
    pub(crate) async fn finish(mut self) {
        if timeout(LAST_WORDS, &mut self.0).await.is_err() {
            self.0.abort();
        }
    }
}

/// What all batches share; cheap to clone.
#[derive(Debug, Clone)]
struct Worker {
    app: App,
    router: Router,
    storage: Storage,
    /// For items; whoever has waited longest is next.
    places: Arc<Semaphore>,
}

/// Why work on a batch's items stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Done,
    Expired,
    /// The batch is not in progress any more.
    Changed,
    Draining,
}

/// What is left of a batch's items.
#[derive(Debug, Default)]
struct Left {
    /// All up to this line have been begun.
    begun: u64,
    is_end: bool,
    /// Lines that are to be tried again.
    again: VecDeque<u64>,
    /// By line: how often its answer took too long.
    too_late: HashMap<u64, u32>,
}

/// How an item's task ended.
#[derive(Debug)]
enum Ran {
    Stored,
    Again { line: u64, wait: Duration, was_late: bool },
}

impl Worker {
    /// Works until the server stops.
    async fn run(self) {
        let (mut changes, mut stage) = (self.storage.watch_batches(), self.app.stage());
        let (mut tasks, mut running) = (JoinSet::new(), HashSet::new());
        loop {
            match self.storage.run(|store| store.open_batches()).await {
                Ok(open) => {
                    for (id, _) in open {
                        if running.insert(id.clone()) {
                            let worker = self.clone();
                            tasks.spawn(async move {
                                worker.work_on(&id).await;
                                id
                            });
                        }
                    }
                }
                // The store has logged it.
                Err(_) => sleep(AFTER_FAILURE).await,
            }
            tokio::select! {
                () = reached(&mut stage, Stage::Draining) => break,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => match ended {
                    Ok(id) => _ = running.remove(&id),
                    Err(error) => tracing::error!(%error, "work on a batch ended in a panic"),
                },
                _ = changes.changed() => {}
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Brings a batch to its end, or as far as it comes until the server stops.
    async fn work_on(&self, id: &str) {
        let mut stage = self.app.stage();
        while *stage.borrow() < Stage::Draining {
            match self.step(id).await {
                Ok(true) => {}
                Ok(false) => return,
                // The store has logged it.
                Err(_) => tokio::select! {
                    () = sleep(AFTER_FAILURE) => {}
                    () = reached(&mut stage, Stage::Draining) => {}
                },
            }
        }
    }

    /// Does what is next for a batch. Returns whether something comes after that.
    async fn step(&self, id: &str) -> Result<bool, ApiError> {
        let name = id.to_owned();
        let Some(batch) = self.storage.run(move |store| store.any_batch(&name)).await? else { return Ok(false) };
        match batch.status {
            BatchStatus::Validating => self.storage.run(move |store| validate(store, &batch)).await?,
            BatchStatus::InProgress => match self.run_items(&batch).await {
                Stop::Draining => return Ok(false),
                Stop::Changed => {}
                Stop::Expired => self.storage.run(move |store| finish(store, &batch)).await?,
                Stop::Done => _ = self.storage.run(move |store| store.finalize_batch(&batch.id, now())).await?,
            },
            BatchStatus::Finalizing | BatchStatus::Cancelling => {
                self.storage.run(move |store| finish(store, &batch)).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Has a batch's items answered, then waits for those that are under way.
    async fn run_items(&self, batch: &Batch) -> Stop {
        let mut running = JoinSet::new();
        let stop = self.begin_items(batch, &mut running).await;
        while running.join_next().await.is_some() {}
        stop
    }

    async fn begin_items(&self, batch: &Batch, running: &mut JoinSet<Ran>) -> Stop {
        let (mut changes, mut stage) = (self.storage.watch_batches(), self.app.stage());
        let until = Instant::now() + Duration::from_secs(batch.task.expires_at.saturating_sub(now()));
        let task = Arc::new(batch.clone());
        let mut left = Left::default();
        let mut pause: Option<Instant> = None;
        // What has changed before this is seen here.
        if !self.is_in_progress(&batch.id).await {
            return Stop::Changed;
        }
        loop {
            let has_more = !left.is_end || !left.again.is_empty();
            if !has_more && running.is_empty() {
                return Stop::Done;
            }
            if Instant::now() >= until {
                return Stop::Expired;
            }
            let paused = pause.unwrap_or(until);
            tokio::select! {
                Some(ended) = running.join_next(), if !running.is_empty() => match ended {
                    Ok(Ran::Stored) => {}
                    Ok(Ran::Again { line, wait, was_late }) => {
                        left.again.push_back(line);
                        *left.too_late.entry(line).or_default() += u32::from(was_late);
                        let resume = Instant::now() + wait.clamp(MIN_PAUSE, MAX_PAUSE);
                        pause = Some(pause.map_or(resume, |pause| pause.max(resume)));
                    }
                    Err(error) => tracing::error!(%error, "an item's task ended in a panic"),
                },
                Ok(place) = Arc::clone(&self.places).acquire_owned(), if has_more && pause.is_none() => {
                    match self.next_item(&batch.id, &mut left).await {
                        Ok(Some(item)) => {
                            let is_last_try = left.too_late.get(&item.line).is_some_and(|tries| *tries + 1 >= MAX_TRIES);
                            running.spawn(self.clone().run_item(Arc::clone(&task), item, is_last_try, place));
                        }
                        Ok(None) => {}
                        // The store has logged it.
                        Err(_) => pause = Some(Instant::now() + AFTER_FAILURE),
                    }
                }
                () = sleep_until(paused), if pause.is_some() => pause = None,
                () = sleep_until(until) => return Stop::Expired,
                _ = changes.changed() => if !self.is_in_progress(&batch.id).await { return Stop::Changed },
                () = reached(&mut stage, Stage::Draining) => return Stop::Draining,
            }
        }
    }

    /// Whether it still is; also where the store fails, as the next step will see.
    async fn is_in_progress(&self, id: &str) -> bool {
        let name = id.to_owned();
        match self.storage.run(move |store| store.any_batch(&name)).await {
            Ok(batch) => batch.is_some_and(|batch| batch.status == BatchStatus::InProgress),
            Err(_) => true,
        }
    }

    /// The next item to begin: those that are new first.
    async fn next_item(&self, batch: &str, left: &mut Left) -> Result<Option<Item>, ApiError> {
        let find = |after| {
            let name = batch.to_owned();
            self.storage.run(move |store| store.pending_item(&name, after))
        };
        if !left.is_end {
            if let Some(item) = find(left.begun).await? {
                left.begun = item.line;
                return Ok(Some(item));
            }
            left.is_end = true;
        }
        let Some(&line) = left.again.front() else { return Ok(None) };
        let item = find(line.saturating_sub(1)).await?.filter(|item| item.line == line);
        left.again.pop_front();
        Ok(item)
    }

    /// Has an item answered and writes the answer down.
    async fn run_item(self, batch: Arc<Batch>, item: Item, is_last_try: bool, place: OwnedSemaphorePermit) -> Ran {
        let owner = batch.task.owner.as_deref();
        let answer = answer(&self.app, self.router.clone(), owner, &batch.task.endpoint, &item).await;
        let again = |wait, was_late| Ran::Again { line: item.line, wait, was_late };
        let (response, is_well) = match answer {
            Answer::Line(response, is_well) => (response, is_well),
            Answer::Again(wait) => return again(wait, false),
            Answer::TooLate(_) if !is_last_try => return again(Duration::ZERO, true),
            Answer::TooLate(response) => (response, false),
        };
        let state = if is_well { ItemState::Completed } else { ItemState::Failed };
        let response: Arc<str> = response.into();
        let mut stage = self.app.stage();
        loop {
            let (batch, response) = (Arc::clone(&batch), Arc::clone(&response));
            let stored = self.storage.run(move |store| store.finish_item(&batch.id, item.line, state, &response)).await;
            if stored.is_ok() {
                drop(place);
                return Ran::Stored;
            }
            // A disk that is full now may not be later; the answer was worth more than the wait.
            tokio::select! {
                () = sleep(AFTER_FAILURE) => {}
                () = reached(&mut stage, Stage::Draining) => return again(Duration::ZERO, false),
            }
        }
    }
}
