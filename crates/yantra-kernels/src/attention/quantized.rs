//! Keys and values in 8 and 4 bits: integers and one factor (bfloat16) per token and head, which come out of both
//! products: of a score it is a factor, and of a token's weight. Turned by [`rotate`] first, a head's values are all of
//! about the same size, so that one factor serves them all.
//!
//! Integers of 8 bits lie as floats do, keys `[head_dim][token]`, values `[token][head_dim]`; 4 bits, which only values
//! are rounded to, `[token / 2][head_dim]`, the even token in the lower half. Factors, `[token]`, lie behind.
//!
//! Keys keep 8 bits in either format: an error in a score is an error in an exponent.

use super::{
    pages::MAX_HEAD_DIM,
    rotation::{rotate, rotation_block},
    rows::RowShape,
    stored::{Lane, Operand, Stored, Working},
};
use crate::simd::{MAX_LANES, Simd};
use std::marker::PhantomData;

/// Keys and values of 8 bits, computed with as `W`.
pub(super) struct Int8<W>(PhantomData<W>);

/// Keys of 8 bits and values of 4, computed with as `W`.
pub(super) struct Int4<W>(PhantomData<W>);

/// Bytes of a token's factor.
pub(super) const SCALE_BYTES: usize = 2;

/// Added to a float of small magnitude, rounds it to an integer, to nearest even, in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

const MAX_INT8: f32 = 127.0;

/// Four bits stand for -7.5 to 7.5 in steps of one.
const MAX_INT4: f32 = 7.5;

/// Shares of the largest magnitude that are tried as the largest four bits can hold: where few values are large, cutting
/// them off costs less than a coarser step.
const INT4_SHARES: [f32; 5] = [1.0, 0.92, 0.84, 0.76, 0.68];

impl<W: Working> Stored for Int8<W> {
    type AsStored = W;
    type Working = W;
    const MAX_ROWS_AS_STORED: usize = 0;
    const ROTATED: bool = true;
    const SCALED: bool = true;

    #[inline(always)]
    fn store_key<S: Simd>(simd: S, key: &[f32], keys: &mut [u8], offset: usize) {
        store_key(simd, key, keys, offset);
    }

    #[inline(always)]
    fn store_value<S: Simd>(simd: S, value: &[f32], values: &mut [u8], offset: usize) {
        let (quants, scales) = values.split_at_mut(values.len() / (value.len() + SCALE_BYTES) * value.len());
        let quants = &mut quants[offset * value.len()..][..value.len()];
        Turned::new(simd, value).store_int8(simd, quants, scales, offset);
    }

    #[inline(always)]
    fn widen_keys<S: Simd>(simd: S, keys: &[u8], shape: RowShape, to: &mut [Lane<W>]) {
        widen_int8::<S, W>(simd, keys, shape.head_dim, shape.page_tokens, shape.page_tokens, to);
    }

    #[inline(always)]
    fn widen_values<S: Simd>(simd: S, values: &[u8], shape: RowShape, to: &mut [Lane<W>]) {
        widen_int8::<S, W>(simd, values, shape.page_tokens, shape.value_dim, shape.stride(), to);
    }

    #[inline(always)]
    fn scales(page: &[u8], to: &mut [f32]) {
        read_scales(page, to);
    }
}

impl<W: Working> Stored for Int4<W> {
    type AsStored = W;
    type Working = W;
    const MAX_ROWS_AS_STORED: usize = 0;
    const ROTATED: bool = true;
    const SCALED: bool = true;

    #[inline(always)]
    fn store_key<S: Simd>(simd: S, key: &[f32], keys: &mut [u8], offset: usize) {
        store_key(simd, key, keys, offset);
    }

    #[inline(always)]
    fn store_value<S: Simd>(simd: S, value: &[f32], values: &mut [u8], offset: usize) {
        let page_tokens = 2 * values.len() / (value.len() + 2 * SCALE_BYTES);
        let (quants, scales) = values.split_at_mut(page_tokens * value.len() / 2);
        let quants = &mut quants[offset / 2 * value.len()..][..value.len()];
        Turned::new(simd, value).store_int4(simd, quants, scales, offset);
    }

