//! Work that takes long, in bounded amounts: on threads of its own, so that it holds up no other request, and in lanes,
//! so that one kind of request does not starve another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use yantra_api::ApiError;

/// Kinds of work that do not wait for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Reading large bodies.
    Parse,
    /// Templates and tokens of requests that generate, and of `/tokenize`.
    Generate,
    /// Tokens of requests that embed.
    Embed,
}

/// How much of each kind may be under way.
#[derive(Debug)]
pub(crate) struct Lanes {
    parse: Arc<Semaphore>,
    generate: Arc<Semaphore>,
    embed: Arc<Semaphore>,
}

impl Default for Lanes {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let lane = |places: usize| Arc::new(Semaphore::new(places));
        Self { parse: lane(cores), generate: lane(cores.max(2)), embed: lane(cores.div_ceil(2)) }
    }
}

impl Lanes {
    /// Runs what may take long (a long text, a slow template) on a thread of its own, when its lane has room. A caller
    /// that goes away while it waits has never been.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        deadline: Instant,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let semaphore = match lane {
            Lane::Parse => &self.parse,
            Lane::Generate => &self.generate,
            Lane::Embed => &self.embed,
        };
        let place = timeout_at(deadline, Arc::clone(semaphore).acquire_owned()).await;
        let place = place.map_err(|_| ApiError::timeout("the request waited too long to be read"))?;
        let place = place.map_err(|_| ApiError::shutting_down())?;
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(place);
            result
        });
        match task.await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "a request's work ended in a panic");
                Err(ApiError::internal("the request could not be worked on"))
            }
        }
    }
}

/// Bytes of request bodies that may be held at the same time, over all requests.
#[derive(Debug)]
pub(crate) struct BodyBudget {
    held: AtomicUsize,
    limit: usize,
}

impl BodyBudget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), limit })
    }

    /// A share of nothing yet.
    pub(crate) fn share(self: &Arc<Self>) -> BodyShare {
        BodyShare { budget: Arc::clone(self), bytes: 0 }
    }
}

/// One request's part of the budget, for as long as what it read is held.
#[derive(Debug)]
pub(crate) struct BodyShare {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

impl BodyShare {
    /// Takes more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let BodyBudget { held, limit } = &*self.budget;
        let take = |held: usize| held.checked_add(bytes).filter(|held| held <= limit);
        match held.fetch_update(SeqCst, SeqCst, take) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => {
                let message = format!("the bodies of running requests fill the {limit} bytes there are for them");
                Err(ApiError::overloaded(message, 1))
            }
        }
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn shares_are_given_back() {
        let budget = BodyBudget::new(10);
        let (mut first, mut second) = (budget.share(), budget.share());
        first.grow(6).unwrap();
        assert_eq!(second.grow(5).unwrap_err().status, 429);
        second.grow(4).unwrap();
        drop(first);
        second.grow(6).unwrap();
        drop(second);
        assert_eq!(budget.held.load(SeqCst), 0);
    }
}
