//! The register block: two registers of rows times up to twelve tokens, sums in registers along all of k.
#![expect(unsafe_code, reason = "streams packed weights through pointers whose extents `dense` checked")]

use super::{DenseThen, rows::RowStats};
use crate::linear::simd::{Operation, Simd};
use crate::simd::{self, Kernel, MAX_LANES, Simd as FloatSimd, gelu_erf, simd_dispatch};

/// Registers of rows that a block takes at once.
pub(super) const UNIT_VECTORS: usize = 2;

/// The most tokens of a block: with thirty-two registers, 24 sums, two of weights, and words of tokens.
pub(super) fn token_block(lanes: usize) -> usize {
    if lanes == MAX_LANES { 12 } else { 4 }
}

/// What a block kernel works on.
pub(super) struct Block {
    /// `[words, UNIT_VECTORS, lanes]`
    pub(super) weight: *const u32,
    /// `[UNIT_VECTORS * lanes]`, of bytes only; the bias likewise, of both.
    pub(super) scales: *const f32,
    pub(super) bias: *const f32,
    /// `[tokens, words]`
    pub(super) x: *const u32,
    /// `[tokens]`, of bytes only.
    pub(super) stats: *const RowStats,
    pub(super) words: usize,
    /// At the first row and token; `stride` values between tokens.
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    /// Rows to store: at most those of the unit.
    pub(super) rows: usize,
    pub(super) then: DenseThen,
}

/// The dot products of words.
trait Dot: Copy {
    type Float: FloatSimd;
    type Word: Copy;
    type Sum: Copy;
    fn float(self) -> Self::Float;
    fn zero(self) -> Self::Sum;
    /// # Safety
    /// A register of words is readable.
    unsafe fn load(self, from: *const u32) -> Self::Word;
    /// # Safety
    /// A word is readable.
    unsafe fn splat(self, from: *const u32) -> Self::Word;
    fn dot(self, sum: Self::Sum, weight: Self::Word, x: Self::Word) -> Self::Sum;
    /// The product that a sum stands for.
    /// # Safety
    /// A register of scales and the stats of a token are readable, where they are used.
    unsafe fn finish(
        self,
        sum: Self::Sum,
        scales: *const f32,
        stats: *const RowStats,
    ) -> <Self::Float as FloatSimd>::Vector;
}

/// Pairs of bfloat16.
#[derive(Clone, Copy)]
struct OfPairs<S>(S);

impl<S: FloatSimd> Dot for OfPairs<S> {
    type Float = S;
    type Word = S::Pairs;
    type Sum = S::Vector;
    #[inline(always)]
    fn float(self) -> S {
        self.0
    }
    #[inline(always)]
    fn zero(self) -> S::Vector {
        self.0.splat(0.0)
    }
    #[inline(always)]
    unsafe fn load(self, from: *const u32) -> S::Pairs {
        // SAFETY: passed on.
        unsafe { self.0.load_pairs(from) }
    }
    #[inline(always)]
    unsafe fn splat(self, from: *const u32) -> S::Pairs {
        // SAFETY: passed on.
        self.0.splat_pair(unsafe { *from })
    }
    #[inline(always)]
    fn dot(self, sum: S::Vector, weight: S::Pairs, x: S::Pairs) -> S::Vector {
        self.0.dot_pairs(weight, x, sum)
    }
    #[inline(always)]
    unsafe fn finish(self, sum: S::Vector, _: *const f32, _: *const RowStats) -> S::Vector {
        sum
    }
}

/// Four signed bytes.
#[derive(Clone, Copy)]
struct OfQuads<S>(S);

