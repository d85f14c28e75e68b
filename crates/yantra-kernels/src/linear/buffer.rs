//! Aligned memory for packed weights and scratch: cache-line aligned, huge pages for what is large.
#![expect(unsafe_code, reason = "an allocation of its own alignment")]

use crate::KernelError;
use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    ptr::NonNull,
};

const CACHE_LINE: usize = 64;
/// Where a buffer of at least this size starts on a boundary of it, Linux can back it with huge pages.
const HUGE_PAGE: usize = 2 << 20;

/// A fixed-size byte buffer.
pub(super) struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a buffer owns its memory and has no interior mutability.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(super) const fn empty() -> Self {
        Self { start: NonNull::dangling(), len: 0 }
    }

    /// Zeroed memory. Large buffers are zeroed by the kernel when first touched, so touch them from many threads.
    pub(super) fn zeroed(len: usize, what: &'static str) -> Result<Self, KernelError> {
        if len == 0 {
            return Ok(Self::empty());
        }
        let error = KernelError::OutOfMemory { bytes: len, what };
        let Some(layout) = Self::layout(len) else { return Err(error) };
        // SAFETY: the size is not zero.
        let start = unsafe { Self::allocate(layout) };
        NonNull::new(start).map(|start| Self { start, len }).ok_or(error)
    }

    fn layout(len: usize) -> Option<Layout> {
        let align = if len >= HUGE_PAGE { HUGE_PAGE } else { CACHE_LINE };
        Layout::from_size_align(len, align).ok()
    }

    #[cfg(target_os = "linux")]
    unsafe fn allocate(layout: Layout) -> *mut u8 {
        if layout.align() < HUGE_PAGE {
            // SAFETY: the caller passes a size that is not zero.
            return unsafe { alloc_zeroed(layout) };
        }
        // Mapped by hand: `alloc_zeroed` clears over-aligned memory in this thread, page by small page.
        let size = layout.size().next_multiple_of(HUGE_PAGE) + HUGE_PAGE;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
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
            libc::munmap(start.add(size - HUGE_PAGE).cast(), HUGE_PAGE - before);
            libc::madvise(start.cast(), size - HUGE_PAGE, libc::MADV_HUGEPAGE);
            start
        }
    }

    #[cfg(not(target_os = "linux"))]
    unsafe fn allocate(layout: Layout) -> *mut u8 {
        // SAFETY: the caller passes a size that is not zero.
        unsafe { alloc_zeroed(layout) }
    }

    #[cfg(target_os = "linux")]
    unsafe fn free(start: *mut u8, layout: Layout) {
        // SAFETY: the caller passes what `allocate` returned for this layout.
        unsafe {
            if layout.align() < HUGE_PAGE {
                dealloc(start, layout);
            } else {
                libc::munmap(start.cast(), layout.size().next_multiple_of(HUGE_PAGE));
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    unsafe fn free(start: *mut u8, layout: Layout) {
        // SAFETY: the caller passes what `allocate` returned for this layout.
        unsafe { dealloc(start, layout) }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: owned, zeroed at allocation.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (1.., Some(layout)) = (self.len, Self::layout(self.len)) {
            // SAFETY: allocated with this layout, not used again.
            unsafe { Self::free(self.start.as_ptr(), layout) };
        }
    }
}
