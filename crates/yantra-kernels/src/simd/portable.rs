//! Vectors as plain arrays: the specification (`Portable<1>`) and what the compiler vectorises by itself.

use super::{Kernel, Simd};
use half::{bf16, f16};

/// `N` lanes in an array.
#[derive(Clone, Copy)]
pub(crate) struct Portable<const N: usize>;

/// Fused where the baseline instruction set has it; elsewhere a library call would cost a hundred times more.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn map2<const N: usize>(a: [f32; N], b: [f32; N], op: impl Fn(f32, f32) -> f32) -> [f32; N] {
    std::array::from_fn(|lane| op(a[lane], b[lane]))
}

#[expect(unsafe_code, reason = "pointer loads and stores")]
impl<const N: usize> Simd for Portable<N> {
    type Vector = [f32; N];
    type Pairs = [u32; N];
    const LANES: usize = N;

    #[inline(never)]
    unsafe fn call<K: Kernel<Self>>(self, kernel: K) {
        // SAFETY: the caller's promise.
        unsafe { kernel.run(self) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; N] {
        [value; N]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> [f32; N] {
        // SAFETY: the caller's promise; arrays of f32 need no more alignment than f32.
        unsafe { from.cast::<[f32; N]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: [f32; N]) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; N]>().write_unaligned(vector) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> [f32; N] {
        // SAFETY: the caller's promise.
        std::array::from_fn(|lane| f16::from_bits(unsafe { from.add(lane).read_unaligned() }).to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> [f32; N] {
        // SAFETY: the caller's promise.
        std::array::from_fn(|lane| bf16::from_bits(unsafe { from.add(lane).read_unaligned() }).to_f32())
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, vector: [f32; N]) {
        for (lane, value) in vector.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(lane).write_unaligned(f16::from_f32(value).to_bits()) }
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, vector: [f32; N]) {
        for (lane, value) in vector.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(lane).write_unaligned(bf16::from_f32(value).to_bits()) }
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(self, from: *const u32) -> [u32; N] {
        // SAFETY: the caller's promise; arrays of u32 need no more alignment than u32.
        unsafe { from.cast::<[u32; N]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut u32, pairs: [u32; N]) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[u32; N]>().write_unaligned(pairs) }
    }

    #[inline(always)]
    fn pair_halves(self, first: [f32; N], second: [f32; N]) -> [u32; N] {
        std::array::from_fn(|lane| (first[lane].to_bits() >> 16) | (second[lane].to_bits() & 0xffff_0000))
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const u8) -> [f32; N] {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[i8; N]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn load_nibbles(self, from: *const u8) -> ([f32; N], [f32; N]) {
        // SAFETY: the caller's promise.
        let bytes = unsafe { from.cast::<[u8; N]>().read() };
        (bytes.map(|byte| f32::from(byte & 15)), bytes.map(|byte| f32::from(byte >> 4)))
    }

    #[inline(always)]
    fn splat_pair(self, pair: u32) -> [u32; N] {
        [pair; N]
    }

    #[inline(always)]
    fn mask_pairs(self, pairs: [u32; N], mask: u32) -> [u32; N] {
        pairs.map(|pair| pair & mask)
    }

    #[inline(always)]
    fn dot_pairs(self, a: [u32; N], b: [u32; N], sum: [f32; N]) -> [f32; N] {
        let first = |pair: u32| f32::from_bits(pair << 16);
        let second = |pair: u32| f32::from_bits(pair & 0xffff_0000);
        std::array::from_fn(|lane| {
            let sum = multiply_add(first(a[lane]), first(b[lane]), sum[lane]);
            multiply_add(second(a[lane]), second(b[lane]), sum)
        })
    }

    #[inline(always)]
    fn add(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        map2(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        map2(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        map2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        map2(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        std::array::from_fn(|lane| multiply_add(a[lane], b[lane], c[lane]))
    }

    #[inline(always)]
    fn max(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        map2(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        map2(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn scale_by_low_bits(self, a: [f32; N], shifted: [f32; N]) -> [f32; N] {
        map2(a, shifted, |a, shifted| f32::from_bits(a.to_bits().wrapping_add(shifted.to_bits() << 23)))
    }

    #[inline(always)]
    fn select_less(self, a: [f32; N], b: [f32; N], yes: [f32; N], no: [f32; N]) -> [f32; N] {
        std::array::from_fn(|lane| if a[lane] < b[lane] { yes[lane] } else { no[lane] })
    }

    #[inline(always)]
    fn reduce_add(self, a: [f32; N]) -> f32 {
        // Pairs of halves, as the hardware versions do.
        let mut lanes = a;
        let mut width = N;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
        }
        lanes[0]
    }

    #[inline(always)]
    fn reduce_max(self, a: [f32; N]) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |max, value| if value > max { value } else { max })
    }
}