    #[inline(always)]
    fn widen_keys<S: Simd>(simd: S, keys: &[u8], shape: RowShape, to: &mut [Lane<W>]) {
        Int8::<W>::widen_keys(simd, keys, shape, to);
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "the innermost loop works on pointers")]
    fn widen_values<S: Simd>(simd: S, values: &[u8], shape: RowShape, to: &mut [Lane<W>]) {
        let (columns, stride) = (shape.value_dim, shape.stride());
        check_rows::<W>(values, shape.page_tokens / 2, columns, stride, to.len(), shape.page_tokens);
        let middle = simd.splat(MAX_INT4);
        for row in 0..shape.page_tokens / 2 {
            for column in (0..columns).step_by(S::LANES) {
                // SAFETY: as for `widen_int8`.
                unsafe {
                    let (first, second) = simd.load_nibbles(values.as_ptr().add(row * columns + column));
                    let to = to.as_mut_ptr().add(2 * row / W::PER_LANE * stride + column);
                    W::store_rows(simd, simd.sub(first, middle), simd.sub(second, middle), to, stride);
                }
            }
        }
    }

    #[inline(always)]
    fn scales(page: &[u8], to: &mut [f32]) {
        read_scales(page, to);
    }
}

/// Integers, `[rows, columns]`, as pairs of rows of the working format, `[rows, stride]`.
#[inline(always)]
#[expect(unsafe_code, reason = "the innermost loop works on pointers")]
fn widen_int8<S: Simd, W: Working>(
    simd: S,
    from: &[u8],
    rows: usize,
    columns: usize,
    stride: usize,
    to: &mut [Lane<W>],
) {
    check_rows::<W>(from, rows, columns, stride, to.len(), rows);
    for row in (0..rows).step_by(2) {
        for column in (0..columns).step_by(S::LANES) {
            // SAFETY: a vector begins in a row; it ends before the page does and before the next row of `to` begins, by
            // the check.
            unsafe {
                let from = from.as_ptr().add(row * columns + column);
                let (first, second) = (simd.load_i8(from), simd.load_i8(from.add(columns)));
                W::store_rows(simd, first, second, to.as_mut_ptr().add(row / W::PER_LANE * stride + column), stride);
            }
        }
    }
}

/// Vectors that begin in a row may end behind it: in the next row, in the factors behind the last, in what fills a row of
/// the working format up to its stride.
#[inline(always)]
fn check_rows<W: Operand>(from: &[u8], rows: usize, columns: usize, stride: usize, to_len: usize, to_rows: usize) {
    assert!(from.len() >= rows * columns + MAX_LANES && stride >= columns.next_multiple_of(MAX_LANES));
    assert!(to_rows.is_multiple_of(2) && to_len >= to_rows / W::PER_LANE * stride);
}

#[inline(always)]
fn read_scales(page: &[u8], to: &mut [f32]) {
    let scales = &page[page.len() - SCALE_BYTES * to.len()..];
    for (bytes, scale) in scales.chunks_exact(SCALE_BYTES).zip(to) {
        *scale = f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16);
    }
}

#[inline(always)]
fn store_key<S: Simd>(simd: S, key: &[f32], keys: &mut [u8], offset: usize) {
    let page_tokens = keys.len() / (key.len() + SCALE_BYTES);
    let (quants, scales) = keys.split_at_mut(page_tokens * key.len());
    let mut rounded = [0; MAX_HEAD_DIM];
    let rounded = &mut rounded[..key.len()];
    Turned::new(simd, key).store_int8(simd, rounded, scales, offset);
    for (row, &quant) in quants.chunks_exact_mut(page_tokens).zip(&*rounded) {
        row[offset] = quant;
    }
}

/// A head's values, turned, filled with zeros to whole vectors.
struct Turned {
    values: [f32; MAX_HEAD_DIM],
    len: usize,
}

