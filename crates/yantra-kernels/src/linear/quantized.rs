//! Products of block-quantised weights with int8 activations.
//!
//! Per group: integer dot products, then `acc += (scale * dot + min * sum) * activation_scale` in f32, group after group
//! along k. The integers are exact and the order of the floats is the same in both kernels below, so an element's bits
//! do not depend on which of them computed it, nor on how tokens were blocked:
//! - *direct*, for a few tokens: unpacks each group into registers, reading the packed weights once;
//! - *panel*, for many: unpacks a panel of two tiles into scratch in the cache and reads it for every block of tokens.
#![expect(unsafe_code, reason = "streams packed tiles through pointers whose extents `linear` checked")]

use super::{
    epilogue::Epilogue,
    layout::{GROUP, GroupScales, Quants, Scales},
    scratch::{self, Scratch, UNIT_TILES},
    simd::{Operation, Simd},
};
use crate::activations::GroupStats;
use crate::simd::Simd as _;
use std::{marker::PhantomData, ops::Range};

/// Most tokens that go through the direct kernel.
pub(super) const DIRECT_TOKENS: usize = 4;
/// Groups unpacked into a panel at once: two tiles of it should leave room in the first-level cache.
const PANEL_GROUPS: usize = 32;

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
    pub(super) quants_start: usize,
}

/// One group of one tile, ready to multiply.
trait Group<S: Simd> {
    /// # Safety
    /// `j` is below 8.
    unsafe fn quad(&self, s: S, j: usize) -> S::Int;
    unsafe fn scale(&self, s: S, part: usize) -> S::Vector;
    unsafe fn min(&self, s: S, part: usize) -> S::Vector;
}

/// Whether weights have a min: all but signed bytes do.
const fn has_min<S: Simd>(run: usize) -> bool {
    run != 0 || S::WIDE_DOT
}

/// Integer dot products of part `PART` of a group: `sums[tile][token]`.
///
/// # Safety
/// `quants[n]` point to the 32 activations of the group.
#[inline(always)]
unsafe fn dot_part<S, G, const RUN: usize, const PARTS: usize, const PART: usize, const T: usize, const N: usize>(
    s: S,
    tiles: &[G; T],
    quants: &[*const i8; N],
) -> [[S::Int; N]; T]
where
    S: Simd,
    G: Group<S>,
{
    let quads = 8 / PARTS;
    let run = if S::WIDE_DOT || RUN > quads { quads } else { RUN };
    let mut sums = [[s.zero(); N]; T];
    let mut partial = [[s.zero(); N]; T];
    // Unrolled by hand: rolled, which the compiler prefers for many tokens, the loop costs an eighth more.
    macro_rules! quads {
        ($($j:literal)*) => {$(
            if $j / quads == PART {
                // SAFETY: quads of the group are readable.
                let weights: [S::Int; T] = std::array::from_fn(|t| unsafe { tiles[t].quad(s, $j) });
                for n in 0..N {
                    // SAFETY: as above.
                    let quad = unsafe { s.load_quad(quants[n].add(4 * $j)) };
                    for t in 0..T {
                        if RUN == 0 {
                            sums[t][n] = s.pin(s.dot_i8(sums[t][n], weights[t], quad));
                        } else {
                            partial[t][n] = s.pin(s.dot_u8(partial[t][n], weights[t], quad));
                        }
                    }
                }
                if RUN != 0 && ($j + 1) % run == 0 {
                    for t in 0..T {
                        for n in 0..N {
                            let sum = s.widen(partial[t][n]);
                            sums[t][n] = if run == quads { sum } else { s.add_i32(sums[t][n], sum) };
                            partial[t][n] = s.zero();
                        }
                    }
                }
            }
        )*};
    }
    quads!(0 1 2 3 4 5 6 7);
    sums
}

