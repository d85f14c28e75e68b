//! How one key or value is stored: the only place that knows a format's bits.

use super::KvFormat;
use crate::simd::Simd;
use half::bf16;

/// A storage format of keys and values.
pub(super) trait Stored {
    /// One stored value; any bits are valid.
    type Bits: Copy + Send + Sync;
    const FORMAT: KvFormat;
    const ZERO: Self::Bits;

    /// # Safety
    /// `S::LANES` values are readable at `from`.
    #[expect(unsafe_code, reason = "a pointer load")]
    unsafe fn load<S: Simd>(simd: S, from: *const Self::Bits) -> S::Vector;

    /// Rounds to nearest even; `out` is as long as `src`.
    fn convert<S: Simd>(simd: S, src: &[f32], out: &mut [Self::Bits]);
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

#[expect(unsafe_code, reason = "pointer loads")]
impl Stored for F32 {
    type Bits = f32;
    const FORMAT: KvFormat = KvFormat::F32;
    const ZERO: f32 = 0.0;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const f32) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.load(from) }
    }

    #[inline(always)]
    fn convert<S: Simd>(_simd: S, src: &[f32], out: &mut [f32]) {
        out.copy_from_slice(src);
    }
}

#[expect(unsafe_code, reason = "pointer loads and stores")]
impl Stored for F16 {
    type Bits = u16;
    const FORMAT: KvFormat = KvFormat::F16;
    const ZERO: u16 = 0;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const u16) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.load_f16(from) }
    }

    #[inline(always)]
    fn convert<S: Simd>(simd: S, src: &[f32], out: &mut [u16]) {
        let mut last = [0; crate::simd::MAX_LANES];
        for (src, out) in src.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
            if src.len() == S::LANES && out.len() == S::LANES {
                // SAFETY: the lengths were checked.
                unsafe { simd.store_f16(out.as_mut_ptr(), simd.load_slice(src)) }
            } else {
                // SAFETY: the buffer holds the widest vector.
                unsafe { simd.store_f16(last.as_mut_ptr(), simd.load_partial(src, 0.0)) }
                out.copy_from_slice(&last[..out.len()]);
            }
        }
    }
}

#[expect(unsafe_code, reason = "pointer loads")]
impl Stored for Bf16 {
    type Bits = u16;
    const FORMAT: KvFormat = KvFormat::BF16;
    const ZERO: u16 = 0;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const u16) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bf16(from) }
    }

    #[inline(always)]
    fn convert<S: Simd>(_simd: S, src: &[f32], out: &mut [u16]) {
        for (src, out) in src.iter().zip(out) {
            *out = bf16::from_f32(*src).to_bits();
        }
    }
}
