//! A block of query rows against a range of context: softmax split by split (Milakov & Gimelshein 2018,
//! arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135).
//!
//! A row's result is the same bits whatever rows share its block: splits are cut at fixed context positions, and a token
//! that a row does not see is added with weight exactly zero.

use super::{
    AttentionParams, KvLayout,
    rotation::{rotate, rotation_block},
    sink_tokens, split_tokens,
    stored::{Lane, Operand, Stored, Working},
    tile::{PagePointers, Scores, WeightedValues, fetch, tile_rows},
};
use crate::simd::{self, Kernel, MAX_LANES, Simd};
use std::{f32::consts::LOG2_E, marker::PhantomData, ops::Range};

/// Maximum before any token is seen: finite, so that differences are never NaN.
const NOTHING_SEEN: f32 = f32::MIN;

/// The most rows of a tile.
const MAX_TILE_ROWS: usize = 6;

/// Sums of some rows: `max` and `sum` are `[rows]`, `values` is `[rows, stride]`.
#[derive(Default)]
pub(super) struct Sums {
    max: Vec<f32>,
    sum: Vec<f32>,
    values: Vec<f32>,
}

impl Sums {
    /// Nothing seen by any row. Values are left as they are: a row whose sum is zero has none.
    fn reset(&mut self, rows: usize, stride: usize) {
        refill(&mut self.max, rows, NOTHING_SEEN);
        refill(&mut self.sum, rows, 0.0);
        if self.values.len() < rows * stride {
            self.values.resize(rows * stride, 0.0);
        }
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
    /// `[rows, head_dim]`, scaled; then the same as factors.
    scaled: Vec<f32>,
    queries: Vec<u32>,
    /// Context positions each row sees, beside sink tokens.
    visible: Vec<Range<usize>>,
    /// Linear biases of the rows, if they have any.
    biases: Vec<Bias>,
    /// Sums over all splits so far, and over the current one.
    total: Sums,
    split: Sums,
    /// A tile's scores, `[tile rows, split tokens]`, and the weights made from them, as factors.
    scores: Vec<f32>,
    weights: Vec<u32>,
    /// The pages of the current split, and the factors of their keys and values, if there are any.
    pages: Vec<PagePointers>,
    scales: Scales,
    /// The split in the working format, where it is not read as stored: per page, keys then values (with columns up to the
    /// stride). Whole cache lines, aligned for any lane.
    working: Vec<[u32; 16]>,
}

/// Factors of the tokens of some pages; of a token that no row sees zero. Empty where tokens have none.
#[derive(Default)]
struct Scales {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// How a row's scores fall with the distance of a key.
#[derive(Clone, Copy)]
struct Bias {
    /// In the unit of the scores.
    slope: f32,
    /// The context position of the query.
    position: usize,
}

/// Sizes that hold for a whole attention call.
#[derive(Clone, Copy, Default)]
pub(super) struct RowShape {
    pub(super) head_dim: usize,
    pub(super) value_dim: usize,
    /// Whether values are the beginning of keys.
    pub(super) shares_values: bool,
    pub(super) page_tokens: usize,
}

impl RowShape {
    pub(super) fn new(layout: KvLayout) -> Self {
        let KvLayout { head_dim, value_dim, shares_values, page_tokens, .. } = layout;
        Self { head_dim, value_dim, shares_values, page_tokens }
    }

    /// Values between rows of sums: the value dimension filled up to whole vectors of any level.
    pub(super) fn stride(self) -> usize {
        self.value_dim.next_multiple_of(MAX_LANES)
    }

    /// Values that are turned together, if they are: values that keys share are turned as these.
    fn rotation_block(self) -> usize {
        rotation_block(if self.shares_values { self.head_dim } else { self.value_dim })
    }
}

impl Rows {
    /// Starts an empty block.
    pub(super) fn clear(&mut self, shape: RowShape) {
        self.num_rows = 0;
        self.shape = shape;
        self.scaled.clear();
        self.visible.clear();
        self.biases.clear();
    }

    /// Adds a row that sees the context positions `visible`.
    #[inline(always)]
    pub(super) fn push(&mut self, query: &[f32], params: &AttentionParams<'_>, visible: Range<usize>) {
        let scale = params.scale * score_unit(params);
        let start = self.scaled.len();
        self.scaled.extend_from_slice(query);
        for value in &mut self.scaled[start..] {
            *value *= scale;
        }
        self.visible.push(visible);
        self.num_rows += 1;
    }

