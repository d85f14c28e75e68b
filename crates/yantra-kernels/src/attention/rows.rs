//! A block of query rows against a range of context: online softmax page by page (Milakov & Gimelshein 2018,
//! arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135).
//!
//! A row's result is the same bits whatever rows share its block: pages and splits are cut at fixed context positions, and
//! a token that a row does not see is added with weight exactly zero and factor exactly one.

use super::{
    AttentionParams,
    stored::{F32, Stored},
    tile::{scores, tile_rows, weighted_values},
};
use crate::simd::{self, Kernel, MAX_LANES, Simd};
use std::ops::Range;

/// Running maximum before any token is seen: finite, so that differences are never NaN.
const NOTHING_SEEN: f32 = f32::MIN;

/// Rows up to which a page is read as stored; more rows read a copy converted to `f32` once.
const MAX_ROWS_UNCONVERTED: usize = 6;

/// Running sums of some rows: `max` and `sum` are `[rows]`, `values` is `[rows, stride]`.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) max: Vec<f32>,
    pub(super) sum: Vec<f32>,
    pub(super) values: Vec<f32>,
}

impl Sums {
    fn reset(&mut self, rows: usize, stride: usize) {
        refill(&mut self.max, rows, NOTHING_SEEN);
        refill(&mut self.sum, rows, 0.0);
        refill(&mut self.values, rows * stride, 0.0);
    }
}

fn refill(buffer: &mut Vec<f32>, len: usize, value: f32) {
    buffer.clear();
    buffer.resize(len, value);
}

/// A thread's buffers for a block of rows; they grow to the largest block and stay.
#[derive(Default)]
pub(super) struct Rows {
    num_rows: usize,
    shape: RowShape,
    /// `[rows, head_dim]`, scaled.
    queries: Vec<f32>,
    /// Context positions each row sees.
    visible: Vec<Range<usize>>,
    /// Sums over all splits so far, and over the current one.
    total: Sums,
    split: Sums,
    /// `[rows, MAX_LANES]`: the current split's sums of exponentials, lane by lane.
    lane_sums: Vec<f32>,
    /// `[tile rows, page_tokens]`.
    scores: Vec<f32>,
    /// A page of one head as `f32`: `[head_dim, page_tokens]` and `[page_tokens, stride]`.
    page_keys: Vec<f32>,
    page_values: Vec<f32>,
}

/// Sizes that hold for a whole attention call.
#[derive(Clone, Copy, Default)]
pub(super) struct RowShape {
    pub(super) head_dim: usize,
    pub(super) page_tokens: usize,
}

impl RowShape {
    /// Values between rows of sums: the head dimension filled up to whole vectors of any level.
    pub(super) fn stride(self) -> usize {
        self.head_dim.next_multiple_of(MAX_LANES)
    }
}

impl Rows {
    /// Starts an empty block.
    pub(super) fn clear(&mut self, shape: RowShape) {
        self.num_rows = 0;
        self.shape = shape;
        self.queries.clear();
        self.visible.clear();
    }

    /// Adds a row that sees the context positions `visible`.
    #[inline(always)]
    pub(super) fn push(&mut self, query: &[f32], scale: f32, visible: Range<usize>) {
        let start = self.queries.len();
        self.queries.resize(start + query.len(), 0.0);
        for (scaled, value) in self.queries[start..].iter_mut().zip(query) {
            *scaled = value * scale;
        }
        self.visible.push(visible);
        self.num_rows += 1;
    }

    /// Gives the buffers their sizes once all rows are there.
    pub(super) fn prepare(&mut self) {
        let RowShape { head_dim, page_tokens } = self.shape;
        self.total.reset(self.num_rows, self.shape.stride());
        self.scores.resize(6 * page_tokens, 0.0);
        if self.num_rows > MAX_ROWS_UNCONVERTED || head_dim % MAX_LANES != 0 {
            self.page_keys.resize(head_dim * page_tokens, 0.0);
            // Columns past the head dimension stay zero.
            refill(&mut self.page_values, page_tokens * self.shape.stride(), 0.0);
        }
    }

