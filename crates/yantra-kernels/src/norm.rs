//! Normalisation of rows: RMS norm, layer norm, L2.
//!
//! Each row is reduced by itself in an order that depends on its length only, so a row's result does not depend on the
//! batch. Sums run over four vectors at once and are joined pairwise, which also keeps their rounding error small.

use crate::{
    Compute,
    parallel::for_each_row_group,
    simd::{Simd, simd_dispatch},
};

/// `out = x / sqrt(mean(x^2) + eps) * weight`, per row of `cols` values (Zhang & Sennrich 2019, arXiv:1910.07467).
///
/// `x` and `out` are `[num_rows, cols]`, `weight` is `[cols]`.
///
/// # Panics
/// If a slice is shorter than its shape.
pub fn rms_norm(cx: &Compute, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], num_rows: usize, cols: usize) {
    let (x, weight) = (&x[..num_rows * cols], &weight[..cols]);
    for_each_row_group(cx, &mut out[..num_rows * cols], cols, cols, &|first, rows| {
        for (row, out) in rows.chunks_exact_mut(cols).enumerate() {
            rms_norm_row(cx.level(), &x[(first + row) * cols..][..cols], weight, eps, out);
        }
    });
}

/// [`rms_norm`] of each row where it stands: `x` is `[num_rows, cols]`. Also the per-head norm of queries and keys, with
/// `cols` the head dimension and `num_rows` tokens times heads.
///
/// # Panics
/// If a slice is shorter than its shape.
pub fn rms_norm_in_place(cx: &Compute, x: &mut [f32], weight: &[f32], eps: f32, num_rows: usize, cols: usize) {
    let weight = &weight[..cols];
    for_each_row_group(cx, &mut x[..num_rows * cols], cols, cols, &|_, rows| {
        for row in rows.chunks_exact_mut(cols) {
            let scale = rms_scale(cx.level(), row, eps);
            scale_by_weight(cx.level(), row, scale, weight);
        }
    });
}

/// `out = (x - mean) / sqrt(variance + eps) * weight + bias`, per row (Ba et al. 2016, arXiv:1607.06450).
///
/// `x` and `out` are `[num_rows, cols]`, `weight` and `bias` are `[cols]`; a missing bias is zero.
///
/// # Panics
/// If a slice is shorter than its shape.
#[expect(clippy::too_many_arguments, reason = "slices and dimensions in")]
pub fn layer_norm(
    cx: &Compute,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
    num_rows: usize,
    cols: usize,
) {
    let (x, weight, bias) = (&x[..num_rows * cols], &weight[..cols], bias.map(|bias| &bias[..cols]));
    for_each_row_group(cx, &mut out[..num_rows * cols], cols, cols, &|first, rows| {
        for (row, out) in rows.chunks_exact_mut(cols).enumerate() {
            layer_norm_row(cx.level(), &x[(first + row) * cols..][..cols], weight, bias, eps, out);
        }
    });
}

/// [`layer_norm`] of each row where it stands: `x` is `[num_rows, cols]`.
///
/// # Panics
/// If a slice is shorter than its shape.
pub fn layer_norm_in_place(
    cx: &Compute,
    x: &mut [f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    num_rows: usize,
    cols: usize,
) {
    let (weight, bias) = (&weight[..cols], &bias[..cols]);
    for_each_row_group(cx, &mut x[..num_rows * cols], cols, cols, &|_, rows| {
        for row in rows.chunks_exact_mut(cols) {
            centre_and_scale(cx.level(), row, weight, bias, eps);
        }
    });
}

/// Divides each row of `x` (`[num_rows, cols]`) by its Euclidean length, or by 1e-12 if that is smaller.
///
/// # Panics
/// If `x` is shorter than its shape.
pub fn l2_normalize(cx: &Compute, x: &mut [f32], num_rows: usize, cols: usize) {
    for_each_row_group(cx, &mut x[..num_rows * cols], cols, cols, &|_, rows| {
        for row in rows.chunks_exact_mut(cols) {
            let length = sum_of_squares(cx.level(), row, 0.0).sqrt().max(1e-12);
            scale_row(cx.level(), row, 1.0 / length);
        }
    });
}

simd_dispatch! {
    /// One row of [`rms_norm`].
    pub(crate) fn rms_norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_row_body;
    /// One row of [`layer_norm`].
    pub(crate) fn layer_norm_row(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32])
        = layer_norm_row_body;
    /// `1 / sqrt(mean(x^2) + eps)`.
    pub(crate) fn rms_scale(x: &[f32], eps: f32) -> f32 = rms_scale_body;
    /// `row *= factor`.
    pub(crate) fn scale_row(row: &mut [f32], factor: f32) = scale_row_body;
    fn centre_and_scale(row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) = centre_and_scale_body;
    fn scale_by_weight(row: &mut [f32], scale: f32, weight: &[f32]) = scale_by_weight_body;
    fn sum_of_squares(x: &[f32], shift: f32) -> f32 = sum_of_squares_body;
}

