//! Plain Rust lanes: the specification of every vector operation, and the fallback where there is nothing faster.
#![expect(unsafe_code, reason = "loads and stores through the pointers of the `Simd` contract")]

use super::{Operation, Simd};
use std::array::from_fn;

/// `L` emulated lanes; `WIDE` chooses the dot product of VNNI over the saturating 16-bit one.
#[derive(Clone, Copy)]
pub(crate) struct Portable<const L: usize, const WIDE: bool>;

fn signed(byte: u8) -> i32 {
    i32::from(byte.cast_signed())
}

fn halves(lane: [u8; 4]) -> [i16; 2] {
    [i16::from_le_bytes([lane[0], lane[1]]), i16::from_le_bytes([lane[2], lane[3]])]
}

fn from_halves(halves: [i16; 2]) -> [u8; 4] {
    let [a, b] = halves.map(i16::to_le_bytes);
    [a[0], a[1], b[0], b[1]]
}

fn saturate(value: i32) -> i16 {
    value.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
}

impl<const L: usize, const WIDE: bool> Portable<L, WIDE> {
    #[inline(always)]
    fn map_halves(value: [[u8; 4]; L], f: impl Fn(u16) -> u16) -> [[u8; 4]; L] {
        value.map(|lane| from_halves(halves(lane).map(|half| f(half.cast_unsigned()).cast_signed())))
    }
}

impl<const L: usize, const WIDE: bool> Simd for Portable<L, WIDE> {
    const LANES: usize = L;
    const WIDE_DOT: bool = WIDE;
    // One at a time: what is not vectorised by hand gains nothing from blocks but code. Tests of wide layouts block.
    const TOKEN_BLOCK: usize = if L == 16 { 2 } else { 4 };
    type Int = [[u8; 4]; L];
    type Vector = [f32; L];
    type Float = crate::simd::Portable<L>;

    #[inline(always)]
    fn float(self) -> Self::Float {
        crate::simd::Portable
    }

    #[inline(never)]
    fn vectorize<O: Operation>(self, op: O) -> O::Output {
        op.run(self)
    }

    #[inline(always)]
    unsafe fn load_int(self, from: *const u8) -> Self::Int {
        // SAFETY: readable by the contract; byte arrays have no alignment.
        unsafe { from.cast::<Self::Int>().read() }
    }
    #[inline(always)]
    unsafe fn load_quad(self, from: *const i8) -> Self::Int {
        // SAFETY: readable by the contract; byte arrays have no alignment.
        [unsafe { from.cast::<[u8; 4]>().read() }; L]
    }
    #[inline(always)]
    fn zero(self) -> Self::Int {
        [[0; 4]; L]
    }
    #[inline(always)]
    fn splat_byte(self, value: u8) -> Self::Int {
        [[value; 4]; L]
    }
    #[inline(always)]
    fn and(self, a: Self::Int, b: Self::Int) -> Self::Int {
        from_fn(|l| from_fn(|i| a[l][i] & b[l][i]))
    }
    #[inline(always)]
    fn or(self, a: Self::Int, b: Self::Int) -> Self::Int {
        from_fn(|l| from_fn(|i| a[l][i] | b[l][i]))
    }
    #[inline(always)]
    fn xor(self, a: Self::Int, b: Self::Int) -> Self::Int {
        from_fn(|l| from_fn(|i| a[l][i] ^ b[l][i]))
    }
    #[inline(always)]
    fn shr<const BITS: u32>(self, value: Self::Int) -> Self::Int {
        Self::map_halves(value, |half| half >> BITS)
    }
    #[inline(always)]
    fn shl<const BITS: u32>(self, value: Self::Int) -> Self::Int {
        Self::map_halves(value, |half| half << BITS)
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 16], index: Self::Int) -> Self::Int {
        index.map(|lane| lane.map(|i| table[usize::from(i & 15)].cast_unsigned()))
    }
    #[inline(always)]
    fn dot_u8(self, partial: Self::Int, unsigned: Self::Int, b: Self::Int) -> Self::Int {
        from_fn(|l| {
            let product: [i32; 4] = from_fn(|i| i32::from(unsigned[l][i]) * signed(b[l][i]));
            if WIDE {
                (i32::from_le_bytes(partial[l]) + product.iter().sum::<i32>()).to_le_bytes()
            } else {
                let pairs = [saturate(product[0] + product[1]), saturate(product[2] + product[3])];
                let old = halves(partial[l]);
                from_halves(from_fn(|i| old[i].wrapping_add(pairs[i])))
            }
        })
    }
    #[inline(always)]
    fn widen(self, partial: Self::Int) -> Self::Int {
        if WIDE {
            return partial;
        }
        partial.map(|lane| halves(lane).map(i32::from).iter().sum::<i32>().to_le_bytes())
    }
    #[inline(always)]
    fn dot_i8(self, sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int {
        if WIDE {
            return self.dot_u8(sum, a, b);
        }
        from_fn(|l| {
            let product: i32 = (0..4).map(|i| signed(a[l][i]) * signed(b[l][i])).sum();
            (i32::from_le_bytes(sum[l]) + product).to_le_bytes()
        })
    }
    #[inline(always)]
    fn add_i32(self, a: Self::Int, b: Self::Int) -> Self::Int {
        from_fn(|l| i32::from_le_bytes(a[l]).wrapping_add(i32::from_le_bytes(b[l])).to_le_bytes())
    }
    #[inline(always)]
    fn sub_shifted(self, a: Self::Int, b: Self::Int, bits: u32) -> Self::Int {
        from_fn(|l| (i32::from_le_bytes(a[l]) - (i32::from_le_bytes(b[l]) << bits)).to_le_bytes())
    }
    #[inline(always)]
    fn to_float(self, value: Self::Int) -> Self::Vector {
        value.map(|lane| i32::from_le_bytes(lane) as f32)
    }

    #[inline(always)]
    unsafe fn load_u8_float(self, from: *const u8) -> Self::Vector {
        // SAFETY: readable by the contract.
        unsafe { from.cast::<[u8; L]>().read() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_i8_float(self, from: *const u8) -> Self::Vector {
        // SAFETY: readable by the contract.
        unsafe { from.cast::<[i8; L]>().read() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn store_as_i8(self, to: *mut i8, value: Self::Vector) {
        // SAFETY: writable by the contract.
        unsafe { to.cast::<[i8; L]>().write(value.map(|v| v as i8)) }
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
