//! The two products of attention on register tiles: a few query rows against one page of one head.
//!
//! `scores`: vectors run along tokens, each sum along the head dimension. `weighted_values`: vectors run along the head
//! dimension, each sum along tokens. Every element is one chain of multiply-adds in a fixed order, so how rows and
//! vectors are tiled changes nothing in the result.

#![allow(clippy::needless_range_loop, reason = "indices name rows and vectors of a tile in several arrays")]

use super::stored::Stored;
use crate::simd::{Kernel, Simd};
use std::ops::Range;

/// Rows a tile has at most: with four vectors beside them they fill sixteen registers, with two, thirty-two.
#[inline(always)]
pub(super) fn tile_rows<S: Simd>(rows_left: usize) -> usize {
    if S::WIDE && rows_left >= 6 { 6 } else { rows_left.min(3) }
}

/// A tile of `R` rows and `V` vectors.
struct Tile<T, const R: usize, const V: usize>(T);

/// Calls the kernel of a tile's size.
macro_rules! call_tile {
    ($simd:ident, $rows:ident, $vectors:ident, $tile:ident) => {
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
            (_, vectors) => {
                if S::WIDE {
                    match vectors {
                        1 => $simd.call(Tile::<_, 6, 1>($tile)),
                        2 => $simd.call(Tile::<_, 6, 2>($tile)),
                        _ => $simd.call(Tile::<_, 6, 4>($tile)),
                    }
                }
            }
        }
    };
}

/// `out[row][token] = sum_d queries[row][d] * keys[d][token]` for `num_vectors * LANES` tokens from the first.
///
/// `queries` is `[rows, head_dim]`, `keys` is `[head_dim, page_tokens]`, `out` is `[rows, page_tokens]`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "slices and dimensions in")]
pub(super) fn scores<S: Simd, K: Stored>(
    simd: S,
    rows: usize,
    num_vectors: usize,
    queries: &[f32],
    keys: &[K::Bits],
    head_dim: usize,
    page_tokens: usize,
    out: &mut [f32],
) {
    assert!(queries.len() >= rows * head_dim && keys.len() >= head_dim * page_tokens);
    assert!(out.len() >= rows * page_tokens && num_vectors * S::LANES <= page_tokens);
    let mut first = 0;
    while first < num_vectors {
        // Three vectors are done as four where the page has room: the fourth is not read again.
        let room = page_tokens / S::LANES - first;
        let vectors = match num_vectors - first {
            1 => 1,
            2 => 2,
            3 if room < 4 => 2,
            _ => 4,
        };
        let at = first * S::LANES;
        // SAFETY: rows, dimensions and tokens are within the slices by the assertions.
        #[expect(unsafe_code, reason = "bounds checked once per tile")]
        unsafe {
            let tile = ScoresTile::<K> {
                queries: queries.as_ptr(),
                keys: keys.as_ptr().add(at),
                head_dim,
                page_tokens,
                out: out.as_mut_ptr().add(at),
            };
            call_tile!(simd, rows, vectors, tile);
        }
        first += vectors;
    }
}

/// Operands of one register tile of [`scores`].
struct ScoresTile<K: Stored> {
    queries: *const f32,
    keys: *const K::Bits,
    head_dim: usize,
    page_tokens: usize,
    out: *mut f32,
}