#[inline(always)]
fn sum_body<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let mut sums = [simd.splat(0.0); 4];
    let mut blocks = x.chunks_exact(4 * S::LANES);
    for block in &mut blocks {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum = simd.add(*sum, simd.load_slice(&block[lane * S::LANES..]));
        }
    }
    let mut vectors = blocks.remainder().chunks_exact(S::LANES);
    for (sum, vector) in sums.iter_mut().zip(&mut vectors) {
        *sum = simd.add(*sum, simd.load_slice(vector));
    }
    if !vectors.remainder().is_empty() {
        sums[3] = simd.add(sums[3], simd.load_partial(vectors.remainder(), 0.0));
    }
    simd.reduce_add(simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3])))
}

/// `sum((x - shift)^2)`.
#[inline(always)]
fn sum_of_squares_body<S: Simd>(simd: S, x: &[f32], shift: f32) -> f32 {
    let shift_vector = simd.splat(shift);
    let mut sums = [simd.splat(0.0); 4];
    let mut blocks = x.chunks_exact(4 * S::LANES);
    for block in &mut blocks {
        for (lane, sum) in sums.iter_mut().enumerate() {
            let value = simd.sub(simd.load_slice(&block[lane * S::LANES..]), shift_vector);
            *sum = simd.fma(value, value, *sum);
        }
    }
    let mut vectors = blocks.remainder().chunks_exact(S::LANES);
    for (sum, vector) in sums.iter_mut().zip(&mut vectors) {
        let value = simd.sub(simd.load_slice(vector), shift_vector);
        *sum = simd.fma(value, value, *sum);
    }
    if !vectors.remainder().is_empty() {
        let value = simd.sub(simd.load_partial(vectors.remainder(), shift), shift_vector);
        sums[3] = simd.fma(value, value, sums[3]);
    }
    simd.reduce_add(simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3])))
}

#[inline(always)]
fn rms_scale_body<S: Simd>(simd: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares_body(simd, x, 0.0) / x.len() as f32 + eps).sqrt()
}

#[inline(always)]
fn rms_norm_row_body<S: Simd>(simd: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = rms_scale_body(simd, x, eps);
    let scale_vector = simd.splat(scale);
    let whole = x.len() / S::LANES * S::LANES;
    for start in (0..whole).step_by(S::LANES) {
        let scaled = simd.mul(simd.load_slice(&x[start..]), scale_vector);
        simd.store_slice(&mut out[start..], simd.mul(scaled, simd.load_slice(&weight[start..])));
    }
    for index in whole..x.len() {
        out[index] = x[index] * scale * weight[index];
    }
}

