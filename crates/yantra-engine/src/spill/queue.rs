//! What waits for the store's thread: pages to be read, which go first, and pages to be written.

use std::{
    collections::{HashSet, VecDeque},
    sync::mpsc::Sender,
    time::{Duration, SystemTime},
};

use super::{PageIdentity, PageKey};

/// Pages to be read, in order.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    /// Whatever the asker calls it.
    pub(crate) job: u64,
    /// Place of the first of `pages` in the sequence that wants them.
    pub(crate) first: usize,
    pub(crate) pages: Vec<PageIdentity>,
    /// When the whole sequence was asked for: the time of use that is written down.
    pub(crate) asked: SystemTime,
    /// Bytes of each page.
    pub(crate) num_bytes: usize,
    pub(crate) reply: Sender<ReadDone>,
}

/// What became of a [`ReadRequest`].
#[derive(Debug)]
pub(crate) struct ReadDone {
    pub(crate) job: u64,
    pub(crate) first: usize,
    /// The bytes of as many pages as could be read.
    pub(crate) pages: Vec<Vec<u8>>,
    /// Whether these are all.
    pub(crate) complete: bool,
    /// Time spent reading.
    pub(crate) took: Duration,
}

/// A page to be written.
#[derive(Debug)]
pub(super) struct WriteRequest {
    pub(super) page: PageIdentity,
    pub(super) bytes: Vec<u8>,
}

/// Work for the store's thread.
#[derive(Debug)]
pub(super) enum Work {
    Read(ReadRequest),
    Write(WriteRequest),
}

/// The waiting work.
#[derive(Debug, Default)]
pub(super) struct Queue {
    reads: VecDeque<ReadRequest>,
    writes: VecDeque<WriteRequest>,
    /// Pages that wait to be written or are being written.
    pending: HashSet<PageKey>,
    pending_bytes: usize,
    pub(super) closing: bool,
}

impl Queue {
    /// Bytes of pages that wait to be written or are being written.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    pub(super) fn is_pending(&self, key: &PageKey) -> bool {
        self.pending.contains(key)
    }

    pub(super) fn push_read(&mut self, request: ReadRequest) {
        self.reads.push_back(request);
    }

    pub(super) fn push_write(&mut self, request: WriteRequest) {
        self.pending_bytes += request.bytes.len();
        self.pending.insert(request.page.key);
        self.writes.push_back(request);
    }

    /// The next piece of work; a written page must be reported with [`Self::written`].
    pub(super) fn pop(&mut self) -> Option<Work> {
        let read = self.reads.pop_front().map(Work::Read);
        read.or_else(|| self.writes.pop_front().map(Work::Write))
    }

    pub(super) fn written(&mut self, request: &WriteRequest) {
        self.pending_bytes -= request.bytes.len();
        self.pending.remove(&request.page.key);
    }
}
