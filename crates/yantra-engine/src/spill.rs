//! Cold pages on disk: full pages of the prefix tree that were given up, to be loaded instead of computed again.
//!
//! A page is found by its [`PageKey`], a SHA-256 chained from the model's fingerprint over all tokens up to the page's
//! last, so that one directory serves several models and outlives the process. Each page is a file of its own with its
//! tokens and a checksum: what does not agree with both is computed again and never used. The directory is bounded; the
//! pages used longest ago are deleted first.
//!
//! All reading and writing happens on the store's own thread. Pages wait for it in a bounded queue, and one that finds
//! the queue full is dropped: the engine never waits for a disk.

mod fingerprint;
mod index;
mod key;
mod queue;
mod record;
mod store;

pub use fingerprint::fingerprint;
pub use key::{PageIdentity, PageKey};
pub(crate) use queue::{ReadDone, ReadRequest};
pub use store::{SpillError, SpillStore, SpillStoreStats};

use std::sync::Arc;

/// Where a model's cold pages go.
#[derive(Debug, Clone)]
pub struct Spill {
    /// The directory, shared by all models of the process.
    pub store: Arc<SpillStore>,
    /// What tells this model's pages from those of others: see [`fingerprint`].
    pub fingerprint: PageKey,
}