/// Adds the contribution of one part of a group to the accumulators.
///
/// # Safety
/// As [`accumulate`]; `PART` is below `PARTS`.
#[inline(always)]
unsafe fn accumulate_part<
    S,
    G,
    const RUN: usize,
    const PARTS: usize,
    const PART: usize,
    const T: usize,
    const N: usize,
>(
    s: S,
    tiles: &[G; T],
    tokens: &Tokens,
    group: usize,
    acc: &mut [[S::Vector; N]; T],
) where
    S: Simd,
    G: Group<S>,
{
    // SAFETY: within the activations by the contract.
    let quants: [*const i8; N] =
        std::array::from_fn(|n| unsafe { tokens.quants.add((n * tokens.groups + group) * GROUP) });
    // SAFETY: each of `quants` points to a group.
    let sums = unsafe { dot_part::<S, G, RUN, PARTS, PART, T, N>(s, tiles, &quants) };
    for n in 0..N {
        // SAFETY: within the activations by the contract.
        let stats = unsafe { &*tokens.stats.add(n * tokens.groups + group) };
        let activation_scale = s.float().splat(stats.scale);
        let activation_sum = s.float().splat(stats.sums[if PARTS == 1 { 0 } else { 1 + PART }]);
        for t in 0..T {
            // SAFETY: the part exists.
            let (scale, min) = unsafe { (tiles[t].scale(s, PART), tiles[t].min(s, PART)) };
            let mut value = s.float().mul(s.to_float(sums[t][n]), scale);
            if has_min::<S>(RUN) {
                value = s.float().fma(min, activation_sum, value);
            }
            acc[t][n] = s.float().fma(value, activation_scale, acc[t][n]);
        }
    }
}

/// Adds the contribution of one group to the accumulators.
///
/// # Safety
/// `group` is below the number of groups; there are `N` tokens.
#[inline(always)]
unsafe fn accumulate<S, G, const RUN: usize, const PARTS: usize, const T: usize, const N: usize>(
    s: S,
    tiles: &[G; T],
    tokens: &Tokens,
    group: usize,
    acc: &mut [[S::Vector; N]; T],
) where
    S: Simd,
    G: Group<S>,
{
    // SAFETY: passed on.
    unsafe {
        accumulate_part::<S, G, RUN, PARTS, 0, T, N>(s, tiles, tokens, group, acc);
        if PARTS == 2 {
            accumulate_part::<S, G, RUN, PARTS, 1, T, N>(s, tiles, tokens, group, acc);
        }
    }
}

/// A group in registers.
struct Unpacked<S: Simd> {
    quads: [S::Int; 8],
    scales: GroupScales<S>,
}

impl<S: Simd> Unpacked<S> {
    /// # Safety
    /// `tile` points to a packed tile that has group `group`.
    #[inline(always)]
    unsafe fn read<Q: Quants, C: Scales>(s: S, tile: *const u8, quants_start: usize, group: usize) -> Self {
        // SAFETY: within the tile by the contract.
        let (quads, mut scales) = unsafe {
            (Q::unpack(s, tile.add(quants_start + group * Q::LANE_BYTES * S::LANES)), C::unpack(s, tile, group))
        };
        if !C::AFFINE {
            let offset = s.float().splat(-f32::from(Q::OFFSET));
            scales.min = [s.float().mul(scales.scale[0], offset), s.float().mul(scales.scale[1], offset)];
        }
        Self { quads, scales }
    }
}

impl<S: Simd> Group<S> for Unpacked<S> {
    #[inline(always)]
    unsafe fn quad(&self, _: S, j: usize) -> S::Int {
        self.quads[j]
    }
    #[inline(always)]
    unsafe fn scale(&self, _: S, part: usize) -> S::Vector {
        self.scales.scale[part]
    }
    #[inline(always)]
    unsafe fn min(&self, _: S, part: usize) -> S::Vector {
        self.scales.min[part]
    }
}