    /// Adds the biases of as many rows, whose query is at a context position.
    pub(super) fn push_biases(&mut self, slopes: &[f32], params: &AttentionParams<'_>, position: usize) {
        let unit = score_unit(params);
        self.biases.extend(slopes.iter().map(|slope| Bias { slope: slope * unit, position }));
    }

    /// Gives the buffers their sizes once all rows are there.
    #[inline(always)]
    pub(super) fn prepare<S: Simd, K: Stored>(&mut self, simd: S) {
        let RowShape { page_tokens, .. } = self.shape;
        self.total.reset(self.num_rows, self.shape.stride());
        if K::ROTATED {
            for query in self.scaled.chunks_exact_mut(self.shape.head_dim) {
                rotate(simd, query, rotation_block(self.shape.head_dim));
            }
        }
        let per_lane = <K::Working as Operand>::PER_LANE;
        self.scaled.resize(self.scaled.len().next_multiple_of(MAX_LANES * per_lane), 0.0);
        self.queries.resize(self.scaled.len() / per_lane, 0);
        for (index, scaled) in self.scaled.chunks_exact(S::LANES).enumerate() {
            K::Working::store_factors(simd, simd.load_slice(scaled), &mut self.queries, index * S::LANES);
        }
        let tile_len = MAX_TILE_ROWS * split_tokens(page_tokens);
        self.scores.resize(tile_len, 0.0);
        self.weights.resize(tile_len, 0);
        self.scales.keys.clear();
        self.scales.values.clear();
    }

    /// Context positions that any row sees.
    pub(super) fn any_visible(&self) -> Range<usize> {
        hull(&self.visible)
    }

    /// Attends to the pages of one split. `page(index)` gives the keys and values of the page at that place in the
    /// context; `next(index)` where those begin that are read next and may still be in memory.
    #[inline(always)]
    pub(super) fn attend_split<'p, S: Simd, K: Stored>(
        &mut self,
        simd: S,
        params: &AttentionParams<'_>,
        context: Range<usize>,
        page: impl Fn(usize) -> (&'p [u8], &'p [u8]),
        next: impl Fn(usize) -> Option<(*const u8, *const u8)>,
    ) {
        let RowShape { value_dim, shares_values, page_tokens, .. } = self.shape;
        self.split.reset(self.num_rows, self.shape.stride());
        let pages = context.start / page_tokens..context.end.div_ceil(page_tokens);
        let start = pages.start * page_tokens;
        self.pages.clear();
        // A block of many rows takes long, and what it reads is mostly in the cache.
        let few_rows = self.num_rows <= MAX_TILE_ROWS;
        let next = |index| next(index).filter(|_| few_rows);
        if !shares_values && self.num_rows <= K::MAX_ROWS_AS_STORED && value_dim % S::LANES == 0 {
            for index in pages {
                let (keys, values) = page(index);
                let next = next(index);
                self.pages.push(PagePointers { keys: keys.as_ptr().cast(), values: values.as_ptr().cast(), next });
            }
            self.attend_tiles::<S, K::AsStored>(simd, params, start, context, value_dim, value_dim);
        } else {
            self.convert::<S, K>(simd, pages, &context, page, next);
            let (stride, width) = (self.shape.stride(), value_dim.next_multiple_of(S::LANES));
            self.attend_tiles::<S, K::Working>(simd, params, start, context, stride, width);
        }
    }