    /// Context positions that any row sees.
    pub(super) fn any_visible(&self) -> Range<usize> {
        hull(&self.visible)
    }

    /// Attends to the pages of one split, whose sums are then in [`Rows::split_sums`]. `page(index)` gives the keys and values
    /// of the page at that place in the context.
    #[inline(always)]
    pub(super) fn attend_split<'p, S: Simd, K: Stored>(
        &mut self,
        simd: S,
        params: &AttentionParams,
        context: Range<usize>,
        page: impl Fn(usize) -> (&'p [K::Bits], &'p [K::Bits]),
    ) where
        K::Bits: 'p,
    {
        let RowShape { head_dim, page_tokens } = self.shape;
        self.split.reset(self.num_rows, self.shape.stride());
        refill(&mut self.lane_sums, self.num_rows * MAX_LANES, 0.0);
        let direct = self.num_rows <= MAX_ROWS_UNCONVERTED && head_dim % S::LANES == 0;
        let mut at = context.start / page_tokens * page_tokens;
        while at < context.end {
            let (keys, values) = page(at / page_tokens);
            let tokens = at..context.end.min(at + page_tokens);
            if direct {
                self.attend_page::<S, K>(simd, params, tokens, keys, values, head_dim, head_dim);
            } else {
                let (page_keys, page_values) = self.convert_page::<S, K>(simd, keys, values, tokens.len());
                let (stride, width) = (self.shape.stride(), head_dim.next_multiple_of(S::LANES));
                self.attend_page::<S, F32>(simd, params, tokens, &page_keys, &page_values, stride, width);
                (self.page_keys, self.page_values) = (page_keys, page_values);
            }
            at += page_tokens;
        }
        for (sum, lanes) in self.split.sum.iter_mut().zip(self.lane_sums.chunks_exact(MAX_LANES)) {
            *sum = simd.reduce_add(simd.load_slice(lanes));
        }
    }

    /// A page as `f32` in this block's buffers, which are taken out of it for as long as they are read.
    #[inline(always)]
    fn convert_page<S: Simd, K: Stored>(
        &mut self,
        simd: S,
        keys: &[K::Bits],
        values: &[K::Bits],
        num_tokens: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        let (mut page_keys, mut page_values) =
            (std::mem::take(&mut self.page_keys), std::mem::take(&mut self.page_values));
        let RowShape { head_dim, .. } = self.shape;
        widen::<S, K>(simd, keys, &mut page_keys);
        let rows = values.chunks_exact(head_dim).zip(page_values.chunks_exact_mut(self.shape.stride()));
        for (value, out) in rows.take(num_tokens) {
            widen::<S, K>(simd, value, &mut out[..head_dim]);
        }
        (page_keys, page_values)
    }

    /// Adds one page to the split's sums, a tile of rows at a time.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "slices and dimensions in")]
    fn attend_page<S: Simd, K: Stored>(
        &mut self,
        simd: S,
        params: &AttentionParams,
        tokens: Range<usize>,
        keys: &[K::Bits],
        values: &[K::Bits],
        value_stride: usize,
        width: usize,
    ) {
        let RowShape { head_dim, page_tokens } = self.shape;
        let stride = self.shape.stride();
        let mut first = 0;
        while first < self.num_rows {
            let rows = tile_rows::<S>(self.num_rows - first);
            let seen = hull(&self.visible[first..first + rows]);
            let seen = seen.start.max(tokens.start)..seen.end.min(tokens.end);
            if seen.start < seen.end {
                let seen = seen.start - tokens.start..seen.end - tokens.start;
                let num_vectors = seen.end.div_ceil(S::LANES);
                let queries = &self.queries[first * head_dim..];
                scores::<S, K>(simd, rows, num_vectors, queries, keys, head_dim, page_tokens, &mut self.scores);
                let mut factors = [0.0; MAX_LANES];
                let soften = Soften {
                    softcap: params.softcap,
                    start: tokens.start,
                    page_tokens,
                    len: num_vectors * S::LANES,
                    visible: &self.visible[first..first + rows],
                    scores: &mut self.scores,
                    max: &mut self.split.max[first..],
                    lane_sums: &mut self.lane_sums[first * MAX_LANES..],
                    factors: &mut factors,
                };
                // SAFETY: this kernel asks for nothing.
                #[expect(unsafe_code, reason = "a safe kernel")]
                unsafe {
                    simd.call(soften);
                }
                let sums = &mut self.split.values[first * stride..];
                weighted_values::<S, K>(
                    simd,
                    rows,
                    seen,
                    &self.scores,
                    page_tokens,
                    values,
                    value_stride,
                    &factors,
                    sums,
                    stride,
                    width,
                );
            }
            first += rows;
        }
    }

    /// Adds the current split to the total.
    #[inline(always)]
    pub(super) fn merge_split(&mut self) {
        let stride = self.shape.stride();
        for row in 0..self.num_rows {
            let values = &self.split.values[row * stride..][..stride];
            merge(&mut self.total, row, self.split.max[row], self.split.sum[row], values);
        }
    }

    /// Values of one row of a split as kept between tasks: maximum, sum, weighted values.
    pub(super) fn record_len(shape: RowShape) -> usize {
        2 + shape.stride()
    }

    /// Writes the current split's sums, `[rows, record_len]`.
    pub(super) fn save_split(&self, records: &mut [f32]) {
        let stride = self.shape.stride();
        for (row, record) in records.chunks_exact_mut(Self::record_len(self.shape)).enumerate() {
            record[0] = self.split.max[row];
            record[1] = self.split.sum[row];
            record[2..].copy_from_slice(&self.split.values[row * stride..][..stride]);
        }
    }

    /// Adds a split written by [`Rows::save_split`] to the total.
    #[inline(always)]
    pub(super) fn merge_saved(&mut self, records: &[f32]) {
        for (row, record) in records.chunks_exact(Self::record_len(self.shape)).enumerate() {
            merge(&mut self.total, row, record[0], record[1], &record[2..]);
        }
    }

    /// The finished row: weighted values divided by the sum of weights; zeros for a row that saw nothing.
    #[inline(always)]
    pub(super) fn finish(&self, row: usize, out: &mut [f32]) {
        let sum = self.total.sum[row];
        let inverse = if sum > 0.0 { 1.0 / sum } else { 0.0 };
        for (out, value) in out.iter_mut().zip(&self.total.values[row * self.shape.stride()..]) {
            *out = value * inverse;
        }
    }
}