/// A group in a panel: eight registers of quants, then scales, then mins.
struct InPanel<S: Simd, const RUN: usize, const PARTS: usize>(*const u8, PhantomData<S>);

impl<S: Simd, const RUN: usize, const PARTS: usize> InPanel<S, RUN, PARTS> {
    const REGISTER: usize = 4 * S::LANES;
    const BYTES: usize = Self::REGISTER * (8 + PARTS * if has_min::<S>(RUN) { 2 } else { 1 });

    /// # Safety
    /// `BYTES` are writable at `to`.
    #[inline(always)]
    unsafe fn write(s: S, group: &Unpacked<S>, to: *mut u8) {
        // SAFETY: vouched for by the caller.
        unsafe {
            for (j, quad) in group.quads.iter().enumerate() {
                s.store_int(to.add(j * Self::REGISTER), *quad);
            }
            for part in 0..PARTS {
                s.float().store(to.add((8 + part) * Self::REGISTER).cast(), group.scales.scale[part]);
                if has_min::<S>(RUN) {
                    s.float().store(to.add((8 + PARTS + part) * Self::REGISTER).cast(), group.scales.min[part]);
                }
            }
        }
    }
}

impl<S: Simd, const RUN: usize, const PARTS: usize> Group<S> for InPanel<S, RUN, PARTS> {
    #[inline(always)]
    unsafe fn quad(&self, s: S, j: usize) -> S::Int {
        // SAFETY: within the group.
        unsafe { s.load_int(self.0.add(j * Self::REGISTER)) }
    }
    #[inline(always)]
    unsafe fn scale(&self, s: S, part: usize) -> S::Vector {
        // SAFETY: within the group.
        unsafe { s.float().load(self.0.add((8 + part) * Self::REGISTER).cast()) }
    }
    #[inline(always)]
    unsafe fn min(&self, s: S, part: usize) -> S::Vector {
        if has_min::<S>(RUN) {
            // SAFETY: within the group.
            unsafe { s.float().load(self.0.add((8 + PARTS + part) * Self::REGISTER).cast()) }
        } else {
            s.float().splat(0.0)
        }
    }
}

/// The direct kernel: tiles `tiles` for a few tokens.
pub(super) struct Direct<'a, Q, C, const RUN: usize, const PARTS: usize> {
    pub(super) weight: Tiles,
    pub(super) tiles: Range<usize>,
    pub(super) tokens: Tokens,
    pub(super) epilogue: Epilogue<'a>,
    pub(super) layout: PhantomData<(Q, C)>,
}

impl<Q: Quants, C: Scales, const RUN: usize, const PARTS: usize> Operation for Direct<'_, Q, C, RUN, PARTS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut rest = self;
        while rest.tokens.count > 0 {
            let count =
                scratch::block(rest.tokens.count, if S::TOKEN_BLOCK > 2 { DIRECT_TOKENS } else { S::TOKEN_BLOCK });
            // SAFETY: that many tokens are left.
            let next = unsafe { rest.tokens.skip(count) };
            let Self { weight, tokens, epilogue, layout, .. } = rest;
            let block = Self { weight, tiles: rest.tiles.clone(), tokens, epilogue, layout };
            match count {
                2 if S::TOKEN_BLOCK > 1 => s.vectorize(DirectKernel::<_, _, RUN, PARTS, 2>(block)),
                3 if S::TOKEN_BLOCK > 2 => s.vectorize(DirectKernel::<_, _, RUN, PARTS, 3>(block)),
                4 if S::TOKEN_BLOCK > 2 => s.vectorize(DirectKernel::<_, _, RUN, PARTS, 4>(block)),
                _ => s.vectorize(DirectKernel::<_, _, RUN, PARTS, 1>(block)),
            }
            rest.tokens = next;
            rest.epilogue = rest.epilogue.skip(count);
        }
    }
}

