//! AVX2 (with FMA and F16C) and AVX-512 vectors.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Eight lanes. A value exists only on processors with AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Sixteen lanes. A value exists only on processors with AVX-512 F, BW, DQ and VL, and BF16 if `BF16`.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(());

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
impl<const BF16: bool> Avx512<BF16> {
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ, VL and, if `BF16`, BF16.
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
    type Pairs = __m256i;
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

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, vector: __m256) {
        // SAFETY: the witness, and the caller's promise.
        unsafe {
            let bits = _mm256_castps_si256(vector);
            let odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let nan = _mm256_castps_si256(_mm256_cmp_ps(vector, vector, _CMP_UNORD_Q));
            let high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0_0000), nan), 16);
            let packed = _mm256_packus_epi32(high, high);
            let halves = _mm_unpacklo_epi64(_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
            _mm_storeu_si128(to.cast(), halves);
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(self, from: *const u32) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut u32, pairs: __m256i) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_si256(to.cast(), pairs) }
    }

    #[inline(always)]
    fn pair_halves(self, first: __m256, second: __m256) -> __m256i {
        // SAFETY: the witness.
        unsafe {
            let upper = _mm256_and_si256(_mm256_castps_si256(second), _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
            _mm256_or_si256(_mm256_srli_epi32::<16>(_mm256_castps_si256(first)), upper)
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(self, from: *const u8) -> (__m256, __m256) {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
            let lower = _mm256_and_si256(bytes, _mm256_set1_epi32(15));
            (_mm256_cvtepi32_ps(lower), _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(bytes)))
        }
    }

    #[inline(always)]
    fn splat_pair(self, pair: u32) -> __m256i {
        // SAFETY: the witness.
        unsafe { _mm256_set1_epi32(pair.cast_signed()) }
    }

    #[inline(always)]
    fn mask_pairs(self, pairs: __m256i, mask: u32) -> __m256i {
        // SAFETY: the witness.
        unsafe { _mm256_and_si256(pairs, _mm256_set1_epi32(mask.cast_signed())) }
    }

    #[inline(always)]
    fn dot_pairs(self, a: __m256i, b: __m256i, sum: __m256) -> __m256 {
        // SAFETY: the witness.
        unsafe {
            let a_first = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a));
            let b_first = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b));
            let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            let (a_second, b_second) = (_mm256_and_si256(a, high), _mm256_and_si256(b, high));
            let sum = _mm256_fmadd_ps(a_first, b_first, sum);
            _mm256_fmadd_ps(_mm256_castsi256_ps(a_second), _mm256_castsi256_ps(b_second), sum)
        }
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
impl<const BF16: bool> Simd for Avx512<BF16> {
    type Vector = __m512;
    type Pairs = __m512i;
    const LANES: usize = 16;
    const NATIVE_PAIRS: bool = BF16;

    #[inline(always)]
    unsafe fn call<K: Kernel<Self>>(self, kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        #[inline(never)]
        unsafe fn plain<S: Simd, K: Kernel<S>>(simd: S, kernel: K) {
            // SAFETY: the caller's promise.
            unsafe { kernel.run(simd) }
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
        #[inline(never)]
        unsafe fn bf16<S: Simd, K: Kernel<S>>(simd: S, kernel: K) {
            // SAFETY: the caller's promise.
            unsafe { kernel.run(simd) }
        }
        // SAFETY: the witness, and the caller's promise.
        unsafe { if BF16 { bf16(self, kernel) } else { plain(self, kernel) } }
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

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, vector: __m512) {
        // SAFETY: the witness (of BF16 where its instruction is used), and the caller's promise.
        unsafe {
            let halves = if BF16 {
                std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(vector))
            } else {
                let bits = _mm512_castps_si512(vector);
                let odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
                let nan = _mm512_cmp_ps_mask(vector, vector, _CMP_UNORD_Q);
                let rounded = _mm512_mask_blend_epi32(nan, rounded, _mm512_set1_epi32(0x7fc0_0000));
                _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16))
            };
            _mm256_storeu_si256(to.cast(), halves);
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(self, from: *const u32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut u32, pairs: __m512i) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(to.cast(), pairs) }
    }

    #[inline(always)]
    fn pair_halves(self, first: __m512, second: __m512) -> __m512i {
        // SAFETY: the witness.
        unsafe {
            let upper = _mm512_and_si512(_mm512_castps_si512(second), _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            _mm512_or_si512(_mm512_srli_epi32::<16>(_mm512_castps_si512(first)), upper)
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(self, from: *const u8) -> (__m512, __m512) {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
            let lower = _mm512_and_si512(bytes, _mm512_set1_epi32(15));
            (_mm512_cvtepi32_ps(lower), _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(bytes)))
        }
    }

    #[inline(always)]
    fn splat_pair(self, pair: u32) -> __m512i {
        // SAFETY: the witness.
        unsafe { _mm512_set1_epi32(pair.cast_signed()) }
    }

    #[inline(always)]
    fn mask_pairs(self, pairs: __m512i, mask: u32) -> __m512i {
        // SAFETY: the witness.
        unsafe { _mm512_and_si512(pairs, _mm512_set1_epi32(mask.cast_signed())) }
    }

    #[inline(always)]
    fn dot_pairs(self, a: __m512i, b: __m512i, sum: __m512) -> __m512 {
        // SAFETY: the witness, of BF16 where its instruction is used.
        unsafe {
            if BF16 {
                let a = std::mem::transmute::<__m512i, __m512bh>(a);
                return _mm512_dpbf16_ps(sum, a, std::mem::transmute::<__m512i, __m512bh>(b));
            }
            let a_first = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(a));
            let b_first = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b));
            let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
            let (a_second, b_second) = (_mm512_and_si512(a, high), _mm512_and_si512(b, high));
            let sum = _mm512_fmadd_ps(a_first, b_first, sum);
            _mm512_fmadd_ps(_mm512_castsi512_ps(a_second), _mm512_castsi512_ps(b_second), sum)
        }
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
