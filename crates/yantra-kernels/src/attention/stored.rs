//! How keys and values are stored as floats, and how a stored value meets a query or a weight.
//!
//! Kernels work on *lanes*. A lane holds one value, or of bfloat16 two consecutive ones (two dimensions of a key, two tokens
//! of a value), which processors with BF16 multiply and add in one instruction. The other operand, a query or a row of
//! weights, is kept in the same shape: 32 bits that are broadcast to all lanes.

use super::{pages::MAX_HEAD_DIM, rows::RowShape};
use crate::simd::{MAX_LANES, Simd};

/// What kernels read: lanes of keys or values.
#[expect(unsafe_code, reason = "pointer loads")]
pub(super) trait Operand: 'static {
    /// One lane; any bits are valid.
    type Lane: bytemuck::Pod + Send + Sync;
    /// A register of lanes, ready to multiply.
    type Register<S: Simd>: Copy;
    /// Values in a lane.
    const PER_LANE: usize;

    /// # Safety
    /// `S::LANES` lanes are readable at `from`.
    unsafe fn load<S: Simd>(simd: S, from: *const Self::Lane) -> Self::Register<S>;
    /// A factor in every lane.
    fn splat<S: Simd>(simd: S, factor: u32) -> Self::Register<S>;
    /// `sum + factor * stored`, over all values of a lane.
    fn madd<S: Simd>(simd: S, factor: Self::Register<S>, stored: Self::Register<S>, sum: S::Vector) -> S::Vector;
    /// Zeroes one value of each lane of two.
    fn without<S: Simd>(simd: S, register: Self::Register<S>, which: Half) -> Self::Register<S>;
    /// Writes a vector of values as factors, `PER_LANE` in each, from value `at` on.
    fn store_factors<S: Simd>(simd: S, values: S::Vector, factors: &mut [u32], at: usize);
}

/// An operand with lanes of 32 bits, which other formats are converted to.
#[expect(unsafe_code, reason = "pointer stores")]
pub(super) trait Working: Operand {
    /// Writes a vector of each of two rows that follow each other along the axis that is summed.
    ///
    /// # Safety
    /// `S::LANES` lanes are writable at `to`, and at `to + stride` if a lane holds one value.
    unsafe fn store_rows<S: Simd>(simd: S, first: S::Vector, second: S::Vector, to: *mut Self::Lane, stride: usize);
    /// Makes values, `[page_tokens / PER_LANE, stride]`, of the first components of keys, `[head_dim / PER_LANE,
    /// page_tokens]`. What lies behind the value dimension is finite.
    fn values_of_keys(keys: &[Self::Lane], shape: RowShape, to: &mut [Self::Lane]);
}

/// A storage format of keys and values. Pages are those of one head.
pub(super) trait Stored: 'static {
    /// What pages are read as without conversion.
    type AsStored: Operand;
    /// What pages are converted to.
    type Working: Working;
    /// Rows up to which pages are read as stored; more rows read a copy in the working format, made once.
    const MAX_ROWS_AS_STORED: usize;
    /// Whether keys and values are stored turned by [`super::rotation::rotate`].
    const ROTATED: bool = false;
    /// Whether every token has a factor, which its scores (of keys) or its weights (of values) are multiplied by.
    const SCALED: bool = false;

    /// Writes one token's key, `[head_dim]`, to its place, `offset`, in a page.
    fn store_key<S: Simd>(simd: S, key: &[f32], keys: &mut [u8], offset: usize);
    /// Writes one token's value, `[value_dim]`, to its place, `offset`, in a page.
    fn store_value<S: Simd>(simd: S, value: &[f32], values: &mut [u8], offset: usize);
    /// Converts a page of keys to `[head_dim / PER_LANE, page_tokens]`.
    fn widen_keys<S: Simd>(simd: S, keys: &[u8], shape: RowShape, to: &mut [Lane<Self::Working>]);
    /// Converts a page of values to `[page_tokens / PER_LANE, stride]`. What lies behind the value dimension is finite.
    fn widen_values<S: Simd>(simd: S, values: &[u8], shape: RowShape, to: &mut [Lane<Self::Working>]);
    /// Reads the factors of a page, of keys or of values: as many as there are tokens.
    fn scales(_page: &[u8], _to: &mut [f32]) {}
}

/// A lane of an operand.
pub(super) type Lane<O> = <O as Operand>::Lane;

/// One of the two values of a lane.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    First,
    Second,
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