/// The direct kernel for `N` tokens.
struct DirectKernel<'a, Q, C, const RUN: usize, const PARTS: usize, const N: usize>(Direct<'a, Q, C, RUN, PARTS>);

impl<Q: Quants, C: Scales, const RUN: usize, const PARTS: usize, const N: usize> Operation
    for DirectKernel<'_, Q, C, RUN, PARTS, N>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        /// How far ahead of the kernel weights are fetched.
        const AHEAD: usize = 2048;
        let Direct { weight, tiles, tokens, epilogue, .. } = self.0;
        for tile in tiles {
            let mut acc = [[s.float().splat(0.0); N]];
            // SAFETY: `tiles` are tiles of the weight, `N` is the number of tokens.
            unsafe {
                let start = weight.start.add(tile * weight.tile_bytes);
                for group in 0..tokens.groups {
                    let at = weight.quants_start + group * Q::LANE_BYTES * S::LANES + AHEAD;
                    for line in 0..(Q::LANE_BYTES * S::LANES).div_ceil(64) {
                        s.prefetch(start.wrapping_add(at + line * 64));
                    }
                    let unpacked = Unpacked::read::<Q, C>(s, start, weight.quants_start, group);
                    accumulate::<S, _, RUN, PARTS, 1, N>(s, &[unpacked], &tokens, group, &mut acc);
                }
            }
            for (token, acc) in acc[0].into_iter().enumerate() {
                epilogue.store(s, tile, token, acc);
            }
        }
    }
}

/// The panel kernel: units (pairs of tiles) `units` for any number of tokens.
pub(super) struct Panel<'a, Q, C, const RUN: usize, const PARTS: usize> {
    pub(super) weight: Tiles,
    pub(super) num_tiles: usize,
    pub(super) units: Range<usize>,
    pub(super) tokens: Tokens,
    pub(super) scratch: Scratch<'a>,
    pub(super) epilogue: Epilogue<'a>,
    pub(super) layout: PhantomData<(Q, C)>,
}

/// Bytes of scratch a panel of `groups` groups needs.
pub(super) fn panel_bytes(groups: usize, lanes: usize) -> usize {
    // Eight registers of quants, at most two of scales and two of mins.
    groups.min(PANEL_GROUPS) * UNIT_TILES * 12 * 4 * lanes
}

impl<Q: Quants, C: Scales, const RUN: usize, const PARTS: usize> Panel<'_, Q, C, RUN, PARTS> {
    /// Unpacks groups of two tiles, group by group.
    ///
    /// # Safety
    /// The tiles and groups exist; the panel has room.
    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, s: S, tiles: [usize; UNIT_TILES], groups: Range<usize>, panel: *mut u8) {
        let bytes = InPanel::<S, RUN, PARTS>::BYTES;
        // SAFETY: by the contract.
        unsafe {
            let mut to = panel;
            for group in groups {
                for tile in tiles {
                    let start = self.weight.start.add(tile * self.weight.tile_bytes);
                    let at = self.weight.quants_start + group * Q::LANE_BYTES * S::LANES;
                    s.prefetch(start.wrapping_add(at + 1024));
                    s.prefetch(start.wrapping_add(at + 1024 + 64));
                    let unpacked = Unpacked::read::<Q, C>(s, start, self.weight.quants_start, group);
                    InPanel::<S, RUN, PARTS>::write(s, &unpacked, to);
                    to = to.add(bytes);
                }
            }
        }
    }

    /// Multiplies a panel with all tokens, in blocks.
    ///
    /// # Safety
    /// The panel holds `groups`; there is an accumulator for each token.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(&self, s: S, panel: *const u8, groups: &Range<usize>, acc: *mut f32) {
        let mut done = 0;
        while done < self.tokens.count {
            let count = scratch::block(self.tokens.count - done, S::TOKEN_BLOCK);
            // SAFETY: tokens `done..done + count` exist.
            let tokens = unsafe { self.tokens.skip(done) };
            let block =
                Block { panel, groups: groups.clone(), tokens, acc: acc.wrapping_add(done * UNIT_TILES * S::LANES) };
            match count {
                2 if S::TOKEN_BLOCK > 1 => s.vectorize(BlockKernel::<RUN, PARTS, 2>(block)),
                3 if S::TOKEN_BLOCK > 2 => s.vectorize(BlockKernel::<RUN, PARTS, 3>(block)),
                4 if S::TOKEN_BLOCK > 3 => s.vectorize(BlockKernel::<RUN, PARTS, 4>(block)),
                5 if S::TOKEN_BLOCK > 3 => s.vectorize(BlockKernel::<RUN, PARTS, 5>(block)),
                6 if S::TOKEN_BLOCK > 3 => s.vectorize(BlockKernel::<RUN, PARTS, 6>(block)),
                _ => s.vectorize(BlockKernel::<RUN, PARTS, 1>(block)),
            }
            done += count;
        }
    }
}

