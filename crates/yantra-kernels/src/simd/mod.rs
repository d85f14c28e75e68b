//! A small portable vector of `f32`, so that each kernel is written once and compiled for every instruction set.
//!
//! A [`Simd`] value is a witness that its instructions exist on this processor: it is only made by [`simd_dispatch!`]
//! after the level was detected, so its arithmetic is safe to call. A kernel body is an `#[inline(always)]` function over
//! `S: Simd`; `simd_dispatch!` compiles it inside one `#[target_feature]` function per level and picks at run time.
//!
//! [`Portable<1>`] is the scalar specification; wider portable vectors serve processors whose baseline the compiler
//! vectorises well (NEON), and let tests run the 16-lane logic where there is no AVX-512.

mod math;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
pub(crate) use math::exp;
pub(crate) use math::{exp_of_negative, exp2_of_negative, gelu_erf, gelu_sigmoid, gelu_tanh, silu, tanh};
pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// The widest vector any level has: sizes of stack buffers and padding.
pub(crate) const MAX_LANES: usize = 16;

/// A computation compiled as a function of its own for each level, where inlining it everywhere would cost too much code.
#[expect(unsafe_code, reason = "kernels work on pointers")]
pub(crate) trait Kernel<S> {
    /// # Safety
    /// What the kernel's constructor asks for.
    unsafe fn run(self, simd: S);
}

/// Vectors of `LANES` `f32`, at most [`MAX_LANES`].
#[expect(unsafe_code, reason = "loads and stores through pointers; callers check bounds once per kernel")]
pub(crate) trait Simd: Copy {
    /// One vector.
    type Vector: Copy;
    /// `LANES` pairs of bfloat16 values, the first of each pair in the low half of its lane.
    type Pairs: Copy;
    /// Values in a vector.
    const LANES: usize;
    /// Whether the level has vectors of sixteen lanes, and thirty-two registers of them.
    const WIDE: bool = Self::LANES == 16;
    /// Whether one instruction multiplies and adds pairs of bfloat16.
    const NATIVE_PAIRS: bool = false;

    /// Runs a kernel as a function compiled for this level, not inlined.
    ///
    /// # Safety
    /// As for [`Kernel::run`].
    unsafe fn call<K: Kernel<Self>>(self, kernel: K);

    fn splat(self, value: f32) -> Self::Vector;
    /// # Safety
    /// `LANES` values are readable at `from`.
    unsafe fn load(self, from: *const f32) -> Self::Vector;
    /// # Safety
    /// `LANES` values are writable at `to`.
    unsafe fn store(self, to: *mut f32, vector: Self::Vector);
    /// # Safety
    /// `LANES` half-precision values are readable at `from`.
    unsafe fn load_f16(self, from: *const u16) -> Self::Vector;
    /// # Safety
    /// `LANES` bfloat16 values are readable at `from`.
    unsafe fn load_bf16(self, from: *const u16) -> Self::Vector;
    /// Rounds to nearest even. # Safety: `LANES` half-precision values are writable at `to`.
    unsafe fn store_f16(self, to: *mut u16, vector: Self::Vector);
    /// Rounds to nearest even. # Safety: `LANES` bfloat16 values are writable at `to`.
    unsafe fn store_bf16(self, to: *mut u16, vector: Self::Vector);
    /// # Safety
    /// `LANES` pairs are readable at `from`.
    unsafe fn load_pairs(self, from: *const u32) -> Self::Pairs;
    /// # Safety
    /// `LANES` pairs are writable at `to`.
    unsafe fn store_pairs(self, to: *mut u32, pairs: Self::Pairs);
    /// Pairs of two vectors' upper halves: of the values themselves where bfloat16 holds them exactly.
    fn pair_halves(self, first: Self::Vector, second: Self::Vector) -> Self::Pairs;
    /// Signed bytes as floats.
    ///
    /// # Safety
    /// `LANES` bytes are readable at `from`.
    unsafe fn load_i8(self, from: *const u8) -> Self::Vector;
    /// The lower and the upper four bits of bytes as floats.
    ///
    /// # Safety
    /// `LANES` bytes are readable at `from`.
    unsafe fn load_nibbles(self, from: *const u8) -> (Self::Vector, Self::Vector);
    /// The same pair in every lane.
    fn splat_pair(self, pair: u32) -> Self::Pairs;
    /// Keeps the bits of every lane that are set in `mask`.
    fn mask_pairs(self, pairs: Self::Pairs, mask: u32) -> Self::Pairs;
    /// `sum + a.first * b.first + a.second * b.second`; how often it rounds depends on the level.
    fn dot_pairs(self, a: Self::Pairs, b: Self::Pairs, sum: Self::Vector) -> Self::Vector;