    /// Copies pages to the working format.
    #[inline(always)]
    fn convert<'p, S: Simd, K: Stored>(
        &mut self,
        simd: S,
        pages: Range<usize>,
        context: &Range<usize>,
        page: impl Fn(usize) -> (&'p [u8], &'p [u8]),
        next: impl Fn(usize) -> Option<(*const u8, *const u8)>,
    ) {
        let RowShape { head_dim, shares_values, page_tokens, .. } = self.shape;
        let per_lane = <K::Working as Operand>::PER_LANE;
        let key_lanes = head_dim / per_lane * page_tokens;
        let value_lanes = page_tokens / per_lane * self.shape.stride();
        // Every working lane has 32 bits, and a page of either is whole lines: a page has a multiple of 16 tokens.
        let lines = (key_lanes + value_lanes) / 16;
        if self.working.len() < pages.len() * lines {
            self.working.resize(pages.len() * lines, [0; 16]);
        }
        if K::SCALED {
            self.scales.keys.resize(pages.len() * page_tokens, 0.0);
            self.scales.values.resize(pages.len() * page_tokens, 0.0);
        }
        for (index, lines) in self.working.chunks_exact_mut(lines).take(pages.len()).enumerate() {
            let (keys, values) = page(pages.start + index);
            if let Some(next) = next(pages.start + index) {
                fetch(simd, next.0, keys.len());
                fetch(simd, next.1, values.len());
            }
            let working: &mut [Lane<K::Working>] = bytemuck::cast_slice_mut(lines);
            let (working_keys, working_values) = working.split_at_mut(key_lanes);
            K::widen_keys(simd, keys, self.shape, working_keys);
            if shares_values {
                K::Working::values_of_keys(working_keys, self.shape, working_values);
            } else {
                K::widen_values(simd, values, self.shape, working_values);
            }
            if K::SCALED {
                let tokens = index * page_tokens..(index + 1) * page_tokens;
                K::scales(keys, &mut self.scales.keys[tokens.clone()]);
                K::scales(if shares_values { keys } else { values }, &mut self.scales.values[tokens]);
            }
            let (keys, values) = (working_keys.as_ptr().cast(), working_values.as_ptr().cast());
            self.pages.push(PagePointers { keys, values, next: None });
        }
        if K::SCALED {
            // What is stored there is not ours and may be anything.
            let start = pages.start * page_tokens;
            for scales in [&mut self.scales.keys, &mut self.scales.values] {
                scales[..context.start - start].fill(0.0);
                scales[context.end - start..].fill(0.0);
            }
        }
    }

    /// Sums the split, whose pages start at context position `start`, a tile of rows at a time.
    #[inline(always)]
    fn attend_tiles<S: Simd, K: Operand>(
        &mut self,
        simd: S,
        params: &AttentionParams<'_>,
        start: usize,
        context: Range<usize>,
        value_stride: usize,
        width: usize,
    ) {
        let RowShape { head_dim, page_tokens, .. } = self.shape;
        let (stride, head_lanes) = (self.shape.stride(), head_dim / K::PER_LANE);
        let sinks = sink_tokens(params);
        let mut first = 0;
        while first < self.num_rows {
            let rows = tile_rows::<S>(self.num_rows - first);
            let visible = &self.visible[first..first + rows];
            let seen = hull(visible);
            let from = if context.start < sinks { context.start } else { seen.start.max(context.start) };
            let seen = from..seen.end.min(context.end);
            if seen.start < seen.end {
                let pages = (seen.start - start) / page_tokens..(seen.end - start).div_ceil(page_tokens);
                let start = start + pages.start * page_tokens;
                let len = pages.len() * page_tokens;
                let tokens = pages.start * page_tokens..pages.end * page_tokens;
                let pages = &self.pages[pages];
                let queries = &self.queries[first * head_lanes..];
                let scores = Scores { rows, queries, pages, head_lanes, page_tokens, out: &mut self.scores };
                // SAFETY: keys are of format `K` and of this shape.
                #[expect(unsafe_code, reason = "a kernel on pages")]
                unsafe {
                    scores.compute::<S, K>(simd);
                }
                let soften = Soften::<K> {
                    softcap: params.softcap,
                    start,
                    len,
                    visible,
                    sinks,
                    biases: self.biases.get(first..first + rows),
                    key_scales: self.scales.keys.get(tokens.clone()),
                    value_scales: self.scales.values.get(tokens),
                    scores: &mut self.scores,
                    weights: &mut self.weights,
                    max: &mut self.split.max[first..first + rows],
                    sum: &mut self.split.sum[first..first + rows],
                    stored: PhantomData,
                };
                // SAFETY: this kernel asks for nothing.
                #[expect(unsafe_code, reason = "a safe kernel")]
                unsafe {
                    simd.call(soften);
                }
                let values = WeightedValues {
                    rows,
                    tokens: seen.start - start..seen.end - start,
                    weights: &self.weights,
                    pages,
                    page_tokens,
                    value_stride,
                    width,
                    out: &mut self.split.values[first * stride..],
                    out_stride: stride,
                };
                // SAFETY: values are of format `K` and of this shape.
                #[expect(unsafe_code, reason = "a kernel on pages")]
                unsafe {
                    values.compute::<S, K>(simd);
                }
            }
            first += rows;
        }
    }

    /// Adds the current split to the total.
    #[inline(always)]
    pub(super) fn merge_split<S: Simd>(&mut self, simd: S) {
        let stride = self.shape.stride();
        for row in 0..self.num_rows {
            let values = &self.split.values[row * stride..][..stride];
            merge(simd, &mut self.total, row, self.split.max[row], self.split.sum[row], values);
        }
    }