/// Turns a tile's scores into exponentials relative to each row's running maximum, and finds the factors by which the rows'
/// earlier sums shrink.
struct Soften<'a> {
    softcap: Option<f32>,
    /// Context position of the page.
    start: usize,
    page_tokens: usize,
    /// Scores per row that were computed.
    len: usize,
    /// `[rows]`.
    visible: &'a [Range<usize>],
    /// `[rows, page_tokens]`.
    scores: &'a mut [f32],
    /// `[rows]`.
    max: &'a mut [f32],
    /// `[rows, MAX_LANES]`.
    lane_sums: &'a mut [f32],
    factors: &'a mut [f32; MAX_LANES],
}

#[expect(unsafe_code, reason = "the trait's signature; nothing is asked for")]
impl<S: Simd> Kernel<S> for Soften<'_> {
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "an index names a row in several arrays")]
    unsafe fn run(self, simd: S) {
        let rows = self.visible.len();
        let mut changes = [0.0; MAX_LANES];
        for r in 0..rows {
            let scores = &mut self.scores[r * self.page_tokens..][..self.len];
            if let Some(cap) = self.softcap {
                softcap(simd, scores, cap);
            }
            hide(scores, self.start, &self.visible[r]);
            let old = self.max[r];
            let new = largest(simd, scores, old);
            self.max[r] = new;
            changes[r] = old - new;
        }
        for r in (0..rows).step_by(S::LANES) {
            simd.store_slice(&mut self.factors[r..], simd::exp_of_negative(simd, simd.load_slice(&changes[r..])));
        }
        for r in 0..rows {
            let max = simd.splat(self.max[r]);
            let mut sum = simd.splat(0.0);
            for scores in self.scores[r * self.page_tokens..][..self.len].chunks_exact_mut(S::LANES) {
                let weight = simd::exp_of_negative(simd, simd.sub(simd.load_slice(scores), max));
                simd.store_slice(scores, weight);
                sum = simd.add(sum, weight);
            }
            let lanes = &mut self.lane_sums[r * MAX_LANES..][..MAX_LANES];
            let earlier = simd.mul(simd.load_slice(lanes), simd.splat(self.factors[r]));
            simd.store_slice(lanes, simd.add(earlier, sum));
        }
    }
}

