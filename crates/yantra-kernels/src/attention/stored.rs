//! How keys and values are stored, and how a stored value meets a query or a weight: the only place that knows a format's
//! bits.
//!
//! Kernels work on *lanes*. A lane holds one value, or of bfloat16 two consecutive ones (two dimensions of a key, two tokens
//! of a value), which processors with BF16 multiply and add in one instruction. The other operand, a query or a row of
//! weights, is kept in the same shape: 32 bits that are broadcast to all lanes.

use super::KvFormat;
use crate::simd::{MAX_LANES, Simd};

/// A storage format of keys and values.
#[expect(unsafe_code, reason = "pointer loads")]
pub(super) trait Stored: 'static {
    /// One lane; any bits are valid.
    type Lane: Copy + Send + Sync + 'static;
    /// A register of lanes, ready to multiply.
    type Register<S: Simd>: Copy;
    /// The format that a block of many rows reads its pages in.
    type Working: Stored;
    const FORMAT: KvFormat;
    const ZERO: Self::Lane;
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
    /// Writes values as factors, `PER_LANE` in each; whole vectors only.
    fn factors<S: Simd>(simd: S, values: &[f32], factors: &mut [u32]);
    /// Copies lanes to the working format.
    fn widen<S: Simd>(simd: S, from: &[Self::Lane], to: &mut [<Self::Working as Stored>::Lane]);
    /// Rounds one token's values, to nearest even, to lanes of consecutive values.
    fn key_lanes<S: Simd>(simd: S, key: &[f32], lanes: &mut [Self::Lane]);
    /// Writes one token's values to its place, `offset`, in a page of values.
    fn store_value<S: Simd>(simd: S, value: &[f32], page: &mut [Self::Lane], offset: usize);
}

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
impl Stored for F32 {
    type Lane = f32;
    type Register<S: Simd> = S::Vector;
    type Working = Self;
    const FORMAT: KvFormat = KvFormat::F32;
    const ZERO: f32 = 0.0;
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
    fn factors<S: Simd>(_simd: S, values: &[f32], factors: &mut [u32]) {
        factors.copy_from_slice(bytemuck::cast_slice(values));
    }

    #[inline(always)]
    fn widen<S: Simd>(_simd: S, from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    #[inline(always)]
    fn key_lanes<S: Simd>(_simd: S, key: &[f32], lanes: &mut [f32]) {
        lanes.copy_from_slice(key);
    }

    #[inline(always)]
    fn store_value<S: Simd>(_simd: S, value: &[f32], page: &mut [f32], offset: usize) {
        page[offset * value.len()..][..value.len()].copy_from_slice(value);
    }
}

#[expect(unsafe_code, reason = "pointer loads")]
impl Stored for F16 {
    type Lane = u16;
    type Register<S: Simd> = S::Vector;
    type Working = F32;
    const FORMAT: KvFormat = KvFormat::F16;
    const ZERO: u16 = 0;
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
    fn factors<S: Simd>(simd: S, values: &[f32], factors: &mut [u32]) {
        F32::factors(simd, values, factors);
    }

    #[inline(always)]
    fn widen<S: Simd>(simd: S, from: &[u16], to: &mut [f32]) {
        assert_eq!(from.len(), to.len(), "as many widened values as values");
        let whole = from.len() / S::LANES * S::LANES;
        let mut last = [0; MAX_LANES];
        last[..from.len() - whole].copy_from_slice(&from[whole..]);
        // SAFETY: every vector lies within both slices, and the buffer holds the widest vector.
        unsafe {
            for start in (0..whole).step_by(S::LANES) {
                simd.store(to.as_mut_ptr().add(start), simd.load_f16(from.as_ptr().add(start)));
            }
            simd.store_partial(&mut to[whole..], simd.load_f16(last.as_ptr()));
        }
    }

    #[inline(always)]
    fn key_lanes<S: Simd>(simd: S, key: &[f32], lanes: &mut [u16]) {
        round_to(simd, key, lanes, Self);
    }

    #[inline(always)]
    fn store_value<S: Simd>(simd: S, value: &[f32], page: &mut [u16], offset: usize) {
        round_to(simd, value, &mut page[offset * value.len()..][..value.len()], Self);
    }
}

#[expect(unsafe_code, reason = "pointer loads")]
impl Stored for Bf16 {
    type Lane = u32;
    type Register<S: Simd> = S::Pairs;
    type Working = Self;
    const FORMAT: KvFormat = KvFormat::BF16;
    const ZERO: u32 = 0;
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
    fn factors<S: Simd>(simd: S, values: &[f32], factors: &mut [u32]) {
        round_to(simd, values, bytemuck::cast_slice_mut(factors), Self);
    }

    #[inline(always)]
    fn widen<S: Simd>(_simd: S, from: &[u32], to: &mut [u32]) {
        to.copy_from_slice(from);
    }

    #[inline(always)]
    fn key_lanes<S: Simd>(simd: S, key: &[f32], lanes: &mut [u32]) {
        round_to(simd, key, bytemuck::cast_slice_mut(lanes), Self);
    }

    #[inline(always)]
    fn store_value<S: Simd>(simd: S, value: &[f32], page: &mut [u32], offset: usize) {
        let mut rounded = [0_u16; super::pages::MAX_HEAD_DIM];
        let rounded = &mut rounded[..value.len()];
        round_to(simd, value, rounded, Self);
        let shift = offset % 2 * 16;
        for (lane, value) in page[offset / 2 * value.len()..][..value.len()].iter_mut().zip(rounded) {
            *lane = (*lane & !(0xffff << shift)) | (u32::from(*value) << shift);
        }
    }
}