    /// Values of one row of a split as kept between tasks: maximum, sum, weighted values.
    pub(super) fn record_len(shape: RowShape) -> usize {
        2 + shape.stride()
    }

    /// Writes the current split's sums of the rows from `first` on, `[rows, record_len]`.
    pub(super) fn save_split(&self, first: usize, records: &mut [f32]) {
        let stride = self.shape.stride();
        for (row, record) in (first..).zip(records.chunks_exact_mut(Self::record_len(self.shape))) {
            record[0] = self.split.max[row];
            record[1] = self.split.sum[row];
            record[2..].copy_from_slice(&self.split.values[row * stride..][..stride]);
        }
    }

    /// Forgets the total, which is to be that of `rows` rows whose splits were saved.
    pub(super) fn restart(&mut self, rows: usize) {
        self.total.reset(rows, self.shape.stride());
    }

    /// Adds a split written by [`Rows::save_split`] to the total.
    #[inline(always)]
    pub(super) fn merge_saved<S: Simd>(&mut self, simd: S, records: &[f32]) {
        for (row, record) in records.chunks_exact(Self::record_len(self.shape)).enumerate() {
            merge(simd, &mut self.total, row, record[0], record[1], &record[2..]);
        }
    }

    /// The finished row: weighted values divided by the sum of weights, its sink's among them; zeros for a row that saw
    /// nothing.
    #[inline(always)]
    pub(super) fn finish<S: Simd, K: Stored>(&self, simd: S, row: usize, sink: Option<f32>, out: &mut [f32]) {
        let (max, sum) = (self.total.max[row], self.total.sum[row]);
        if sum == 0.0 {
            out.fill(0.0);
            return;
        }
        let inverse = match sink {
            None => 1.0 / sum,
            // One more split, joined as `merge` does.
            Some(sink) => {
                let joint = max.max(sink * LOG2_E);
                let (old, new) = ((max - joint).exp2(), (sink * LOG2_E - joint).exp2());
                old / (sum * old + new)
            }
        };
        for (out, value) in out.iter_mut().zip(&self.total.values[row * self.shape.stride()..]) {
            *out = value * inverse;
        }
        if K::ROTATED {
            rotate(simd, out, self.shape.rotation_block());
        }
    }
}

/// What scores are multiplied by: they come out in units of `ln 2`, for weights that are powers of two, unless a cap is
/// put on them first.
#[inline(always)]
fn score_unit(params: &AttentionParams<'_>) -> f32 {
    if params.softcap.is_some() { 1.0 } else { LOG2_E }
}

/// Turns a tile's scores into weights, powers of two relative to each row's maximum, and sums them.
struct Soften<'a, K> {
    softcap: Option<f32>,
    /// Context position of the first score.
    start: usize,
    /// Scores of a row: whole vectors of any level.
    len: usize,
    /// `[rows]`, as `max` and `sum`.
    visible: &'a [Range<usize>],
    sinks: usize,
    biases: Option<&'a [Bias]>,
    /// Factors of the tokens, `[len]`, if they have any.
    key_scales: Option<&'a [f32]>,
    value_scales: Option<&'a [f32]>,
    /// `[rows, len]`
    scores: &'a mut [f32],
    /// `[rows, len / PER_LANE]`
    weights: &'a mut [u32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
    stored: PhantomData<K>,
}

#[expect(unsafe_code, reason = "the trait's signature; nothing is asked for")]
impl<S: Simd, K: Operand> Kernel<S> for Soften<'_, K> {
    #[inline(always)]
    unsafe fn run(self, simd: S) {
        let weights_len = self.len / K::PER_LANE;
        for (r, visible) in self.visible.iter().enumerate() {
            let scores = &mut self.scores[r * self.len..][..self.len];
            let weights = &mut self.weights[r * weights_len..][..weights_len];
            if let Some(scales) = self.key_scales {
                multiply(simd, scores, scales);
            }
            if let Some(biases) = self.biases {
                bias(simd, scores, self.start, biases[r]);
            }
            if let Some(cap) = self.softcap {
                softcap(simd, scores, cap);
            }
            hide(scores, self.start, visible, self.sinks);
            let max = largest(simd, scores, NOTHING_SEEN);
            let maxes = simd.splat(max);
            let mut sum = simd.splat(0.0);
            for (index, scores) in scores.chunks_exact(S::LANES).enumerate() {
                let mut weight =
                    simd::exp2_of_negative(simd, simd.sub(simd.load_slice(scores), maxes), K::PER_LANE == 1);
                sum = simd.add(sum, weight);
                if let Some(scales) = self.value_scales {
                    weight = simd.mul(weight, simd.load_slice(&scales[index * S::LANES..]));
                }
                K::store_factors(simd, weight, weights, index * S::LANES);
            }
            (self.max[r], self.sum[r]) = (max, simd.reduce_add(sum));
        }
    }
}