/// Rounds `src` to 16-bit values with a vector store; `out` is as long.
#[inline(always)]
fn round_to<S: Simd>(simd: S, src: &[f32], out: &mut [u16], store: impl StoreHalf<S>) {
    assert_eq!(src.len(), out.len(), "as many rounded values as values");
    let whole = src.len() / S::LANES * S::LANES;
    let mut last = [0; MAX_LANES];
    // SAFETY: every vector lies within both slices, and the buffer holds the widest vector.
    #[expect(unsafe_code, reason = "bounds by construction")]
    unsafe {
        for start in (0..whole).step_by(S::LANES) {
            store.store(simd, out.as_mut_ptr().add(start), simd.load(src.as_ptr().add(start)));
        }
        if whole < src.len() {
            store.store(simd, last.as_mut_ptr(), simd.load_partial(&src[whole..], 0.0));
        }
    }
    out[whole..].copy_from_slice(&last[..src.len() - whole]);
}

/// A rounding store. A trait and not a closure: closures are not always inlined into the function that has the
/// instructions.
#[expect(unsafe_code, reason = "a pointer store")]
trait StoreHalf<S: Simd> {
    /// # Safety
    /// `S::LANES` values are writable at `to`.
    unsafe fn store(&self, simd: S, to: *mut u16, vector: S::Vector);
}

#[expect(unsafe_code, reason = "pointer stores")]
impl<S: Simd> StoreHalf<S> for F16 {
    #[inline(always)]
    unsafe fn store(&self, simd: S, to: *mut u16, vector: S::Vector) {
        // SAFETY: the caller's promise.
        unsafe { simd.store_f16(to, vector) }
    }
}

#[expect(unsafe_code, reason = "pointer stores")]
impl<S: Simd> StoreHalf<S> for Bf16 {
    #[inline(always)]
    unsafe fn store(&self, simd: S, to: *mut u16, vector: S::Vector) {
        // SAFETY: the caller's promise.
        unsafe { simd.store_bf16(to, vector) }
    }
}

#[expect(unsafe_code, reason = "pointer loads")]
impl Operand for F32 {
    type Lane = f32;
    type Register<S: Simd> = S::Vector;
    const PER_LANE: usize = 1;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const f32) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.load(from) }
    }

    #[inline(always)]
    fn splat<S: Simd>(simd: S, factor: u32) -> S::Vector {
        simd.splat(f32::from_bits(factor))
    }

    #[inline(always)]
    fn madd<S: Simd>(simd: S, factor: S::Vector, stored: S::Vector, sum: S::Vector) -> S::Vector {
        simd.fma(factor, stored, sum)
    }

    #[inline(always)]
    fn without<S: Simd>(_simd: S, register: S::Vector, _which: Half) -> S::Vector {
        register
    }

    #[inline(always)]
    fn store_factors<S: Simd>(simd: S, values: S::Vector, factors: &mut [u32], at: usize) {
        simd.store_slice(&mut bytemuck::cast_slice_mut(factors)[at..], values);
    }
}

#[expect(unsafe_code, reason = "pointer loads")]
impl Operand for F16 {
    type Lane = u16;
    type Register<S: Simd> = S::Vector;
    const PER_LANE: usize = 1;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const u16) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.load_f16(from) }
    }

    #[inline(always)]
    fn splat<S: Simd>(simd: S, factor: u32) -> S::Vector {
        F32::splat(simd, factor)
    }

    #[inline(always)]
    fn madd<S: Simd>(simd: S, factor: S::Vector, stored: S::Vector, sum: S::Vector) -> S::Vector {
        F32::madd(simd, factor, stored, sum)
    }

    #[inline(always)]
    fn without<S: Simd>(simd: S, register: S::Vector, which: Half) -> S::Vector {
        F32::without(simd, register, which)
    }

    #[inline(always)]
    fn store_factors<S: Simd>(simd: S, values: S::Vector, factors: &mut [u32], at: usize) {
        F32::store_factors(simd, values, factors, at);
    }
}