impl<Q: Quants, C: Scales, const RUN: usize, const PARTS: usize> Operation for Panel<'_, Q, C, RUN, PARTS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let acc_len = self.tokens.count * UNIT_TILES * S::LANES;
        assert!(self.scratch.panel.len() >= panel_bytes(self.tokens.groups, S::LANES));
        assert!(self.scratch.acc.len() >= acc_len);
        let (panel, acc) = (self.scratch.panel.as_mut_ptr(), self.scratch.acc.as_mut_ptr());
        for unit in self.units.clone() {
            let first = unit * UNIT_TILES;
            // An odd last tile is computed twice; the copy is not stored.
            let tiles = [first, (first + 1).min(self.num_tiles - 1)];
            // SAFETY: tiles and groups exist; scratch was sized for them.
            unsafe {
                std::ptr::write_bytes(acc, 0, acc_len);
                for group in (0..self.tokens.groups).step_by(PANEL_GROUPS) {
                    let groups = group..(group + PANEL_GROUPS).min(self.tokens.groups);
                    self.unpack(s, tiles, groups.clone(), panel);
                    self.multiply(s, panel, &groups, acc);
                }
                self.epilogue.store_unit(s, first, first + 1 < self.num_tiles, acc, self.tokens.count);
            }
        }
    }
}

/// What a block kernel works on.
struct Block {
    panel: *const u8,
    groups: Range<usize>,
    tokens: Tokens,
    /// `[N, UNIT_TILES * LANES]`
    acc: *mut f32,
}

/// Multiplies a panel with `N` tokens.
struct BlockKernel<const RUN: usize, const PARTS: usize, const N: usize>(Block);

impl<const RUN: usize, const PARTS: usize, const N: usize> Operation for BlockKernel<RUN, PARTS, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Block { mut panel, groups, tokens, acc: acc_start } = self.0;
        let at = |t: usize, n: usize| acc_start.wrapping_add((n * UNIT_TILES + t) * S::LANES);
        // SAFETY: the maker of the block vouches for `N` tokens and accumulators and for the panel.
        unsafe {
            let mut acc: [[S::Vector; N]; UNIT_TILES] =
                std::array::from_fn(|t| std::array::from_fn(|n| s.float().load(at(t, n))));
            for group in groups {
                let bytes = InPanel::<S, RUN, PARTS>::BYTES;
                let tiles =
                    std::array::from_fn(|t| InPanel::<S, RUN, PARTS>(panel.wrapping_add(t * bytes), PhantomData));
                accumulate::<S, _, RUN, PARTS, UNIT_TILES, N>(s, &tiles, &tokens, group, &mut acc);
                panel = panel.wrapping_add(UNIT_TILES * bytes);
            }
            for (t, acc) in acc.into_iter().enumerate() {
                for (n, acc) in acc.into_iter().enumerate() {
                    s.float().store(at(t, n), acc);
                }
            }
        }
    }
}