/// Adds sums relative to `max` to a row of the total. A split in which the row saw nothing changes nothing.
#[inline(always)]
fn merge<S: Simd>(simd: S, total: &mut Sums, row: usize, max: f32, sum: f32, values: &[f32]) {
    if sum == 0.0 {
        return;
    }
    let to = &mut total.values[row * values.len()..][..values.len()];
    if total.sum[row] == 0.0 {
        (total.max[row], total.sum[row]) = (max, sum);
        to.copy_from_slice(values);
        return;
    }
    let joint = total.max[row].max(max);
    // One of them is the joint maximum itself.
    let (old, new) = ((total.max[row] - joint).exp2(), (max - joint).exp2());
    total.max[row] = joint;
    total.sum[row] = total.sum[row] * old + sum * new;
    let (old, new) = (simd.splat(old), simd.splat(new));
    for (to, value) in to.chunks_exact_mut(S::LANES).zip(values.chunks_exact(S::LANES)) {
        simd.store_slice(to, simd.fma(simd.load_slice(value), new, simd.mul(simd.load_slice(to), old)));
    }
}

/// The smallest range that holds all.
fn hull(ranges: &[Range<usize>]) -> Range<usize> {
    let (mut start, mut end) = (usize::MAX, 0);
    for range in ranges {
        (start, end) = (start.min(range.start), end.max(range.end));
    }
    start.min(end)..end
}

/// Minus infinity for scores (of context positions from `start` on) of tokens that the row does not see.
#[inline(always)]
fn hide(scores: &mut [f32], start: usize, visible: &Range<usize>, sinks: usize) {
    let before = visible.start.saturating_sub(start).min(scores.len());
    let after = visible.end.saturating_sub(start).clamp(before, scores.len());
    scores[sinks.saturating_sub(start).min(before)..before].fill(f32::NEG_INFINITY);
    scores[after..].fill(f32::NEG_INFINITY);
}

/// The largest of some scores and `floor`.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "an index names a vector in two arrays")]
fn largest<S: Simd>(simd: S, scores: &[f32], floor: f32) -> f32 {
    // Four at a time: each waits for the one before.
    let mut max = [simd.splat(floor); 4];
    let mut fours = scores.chunks_exact(4 * S::LANES);
    for four in &mut fours {
        for v in 0..4 {
            max[v] = simd.max(max[v], simd.load_slice(&four[v * S::LANES..]));
        }
    }
    for rest in fours.remainder().chunks_exact(S::LANES) {
        max[0] = simd.max(max[0], simd.load_slice(rest));
    }
    simd.reduce_max(simd.max(simd.max(max[0], max[1]), simd.max(max[2], max[3])))
}

#[inline(always)]
fn multiply<S: Simd>(simd: S, values: &mut [f32], factors: &[f32]) {
    for (values, factors) in values.chunks_exact_mut(S::LANES).zip(factors.chunks_exact(S::LANES)) {
        simd.store_slice(values, simd.mul(simd.load_slice(values), simd.load_slice(factors)));
    }
}

/// Lowers scores, of context positions from `start` on, by their distance from the query.
#[inline(always)]
fn bias<S: Simd>(simd: S, scores: &mut [f32], start: usize, bias: Bias) {
    const LANE_NUMBERS: [f32; MAX_LANES] =
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
    let (slope, lanes) = (simd.splat(bias.slope), simd.load_slice(&LANE_NUMBERS));
    for (index, scores) in scores.chunks_exact_mut(S::LANES).enumerate() {
        let first = (start + index * S::LANES) as f32 - bias.position as f32;
        let after = simd.add(simd.splat(first), lanes);
        let distance = simd.min(after, simd.sub(simd.splat(0.0), after));
        simd.store_slice(scores, simd.fma(distance, slope, simd.load_slice(scores)));
    }
}

/// Caps scores, and leaves them in units of `ln 2`.
#[inline(always)]
fn softcap<S: Simd>(simd: S, scores: &mut [f32], cap: f32) {
    for scores in scores.chunks_exact_mut(S::LANES) {
        let value = simd.mul(simd.load_slice(scores), simd.splat(1.0 / cap));
        simd.store_slice(scores, simd.mul(simd::tanh(simd, value), simd.splat(cap * LOG2_E)));
    }
}