impl<S: Simd> Dot for OfQuads<S> {
    type Float = S::Float;
    type Word = S::Int;
    type Sum = S::Int;
    #[inline(always)]
    fn float(self) -> S::Float {
        self.0.float()
    }
    #[inline(always)]
    fn zero(self) -> S::Int {
        self.0.zero()
    }
    #[inline(always)]
    unsafe fn load(self, from: *const u32) -> S::Int {
        // SAFETY: passed on.
        unsafe { self.0.load_int(from.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(self, from: *const u32) -> S::Int {
        // SAFETY: passed on.
        unsafe { self.0.load_quad(from.cast()) }
    }
    #[inline(always)]
    fn dot(self, sum: S::Int, weight: S::Int, x: S::Int) -> S::Int {
        self.0.dot_i8(sum, weight, x)
    }
    #[inline(always)]
    unsafe fn finish(self, sum: S::Int, scales: *const f32, stats: *const RowStats) -> S::Vector {
        // SAFETY: by the contract.
        let (scales, stats) = unsafe { (self.0.float().load(scales), &*stats) };
        let mut sum = sum;
        if S::WIDE_DOT {
            // The bias of the weights, taken away while the sum is exact.
            // SAFETY: an integer has four bytes.
            sum = self.0.add_i32(sum, unsafe { self.0.load_quad((&raw const stats.unbias).cast()) });
        }
        let scale = self.0.float().mul(scales, self.0.float().splat(stats.scale));
        self.0.float().mul(self.0.to_float(sum), scale)
    }
}

impl Block {
    /// # Safety
    /// All that the block points to exists, for `N` tokens.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "vectors and tokens are indices of several arrays")]
    unsafe fn multiply<D: Dot, const N: usize>(&self, d: D) {
        let lanes = D::Float::LANES;
        let mut sums = [[d.zero(); N]; UNIT_VECTORS];
        // SAFETY: by the contract.
        unsafe {
            for word in 0..self.words {
                let weight = self.weight.add(word * UNIT_VECTORS * lanes);
                let weights = [d.load(weight), d.load(weight.add(lanes))];
                for n in 0..N {
                    let x = d.splat(self.x.add(n * self.words + word));
                    for v in 0..UNIT_VECTORS {
                        sums[v][n] = d.dot(sums[v][n], weights[v], x);
                    }
                }
            }
            for v in 0..UNIT_VECTORS {
                let bias = d.float().load(self.bias.add(v * lanes));
                for n in 0..N {
                    let value = d.finish(sums[v][n], self.scales.wrapping_add(v * lanes), self.stats.wrapping_add(n));
                    self.store(d.float(), v * lanes, n, d.float().add(value, bias));
                }
            }
            if self.then == DenseThen::Gelu {
                for n in 0..N {
                    for v in 0..UNIT_VECTORS {
                        self.activate(d.float(), v * lanes, n);
                    }
                }
            }
        }
    }

    /// Stores the rows from `row` on, those that there are.
    ///
    /// # Safety
    /// The token exists.
    #[inline(always)]
    unsafe fn store<S: FloatSimd>(&self, s: S, row: usize, token: usize, value: S::Vector) {
        let out = self.out.wrapping_add(token * self.stride + row);
        // SAFETY: rows below `rows` exist and are this task's own; a whole vector only where there are so many.
        unsafe {
            if row + S::LANES <= self.rows {
                let value = if self.then == DenseThen::Add { s.add(value, s.load(out)) } else { value };
                s.store(out, value);
                return;
            }
            let mut values = [0.0; MAX_LANES];
            s.store(values.as_mut_ptr(), value);
            for (lane, value) in values[..self.rows.saturating_sub(row)].iter().enumerate() {
                *out.add(lane) = if self.then == DenseThen::Add { *out.add(lane) + value } else { *value };
            }
        }
    }

    /// Activates the rows from `row` on, those that there are.
    ///
    /// # Safety
    /// As for [`Block::store`].
    #[inline(always)]
    unsafe fn activate<S: FloatSimd>(&self, s: S, row: usize, token: usize) {
        let out = self.out.wrapping_add(token * self.stride + row);
        // SAFETY: as in `store`.
        unsafe {
            if row + S::LANES <= self.rows {
                s.store(out, gelu_erf(s, s.load(out)));
            } else if row < self.rows {
                let rest = std::slice::from_raw_parts_mut(out, self.rows - row);
                let value = gelu_erf(s, s.load_partial(rest, 0.0));
                s.store_partial(rest, value);
            }
        }
    }
}

/// Calls `$call` with the block kernel of as many tokens as `$count` says.
macro_rules! with_count {
    ($wide:expr, $count:expr, $call:ident) => {
        match $count {
            2 => $call!(2),
            3 => $call!(3),
            4 => $call!(4),
            5 if $wide => $call!(5),
            6 if $wide => $call!(6),
            7 if $wide => $call!(7),
            8 if $wide => $call!(8),
            9 if $wide => $call!(9),
            10 if $wide => $call!(10),
            11 if $wide => $call!(11),
            12 if $wide => $call!(12),
            _ => $call!(1),
        }
    };
}

simd_dispatch! {
    /// A block of bfloat16 pairs and `count` tokens.
    pub(super) fn pairs(block: &Block, count: usize) = pairs_body;
}

#[inline(always)]
fn pairs_body<S: simd::Simd>(s: S, block: &Block, count: usize) {
    macro_rules! call {
        ($n:literal) => {
            // SAFETY: the maker of the block vouches for it.
            unsafe { s.call(PairBlock::<$n>(block)) }
        };
    }
    with_count!(S::WIDE, count, call);
}

struct PairBlock<'a, const N: usize>(&'a Block);

impl<S: FloatSimd, const N: usize> Kernel<S> for PairBlock<'_, N> {
    #[inline(always)]
    unsafe fn run(self, s: S) {
        // SAFETY: passed on.
        unsafe { self.0.multiply::<_, N>(OfPairs(s)) }
    }
}

/// A block of signed bytes and `count` tokens.
pub(super) struct Quads<'a> {
    pub(super) block: &'a Block,
    pub(super) count: usize,
}

impl Operation for Quads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        macro_rules! call {
            ($n:literal) => {
                s.vectorize(QuadBlock::<$n>(self.block))
            };
        }
        with_count!(S::LANES == MAX_LANES, self.count, call);
    }
}

struct QuadBlock<'a, const N: usize>(&'a Block);

impl<const N: usize> Operation for QuadBlock<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the maker of the block vouches for it.
        unsafe { self.0.multiply::<_, N>(OfQuads(s)) }
    }
}
