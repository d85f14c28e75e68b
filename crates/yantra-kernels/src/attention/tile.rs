//! The two products of attention on register tiles: a few query rows against some pages of one head.
//!
//! `scores`: vectors run along tokens, each sum along the head dimension. `weighted_values`: vectors run along the head
//! dimension, each sum along tokens. Every element is one chain of multiply-adds in a fixed order, so how rows and
//! vectors are tiled changes nothing in the result.

#![allow(clippy::needless_range_loop, reason = "indices name rows and vectors of a tile in several arrays")]

use super::stored::{Half, Operand};
use crate::simd::{Kernel, Simd};
use std::ops::Range;

/// Where the keys and values of one head in one page start.
#[derive(Clone, Copy)]
pub(super) struct PagePointers {
    pub(super) keys: *const u8,
    pub(super) values: *const u8,
    /// Where those that are read after the split start: they are fetched from memory while this page is worked on, a line
    /// for each that is read. (More at once than a processor can wait for would hold up the reads.)
    pub(super) next: Option<(*const u8, *const u8)>,
}

/// Fetches the keys or values of a head in a page, so many bytes, into the second-level cache.
#[inline(always)]
pub(super) fn fetch<S: Simd>(simd: S, start: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        simd.prefetch(start.wrapping_add(line));
    }
}

/// Whether vector `v` of a tile's `vectors`, so many bytes each, is the first of a cache line. Not asked where a line is
/// many tiles wide: such levels compute too slowly to wait for memory.
#[inline(always)]
fn begins_line(v: usize, vectors: usize, bytes: usize) -> bool {
    vectors * bytes >= 64 && (v * bytes).is_multiple_of(64)
}

/// Rows a tile has at most: with four vectors beside them they fill sixteen registers or thirty-two.
#[inline(always)]
pub(super) fn tile_rows<S: Simd>(rows_left: usize) -> usize {
    match rows_left {
        4 | 5 if S::WIDE => 4,
        6.. if S::WIDE => 6,
        _ => rows_left.min(3),
    }
}

/// A tile of `R` rows and `V` vectors.
struct Tile<T, const R: usize, const V: usize>(T);

/// Calls the kernel of a tile's size, for a number of vectors that is to be a multiple of the tile's.
macro_rules! call_tile {
    ($simd:ident, $rows:ident, $vectors:expr, $tile:ident) => {
        call_tile!(@rows $simd, $rows, $tile, match ($vectors).trailing_zeros() { 0 => 1, 1 => 2, _ => 4 })
    };
    (@rows $simd:ident, $rows:ident, $tile:ident, $vectors:expr) => {
        match ($rows, $vectors) {
            (1, 1) => $simd.call(Tile::<_, 1, 1>($tile)),
            (1, 2) => $simd.call(Tile::<_, 1, 2>($tile)),
            (1, _) => $simd.call(Tile::<_, 1, 4>($tile)),
            (2, 1) => $simd.call(Tile::<_, 2, 1>($tile)),
            (2, 2) => $simd.call(Tile::<_, 2, 2>($tile)),
            (2, _) => $simd.call(Tile::<_, 2, 4>($tile)),
            (3, 1) => $simd.call(Tile::<_, 3, 1>($tile)),
            (3, 2) => $simd.call(Tile::<_, 3, 2>($tile)),
            (3, _) => $simd.call(Tile::<_, 3, 4>($tile)),
            // A constant condition, so that narrow levels do not compile the tall tiles.
            (rows, vectors) => {
                if S::WIDE {
                    match (rows, vectors) {
                        (4, 1) => $simd.call(Tile::<_, 4, 1>($tile)),
                        (4, 2) => $simd.call(Tile::<_, 4, 2>($tile)),
                        (4, _) => $simd.call(Tile::<_, 4, 4>($tile)),
                        (_, 1) => $simd.call(Tile::<_, 6, 1>($tile)),
                        (_, 2) => $simd.call(Tile::<_, 6, 2>($tile)),
                        _ => $simd.call(Tile::<_, 6, 4>($tile)),
                    }
                }
            }
        }
    };
}

/// `out[row][token] = queries[row] . keys[token]` for all tokens of some pages.
pub(super) struct Scores<'a> {
    pub(super) rows: usize,
    /// Factors, `[rows, head_lanes]`.
    pub(super) queries: &'a [u32],
    /// Keys are `[head_lanes, page_tokens]`.
    pub(super) pages: &'a [PagePointers],
    /// Lanes of a head along its dimension.
    pub(super) head_lanes: usize,
    pub(super) page_tokens: usize,
    /// `[rows, pages * page_tokens]`
    pub(super) out: &'a mut [f32],
}

