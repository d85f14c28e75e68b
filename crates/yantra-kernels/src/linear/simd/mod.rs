//! The vector operations that linear kernels are written in, one implementation per instruction set: integers here,
//! floats by the vectors that all operations share ([`crate::simd`]).
//!
//! A value of a [`Simd`] type is a token: whoever holds one has proved that the processor has the instructions, so
//! operations on registers are safe and only loads and stores are not. Kernels are generic over the token and are
//! instantiated inside [`Simd::vectorize`], whose body has the instruction set enabled: one kernel serves every level.
//! The portable implementation is the specification, and with sixteen lanes it stands in for AVX-512 in tests.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::{CpuLevel, simd::Simd as FloatSimd};
pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// A computation that can be compiled for any instruction set.
pub(crate) trait Operation {
    /// What it returns.
    type Output;
    /// The computation; implementations are `#[inline(always)]` so that they are compiled with the caller's features.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set as kernels see it: `LANES` 32-bit lanes holding `f32`, `i32` or four bytes each.
#[expect(unsafe_code, reason = "loads and stores through pointers; callers check extents once per kernel")]
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// 32-bit lanes of a register; also the weight rows of a packed tile.
    const LANES: usize;
    /// Whether [`Simd::dot_u8`] sums in 32 bits (VNNI), so that it never overflows and weights may use all eight bits.
    const WIDE_DOT: bool;
    /// Tokens that a kernel holding one group of one weight tile keeps accumulators for.
    const TOKEN_BLOCK: usize;
    /// Integers.
    type Int: Copy;
    /// Floats.
    type Vector: Copy;
    /// The same registers as floats.
    type Float: FloatSimd<Vector = Self::Vector>;

    /// Operations on floats.
    fn float(self) -> Self::Float;
    /// Runs `op` compiled for this instruction set.
    fn vectorize<O: Operation>(self, op: O) -> O::Output;

    /// Loads `4 * LANES` bytes.
    /// # Safety
    /// They must be readable.
    unsafe fn load_int(self, from: *const u8) -> Self::Int;
    /// Loads four bytes into every lane.
    /// # Safety
    /// They must be readable.
    unsafe fn load_quad(self, from: *const i8) -> Self::Int;
    /// All bits zero.
    fn zero(self) -> Self::Int;
    /// Every byte the same.
    fn splat_byte(self, value: u8) -> Self::Int;
    /// Bitwise and.
    fn and(self, a: Self::Int, b: Self::Int) -> Self::Int;
    /// Bitwise or.
    fn or(self, a: Self::Int, b: Self::Int) -> Self::Int;
    /// Bitwise exclusive or.
    fn xor(self, a: Self::Int, b: Self::Int) -> Self::Int;
    /// Shifts 16-bit elements right.
    fn shr<const BITS: u32>(self, value: Self::Int) -> Self::Int;
    /// Shifts 16-bit elements left.
    fn shl<const BITS: u32>(self, value: Self::Int) -> Self::Int;
    /// Replaces each byte (below 16) by the table's entry.
    fn lookup(self, table: &[i8; 16], index: Self::Int) -> Self::Int;
    /// Adds the products of unsigned and signed bytes to a partial sum: 16-bit pair sums, or 32-bit sums if `WIDE_DOT`.
    fn dot_u8(self, partial: Self::Int, unsigned: Self::Int, signed: Self::Int) -> Self::Int;
    /// The 32-bit sums of a partial sum.
    fn widen(self, partial: Self::Int) -> Self::Int;
    /// Adds the products of signed bytes to 32-bit sums; if `WIDE_DOT`, `a` must be biased by 128 instead.
    /// `b` must not hold -128.
    fn dot_i8(self, sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int;
    /// The value itself, which the compiler must have in a register here. It keeps sums in the order they are written:
    /// reassociated, they need more registers than there are.
    fn pin(self, value: Self::Int) -> Self::Int {
        value
    }
    /// Adds 32-bit elements.
    fn add_i32(self, a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a - (b << bits)` of 32-bit elements; `bits` is a constant where the kernel is compiled.
    fn sub_shifted(self, a: Self::Int, b: Self::Int, bits: u32) -> Self::Int;
    /// Converts 32-bit integers to floats.
    fn to_float(self, value: Self::Int) -> Self::Vector;

    /// Loads `LANES` unsigned bytes as floats.
    /// # Safety
    /// They must be readable.
    unsafe fn load_u8_float(self, from: *const u8) -> Self::Vector;
    /// Loads `LANES` signed bytes as floats.
    /// # Safety
    /// They must be readable.
    unsafe fn load_i8_float(self, from: *const u8) -> Self::Vector;
    /// Stores floats that hold integers in -128..=127 as bytes.
    /// # Safety
    /// `LANES` bytes must be writable.
    unsafe fn store_as_i8(self, to: *mut i8, value: Self::Vector);
    /// Hints that the cache line at `at` (which need not be readable) will be read.
    fn prefetch(self, at: *const u8);
}

/// A choice of [`Simd`] implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// Plain Rust, eight lanes.
    Portable,
    /// Plain Rust with the register shape of AVX-512, for tests.
    #[cfg(test)]
    Emulated512,
    /// Plain Rust with the register shape and dot product of AVX-512 VNNI, for tests.
    #[cfg(test)]
    Emulated512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

impl Isa {
    /// The implementation for a level this processor supports.
    pub(crate) fn of(level: CpuLevel) -> Self {
        match level {
            #[cfg(target_arch = "x86_64")]
            CpuLevel::Avx2 if level.is_supported() => Self::Avx2,
            #[cfg(target_arch = "x86_64")]
            CpuLevel::Avx512 if level.is_supported() => Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            CpuLevel::Avx512Vnni | CpuLevel::Avx512Bf16 if level.is_supported() => Self::Avx512Vnni,
            _ => Self::Portable,
        }
    }

    /// Runs `op` on this implementation.
    #[expect(unsafe_code, reason = "tokens are made where support was checked")]
    pub(crate) fn dispatch<O: Operation>(self, op: O) -> O::Output {
        match self {
            Self::Portable => Portable::<8, false>.vectorize(op),
            #[cfg(test)]
            Self::Emulated512 => Portable::<16, false>.vectorize(op),
            #[cfg(test)]
            Self::Emulated512Vnni => Portable::<16, true>.vectorize(op),
            // SAFETY: `Isa::of`, the only maker of these variants, checked that the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { Avx2::new() }.vectorize(op),
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { Avx512::<false>::new() }.vectorize(op),
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => unsafe { Avx512::<true>::new() }.vectorize(op),
        }
    }

    /// Weight rows of a packed tile.
    pub(crate) fn lanes(self) -> usize {
        struct Lanes;
        impl Operation for Lanes {
            type Output = usize;
            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> usize {
                S::LANES
            }
        }
        self.dispatch(Lanes)
    }
}
