//! Products of float weights with f32 activations.
//!
//! A tile holds, for each k, the weights of its `LANES` rows. Sums run along k in blocks of [`K_BLOCK`] that are added
//! up in order: better rounding than one long sum, and the same bits whatever the blocking of tokens.
#![expect(unsafe_code, reason = "streams packed tiles through pointers whose extents `linear` checked")]

use super::{
    epilogue::Epilogue,
    scratch::{self, Scratch, UNIT_TILES},
    simd::{Operation, Simd},
};
use crate::simd::Simd as _;
use std::{marker::PhantomData, ops::Range};

const K_BLOCK: usize = 256;
/// Tokens from which half-precision weights are converted once per panel instead of once per block of tokens.
const PANEL_TOKENS: usize = 8;

/// Bytes of scratch a panel needs.
pub(super) fn panel_bytes(lanes: usize) -> usize {
    UNIT_TILES * K_BLOCK * lanes * 4
}

/// A float format of packed weights.
pub(super) trait FloatFormat: 'static {
    const BYTES: usize;
    /// # Safety
    /// `BYTES * LANES` bytes are readable.
    unsafe fn load<S: Simd>(s: S, from: *const u8) -> S::Vector;
}

pub(super) struct Single;
pub(super) struct Half;
pub(super) struct Brain;

impl FloatFormat for Single {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const u8) -> S::Vector {
        // SAFETY: passed on.
        unsafe { s.float().load(from.cast()) }
    }
}

impl FloatFormat for Half {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const u8) -> S::Vector {
        // SAFETY: passed on.
        unsafe { s.float().load_f16(from.cast()) }
    }
}

impl FloatFormat for Brain {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const u8) -> S::Vector {
        // SAFETY: passed on.
        unsafe { s.float().load_bf16(from.cast()) }
    }
}

/// Units (pairs of tiles) `units` of float weights for any number of tokens.
pub(super) struct FloatUnits<'a, W> {
    pub(super) weight: *const u8,
    pub(super) tile_bytes: usize,
    pub(super) num_tiles: usize,
    pub(super) units: Range<usize>,
    /// `[num_tokens, cols]`
    pub(super) x: *const f32,
    pub(super) cols: usize,
    pub(super) num_tokens: usize,
    pub(super) scratch: Scratch<'a>,
    pub(super) epilogue: Epilogue<'a>,
    pub(super) format: PhantomData<W>,
}

impl<W: FloatFormat> FloatUnits<'_, W> {
    /// Multiplies `len` columns from `k` on with all tokens; weights of format `V` lie at `tiles`.
    ///
    /// # Safety
    /// Weights, activations and accumulators exist.
    #[inline(always)]
    unsafe fn multiply<S: Simd, V: FloatFormat>(
        &self,
        s: S,
        tiles: [*const u8; UNIT_TILES],
        k: usize,
        len: usize,
        acc: *mut f32,
    ) {
        let mut done = 0;
        while done < self.num_tokens {
            let count = scratch::block(self.num_tokens - done, if S::TOKEN_BLOCK > 2 { 6 } else { S::TOKEN_BLOCK });
            let x = self.x.wrapping_add(done * self.cols + k);
            let acc = acc.wrapping_add(done * UNIT_TILES * S::LANES);
            let block = Block { tiles, x, cols: self.cols, len, acc };
            match count {
                2 if S::TOKEN_BLOCK > 1 => s.vectorize(BlockKernel::<V, 2>(block, PhantomData)),
                3 if S::TOKEN_BLOCK > 2 => s.vectorize(BlockKernel::<V, 3>(block, PhantomData)),
                4 if S::TOKEN_BLOCK > 2 => s.vectorize(BlockKernel::<V, 4>(block, PhantomData)),
                5 if S::TOKEN_BLOCK > 2 => s.vectorize(BlockKernel::<V, 5>(block, PhantomData)),
                6 if S::TOKEN_BLOCK > 2 => s.vectorize(BlockKernel::<V, 6>(block, PhantomData)),
                _ => s.vectorize(BlockKernel::<V, 1>(block, PhantomData)),
            }
            done += count;
        }
    }

    /// Converts `len` columns of two tiles to f32.
    ///
    /// # Safety
    /// Weights exist; the panel has room.
    #[inline(always)]
    unsafe fn convert<S: Simd>(s: S, tiles: [*const u8; UNIT_TILES], len: usize, panel: *mut f32) {
        for (t, tile) in tiles.into_iter().enumerate() {
            for k in 0..len {
                // SAFETY: by the contract.
                unsafe {
                    let to = panel.add((t * K_BLOCK + k) * S::LANES);
                    s.float().store(to, W::load(s, tile.add(k * S::LANES * W::BYTES)));
                }
            }
        }
    }
}

