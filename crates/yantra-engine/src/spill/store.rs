//! The directory and the thread that reads and writes it.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use super::{
    PageIdentity, PageKey, ReadDone, ReadRequest,
    index::{self, Index},
    queue::{Queue, Work, WriteRequest},
    record,
};

/// Bytes of pages that may wait to be written; beyond them pages are dropped.
const WRITE_QUEUE_BYTES: usize = 32 << 20;

/// Buffers kept for the next pages.
const SPARE_BYTES: usize = 32 << 20;

/// A directory can not be used for spilled pages.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// Another process, or another store of this one, has it.
    #[error("the directory {} for spilled pages is in use by another process: give each its own", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// It can not be made, read or written.
    #[error("can not use the directory {} for spilled pages: {error}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The thread could not be started.
    #[error("could not start the thread for spilled pages: {0}")]
    Spawn(#[source] io::Error),
    /// The limit does not hold a single page.
    #[error("a limit of {limit} bytes for spilled pages is less than one page, which has {page} bytes")]
    Limit {
        /// The limit given.
        limit: u64,
        /// Bytes of one page's file.
        page: u64,
    },
}

/// Pages on disk, shared by all engines of a process. Dropping it finishes what waits to be written.
#[derive(Debug)]
pub struct SpillStore {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A store's figures. Counters count from its opening.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct SpillStoreStats {
    /// Pages on disk (gauge).
    pub pages: u64,
    /// Their bytes (gauge).
    pub bytes: u64,
    /// Most bytes there may be.
    pub limit_bytes: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Pages deleted to keep the limit.
    pub pages_deleted: u64,
    /// Pages that could not be written.
    pub write_failures: u64,
    /// Pages that could not be read, or did not hold what they should.
    pub read_failures: u64,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    limit: u64,
    queue: Mutex<Queue>,
    wake: Condvar,
    index: Mutex<Index>,
    spare: Mutex<Vec<Vec<u8>>>,
    pages_written: AtomicU64,
    pages_deleted: AtomicU64,
    write_failures: AtomicU64,
    read_failures: AtomicU64,
    warned_of_write: AtomicBool,
    warned_of_read: AtomicBool,
    /// Held for its lock.
    _lock: File,
}

impl SpillStore {
    /// Bytes of pages that one engine may be reading.
    pub(crate) const READ_AHEAD_BYTES: usize = 32 << 20;
    /// Memory that the buffers of a store and an engine may take.
    pub const BUFFER_BYTES: usize = WRITE_QUEUE_BYTES + SPARE_BYTES + Self::READ_AHEAD_BYTES;