impl Scores<'_> {
    /// # Safety
    /// `pages` point to keys of format `K` and of the given shape.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the innermost loop works on pointers")]
    pub(super) unsafe fn compute<S: Simd, K: Operand>(self, simd: S) {
        let Self { rows, queries, pages, head_lanes, page_tokens, out } = self;
        assert!(queries.len() >= rows * head_lanes && page_tokens.is_multiple_of(S::LANES));
        assert!(out.len() >= rows * pages.len() * page_tokens);
        let (queries, out) = (queries.as_ptr(), out.as_mut_ptr());
        let tile = ScoresTile::<K> { queries, pages, head_lanes, page_tokens, out, stored: std::marker::PhantomData };
        // SAFETY: rows and tokens are within the slices by the assertions, keys by the caller's promise.
        unsafe { call_tile!(simd, rows, page_tokens / S::LANES, tile) }
    }
}

/// Operands of [`Scores`].
struct ScoresTile<'a, K> {
    queries: *const u32,
    pages: &'a [PagePointers],
    head_lanes: usize,
    page_tokens: usize,
    out: *mut f32,
    stored: std::marker::PhantomData<K>,
}

#[expect(unsafe_code, reason = "the innermost loop")]
impl<S: Simd, K: Operand, const R: usize, const V: usize> Kernel<S> for Tile<ScoresTile<'_, K>, R, V> {
    /// # Safety
    /// As for [`Scores::compute`], with `R` rows and a multiple of `V` vectors in a page.
    #[inline(always)]
    unsafe fn run(self, simd: S) {
        let ScoresTile { queries, pages, head_lanes, page_tokens, out, .. } = self.0;
        let stride = pages.len() * page_tokens;
        for (index, page) in pages.iter().enumerate() {
            // Without a next page this one is fetched again, which costs next to nothing.
            let next = page.next.map_or(page.keys, |(keys, _)| keys).cast::<K::Lane>();
            for first in (0..page_tokens).step_by(V * S::LANES) {
                let (keys, next) = (page.keys.cast::<K::Lane>().wrapping_add(first), next.wrapping_add(first));
                let mut sums = [[simd.splat(0.0); V]; R];
                for d in 0..head_lanes {
                    // Rows' values stay in registers and vectors pass by: 12 sums, 3 values and 1 vector are 16 registers.
                    let mut query = [K::splat(simd, 0); R];
                    for r in 0..R {
                        // SAFETY: the caller's promise.
                        query[r] = K::splat(simd, unsafe { *queries.add(r * head_lanes + d) });
                    }
                    for v in 0..V {
                        // SAFETY: the caller's promise.
                        let key = unsafe { K::load(simd, keys.add(d * page_tokens + v * S::LANES)) };
                        if begins_line(v, V, S::LANES * size_of::<K::Lane>()) {
                            simd.prefetch(next.wrapping_add(d * page_tokens + v * S::LANES).cast());
                        }
                        for r in 0..R {
                            sums[r][v] = K::madd(simd, query[r], key, sums[r][v]);
                        }
                    }
                }
                for r in 0..R {
                    for v in 0..V {
                        let at = r * stride + index * page_tokens + first + v * S::LANES;
                        // SAFETY: the caller's promise.
                        unsafe { simd.store(out.add(at), sums[r][v]) }
                    }
                }
            }
        }
    }
}

/// `out[row] = sum_t weights[row][t] * values[t]` over a range of the tokens of some pages.
pub(super) struct WeightedValues<'a> {
    pub(super) rows: usize,
    /// Tokens to sum, counted from the first page; the others are not read.
    pub(super) tokens: Range<usize>,
    /// Factors, `[rows, pages * page_tokens / PER_LANE]`.
    pub(super) weights: &'a [u32],
    /// Values are `[page_tokens / PER_LANE, value_stride]`.
    pub(super) pages: &'a [PagePointers],
    pub(super) page_tokens: usize,
    pub(super) value_stride: usize,
    /// Lanes of a value to sum: whole vectors, not more than `value_stride`.
    pub(super) width: usize,
    /// `[rows, out_stride]`
    pub(super) out: &'a mut [f32],
    pub(super) out_stride: usize,
}

