//! Splitting a buffer over the pool: disjoint chunks handed to tasks as ordinary mutable slices.

use crate::Compute;
use std::marker::PhantomData;

/// Below this many values a row operation is done by the caller: a fork costs about as much as this many values.
pub(crate) const FORK_THRESHOLD: usize = 16 * 1024;

/// A mutable slice that several tasks write disjoint parts of.
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are only handed out by `slice`, whose caller promises that they are disjoint.
#[expect(unsafe_code, reason = "see above")]
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// Where value `index` is, or would be, in memory.
    pub(crate) fn address(&self, index: usize) -> *const T {
        self.start.wrapping_add(index)
    }

    /// The part `start..start + len`; panics when it is out of bounds.
    ///
    /// # Safety
    /// No two parts that live at the same time overlap.
    #[expect(unsafe_code, clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds by the check, unaliased by the caller's promise, alive for 'a.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// Runs `task(first_row, rows)` over `num_rows` rows of `width` values, in contiguous groups of rows over the pool.
///
/// How rows are grouped depends on the thread count, so a task must treat rows one by one.
pub fn for_each_row_group<T: Send>(
    cx: &Compute,
    data: &mut [T],
    width: usize,
    work_per_row: usize,
    task: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    if width == 0 || data.is_empty() {
        return;
    }
    let num_rows = data.len() / width;
    let groups = (num_rows * work_per_row / (FORK_THRESHOLD / 2)).min(cx.num_threads() * 4).min(num_rows);
    if groups <= 1 || num_rows * work_per_row < FORK_THRESHOLD {
        task(0, data);
        return;
    }
    let shared = SharedSlice::new(data);
    cx.run(groups, &|group| {
        let (first, end) = (group * num_rows / groups, (group + 1) * num_rows / groups);
        // SAFETY: groups cover disjoint ranges of rows.
        #[expect(unsafe_code, reason = "disjoint by construction")]
        let rows = unsafe { shared.slice(first * width, (end - first) * width) };
        task(first, rows);
    });
}