/// Adds sums relative to `max` to a row of the total. A split in which the row saw nothing changes nothing.
#[inline(always)]
fn merge(total: &mut Sums, row: usize, max: f32, sum: f32, values: &[f32]) {
    if sum == 0.0 {
        return;
    }
    let stride = values.len();
    let joint = total.max[row].max(max);
    let (old, new) = ((total.max[row] - joint).exp(), (max - joint).exp());
    total.max[row] = joint;
    total.sum[row] = total.sum[row] * old + sum * new;
    for (total, value) in total.values[row * stride..][..stride].iter_mut().zip(values) {
        *total = *total * old + value * new;
    }
}

/// The smallest range that holds all.
fn hull(ranges: &[Range<usize>]) -> Range<usize> {
    let start = ranges.iter().map(|range| range.start).min().unwrap_or(0);
    start..ranges.iter().map(|range| range.end).max().unwrap_or(0)
}

/// Minus infinity for tokens of the page (which starts at context position `start`) that the row does not see.
#[inline(always)]
fn hide(scores: &mut [f32], start: usize, visible: &Range<usize>) {
    let before = visible.start.saturating_sub(start).min(scores.len());
    let after = visible.end.saturating_sub(start).clamp(before, scores.len());
    scores[..before].fill(f32::NEG_INFINITY);
    scores[after..].fill(f32::NEG_INFINITY);
}

/// The largest of some scores and `floor`.
#[inline(always)]
fn largest<S: Simd>(simd: S, scores: &[f32], floor: f32) -> f32 {
    let mut max = simd.splat(floor);
    for scores in scores.chunks_exact(S::LANES) {
        max = simd.max(max, simd.load_slice(scores));
    }
    simd.reduce_max(max)
}

#[inline(always)]
fn softcap<S: Simd>(simd: S, scores: &mut [f32], cap: f32) {
    for scores in scores.chunks_exact_mut(S::LANES) {
        let value = simd.mul(simd.load_slice(scores), simd.splat(1.0 / cap));
        simd.store_slice(scores, simd.mul(simd::tanh(simd, value), simd.splat(cap)));
    }
}

/// Stored values as `f32`, as many as `out` holds.
#[inline(always)]
fn widen<S: Simd, K: Stored>(simd: S, from: &[K::Bits], out: &mut [f32]) {
    let whole = out.len() / S::LANES * S::LANES;
    assert!(from.len() >= out.len());
    for start in (0..whole).step_by(S::LANES) {
        // SAFETY: `start + LANES` is within both slices.
        #[expect(unsafe_code, reason = "bounds checked above")]
        let values = unsafe { K::load(simd, from.as_ptr().add(start)) };
        simd.store_slice(&mut out[start..], values);
    }
    if whole < out.len() {
        let mut last = [K::ZERO; MAX_LANES];
        last[..out.len() - whole].copy_from_slice(&from[whole..out.len()]);
        // SAFETY: the buffer holds the widest vector.
        #[expect(unsafe_code, reason = "a buffer of the widest vector")]
        let values = unsafe { K::load(simd, last.as_ptr()) };
        simd.store_partial(&mut out[whole..], values);
    }
}