    /// Opens a directory, making it if need be, and finds the pages in it; pages beyond the limit are deleted.
    ///
    /// # Errors
    /// The directory can not be made, read or written, or another process has it.
    pub fn open(directory: &Path, limit_bytes: u64) -> Result<Self, SpillError> {
        let failed = |error| SpillError::Directory { directory: directory.to_owned(), error };
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        // Pages hold what people wrote: nobody else may read them.
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(directory).map_err(failed)?;
        let lock = File::create(directory.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SpillError::InUse { directory: directory.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let shared = Arc::new(Shared {
            index: Mutex::new(Index::read(directory).map_err(failed)?),
            directory: directory.to_owned(),
            limit: limit_bytes,
            queue: Mutex::default(),
            wake: Condvar::new(),
            spare: Mutex::default(),
            pages_written: AtomicU64::new(0),
            pages_deleted: AtomicU64::new(0),
            write_failures: AtomicU64::new(0),
            read_failures: AtomicU64::new(0),
            warned_of_write: AtomicBool::new(false),
            warned_of_read: AtomicBool::new(false),
            _lock: lock,
        });
        shared.delete_beyond(limit_bytes);
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("yantra-spill".to_owned()).spawn(move || own.work());
        Ok(Self { shared, thread: Some(thread.map_err(SpillError::Spawn)?) })
    }

    /// Checks that pages of this size fit.
    ///
    /// # Errors
    /// [`SpillError::Limit`] if not a single one does.
    pub fn check_page(&self, num_tokens: usize, num_bytes: usize) -> Result<(), SpillError> {
        let page = record::file_bytes(num_tokens, num_bytes);
        if page > self.shared.limit { Err(SpillError::Limit { limit: self.shared.limit, page }) } else { Ok(()) }
    }

    /// Whether the page is on disk, or about to be.
    pub fn contains(&self, key: &PageKey) -> bool {
        self.is_on_disk(key) || lock(&self.shared.queue).is_pending(key)
    }

    /// Whether the page can be read.
    pub fn is_on_disk(&self, key: &PageKey) -> bool {
        lock(&self.shared.index).contains(key)
    }

    /// These pages are wanted: they are the last to be deleted, the first of them the very last, because the others are
    /// of no use without it.
    pub fn touch(&self, pages: &[PageIdentity]) {
        let mut index = lock(&self.shared.index);
        pages.iter().rev().for_each(|page| index.touch(&page.key));
    }

    /// Whether a page of so many bytes would be taken by [`Self::write`] now.
    pub fn has_room_to_wait(&self, num_bytes: usize) -> bool {
        let waiting = lock(&self.shared.queue).pending_bytes();
        waiting == 0 || waiting + num_bytes <= WRITE_QUEUE_BYTES
    }

    /// Whether so many more bytes fit without deleting any page.
    pub fn has_free_space(&self, num_bytes: usize) -> bool {
        let waiting = lock(&self.shared.queue).pending_bytes();
        lock(&self.shared.index).bytes() + (waiting + 2 * num_bytes) as u64 <= self.shared.limit
    }

    /// Queues a page to be written; when too much waits already, the page is dropped and the answer is `false`.
    pub fn write(&self, page: PageIdentity, bytes: Vec<u8>) -> bool {
        if !self.has_room_to_wait(bytes.len()) {
            self.recycle(bytes);
            return false;
        }
        lock(&self.shared.queue).push_write(WriteRequest { page, bytes });
        self.shared.wake.notify_one();
        true
    }

    /// Queues pages to be read; they go before those to be written.
    pub(crate) fn read(&self, request: ReadRequest) {
        lock(&self.shared.queue).push_read(request);
        self.shared.wake.notify_one();
    }

    /// A buffer for a page, empty.
    pub fn buffer(&self) -> Vec<u8> {
        lock(&self.shared.spare).pop().unwrap_or_default()
    }

    /// Gives a buffer back.
    pub fn recycle(&self, bytes: Vec<u8>) {
        self.shared.recycle(bytes);
    }

    /// Waits until everything queued to be written is, or the deadline is over; says which.
    pub fn flush(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        while lock(&self.shared.queue).pending_bytes() > 0 {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// The store's figures.
    pub fn stats(&self) -> SpillStoreStats {
        let shared = &self.shared;
        let index = lock(&shared.index);
        SpillStoreStats {
            pages: index.len() as u64,
            bytes: index.bytes(),
            limit_bytes: shared.limit,
            pages_written: shared.pages_written.load(Relaxed),
            pages_deleted: shared.pages_deleted.load(Relaxed),
            write_failures: shared.write_failures.load(Relaxed),
            read_failures: shared.read_failures.load(Relaxed),
        }
    }
}

impl Drop for SpillStore {
    fn drop(&mut self) {
        lock(&self.shared.queue).closing = true;
        self.shared.wake.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread for spilled pages ended in a panic");
        }
    }
}

impl Shared {
    /// The thread's life.
    fn work(&self) {
        loop {
            let mut queue = lock(&self.queue);
            let work = loop {
                match queue.pop() {
                    Some(work) => break work,
                    None if queue.closing => return,
                    None => queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(queue);
            match work {
                Work::Read(request) => self.read(request),
                Work::Write(request) => {
                    self.write(&request);
                    lock(&self.queue).written(&request);
                    self.recycle(request.bytes);
                }
            }
        }
    }

    fn write(&self, request: &WriteRequest) {
        let WriteRequest { page, bytes } = request;
        let size = record::file_bytes(page.tokens.len(), bytes.len());
        if size > self.limit || lock(&self.index).contains(&page.key) {
            return;
        }
        self.delete_beyond(self.limit - size);
        let path = index::page_path(&self.directory, &page.key);
        let temporary = index::temporary_path(&self.directory, &page.key);
        match record::write(&path, &temporary, page, bytes) {
            Ok(()) => {
                lock(&self.index).insert(page.key, size);
                self.pages_written.fetch_add(1, Relaxed);
            }
            Err(error) => {
                self.write_failures.fetch_add(1, Relaxed);
                if !self.warned_of_write.swap(true, Relaxed) {
                    let path = path.display();
                    tracing::warn!(%path, %error, "a page could not be spilled; further failures are only counted");
                }
            }
        }
    }

    fn read(&self, request: ReadRequest) {
        let start = Instant::now();
        let ReadRequest { job, first, pages: wanted, asked, num_bytes, reply } = request;
        let mut pages = Vec::with_capacity(wanted.len());
        for (place, page) in wanted.iter().enumerate() {
            // A page is never taken for older than one that continues it.
            let used = asked - Duration::from_micros((first + place) as u64);
            match self.read_page(page, num_bytes, used) {
                Some(bytes) => pages.push(bytes),
                None => break,
            }
        }
        let complete = pages.len() == wanted.len();
        // An engine that is gone needs no answer.
        let _ = reply.send(ReadDone { job, first, pages, complete, took: start.elapsed() });
    }

    /// A page's bytes, if they are there and right. Files that are not are deleted.
    fn read_page(&self, page: &PageIdentity, num_bytes: usize, used: SystemTime) -> Option<Vec<u8>> {
        if !lock(&self.index).contains(&page.key) {
            return None;
        }
        let path = index::page_path(&self.directory, &page.key);
        let mut bytes = lock(&self.spare).pop().unwrap_or_default();
        let outcome = File::open(&path).and_then(|mut file| {
            record::read(&mut file, page, num_bytes, &mut bytes)?;
            // The order of use after a restart; no harm where it can not be noted.
            let _ = file.set_modified(used);
            Ok(())
        });
        match outcome {
            Ok(()) => Some(bytes),
            Err(error) => {
                self.recycle(bytes);
                lock(&self.index).remove(&page.key);
                if error.kind() != ErrorKind::NotFound {
                    let _ = fs::remove_file(&path);
                }
                self.read_failures.fetch_add(1, Relaxed);
                if !self.warned_of_read.swap(true, Relaxed) {
                    let path = path.display();
                    tracing::warn!(
                        %path, %error,
                        "a spilled page can not be used and is computed again; further ones are only counted"
                    );
                }
                None
            }
        }
    }

    /// Deletes the pages used longest ago until the others have at most `most` bytes.
    fn delete_beyond(&self, most: u64) {
        loop {
            let oldest = {
                let mut index = lock(&self.index);
                if index.bytes() <= most {
                    return;
                }
                index.pop_oldest()
            };
            let Some(key) = oldest else { return };
            // A file that is not there takes no space either.
            let _ = fs::remove_file(index::page_path(&self.directory, &key));
            self.pages_deleted.fetch_add(1, Relaxed);
        }
    }

    fn recycle(&self, bytes: Vec<u8>) {
        let mut spare = lock(&self.spare);
        let kept: usize = spare.iter().map(Vec::capacity).sum();
        if kept + bytes.capacity() <= SPARE_BYTES {
            spare.push(bytes);
        }
    }
}

/// What a lock guards; the thread that panicked left it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
