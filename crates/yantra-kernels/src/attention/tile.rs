//! The two products of attention on register tiles: a few query rows against one page of one head.
//!
//! `scores`: vectors run along tokens, each sum along the head dimension. `weighted_values`: vectors run along the head
//! dimension, each sum along tokens. Every element is one chain of multiply-adds in a fixed order, so how rows and
//! vectors are tiled changes nothing in the result.

use super::stored::Stored;
use crate::simd::Simd;

/// Rows a tile has at most: with four vectors beside them they fill sixteen registers, with two, thirty-two.
#[inline(always)]
pub(super) fn tile_rows<S: Simd>(rows_left: usize) -> usize {
    if S::LANES == 16 && rows_left >= 6 { 6 } else { rows_left.min(3) }
}

/// `out[row][token] = sum_d queries[row][d] * keys[d][token]` for `num_vectors * LANES` tokens from the first.
///
/// `queries` is `[rows, head_dim]`, `keys` is `[head_dim, page_tokens]`, `out` is `[rows, page_tokens]`.
#[inline(always)]
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
        // Three vectors are done as four where the page has room: the fourth is masked by the caller.
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
            let (q, k, o) = (queries.as_ptr(), keys.as_ptr().add(at), out.as_mut_ptr().add(at));
            match (rows, vectors) {
                (1, 1) => scores_tile::<S, K, 1, 1>(simd, q, k, head_dim, page_tokens, o),
                (1, 2) => scores_tile::<S, K, 1, 2>(simd, q, k, head_dim, page_tokens, o),
                (1, _) => scores_tile::<S, K, 1, 4>(simd, q, k, head_dim, page_tokens, o),
                (2, 1) => scores_tile::<S, K, 2, 1>(simd, q, k, head_dim, page_tokens, o),
                (2, 2) => scores_tile::<S, K, 2, 2>(simd, q, k, head_dim, page_tokens, o),
                (2, _) => scores_tile::<S, K, 2, 4>(simd, q, k, head_dim, page_tokens, o),
                (3, 1) => scores_tile::<S, K, 3, 1>(simd, q, k, head_dim, page_tokens, o),
                (3, 2) => scores_tile::<S, K, 3, 2>(simd, q, k, head_dim, page_tokens, o),
                (3, _) => scores_tile::<S, K, 3, 4>(simd, q, k, head_dim, page_tokens, o),
                (_, 1) if S::LANES == 16 => scores_tile::<S, K, 6, 1>(simd, q, k, head_dim, page_tokens, o),
                (_, 2) if S::LANES == 16 => scores_tile::<S, K, 6, 2>(simd, q, k, head_dim, page_tokens, o),
                _ if S::LANES == 16 => scores_tile::<S, K, 6, 4>(simd, q, k, head_dim, page_tokens, o),
                _ => unreachable!("tiles have at most three rows of narrow vectors"),
            }
        }
        first += vectors;
    }
}

