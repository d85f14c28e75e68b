//! Products of block-quantised weights with int8 activations.
//!
//! Per group: integer dot products, then `acc += (scale * dot + min * sum) * activation_scale` in f32, group after group
//! along k; formats without mins take the offset of their quants off the integers. These are exact and the order of the floats is fixed, so an element's bits do not depend on how tokens
//! were blocked. A group is unpacked into registers and meets a block of tokens there; that it is unpacked again for the
//! next block costs less than storing and loading it would: the floats of a group, not its bytes, take the time.
#![expect(unsafe_code, reason = "streams packed tiles through pointers whose extents `linear` checked")]

use super::{
    epilogue::Epilogue,
    layout::{GROUP, GroupScales, Quants, Scales, record_bytes, scale_bytes},
    scratch,
    simd::{Operation, Simd},
};
use crate::activations::GroupStats;
use crate::simd::Simd as _;
use std::{marker::PhantomData, ops::Range};

/// Bytes of weights that all blocks of tokens pass over before the next ones: they stay in the second-level cache.
const RESIDENT_BYTES: usize = 128 << 10;

/// How far ahead of the kernel weights are fetched. It is the kernel that must: packed rows end where the hardware's own
/// prefetching has just begun. Measured from memory with one token: half a kilobyte to two do about equally well.
const AHEAD: usize = 1024;

/// Int8 activations of consecutive tokens.
#[derive(Clone, Copy)]
pub(crate) struct Tokens {
    pub(crate) quants: *const i8,
    pub(crate) stats: *const GroupStats,
    /// Groups of a token.
    pub(crate) groups: usize,
    pub(crate) count: usize,
}

impl Tokens {
    /// # Safety
    /// `first` is at most the number of tokens.
    #[inline(always)]
    unsafe fn skip(self, first: usize) -> Self {
        // SAFETY: within the activations by the contract.
        unsafe {
            let (quants, stats) = (self.quants.add(first * self.groups * GROUP), self.stats.add(first * self.groups));
            Self { quants, stats, count: self.count - first, ..self }
        }
    }
}

/// Packed tiles of one weight.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub(super) start: *const u8,
    pub(super) tile_bytes: usize,
}

/// A group in registers.
struct Group<S: Simd> {
    quads: [S::Int; 8],
    scales: GroupScales<S>,
}

impl<S: Simd> Group<S> {
    /// The `group`th group of a record.
    ///
    /// # Safety
    /// `record` points to a packed record.
    #[inline(always)]
    unsafe fn read<Q: Quants, C: Scales>(s: S, record: *const u8, group: usize) -> Self {
        // SAFETY: within the record by the contract.
        unsafe {
            let quants = record.add(scale_bytes::<C>(S::LANES) + group * Q::LANE_BYTES * S::LANES);
            Self { quads: Q::unpack(s, quants), scales: C::unpack(s, record, group) }
        }
    }

    /// Integer dot products of part `PART` of the group with each token.
    ///
    /// # Safety
    /// `quants[n]` point to the 32 activations of the group.
    #[inline(always)]
    unsafe fn dot<const RUN: usize, const PARTS: usize, const PART: usize, const N: usize>(
        &self,
        s: S,
        quants: &[*const i8; N],
    ) -> [S::Int; N] {
        let quads = 8 / PARTS;
        let run = if S::WIDE_DOT || RUN > quads { quads } else { RUN };
        let mut sums = [s.zero(); N];
        let mut partial = [s.zero(); N];
        // Unrolled by hand: rolled, which the compiler prefers for many tokens, the loop costs an eighth more.
        macro_rules! quads {
            ($($j:literal)*) => {$(
                if $j / quads == PART {
                    for n in 0..N {
                        // SAFETY: quads of the group are readable.
                        let quad = unsafe { s.load_quad(quants[n].add(4 * $j)) };
                        if RUN == 0 {
                            sums[n] = s.pin(s.dot_i8(sums[n], self.quads[$j], quad));
                        } else {
                            partial[n] = s.pin(s.dot_u8(partial[n], self.quads[$j], quad));
                        }
                    }
                    if RUN != 0 && ($j + 1) % run == 0 {
                        for n in 0..N {
                            let sum = s.widen(partial[n]);
                            sums[n] = if run == quads { sum } else { s.add_i32(sums[n], sum) };
                            partial[n] = s.zero();
                        }
                    }
                }
            )*};
        }
        quads!(0 1 2 3 4 5 6 7);
        sums
    }

    /// Adds the weighted sums of part `PART` of the group to the values of each token.
    ///
    /// # Safety
    /// `quants[n]` and `stats[n]` point to the activations of the group; `PART` is below `PARTS`.
    #[inline(always)]
    unsafe fn weigh<Q: Quants, C: Scales, const RUN: usize, const PARTS: usize, const PART: usize, const N: usize>(
        &self,
        s: S,
        quants: &[*const i8; N],
        stats: &[*const GroupStats; N],
        values: &mut [S::Vector; N],
    ) {
        // SAFETY: passed on.
        let dots = unsafe { self.dot::<RUN, PARTS, PART, N>(s, quants) };
        for n in 0..N {
            // SAFETY: the sum of the part is readable.
            let sum =
                unsafe { s.load_quad((&raw const (*stats[n]).sums[if PARTS == 1 { 0 } else { 1 + PART }]).cast()) };
            let mut dot = dots[n];
            // Signed bytes have an offset only if the instruction asks for unsigned ones.
            if !C::AFFINE && (RUN != 0 || S::WIDE_DOT) {
                dot = s.sub_shifted(dot, sum, Q::OFFSET.trailing_zeros());
            }
            let dot = s.to_float(dot);
            values[n] = if PART == 0 {
                s.float().mul(dot, self.scales.scale[PART])
            } else {
                s.float().fma(dot, self.scales.scale[PART], values[n])
            };
            if C::AFFINE {
                values[n] = s.float().fma(self.scales.min[PART], s.to_float(sum), values[n]);
            }
        }
    }

