//! The register block: two registers of rows times some tokens, sums in registers along all of k.
#![expect(unsafe_code, reason = "streams packed weights through pointers whose extents `dense` checked")]

use super::{
    DenseThen, DenseType,
    rows::{GROUP_WORDS, GroupStats},
};
use crate::linear::simd::{Operation, Simd};
use crate::simd::{self, Kernel, MAX_LANES, Simd as FloatSimd, gelu_erf, simd_dispatch};

/// Registers of rows that a block takes at once.
pub(super) const UNIT_VECTORS: usize = 2;

/// The most tokens of a block. With thirty-two registers: 24 sums, two of weights, and words of tokens; bytes have sums of
/// integers and of floats.
pub(super) fn token_block(dense: DenseType, lanes: usize) -> usize {
    match (dense, lanes == MAX_LANES) {
        (DenseType::Bf16, true) => 12,
        (DenseType::Int8, true) => 6,
        (DenseType::Bf16, false) => 4,
        (DenseType::Int8, false) => 2,
    }
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
    /// `[tokens, groups]`, of bytes only.
    pub(super) stats: *const GroupStats,
    pub(super) words: usize,
    pub(super) groups: usize,
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
    /// Words whose sum is folded into a total.
    const SPAN: usize;
    /// What the sum of a group of a token begins with.
    /// # Safety
    /// The stats are readable, where they are used; likewise below.
    unsafe fn start(self, stats: *const GroupStats) -> Self::Sum;
    /// # Safety
    /// A register of words is readable.
    unsafe fn load(self, from: *const u32) -> Self::Word;
    /// # Safety
    /// A word is readable.
    unsafe fn splat(self, from: *const u32) -> Self::Word;
    fn dot(self, sum: Self::Sum, weight: Self::Word, x: Self::Word) -> Self::Sum;
    /// Adds the sum of a group to the total.
    /// # Safety
    /// As for [`Dot::start`].
    unsafe fn fold(self, total: Floats<Self>, sum: Self::Sum, stats: *const GroupStats) -> Floats<Self>;
    /// The product that a total stands for.
    /// # Safety
    /// A register of scales is readable, where they are used.
    unsafe fn finish(self, total: Floats<Self>, scales: *const f32) -> Floats<Self>;
}

type Floats<D> = <<D as Dot>::Float as FloatSimd>::Vector;

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
    const SPAN: usize = usize::MAX;
    #[inline(always)]
    unsafe fn start(self, _: *const GroupStats) -> S::Vector {
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
    unsafe fn fold(self, _: S::Vector, sum: S::Vector, _: *const GroupStats) -> S::Vector {
        // There is one group.
        sum
    }
    #[inline(always)]
    unsafe fn finish(self, total: S::Vector, _: *const f32) -> S::Vector {
        total
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
    const SPAN: usize = GROUP_WORDS;
    #[inline(always)]
    unsafe fn start(self, stats: *const GroupStats) -> S::Int {
        // What the bias of the weights will add, taken away.
        // SAFETY: readable by the contract; an integer has four bytes.
        if S::WIDE_DOT { unsafe { self.0.load_quad((&raw const (*stats).unbias).cast()) } } else { self.0.zero() }
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
    unsafe fn fold(self, total: S::Vector, sum: S::Int, stats: *const GroupStats) -> S::Vector {
        // SAFETY: readable by the contract.
        let scale = self.0.float().splat(unsafe { (*stats).scale });
        self.0.float().fma(self.0.to_float(sum), scale, total)
    }
    #[inline(always)]
    unsafe fn finish(self, total: S::Vector, scales: *const f32) -> S::Vector {
        // SAFETY: readable by the contract.
        self.0.float().mul(total, unsafe { self.0.float().load(scales) })
    }
}

impl Block {
    /// # Safety
    /// All that the block points to exists, for `N` tokens.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "vectors and tokens are indices of several arrays")]
    unsafe fn multiply<D: Dot, const N: usize>(&self, d: D) {
        let lanes = D::Float::LANES;
        let mut totals = [[d.float().splat(0.0); N]; UNIT_VECTORS];
        // SAFETY: by the contract.
        unsafe {
            let mut first = 0_usize;
            for group in 0..self.groups {
                let stats = self.stats.wrapping_add(group);
                let mut sums = [[d.start(stats); N]; UNIT_VECTORS];
                for n in 1..N {
                    sums[0][n] = d.start(stats.wrapping_add(n * self.groups));
                    sums[1][n] = sums[0][n];
                }
                let end = self.words.min(first.saturating_add(D::SPAN));
                for word in first..end {
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
                    for n in 0..N {
                        totals[v][n] = d.fold(totals[v][n], sums[v][n], stats.wrapping_add(n * self.groups));
                    }
                }
                first = end;
            }
            for v in 0..UNIT_VECTORS {
                let bias = d.float().load(self.bias.add(v * lanes));
                for n in 0..N {
                    let value = d.finish(totals[v][n], self.scales.wrapping_add(v * lanes));
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
    ($count:expr, $call:ident, $($n:literal if $possible:expr),*) => {
        match $count {
            $($n if $possible => $call!($n),)*
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
    with_count!(
        count, call, 2 if true, 3 if true, 4 if true, 5 if S::WIDE, 6 if S::WIDE, 7 if S::WIDE, 8 if S::WIDE, 9 if S::WIDE,
        10 if S::WIDE, 11 if S::WIDE, 12 if S::WIDE
    );
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
        let wide = S::LANES == MAX_LANES;
        with_count!(self.count, call, 2 if true, 3 if wide, 4 if wide, 5 if wide, 6 if wide);
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