#[expect(unsafe_code, reason = "the innermost loop")]
impl<S: Simd, K: Stored, const R: usize, const V: usize> Kernel<S> for Tile<ScoresTile<K>, R, V> {
    /// # Safety
    /// `queries` is `[R, head_dim]`; `V * LANES` values are readable at each of `head_dim` rows of `keys` and writable at
    /// each of `R` rows of `out`, both `page_tokens` apart.
    #[inline(always)]
    unsafe fn run(self, simd: S) {
        let ScoresTile { queries, keys, head_dim, page_tokens, out } = self.0;
        let mut sums = [[simd.splat(0.0); V]; R];
        for d in 0..head_dim {
            // Rows' values stay in registers and vectors pass by: 12 sums, 3 values and 1 vector are 16 registers.
            let mut query = [simd.splat(0.0); R];
            for r in 0..R {
                // SAFETY: the caller's promise.
                query[r] = simd.splat(unsafe { *queries.add(r * head_dim + d) });
            }
            for v in 0..V {
                // SAFETY: the caller's promise.
                let key = unsafe { K::load(simd, keys.add(d * page_tokens + v * S::LANES)) };
                for r in 0..R {
                    sums[r][v] = simd.fma(query[r], key, sums[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                // SAFETY: the caller's promise.
                unsafe { simd.store(out.add(r * page_tokens + v * S::LANES), sums[r][v]) }
            }
        }
    }
}

/// `sums[row][d] = sums[row][d] * factors[row] + sum_t weights[row][t] * values[t][d]` for tokens in a range.
///
/// `weights` is `[rows, page_tokens]`, `values` is `[page_tokens, value_stride]`, `sums` is `[rows, width]` where `width` is
/// a whole number of vectors and not more than `value_stride`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "slices and dimensions in")]
pub(super) fn weighted_values<S: Simd, K: Stored>(
    simd: S,
    rows: usize,
    tokens: Range<usize>,
    weights: &[f32],
    page_tokens: usize,
    values: &[K::Bits],
    value_stride: usize,
    factors: &[f32],
    sums: &mut [f32],
    sum_stride: usize,
    width: usize,
) {
    assert!(weights.len() >= rows * page_tokens && tokens.end <= page_tokens && factors.len() >= rows);
    assert!(values.len() >= page_tokens * value_stride && width <= value_stride && width.is_multiple_of(S::LANES));
    assert!(sums.len() >= rows * sum_stride && width <= sum_stride);
    let mut at = 0;
    while at < width {
        let vectors = match (width - at) / S::LANES {
            1 => 1,
            2 | 3 => 2,
            _ => 4,
        };
        // SAFETY: rows, tokens and dimensions are within the slices by the assertions.
        #[expect(unsafe_code, reason = "bounds checked once per tile")]
        unsafe {
            let tile = ValuesTile::<K> {
                tokens: tokens.clone(),
                weights: weights.as_ptr(),
                page_tokens,
                values: values.as_ptr().add(at),
                value_stride,
                factors: factors.as_ptr(),
                sums: sums.as_mut_ptr().add(at),
                sum_stride,
            };
            call_tile!(simd, rows, vectors, tile);
        }
        at += vectors * S::LANES;
    }
}

/// Operands of one register tile of [`weighted_values`].
struct ValuesTile<K: Stored> {
    tokens: Range<usize>,
    weights: *const f32,
    page_tokens: usize,
    values: *const K::Bits,
    value_stride: usize,
    factors: *const f32,
    sums: *mut f32,
    sum_stride: usize,
}

#[expect(unsafe_code, reason = "the innermost loop")]
impl<S: Simd, K: Stored, const R: usize, const V: usize> Kernel<S> for Tile<ValuesTile<K>, R, V> {
    /// # Safety
    /// As for [`weighted_values`], with `R` rows and `V * LANES` values at each row of `values` and `sums`.
    #[inline(always)]
    unsafe fn run(self, simd: S) {
        let ValuesTile { tokens, weights, page_tokens, values, value_stride, factors, sums, sum_stride } = self.0;
        let mut tile = [[simd.splat(0.0); V]; R];
        for r in 0..R {
            // SAFETY: the caller's promise.
            let factor = simd.splat(unsafe { *factors.add(r) });
            for v in 0..V {
                // SAFETY: the caller's promise.
                let sum = unsafe { simd.load(sums.add(r * sum_stride + v * S::LANES)) };
                tile[r][v] = simd.mul(sum, factor);
            }
        }
        for t in tokens {
            let mut weight = [simd.splat(0.0); R];
            for r in 0..R {
                // SAFETY: the caller's promise.
                weight[r] = simd.splat(unsafe { *weights.add(r * page_tokens + t) });
            }
            for v in 0..V {
                // SAFETY: the caller's promise.
                let value = unsafe { K::load(simd, values.add(t * value_stride + v * S::LANES)) };
                for r in 0..R {
                    tile[r][v] = simd.fma(weight[r], value, tile[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                // SAFETY: the caller's promise.
                unsafe { simd.store(sums.add(r * sum_stride + v * S::LANES), tile[r][v]) }
            }
        }
    }
}