impl WeightedValues<'_> {
    /// # Safety
    /// `pages` point to values of format `K` and of the given shape.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the innermost loop works on pointers")]
    pub(super) unsafe fn compute<S: Simd, K: Operand>(self, simd: S) {
        let page_lanes = self.page_tokens / K::PER_LANE;
        assert!(self.tokens.end <= self.pages.len() * self.page_tokens);
        assert!(self.weights.len() >= self.rows * self.pages.len() * page_lanes);
        assert!(self.width <= self.value_stride.min(self.out_stride) && self.width.is_multiple_of(S::LANES));
        assert!(self.out.len() >= self.rows * self.out_stride);
        let (rows, vectors) = (self.rows, self.width / S::LANES);
        let tile = ValuesTile::<K> { operands: self, page_lanes, stored: std::marker::PhantomData };
        // SAFETY: rows, tokens and columns are within the slices by the assertions, values by the caller's promise.
        unsafe { call_tile!(simd, rows, vectors, tile) }
    }
}

/// [`WeightedValues`] in a format.
struct ValuesTile<'a, K> {
    operands: WeightedValues<'a>,
    page_lanes: usize,
    stored: std::marker::PhantomData<K>,
}

impl<K: Operand> ValuesTile<'_, K> {
    /// Adds lanes `lanes` of tokens (counted from the first page), all of them in page `page`, without one half if asked.
    ///
    /// # Safety
    /// As for [`WeightedValues::compute`], from column `column` on.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the innermost loop")]
    unsafe fn add<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        page: usize,
        lanes: Range<usize>,
        column: usize,
        without: Option<Half>,
        sums: &mut [[S::Vector; V]; R],
    ) {
        let weights_stride = self.operands.pages.len() * self.page_lanes;
        let page_pointers = self.operands.pages[page];
        let values = page_pointers.values.cast::<K::Lane>().wrapping_add(column);
        let next = page_pointers.next.map_or(page_pointers.values, |(_, values)| values).cast::<K::Lane>();
        let weights = self.operands.weights.as_ptr();
        for lane in lanes {
            let mut weight = [K::splat(simd, 0); R];
            for r in 0..R {
                // SAFETY: the caller's promise.
                weight[r] = K::splat(simd, unsafe { *weights.add(r * weights_stride + lane) });
            }
            let row = (lane - page * self.page_lanes) * self.operands.value_stride;
            let (values, next) = (values.wrapping_add(row), next.wrapping_add(column + row));
            for v in 0..V {
                // SAFETY: the caller's promise.
                let mut value = unsafe { K::load(simd, values.add(v * S::LANES)) };
                if begins_line(v, V, S::LANES * size_of::<K::Lane>()) {
                    simd.prefetch(next.wrapping_add(v * S::LANES).cast());
                }
                if let Some(half) = without {
                    value = K::without(simd, value, half);
                }
                for r in 0..R {
                    sums[r][v] = K::madd(simd, weight[r], value, sums[r][v]);
                }
            }
        }
    }
}

#[expect(unsafe_code, reason = "the innermost loop")]
impl<S: Simd, K: Operand, const R: usize, const V: usize> Kernel<S> for Tile<ValuesTile<'_, K>, R, V> {
    /// # Safety
    /// As for [`WeightedValues::compute`], with `R` rows and a multiple of `V` vectors.
    #[inline(always)]
    unsafe fn run(self, simd: S) {
        let tile = self.0;
        let tokens = tile.operands.tokens.clone();
        // The first lane may begin, and the last may end, with a token that is not ours and may be anything.
        let part_first = !tokens.start.is_multiple_of(K::PER_LANE);
        let part_last = !tokens.end.is_multiple_of(K::PER_LANE);
        let (first, last) = (tokens.start / K::PER_LANE, tokens.end / K::PER_LANE);
        for column in (0..tile.operands.width).step_by(V * S::LANES) {
            let mut sums = [[simd.splat(0.0); V]; R];
            // SAFETY: lanes are of tokens in the range; columns below the width.
            unsafe {
                let page_of = |lane: usize| lane / tile.page_lanes;
                if part_first {
                    tile.add(simd, page_of(first), first..first + 1, column, Some(Half::First), &mut sums);
                }
                let mut at = first + usize::from(part_first);
                while at < last {
                    let page = page_of(at);
                    let end = last.min((page + 1) * tile.page_lanes);
                    tile.add(simd, page, at..end, column, None, &mut sums);
                    at = end;
                }
                if part_last {
                    tile.add(simd, page_of(last), last..last + 1, column, Some(Half::Second), &mut sums);
                }
            }
            for r in 0..R {
                for v in 0..V {
                    let at = r * tile.operands.out_stride + column + v * S::LANES;
                    // SAFETY: the caller's promise.
                    unsafe { simd.store(tile.operands.out.as_mut_ptr().add(at), sums[r][v]) }
                }
            }
        }
    }
}