/// # Safety
/// `queries` is `[R, head_dim]`; `V * LANES` values are readable at each of `head_dim` rows of `keys` and writable at each
/// of `R` rows of `out`, both `page_tokens` apart.
#[inline(always)]
#[expect(unsafe_code, reason = "the innermost loop")]
unsafe fn scores_tile<S: Simd, K: Stored, const R: usize, const V: usize>(
    simd: S,
    queries: *const f32,
    keys: *const K::Bits,
    head_dim: usize,
    page_tokens: usize,
    out: *mut f32,
) {
    let mut sums = [[simd.splat(0.0); V]; R];
    for d in 0..head_dim {
        let mut key = [simd.splat(0.0); V];
        for v in 0..V {
            // SAFETY: the caller's promise.
            key[v] = unsafe { K::load(simd, keys.add(d * page_tokens + v * S::LANES)) };
        }
        for r in 0..R {
            // SAFETY: the caller's promise.
            let query = simd.splat(unsafe { *queries.add(r * head_dim + d) });
            for v in 0..V {
                sums[r][v] = simd.fma(query, key[v], sums[r][v]);
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

/// `sums[row][d] = sums[row][d] * factors[row] + sum_t weights[row][t] * values[t][d]` for tokens in a range.
///
/// `weights` is `[rows, page_tokens]`, `values` is `[page_tokens, value_stride]`, `sums` is `[rows, width]` where `width` is
/// a whole number of vectors and not more than `value_stride`.
#[inline(always)]
pub(super) fn weighted_values<S: Simd, K: Stored>(
    simd: S,
    rows: usize,
    tokens: std::ops::Range<usize>,
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
    assert!(values.len() >= page_tokens * value_stride && width <= value_stride && width % S::LANES == 0);
    assert!(sums.len() >= rows * sum_stride && width <= sum_stride);
    let mut at = 0;
    while at < width {
        let vectors = match (width - at) / S::LANES {
            1 => 1,
            2 | 3 => 2,
            _ => 4,
        };
        let tile = ValuesTile { tokens: tokens.clone(), page_tokens, value_stride, sum_stride };
        // SAFETY: rows, tokens and dimensions are within the slices by the assertions.
        #[expect(unsafe_code, reason = "bounds checked once per tile")]
        unsafe {
            let (w, f) = (weights.as_ptr(), factors.as_ptr());
            let (x, s) = (values.as_ptr().add(at), sums.as_mut_ptr().add(at));
            match (rows, vectors) {
                (1, 1) => tile.run::<S, K, 1, 1>(simd, w, x, f, s),
                (1, 2) => tile.run::<S, K, 1, 2>(simd, w, x, f, s),
                (1, _) => tile.run::<S, K, 1, 4>(simd, w, x, f, s),
                (2, 1) => tile.run::<S, K, 2, 1>(simd, w, x, f, s),
                (2, 2) => tile.run::<S, K, 2, 2>(simd, w, x, f, s),
                (2, _) => tile.run::<S, K, 2, 4>(simd, w, x, f, s),
                (3, 1) => tile.run::<S, K, 3, 1>(simd, w, x, f, s),
                (3, 2) => tile.run::<S, K, 3, 2>(simd, w, x, f, s),
                (3, _) => tile.run::<S, K, 3, 4>(simd, w, x, f, s),
                (_, 1) if S::LANES == 16 => tile.run::<S, K, 6, 1>(simd, w, x, f, s),
                (_, 2) if S::LANES == 16 => tile.run::<S, K, 6, 2>(simd, w, x, f, s),
                _ if S::LANES == 16 => tile.run::<S, K, 6, 4>(simd, w, x, f, s),
                _ => unreachable!("tiles have at most three rows of narrow vectors"),
            }
        }
        at += vectors * S::LANES;
    }
}

/// Dimensions of one register tile of [`weighted_values`].
struct ValuesTile {
    tokens: std::ops::Range<usize>,
    page_tokens: usize,
    value_stride: usize,
    sum_stride: usize,
}

impl ValuesTile {
    /// # Safety
    /// As for [`weighted_values`], with `V * LANES` values at each row of `values` and `sums`.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the innermost loop")]
    unsafe fn run<S: Simd, K: Stored, const R: usize, const V: usize>(
        self,
        simd: S,
        weights: *const f32,
        values: *const K::Bits,
        factors: *const f32,
        sums: *mut f32,
    ) {
        let mut tile = [[simd.splat(0.0); V]; R];
        for r in 0..R {
            // SAFETY: the caller's promise.
            let factor = simd.splat(unsafe { *factors.add(r) });
            for v in 0..V {
                // SAFETY: the caller's promise.
                let sum = unsafe { simd.load(sums.add(r * self.sum_stride + v * S::LANES)) };
                tile[r][v] = simd.mul(sum, factor);
            }
        }
        for t in self.tokens {
            let mut value = [simd.splat(0.0); V];
            for v in 0..V {
                // SAFETY: the caller's promise.
                value[v] = unsafe { K::load(simd, values.add(t * self.value_stride + v * S::LANES)) };
            }
            for r in 0..R {
                // SAFETY: the caller's promise.
                let weight = simd.splat(unsafe { *weights.add(r * self.page_tokens + t) });
                for v in 0..V {
                    tile[r][v] = simd.fma(weight, value[v], tile[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                // SAFETY: the caller's promise.
                unsafe { simd.store(sums.add(r * self.sum_stride + v * S::LANES), tile[r][v]) }
            }
        }
    }
}
