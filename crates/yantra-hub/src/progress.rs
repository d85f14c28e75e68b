//! How a download tells of itself.

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Bytes come over the network and are unpacked.
    Downloading,
    /// Files on disk are held against their SHA-256.
    Verifying,
}

/// Where a download stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProgressUpdate<'a> {
    /// What is being done.
    pub phase: Phase,
    /// The package or file it is being done to.
    pub item: &'a str,
    /// Bytes done in this phase; of a package not yet unpacked, as many as have arrived.
    pub bytes_done: u64,
    /// Bytes to do in this phase, or 0 if that is not known.
    pub bytes_total: u64,
}

/// Someone who watches a download and may stop it.
pub trait Progress: Send + Sync {
    /// Called several times a second.
    fn update(&self, update: &ProgressUpdate<'_>);

    /// Whether to stop at the next chance. What is done is kept, and the next pull goes on from there.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn update(&self, _: &ProgressUpdate<'_>) {}
}
