//! The state directory, from where nothing may block: its work is done on threads of its own, and whoever waits for
//! changes is told.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use yantra_api::ApiError;
use yantra_store::{Store, StoreError, UsageRow};

use crate::failure;

/// What outlives the server; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    store: Arc<Store>,
    batches: watch::Sender<()>,
}

impl Storage {
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        Ok(Self { store: Arc::new(Store::open(directory)?), batches: watch::Sender::new(()) })
    }

    /// What was used, as far as it is known; for the start.
    pub(crate) fn usage(&self) -> Result<Vec<UsageRow>, StoreError> {
        self.store.usage()
    }

    /// Does what may wait for the disk.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        match self.attempt(work).await {
            Some(result) => result.map_err(|error| failure::of_store(&error)),
            None => Err(ApiError::internal("the state directory could not be worked on")),
        }
    }

    /// The same, for those who deal with failures themselves; `None`: it ended in a panic.
    pub(crate) async fn attempt<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<Result<T, StoreError>> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.inspect_err(|error| tracing::error!(%error, "work on the state directory ended in a panic")).ok()
    }

    /// A batch has come, or is to end.
    pub(crate) fn batches_changed(&self) {
        self.batches.send_replace(());
    }

    /// Learns of [`Self::batches_changed`].
    pub(crate) fn watch_batches(&self) -> watch::Receiver<()> {
        self.batches.subscribe()
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