#[expect(unsafe_code, reason = "pointer loads")]
impl Operand for Bf16 {
    type Lane = u32;
    type Register<S: Simd> = S::Pairs;
    const PER_LANE: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const u32) -> S::Pairs {
        // SAFETY: the caller's promise.
        unsafe { simd.load_pairs(from) }
    }

    #[inline(always)]
    fn splat<S: Simd>(simd: S, factor: u32) -> S::Pairs {
        simd.splat_pair(factor)
    }

    #[inline(always)]
    fn madd<S: Simd>(simd: S, factor: S::Pairs, stored: S::Pairs, sum: S::Vector) -> S::Vector {
        simd.dot_pairs(factor, stored, sum)
    }

    #[inline(always)]
    fn without<S: Simd>(simd: S, register: S::Pairs, which: Half) -> S::Pairs {
        simd.mask_pairs(register, if which == Half::First { 0xffff_0000 } else { 0x0000_ffff })
    }

    #[inline(always)]
    fn store_factors<S: Simd>(simd: S, values: S::Vector, factors: &mut [u32], at: usize) {
        let factors = &mut bytemuck::cast_slice_mut::<_, u16>(factors)[at..];
        assert!(factors.len() >= S::LANES);
        // SAFETY: as many are writable by the assertion.
        unsafe { simd.store_bf16(factors.as_mut_ptr(), values) }
    }
}

#[expect(unsafe_code, reason = "pointer stores")]
impl Working for F32 {
    #[inline(always)]
    unsafe fn store_rows<S: Simd>(simd: S, first: S::Vector, second: S::Vector, to: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            simd.store(to, first);
            simd.store(to.add(stride), second);
        }
    }

    #[inline(always)]
    fn values_of_keys(keys: &[f32], shape: RowShape, to: &mut [f32]) {
        let RowShape { value_dim, page_tokens, .. } = shape;
        for (index, to) in to.chunks_exact_mut(TRANSPOSED_TOKENS * shape.stride()).enumerate() {
            for (d, key) in keys.chunks_exact(page_tokens).take(value_dim).enumerate() {
                let key = &key[index * TRANSPOSED_TOKENS..][..TRANSPOSED_TOKENS];
                for (row, key) in to.chunks_exact_mut(shape.stride()).zip(key) {
                    row[d] = *key;
                }
            }
            to.chunks_exact_mut(shape.stride()).for_each(|row| row[value_dim..].fill(0.0));
        }
    }
}

/// Tokens whose values are made of keys at a time: the lines they are written to stay in the first cache.
const TRANSPOSED_TOKENS: usize = 16;

#[expect(unsafe_code, reason = "pointer stores")]
impl Working for Bf16 {
    #[inline(always)]
    unsafe fn store_rows<S: Simd>(simd: S, first: S::Vector, second: S::Vector, to: *mut u32, _stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { simd.store_pairs(to, simd.pair_halves(first, second)) }
    }

    #[inline(always)]
    fn values_of_keys(keys: &[u32], shape: RowShape, to: &mut [u32]) {
        let RowShape { value_dim, page_tokens, .. } = shape;
        for (index, to) in to.chunks_exact_mut(TRANSPOSED_TOKENS / 2 * shape.stride()).enumerate() {
            for (pair, key) in keys.chunks_exact(page_tokens).take(value_dim.div_ceil(2)).enumerate() {
                let key = &key[index * TRANSPOSED_TOKENS..][..TRANSPOSED_TOKENS];
                for (row, key) in to.chunks_exact_mut(shape.stride()).zip(key.chunks_exact(2)) {
                    row[2 * pair] = (key[0] & 0xffff) | (key[1] << 16);
                    row[2 * pair + 1] = (key[0] >> 16) | (key[1] & 0xffff_0000);
                }
            }
            to.chunks_exact_mut(shape.stride()).for_each(|row| row[value_dim..].fill(0));
        }
    }
}

/// Copies rows of `columns` lanes to rows of `stride`, the rest zeros.
#[inline(always)]
fn copy_rows<T: bytemuck::Pod>(from: &[T], columns: usize, stride: usize, to: &mut [T]) {
    for (from, to) in from.chunks_exact(columns).zip(to.chunks_exact_mut(stride)) {
        to[..columns].copy_from_slice(from);
        to[columns..].fill(T::zeroed());
    }
}

/// Writes a key's lanes to column `offset`.
#[inline(always)]
fn store_column<T: Copy>(lanes: &[T], keys: &mut [T], offset: usize) {
    let page_tokens = keys.len() / lanes.len();
    for (row, &lane) in keys.chunks_exact_mut(page_tokens).zip(lanes) {
        row[offset] = lane;
    }
}

impl Stored for F32 {
    type AsStored = Self;
    type Working = Self;
    const MAX_ROWS_AS_STORED: usize = usize::MAX;

    #[inline(always)]
    fn store_key<S: Simd>(_simd: S, key: &[f32], keys: &mut [u8], offset: usize) {
        store_column(key, bytemuck::cast_slice_mut(keys), offset);
    }

    #[inline(always)]
    fn store_value<S: Simd>(_simd: S, value: &[f32], values: &mut [u8], offset: usize) {
        bytemuck::cast_slice_mut(values)[offset * value.len()..][..value.len()].copy_from_slice(value);
    }