impl Turned {
    #[inline(always)]
    fn new<S: Simd>(simd: S, values: &[f32]) -> Self {
        let mut turned = Self { values: [0.0; MAX_HEAD_DIM], len: values.len().next_multiple_of(MAX_LANES) };
        turned.values[..values.len()].copy_from_slice(values);
        rotate(simd, &mut turned.values[..values.len()], rotation_block(values.len()));
        turned
    }

    #[inline(always)]
    fn max<S: Simd>(&self, simd: S) -> f32 {
        let mut max = simd.splat(0.0);
        for values in self.values[..self.len].chunks_exact(S::LANES) {
            let values = simd.load_slice(values);
            max = simd.max(max, simd.max(values, simd.sub(simd.splat(0.0), values)));
        }
        simd.reduce_max(max)
    }

    #[inline(always)]
    fn store_int8<S: Simd>(&self, simd: S, quants: &mut [u8], scales: &mut [u8], offset: usize) {
        let scale = Scale::above(self.max(simd) / MAX_INT8);
        scale.store(scales, offset);
        for (quant, value) in quants.iter_mut().zip(&self.values) {
            *quant = (value * scale.inverse + ROUND).to_bits() as u8;
        }
    }

    /// Writes four bits of each byte, the others belong to the neighbour.
    #[inline(always)]
    fn store_int4<S: Simd>(&self, simd: S, quants: &mut [u8], scales: &mut [u8], offset: usize) {
        let max = self.max(simd);
        let (mut scale, mut least) = (Scale::above(max / MAX_INT4), f32::INFINITY);
        for share in INT4_SHARES {
            let tried = Scale::above(max * share / MAX_INT4);
            let error = self.int4_error(simd, tried);
            if error < least {
                (scale, least) = (tried, error);
            }
        }
        scale.store(scales, offset);
        let shift = offset % 2 * 4;
        for (quant, value) in quants.iter_mut().zip(&self.values) {
            let held = (value * scale.inverse).clamp(-MAX_INT4, MAX_INT4);
            let bits = ((held - 0.5 + ROUND).to_bits() as u8).wrapping_add(8) & 15;
            *quant = (*quant & !(15 << shift)) | (bits << shift);
        }
    }

    /// The sum of squared errors of four bits.
    #[inline(always)]
    fn int4_error<S: Simd>(&self, simd: S, scale: Scale) -> f32 {
        let (least, most) = (simd.splat(-MAX_INT4), simd.splat(MAX_INT4));
        let (round, half) = (simd.splat(ROUND), simd.splat(0.5));
        let mut sum = simd.splat(0.0);
        for values in self.values[..self.len].chunks_exact(S::LANES) {
            let value = simd.mul(simd.load_slice(values), simd.splat(scale.inverse));
            let held = simd.max(simd.min(value, most), least);
            let rounded = simd.add(simd.sub(simd.add(simd.sub(held, half), round), round), half);
            let error = simd.sub(value, rounded);
            sum = simd.fma(error, error, sum);
        }
        simd.reduce_add(sum) * scale.value * scale.value
    }
}

/// A factor as stored, and what values are multiplied by to become integers.
#[derive(Clone, Copy)]
struct Scale {
    bits: u16,
    value: f32,
    inverse: f32,
}

impl Scale {
    /// The least factor that is not below `value`, so that no integer is too large.
    #[inline(always)]
    fn above(value: f32) -> Self {
        // What has no finite inverse is as good as zero.
        let value = if value < f32::MIN_POSITIVE { 0.0 } else { value };
        let bits = (value.to_bits().saturating_add(0xffff) >> 16) as u16;
        let value = f32::from_bits(u32::from(bits) << 16);
        Self { bits, value, inverse: if value > 0.0 { 1.0 / value } else { 0.0 } }
    }

    #[inline(always)]
    fn store(self, scales: &mut [u8], offset: usize) {
        scales[offset * SCALE_BYTES..][..SCALE_BYTES].copy_from_slice(&self.bits.to_le_bytes());
    }
}
