//! AVX2 (with FMA and F16C) and AVX-512 vectors.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Eight lanes. A value exists only on processors with AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Sixteen lanes. A value exists only on processors with AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

#[expect(unsafe_code, reason = "the witness is the caller's promise")]
impl Avx2 {
    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

#[expect(unsafe_code, reason = "the witness is the caller's promise")]
impl Avx512 {
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ and VL.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// Methods whose body is one expression of intrinsics, safe because the witness proves that they exist.
macro_rules! arithmetic {
    ($($name:ident($($arg:ident),*) -> $ret:ty = $body:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Self::Vector),*) -> $ret {
            // SAFETY: `self` is the witness that the processor has these instructions.
            unsafe { $body }
        }
    )+};
}

#[expect(unsafe_code, reason = "intrinsics")]
impl Simd for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn call<K: Kernel<Self>>(self, kernel: K) {
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline(never)]
        unsafe fn compiled<K: Kernel<Avx2>>(simd: Avx2, kernel: K) {
            // SAFETY: the caller's promise.
            unsafe { kernel.run(simd) }
        }
        // SAFETY: the witness, and the caller's promise.
        unsafe { compiled(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: the witness.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: __m256) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())), 16)) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, vector: __m256) {
        // SAFETY: the caller's promise.
        unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph(vector, _MM_FROUND_TO_NEAREST_INT)) }
    }

    arithmetic! {
        add(a, b) -> __m256 = _mm256_add_ps(a, b);
        sub(a, b) -> __m256 = _mm256_sub_ps(a, b);
        mul(a, b) -> __m256 = _mm256_mul_ps(a, b);
        div(a, b) -> __m256 = _mm256_div_ps(a, b);
        fma(a, b, c) -> __m256 = _mm256_fmadd_ps(a, b, c);
        max(a, b) -> __m256 = _mm256_max_ps(a, b);
        min(a, b) -> __m256 = _mm256_min_ps(a, b);
        scale_by_low_bits(a, shifted) -> __m256 = _mm256_castsi256_ps(_mm256_add_epi32(
            _mm256_castps_si256(a),
            _mm256_slli_epi32(_mm256_castps_si256(shifted), 23),
        ));
        select_less(a, b, yes, no) -> __m256 = _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
        reduce_add(a) -> f32 = {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        };
        reduce_max(a) -> f32 = {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        };
    }
}

#[expect(unsafe_code, reason = "intrinsics")]
impl Simd for Avx512 {
    type Vector = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn call<K: Kernel<Self>>(self, kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        #[inline(never)]
        unsafe fn compiled<K: Kernel<Avx512>>(simd: Avx512, kernel: K) {
            // SAFETY: the caller's promise.
            unsafe { kernel.run(simd) }
        }
        // SAFETY: the witness, and the caller's promise.
        unsafe { compiled(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the witness.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())), 16)) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, vector: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph(vector, _MM_FROUND_TO_NEAREST_INT)) }
    }

    arithmetic! {
        add(a, b) -> __m512 = _mm512_add_ps(a, b);
        sub(a, b) -> __m512 = _mm512_sub_ps(a, b);
        mul(a, b) -> __m512 = _mm512_mul_ps(a, b);
        div(a, b) -> __m512 = _mm512_div_ps(a, b);
        fma(a, b, c) -> __m512 = _mm512_fmadd_ps(a, b, c);
        max(a, b) -> __m512 = _mm512_max_ps(a, b);
        min(a, b) -> __m512 = _mm512_min_ps(a, b);
        scale_by_low_bits(a, shifted) -> __m512 = _mm512_castsi512_ps(_mm512_add_epi32(
            _mm512_castps_si512(a),
            _mm512_slli_epi32(_mm512_castps_si512(shifted), 23),
        ));
        select_less(a, b, yes, no) -> __m512 = _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
        reduce_add(a) -> f32 = {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        };
        reduce_max(a) -> f32 = _mm512_reduce_max_ps(a);
    }
}