    /// Hints that the cache line at `at`, which need not be readable, will be read before long.
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 processor has the instruction, and it never faults.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`.
    fn fma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * 2^n`, where `n` is the number in the low bits of `shifted`'s representation, as long as that stays normal.
    fn scale_by_low_bits(self, a: Self::Vector, shifted: Self::Vector) -> Self::Vector;
    /// Per lane: `a < b ? yes : no` (`no` where either is NaN).
    fn select_less(self, a: Self::Vector, b: Self::Vector, yes: Self::Vector, no: Self::Vector) -> Self::Vector;
    /// Sum of the lanes, in an order that depends on `LANES` only.
    fn reduce_add(self, a: Self::Vector) -> f32;
    /// Largest lane.
    fn reduce_max(self, a: Self::Vector) -> f32;

    /// The first `LANES` values of a slice.
    #[inline(always)]
    fn load_slice(self, from: &[f32]) -> Self::Vector {
        assert!(from.len() >= Self::LANES);
        // SAFETY: the length was checked.
        unsafe { self.load(from.as_ptr()) }
    }

    /// Writes the first `LANES` values of a slice.
    #[inline(always)]
    fn store_slice(self, to: &mut [f32], vector: Self::Vector) {
        assert!(to.len() >= Self::LANES);
        // SAFETY: the length was checked.
        unsafe { self.store(to.as_mut_ptr(), vector) }
    }

    /// A slice of at most `LANES` values, the rest of the lanes `fill`.
    #[inline(always)]
    fn load_partial(self, from: &[f32], fill: f32) -> Self::Vector {
        let mut lanes = [fill; MAX_LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load_slice(&lanes)
    }

    /// Writes as many lanes as the slice has room for, at most `LANES`.
    #[inline(always)]
    fn store_partial(self, to: &mut [f32], vector: Self::Vector) {
        let mut lanes = [0.0; MAX_LANES];
        self.store_slice(&mut lanes, vector);
        to.copy_from_slice(&lanes[..to.len()]);
    }
}

/// Declares `fn name(level, args…)` that runs a generic kernel body at an instruction-set level.
///
/// `simd_dispatch! { fn sum(x: &[f32]) -> f32 = sum_body; }` needs `#[inline(always)] fn sum_body<S: Simd>(simd: S, x: &[f32])
/// -> f32`.
macro_rules! simd_dispatch {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path;)+) => {$(
        $(#[$meta])*
        #[expect(unsafe_code, reason = "the level is only made when the processor supports it")]
        #[allow(clippy::too_many_arguments, reason = "slices and dimensions in")]
        $vis fn $name(level: $crate::CpuLevel, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is compiled for, and only called on, processors with these features.
                $body(unsafe { $crate::simd::Avx2::new() }, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is compiled for, and only called on, processors with these features.
                $body(unsafe { $crate::simd::Avx512::<false>::new() }, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
            fn avx512bf16($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is compiled for, and only called on, processors with these features.
                $body(unsafe { $crate::simd::Avx512::<true>::new() }, $($arg),*)
            }
            match level {
                // SAFETY: a level reaches a kernel only after `CpuLevel::is_supported` said yes.
                #[cfg(target_arch = "x86_64")]
                $crate::CpuLevel::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::CpuLevel::Avx512 | $crate::CpuLevel::Avx512Vnni => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::CpuLevel::Avx512Bf16 => unsafe { avx512bf16($($arg),*) },
                #[cfg(not(target_arch = "x86_64"))]
                $crate::CpuLevel::Neon => $body($crate::simd::Portable::<8>, $($arg),*),
                _ => $body($crate::simd::Portable::<1>, $($arg),*),
            }
        }
    )+};
}
pub(crate) use simd_dispatch;
