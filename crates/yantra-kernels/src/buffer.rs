//! Aligned memory in huge pages, for packed weights, of which small ones share a page, and for keys and values.
//!
//! Decoding reads every weight once per token, so most reads miss the translation buffer of small pages: huge ones read a
//! third faster with one thread. A matrix of a small model is smaller than a huge page, therefore matrices are cut from
//! chunks that each hold many; a chunk is given back when the last of its matrices is dropped.
#![expect(unsafe_code, reason = "memory mapped by hand")]

use crate::KernelError;
#[cfg(unix)]
use std::os::fd::AsRawFd;
use std::{
    alloc::Layout,
    fs::File,
    io,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError, Weak},
};

const CACHE_LINE: usize = 64;
/// Where memory starts on a boundary of it, Linux can back it with a huge page.
const HUGE_PAGE: usize = 2 << 20;
/// What matrices are cut from, unless they are larger themselves. Only what is touched takes memory.
const CHUNK: usize = 32 * HUGE_PAGE;

/// A fixed-size byte buffer that starts on a cache line.
pub(crate) struct Buffer {
    chunk: Arc<Chunk>,
    start: usize,
    len: usize,
}

/// The chunk that the next buffers are cut from, and how much of it is taken.
static CURRENT: Mutex<(Weak<Chunk>, usize)> = Mutex::new((Weak::new(), 0));

impl Buffer {
    /// Zeroed memory. It is zeroed by the kernel when first touched, so touch it from many threads.
    pub(crate) fn zeroed(len: usize, what: &'static str) -> Result<Self, KernelError> {
        let error = KernelError::OutOfMemory { bytes: len, what };
        let taken = len.checked_next_multiple_of(CACHE_LINE).ok_or(error.clone())?;
        // A panic leaves the pair as consistent as it was.
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chunk) = current.0.upgrade().filter(|chunk| taken <= chunk.len - current.1) {
            let start = current.1;
            current.1 += taken;
            return Ok(Self { chunk, start, len });
        }
        let chunk = Arc::new(Chunk::new(taken.max(CHUNK)).ok_or(error)?);
        if taken < CHUNK {
            *current = (Arc::downgrade(&chunk), taken);
        }
        Ok(Self { chunk, start: 0, len })
    }

    /// Zeroed memory of its own, given back when it is dropped. The system provides a huge page when it is first touched.
    pub(crate) fn lazily_zeroed(len: usize, what: &'static str) -> Result<Self, KernelError> {
        let chunk = Chunk::new(len.max(1)).ok_or(KernelError::OutOfMemory { bytes: len, what })?;
        Ok(Self { chunk: Arc::new(chunk), start: 0, len })
    }

    /// Bytes of a file from a page of it on, for reading only: they take memory while they are used and there is room.
    pub(crate) fn of_file(file: &File, start: u64, len: usize) -> io::Result<Self> {
        Ok(Self { chunk: Arc::new(Chunk::of_file(file, start, len)?), start: 0, len })
    }

    /// Has the system read what it maps of a file, without waiting for it.
    pub(crate) fn will_need(&self) {
        #[cfg(unix)]
        // SAFETY: the mapping is this buffer's; advice changes no byte of it.
        unsafe {
            libc::madvise(self.chunk.start.as_ptr().cast(), self.chunk.len, libc::MADV_WILLNEED);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.chunk.start.as_ptr().wrapping_add(self.start)
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: this part of the chunk is this buffer's alone, and zeroed at allocation.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: this part of the chunk is this buffer's alone, and zeroed at allocation.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.start.as_ptr().add(self.start), self.len) }
    }
}

/// Memory mapped at once: whole huge pages.
struct Chunk {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a chunk owns its memory; buffers have parts of it that do not overlap.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(len: usize) -> Option<Self> {
        let len = len.checked_next_multiple_of(HUGE_PAGE)?;
        let layout = Layout::from_size_align(len, HUGE_PAGE).ok()?;
        // SAFETY: the size is not zero.
        NonNull::new(unsafe { Self::allocate(layout) }).map(|start| Self { start, len })
    }

    #[cfg(unix)]
    fn of_file(file: &File, start: u64, len: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(start).map_err(io::Error::other)?;
        // SAFETY: a new mapping for reading of a file without a name, which no other process can cut.
        let mapped = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), offset)
        };
        match NonNull::new(mapped.cast()) {
            Some(start) if mapped != libc::MAP_FAILED => Ok(Self { start, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    #[cfg(not(unix))]
    fn of_file(_: &File, _: u64, _: usize) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg(unix)]
    unsafe fn allocate(layout: Layout) -> *mut u8 {
        // Mapped by hand: `alloc_zeroed` clears over-aligned memory at once, in this thread, page by small page.
        let Some(size) = layout.size().checked_add(HUGE_PAGE) else { return std::ptr::null_mut() };
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: a new private mapping; the parts outside of the aligned middle are given back; advice is only advice.
        unsafe {
            let mapped = libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0);
            if mapped == libc::MAP_FAILED {
                return std::ptr::null_mut();
            }
            let before = mapped.align_offset(HUGE_PAGE);
            let start = mapped.cast::<u8>().add(before);
            if before > 0 {
                libc::munmap(mapped, before);
            }
            libc::munmap(start.add(layout.size()).cast(), HUGE_PAGE - before);
            #[cfg(target_os = "linux")]
            libc::madvise(start.cast(), layout.size(), libc::MADV_HUGEPAGE);
            start
        }
    }

    #[cfg(not(unix))]
    unsafe fn allocate(layout: Layout) -> *mut u8 {
        // SAFETY: the caller passes a size that is not zero.
        unsafe { std::alloc::alloc_zeroed(layout) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        #[cfg(unix)]
        // SAFETY: mapped with this length, not used again.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.len);
        }
        #[cfg(not(unix))]
        if let Ok(layout) = Layout::from_size_align(self.len, HUGE_PAGE) {
            // SAFETY: allocated with this layout, not used again.
            unsafe { std::alloc::dealloc(self.start.as_ptr(), layout) };
        }
    }
}