    #[inline(always)]
    fn widen_keys<S: Simd>(_simd: S, keys: &[u8], _shape: RowShape, to: &mut [f32]) {
        to.copy_from_slice(bytemuck::cast_slice(keys));
    }

    #[inline(always)]
    fn widen_values<S: Simd>(_simd: S, values: &[u8], shape: RowShape, to: &mut [f32]) {
        copy_rows(bytemuck::cast_slice(values), shape.value_dim, shape.stride(), to);
    }
}

impl Stored for F16 {
    type AsStored = Self;
    type Working = F32;
    const MAX_ROWS_AS_STORED: usize = 6;

    #[inline(always)]
    fn store_key<S: Simd>(simd: S, key: &[f32], keys: &mut [u8], offset: usize) {
        let mut lanes = [0_u16; MAX_HEAD_DIM];
        let lanes = &mut lanes[..key.len()];
        round_to(simd, key, lanes, Self);
        store_column(lanes, bytemuck::cast_slice_mut(keys), offset);
    }

    #[inline(always)]
    fn store_value<S: Simd>(simd: S, value: &[f32], values: &mut [u8], offset: usize) {
        let values: &mut [u16] = bytemuck::cast_slice_mut(values);
        round_to(simd, value, &mut values[offset * value.len()..][..value.len()], Self);
    }

    #[inline(always)]
    fn widen_keys<S: Simd>(simd: S, keys: &[u8], _shape: RowShape, to: &mut [f32]) {
        widen_f16(simd, bytemuck::cast_slice(keys), to);
    }

    #[inline(always)]
    fn widen_values<S: Simd>(simd: S, values: &[u8], shape: RowShape, to: &mut [f32]) {
        let values: &[u16] = bytemuck::cast_slice(values);
        for (value, row) in values.chunks_exact(shape.value_dim).zip(to.chunks_exact_mut(shape.stride())) {
            widen_f16(simd, value, &mut row[..shape.value_dim]);
            row[shape.value_dim..].fill(0.0);
        }
    }
}

#[inline(always)]
fn widen_f16<S: Simd>(simd: S, from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "as many widened values as values");
    let whole = from.len() / S::LANES * S::LANES;
    let mut last = [0; MAX_LANES];
    last[..from.len() - whole].copy_from_slice(&from[whole..]);
    // SAFETY: every vector lies within both slices, and the buffer holds the widest vector.
    #[expect(unsafe_code, reason = "bounds by construction")]
    unsafe {
        for start in (0..whole).step_by(S::LANES) {
            simd.store(to.as_mut_ptr().add(start), simd.load_f16(from.as_ptr().add(start)));
        }
        simd.store_partial(&mut to[whole..], simd.load_f16(last.as_ptr()));
    }
}

impl Stored for Bf16 {
    type AsStored = Self;
    type Working = Self;
    const MAX_ROWS_AS_STORED: usize = usize::MAX;

    #[inline(always)]
    fn store_key<S: Simd>(simd: S, key: &[f32], keys: &mut [u8], offset: usize) {
        let mut lanes = [0_u32; MAX_HEAD_DIM / 2];
        let lanes = &mut lanes[..key.len() / 2];
        round_to(simd, key, bytemuck::cast_slice_mut(lanes), Self);
        store_column(lanes, bytemuck::cast_slice_mut(keys), offset);
    }

    #[inline(always)]
    fn store_value<S: Simd>(simd: S, value: &[f32], values: &mut [u8], offset: usize) {
        let mut rounded = [0_u16; MAX_HEAD_DIM];
        let rounded = &mut rounded[..value.len()];
        round_to(simd, value, rounded, Self);
        let shift = offset % 2 * 16;
        let values: &mut [u32] = bytemuck::cast_slice_mut(values);
        for (lane, value) in values[offset / 2 * value.len()..][..value.len()].iter_mut().zip(rounded) {
            *lane = (*lane & !(0xffff << shift)) | (u32::from(*value) << shift);
        }
    }

    #[inline(always)]
    fn widen_keys<S: Simd>(_simd: S, keys: &[u8], _shape: RowShape, to: &mut [u32]) {
        to.copy_from_slice(bytemuck::cast_slice(keys));
    }

    #[inline(always)]
    fn widen_values<S: Simd>(_simd: S, values: &[u8], shape: RowShape, to: &mut [u32]) {
        copy_rows(bytemuck::cast_slice(values), shape.value_dim, shape.stride(), to);
    }
}