impl<W: FloatFormat> Operation for FloatUnits<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let use_panel = W::BYTES < 4 && self.num_tokens >= PANEL_TOKENS;
        let acc_len = self.num_tokens * UNIT_TILES * S::LANES;
        assert!(self.scratch.panel.len() >= panel_bytes(S::LANES) && self.scratch.acc.len() >= acc_len);
        let (panel, acc) = (self.scratch.panel.as_mut_ptr(), self.scratch.acc.as_mut_ptr());
        for unit in self.units.clone() {
            let first = unit * UNIT_TILES;
            // An odd last tile is computed twice; the copy is not stored.
            let tiles = [first, (first + 1).min(self.num_tiles - 1)];
            // SAFETY: columns `k..k + len` of both tiles exist; scratch was sized for them.
            unsafe {
                std::ptr::write_bytes(acc, 0, acc_len);
                for k in (0..self.cols).step_by(K_BLOCK) {
                    let len = K_BLOCK.min(self.cols - k);
                    let tile = |tile: usize| tile * self.tile_bytes + k * S::LANES * W::BYTES;
                    let tiles = [self.weight.add(tile(tiles[0])), self.weight.add(tile(tiles[1]))];
                    if use_panel {
                        Self::convert(s, tiles, len, panel.cast());
                        let panels = [panel.cast_const(), panel.add(K_BLOCK * S::LANES * 4).cast_const()];
                        self.multiply::<S, Single>(s, panels, k, len, acc);
                    } else {
                        self.multiply::<S, W>(s, tiles, k, len, acc);
                    }
                }
                self.epilogue.store_unit(s, first, first + 1 < self.num_tiles, acc, self.num_tokens);
            }
        }
    }
}

/// What a block kernel works on.
struct Block {
    tiles: [*const u8; UNIT_TILES],
    /// At the first column of the block.
    x: *const f32,
    cols: usize,
    len: usize,
    /// `[N, UNIT_TILES * LANES]`
    acc: *mut f32,
}

/// Multiplies columns of two tiles with `N` tokens.
struct BlockKernel<W, const N: usize>(Block, PhantomData<W>);

impl<W: FloatFormat, const N: usize> Operation for BlockKernel<W, N> {
    type Output = ();

    #[allow(clippy::needless_range_loop, reason = "tiles and tokens are indices of several arrays")]
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Block { tiles, x, cols, len, acc: acc_start } = self.0;
        let mut sums = [[s.float().splat(0.0); N]; UNIT_TILES];
        // SAFETY: the maker of the block vouches for weights, activations and accumulators.
        unsafe {
            for k in 0..len {
                let at = k * S::LANES * W::BYTES;
                let weights = [W::load(s, tiles[0].add(at)), W::load(s, tiles[1].add(at))];
                for n in 0..N {
                    let value = s.float().splat(*x.add(n * cols + k));
                    for t in 0..UNIT_TILES {
                        sums[t][n] = s.float().fma(weights[t], value, sums[t][n]);
                    }
                }
            }
            for (t, sums) in sums.into_iter().enumerate() {
                for (n, sum) in sums.into_iter().enumerate() {
                    let acc = acc_start.add((n * UNIT_TILES + t) * S::LANES);
                    s.float().store(acc, s.float().add(s.float().load(acc), sum));
                }
            }
        }
    }
}
