//! AVX2 and AVX-512 (with or without VNNI).
#![expect(unsafe_code, reason = "intrinsics, called by holders of a token that proves the processor has them")]

use super::{Operation, Simd};
use std::arch::{asm, x86_64::*};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(crate::simd::Avx2);

/// Proof that the processor has AVX-512 F, BW, DQ and VL, and VNNI if `VNNI`.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const VNNI: bool>(crate::simd::Avx512<false>);

impl Avx2 {
    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: promised by the caller.
        Self(unsafe { crate::simd::Avx2::new() })
    }
}

impl<const VNNI: bool> Avx512<VNNI> {
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ, VL and, if `VNNI`, VNNI.
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: promised by the caller.
        Self(unsafe { crate::simd::Avx512::new() })
    }
}

/// Safe methods made of intrinsics.
macro_rules! register_ops {
    ($(fn $name:ident $(<const $bits:ident: u32>)? ($($arg:ident: $ty:ty),*) -> $result:ty $body:block)*) => {
        $(#[inline(always)]
        fn $name $(<const $bits: u32>)? (self, $($arg: $ty),*) -> $result {
            // SAFETY: `self` proves that the processor has the instructions; these touch registers only.
            unsafe { $body }
        })*
    };
}

/// Unsafe methods made of loads and stores.
macro_rules! memory_ops {
    ($(fn $name:ident ($($arg:ident: $ty:ty),*) $(-> $result:ty)? $body:block)*) => {
        $(#[inline(always)]
        unsafe fn $name (self, $($arg: $ty),*) $(-> $result)? {
            // SAFETY: `self` proves that the processor has the instructions; the caller vouches for the memory.
            unsafe { $body }
        })*
    };
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const WIDE_DOT: bool = false;
    const TOKEN_BLOCK: usize = 4;
    type Int = __m256i;
    type Vector = __m256;
    type Float = crate::simd::Avx2;

    #[inline(always)]
    fn float(self) -> Self::Float {
        self.0
    }

    #[inline(always)]
    fn vectorize<O: Operation>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline(never)]
        fn enabled<O: Operation>(simd: Avx2, op: O) -> O::Output {
            op.run(simd)
        }
        // SAFETY: `self` proves that the processor has these features.
        unsafe { enabled(self, op) }
    }

    memory_ops! {
        fn load_int(from: *const u8) -> __m256i { _mm256_loadu_si256(from.cast()) }
        fn load_quad(from: *const i8) -> __m256i { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
        fn load_u8_float(from: *const u8) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())))
        }
        fn load_i8_float(from: *const u8) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())))
        }
        fn store_as_i8(to: *mut i8, value: __m256) {
            let words = _mm256_cvtps_epi32(value);
            let halves = _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storel_epi64(to.cast(), _mm_packs_epi16(halves, halves));
        }
    }

    register_ops! {
        fn zero() -> __m256i { _mm256_setzero_si256() }
        fn splat_byte(value: u8) -> __m256i { _mm256_set1_epi8(value.cast_signed()) }
        fn and(a: __m256i, b: __m256i) -> __m256i { _mm256_and_si256(a, b) }
        fn or(a: __m256i, b: __m256i) -> __m256i { _mm256_or_si256(a, b) }
        fn xor(a: __m256i, b: __m256i) -> __m256i { _mm256_xor_si256(a, b) }
        fn shr<const BITS: u32>(value: __m256i) -> __m256i {
            _mm256_srl_epi16(value, _mm_cvtsi32_si128(BITS.cast_signed()))
        }
        fn shl<const BITS: u32>(value: __m256i) -> __m256i {
            _mm256_sll_epi16(value, _mm_cvtsi32_si128(BITS.cast_signed()))
        }
        fn lookup(table: &[i8; 16], index: __m256i) -> __m256i {
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), index)
        }
        fn dot_u8(partial: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
            _mm256_add_epi16(partial, _mm256_maddubs_epi16(unsigned, signed))
        }
        fn widen(partial: __m256i) -> __m256i { _mm256_madd_epi16(partial, _mm256_set1_epi16(1)) }
        fn dot_i8(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
            // |a| is at most 128 and |b| at most 127: a pair sum of at most 32512 does not saturate.
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
        fn pin(value: __m256i) -> __m256i {
            #[inline]
            #[target_feature(enable = "avx2")]
            fn pin(mut value: __m256i) -> __m256i {
                // SAFETY: an empty instruction sequence.
                unsafe { asm!("/* {0} */", inout(ymm_reg) value, options(nomem, nostack, preserves_flags)) };
                value
            }
            pin(value)
        }
        fn add_i32(a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
        fn sub_shifted(a: __m256i, b: __m256i, bits: u32) -> __m256i {
            _mm256_sub_epi32(a, _mm256_sll_epi32(b, _mm_cvtsi32_si128(bits.cast_signed())))
        }
        fn to_float(value: __m256i) -> __m256 { _mm256_cvtepi32_ps(value) }
        fn prefetch(at: *const u8) -> () { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

impl<const VNNI: bool> Simd for Avx512<VNNI> {
    const LANES: usize = 16;
    const WIDE_DOT: bool = VNNI;
    const TOKEN_BLOCK: usize = 6;
    type Int = __m512i;
    type Vector = __m512;
    type Float = crate::simd::Avx512<false>;

    #[inline(always)]
    fn float(self) -> Self::Float {
        self.0
    }

    #[inline(always)]
    fn vectorize<O: Operation>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
        #[inline(never)]
        fn plain<O: Operation>(simd: Avx512<false>, op: O) -> O::Output {
            op.run(simd)
        }
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        #[inline(never)]
        fn vnni<O: Operation>(simd: Avx512<true>, op: O) -> O::Output {
            op.run(simd)
        }
        if VNNI {
            // SAFETY: `self` is the token with `VNNI` true, which proves that the processor has these features.
            unsafe { vnni(Avx512::<true>(self.0), op) }
        } else {
            // SAFETY: `self` proves that the processor has these features.
            unsafe { plain(Avx512::<false>(self.0), op) }
        }
    }

    memory_ops! {
        fn load_int(from: *const u8) -> __m512i { _mm512_loadu_si512(from.cast()) }
        fn load_quad(from: *const i8) -> __m512i { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
        fn load_u8_float(from: *const u8) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())))
        }
        fn load_i8_float(from: *const u8) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))
        }
        fn store_as_i8(to: *mut i8, value: __m512) {
            _mm_storeu_si128(to.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(value)))
        }
    }

    register_ops! {
        fn zero() -> __m512i { _mm512_setzero_si512() }
        fn splat_byte(value: u8) -> __m512i { _mm512_set1_epi8(value.cast_signed()) }
        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn xor(a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
        fn shr<const BITS: u32>(value: __m512i) -> __m512i { _mm512_srli_epi16::<BITS>(value) }
        fn shl<const BITS: u32>(value: __m512i) -> __m512i { _mm512_slli_epi16::<BITS>(value) }
        fn lookup(table: &[i8; 16], index: __m512i) -> __m512i {
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), index)
        }
        fn dot_u8(partial: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
            if VNNI {
                _mm512_dpbusd_epi32(partial, unsigned, signed)
            } else {
                _mm512_add_epi16(partial, _mm512_maddubs_epi16(unsigned, signed))
            }
        }
        fn widen(partial: __m512i) -> __m512i {
            if VNNI { partial } else { _mm512_madd_epi16(partial, _mm512_set1_epi16(1)) }
        }
        fn dot_i8(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
            if VNNI {
                return _mm512_dpbusd_epi32(sum, a, b);
            }
            // |a| is at most 128 and |b| at most 127: a pair sum of at most 32512 does not saturate.
            let b = _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(a), _mm512_setzero_si512(), b);
            let pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(a), b);
            _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
        fn pin(value: __m512i) -> __m512i {
            #[inline]
            #[target_feature(enable = "avx512f")]
            fn pin(mut value: __m512i) -> __m512i {
                // SAFETY: an empty instruction sequence.
                unsafe { asm!("/* {0} */", inout(zmm_reg) value, options(nomem, nostack, preserves_flags)) };
                value
            }
            // The dot product of VNNI is no sum to the compiler: it does not reorder it.
            if VNNI { value } else { pin(value) }
        }
        fn add_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn sub_shifted(a: __m512i, b: __m512i, bits: u32) -> __m512i {
            _mm512_sub_epi32(a, _mm512_sll_epi32(b, _mm_cvtsi32_si128(bits.cast_signed())))
        }
        fn to_float(value: __m512i) -> __m512 { _mm512_cvtepi32_ps(value) }
        fn prefetch(at: *const u8) -> () { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}