#[inline(always)]
fn centre_and_scale_body<S: Simd>(simd: S, row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let count = row.len() as f32;
    let mean = sum_body(simd, row) / count;
    let scale = 1.0 / (sum_of_squares_body(simd, row, mean) / count + eps).sqrt();
    for ((value, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
        *value = (*value - mean) * scale * weight + bias;
    }
}

#[inline(always)]
fn scale_by_weight_body<S: Simd>(simd: S, row: &mut [f32], scale: f32, weight: &[f32]) {
    let scale_vector = simd.splat(scale);
    let mut values = row.chunks_exact_mut(S::LANES);
    let mut weights = weight.chunks_exact(S::LANES);
    for (value, weight) in (&mut values).zip(&mut weights) {
        let scaled = simd.mul(simd.load_slice(value), scale_vector);
        simd.store_slice(value, simd.mul(scaled, simd.load_slice(weight)));
    }
    for (value, weight) in values.into_remainder().iter_mut().zip(weights.remainder()) {
        *value = *value * scale * weight;
    }
}

#[inline(always)]
fn scale_row_body<S: Simd>(simd: S, row: &mut [f32], factor: f32) {
    let factor_vector = simd.splat(factor);
    let mut values = row.chunks_exact_mut(S::LANES);
    for value in &mut values {
        simd.store_slice(value, simd.mul(simd.load_slice(value), factor_vector));
    }
    for value in values.into_remainder() {
        *value *= factor;
    }
}

#[inline(always)]
fn layer_norm_row_body<S: Simd>(simd: S, x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    let count = x.len() as f32;
    let mean = sum_body(simd, x) / count;
    let scale = 1.0 / (sum_of_squares_body(simd, x, mean) / count + eps).sqrt();
    let (mean_vector, scale_vector) = (simd.splat(mean), simd.splat(scale));
    let whole = x.len() / S::LANES * S::LANES;
    for start in (0..whole).step_by(S::LANES) {
        let centred = simd.sub(simd.load_slice(&x[start..]), mean_vector);
        let scaled = simd.mul(simd.mul(centred, scale_vector), simd.load_slice(&weight[start..]));
        let shift = match bias {
            Some(bias) => simd.load_slice(&bias[start..]),
            None => simd.splat(0.0),
        };
        simd.store_slice(&mut out[start..], simd.add(scaled, shift));
    }
    for index in whole..x.len() {
        out[index] = (x[index] - mean) * scale * weight[index] + bias.map_or(0.0, |bias| bias[index]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{assert_close, computes, random};

    fn reference(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f64, centre: bool) -> Vec<f32> {
        let count = x.len() as f64;
        let mean = if centre { x.iter().map(|&x| f64::from(x)).sum::<f64>() / count } else { 0.0 };
        let square = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        let scale = 1.0 / (square + eps).sqrt();
        let shift = |i: usize| bias.map_or(0.0, |bias| f64::from(bias[i]));
        (0..x.len()).map(|i| ((f64::from(x[i]) - mean) * scale * f64::from(weight[i]) + shift(i)) as f32).collect()
    }

    #[test]
    fn norms_agree_with_f64_at_every_level_and_length() {
        for cx in computes() {
            for cols in [1, 2, 7, 8, 9, 31, 33, 64, 65, 100, 384, 576] {
                let rows = if cols == 576 { 70 } else { 3 };
                let (x, weight, bias) = (random(1, rows * cols), random(2, cols), random(3, cols));
                let mut out = vec![0.0; rows * cols];
                let expect = |bias: Option<&[f32]>, eps, centre| -> Vec<f32> {
                    x.chunks(cols).flat_map(|row| reference(row, &weight, bias, eps, centre)).collect()
                };
                rms_norm(&cx, &x, &weight, 1e-5, &mut out, rows, cols);
                assert_close(&out, &expect(None, 1e-5, false), 2e-6);
                let mut in_place = x.clone();
                rms_norm_in_place(&cx, &mut in_place, &weight, 1e-5, rows, cols);
                assert_eq!(out, in_place);
                layer_norm(&cx, &x, &weight, Some(&bias), 1e-3, &mut out, rows, cols);
                assert_close(&out, &expect(Some(&bias), 1e-3, true), 5e-6);
                in_place.copy_from_slice(&x);
                layer_norm_in_place(&cx, &mut in_place, &weight, &bias, 1e-3, rows, cols);
                assert_close(&in_place, &out, 1e-6);
                layer_norm(&cx, &x, &weight, None, 1e-3, &mut out, rows, cols);
                assert_close(&out, &expect(None, 1e-3, true), 5e-6);
                let mut unit = x.clone();
                l2_normalize(&cx, &mut unit, rows, cols);
                for row in unit.chunks(cols) {
                    let square: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
                    assert!((square - 1.0).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn sixteen_lanes_agree_with_one() {
        use crate::simd::Portable;
        for cols in [1, 15, 16, 17, 63, 64, 100, 576] {
            let (x, weight) = (random(4, cols), random(5, cols));
            let (mut wide, mut narrow) = (vec![0.0; cols], vec![0.0; cols]);
            layer_norm_row_body(Portable::<16>, &x, &weight, None, 1e-3, &mut wide);
            layer_norm_row_body(Portable::<1>, &x, &weight, None, 1e-3, &mut narrow);
            assert_close(&wide, &narrow, 1e-5);
        }
    }

    #[test]
    fn a_zero_row_and_an_empty_batch_are_fine() {
        for cx in computes() {
            let mut zero = vec![0.0; 8];
            l2_normalize(&cx, &mut zero, 1, 8);
            rms_norm_in_place(&cx, &mut zero, &[1.0; 8], 1e-6, 1, 8);
            assert_eq!(zero, [0.0; 8]);
            rms_norm(&cx, &[], &[1.0; 8], 1e-6, &mut [], 0, 8);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_batch() {
        let (cols, rows) = (576, 64);
        let (x, weight) = (random(6, rows * cols), random(7, cols));
        for cx in computes() {
            let (mut whole, mut single) = (vec![0.0; rows * cols], vec![0.0; cols]);
            rms_norm(&cx, &x, &weight, 1e-5, &mut whole, rows, cols);
            for (row, out) in whole.chunks(cols).enumerate() {
                rms_norm(&cx, &x[row * cols..], &weight, 1e-5, &mut single, 1, cols);
                assert_eq!(out, single);
            }
        }
    }
}
