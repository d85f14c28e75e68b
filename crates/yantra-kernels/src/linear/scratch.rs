//! Per-thread scratch that grows once, and how tokens are cut into register blocks.

use std::cell::RefCell;

/// Tiles that the many-token kernels take at once.
pub(super) const UNIT_TILES: usize = 2;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

const LINE_BYTES: usize = size_of::<Line>();

thread_local! {
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static VALUES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Scratch of unspecified content.
pub(super) struct Scratch<'a> {
    /// Starts on a cache line.
    pub(super) panel: &'a mut [u8],
    pub(super) acc: &'a mut [f32],
}

/// Calls `body` with at least the scratch asked for.
///
/// The body is no part of a kernel: a closure is not compiled with the instruction set of the function it is in.
pub(super) fn with<R>(panel_bytes: usize, acc_len: usize, body: impl FnOnce(Scratch<'_>) -> R) -> R {
    SCRATCH.with_borrow_mut(|lines| {
        let panel_lines = panel_bytes.div_ceil(LINE_BYTES);
        let needed = panel_lines + acc_len.div_ceil(LINE_BYTES / 4);
        if lines.len() < needed {
            lines.resize(needed, Line([0.0; 16]));
        }
        let (panel, rest) = lines.split_at_mut(panel_lines);
        body(Scratch { panel: as_bytes(panel), acc: as_floats(rest) })
    })
}

/// Calls `body` with that many floats of unspecified content, which products may be computed into.
pub(super) fn with_values<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    VALUES.with_borrow_mut(|lines| {
        let needed = len.div_ceil(LINE_BYTES / 4);
        if lines.len() < needed {
            lines.resize(needed, Line([0.0; 16]));
        }
        body(&mut as_floats(lines)[..len])
    })
}

#[expect(unsafe_code, reason = "reinterprets plain floats")]
fn as_bytes(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: floats without padding; every byte pattern is valid for both.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}

#[expect(unsafe_code, reason = "reinterprets plain floats")]
fn as_floats(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: `Line` is an array of floats without padding.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
}

/// The next block of the `left` tokens, at most `most`: blocks are of even size rather than full with a small rest.
#[inline(always)]
pub(super) fn block(left: usize, most: usize) -> usize {
    left.div_ceil(left.div_ceil(most))
}