    /// Adds the contribution of the group to the accumulators.
    ///
    /// # Safety
    /// `group` is below the number of groups; there are `N` tokens.
    #[inline(always)]
    unsafe fn accumulate<Q: Quants, C: Scales, const RUN: usize, const PARTS: usize, const N: usize>(
        &self,
        s: S,
        tokens: &Tokens,
        group: usize,
        acc: &mut [S::Vector; N],
    ) {
        let mut quants = [tokens.quants; N];
        let mut stats = [tokens.stats; N];
        for n in 0..N {
            // SAFETY: within the activations by the contract.
            (quants[n], stats[n]) = unsafe {
                let at = n * tokens.groups + group;
                (tokens.quants.add(at * GROUP), tokens.stats.add(at))
            };
        }
        let mut values = [s.float().splat(0.0); N];
        // SAFETY: each of `quants` and `stats` points to a group.
        unsafe {
            self.weigh::<Q, C, RUN, PARTS, 0, N>(s, &quants, &stats, &mut values);
            if PARTS == 2 {
                self.weigh::<Q, C, RUN, PARTS, 1, N>(s, &quants, &stats, &mut values);
            }
        }
        for n in 0..N {
            // SAFETY: within the activations by the contract.
            let scale = s.float().splat(unsafe { (*stats[n]).scale });
            acc[n] = s.float().fma(values[n], scale, acc[n]);
        }
    }
}

/// The product of some tiles with any number of tokens.
pub(super) struct Product<'a, Q, C, const RUN: usize, const PARTS: usize> {
    pub(super) weight: Tiles,
    pub(super) tiles: Range<usize>,
    pub(super) tokens: Tokens,
    pub(super) epilogue: Epilogue<'a>,
    /// Whether the weights may still be in memory.
    pub(super) fetch: bool,
    pub(super) layout: PhantomData<(Q, C)>,
}

impl<Q: Quants, C: Scales, const RUN: usize, const PARTS: usize> Operation for Product<'_, Q, C, RUN, PARTS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { weight, tokens, epilogue, layout, .. } = self;
        let resident = (RESIDENT_BYTES / weight.tile_bytes.max(1)).max(1);
        let mut first = self.tiles.start;
        while first < self.tiles.end {
            let tiles = first..self.tiles.end.min(first + resident);
            first = tiles.end;
            let mut done = 0;
            while done < tokens.count {
                let count = scratch::block(tokens.count - done, S::TOKEN_BLOCK);
                // SAFETY: that many tokens are left.
                let rest = unsafe { tokens.skip(done) };
                let epilogue = epilogue.skip(done);
                let block = Self { weight, tiles: tiles.clone(), tokens: rest, epilogue, fetch: done == 0, layout };
                match count {
                    2 if S::TOKEN_BLOCK > 1 => s.vectorize(Block::<_, _, RUN, PARTS, 2>(block)),
                    3 if S::TOKEN_BLOCK > 2 => s.vectorize(Block::<_, _, RUN, PARTS, 3>(block)),
                    4 if S::TOKEN_BLOCK > 3 => s.vectorize(Block::<_, _, RUN, PARTS, 4>(block)),
                    5 if S::TOKEN_BLOCK > 4 => s.vectorize(Block::<_, _, RUN, PARTS, 5>(block)),
                    6 if S::TOKEN_BLOCK > 5 => s.vectorize(Block::<_, _, RUN, PARTS, 6>(block)),
                    _ => s.vectorize(Block::<_, _, RUN, PARTS, 1>(block)),
                }
                done += count;
            }
        }
    }
}

/// [`Product`] with its first `N` tokens.
struct Block<'a, Q, C, const RUN: usize, const PARTS: usize, const N: usize>(Product<'a, Q, C, RUN, PARTS>);

impl<Q: Quants, C: Scales, const RUN: usize, const PARTS: usize, const N: usize> Operation
    for Block<'_, Q, C, RUN, PARTS, N>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product { weight, tiles, tokens, epilogue, fetch, .. } = self.0;
        let record_bytes = record_bytes::<Q, C>(S::LANES);
        for tile in tiles {
            let mut acc = [s.float().splat(0.0); N];
            // SAFETY: `tiles` are tiles of the weight, `N` is the number of tokens.
            unsafe {
                let mut record = weight.start.add(tile * weight.tile_bytes);
                for first in (0..tokens.groups).step_by(C::PERIOD) {
                    for group in 0..C::PERIOD.min(tokens.groups - first) {
                        if fetch {
                            let part = record_bytes / C::PERIOD;
                            for line in 0..part.div_ceil(64) {
                                s.prefetch(record.wrapping_add(AHEAD + group * part + line * 64));
                            }
                        }
                        let unpacked = Group::read::<Q, C>(s, record, group);
                        unpacked.accumulate::<Q, C, RUN, PARTS, N>(s, &tokens, first + group, &mut acc);
                    }
                    record = record.add(record_bytes);
                }
            }
            for (token, acc) in acc.into_iter().enumerate() {
                epilogue.store(s, tile, token, acc);
            }
        }
    }
}
