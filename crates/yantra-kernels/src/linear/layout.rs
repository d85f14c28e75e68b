//! How a tile of quantised weights lies in memory, and how kernels read it.
//!
//! A tile is `LANES` rows; a group is 32 consecutive k. A tile is a sequence of records: the scales of one, two or eight
//! groups (filled up to whole registers), then their quants, so that a product reads memory from front to back. Unpacked, a group is eight registers: register `j` holds, in lane `r`,
//! the four values k = 4j..4j+4 of row `r`, so that one broadcast of four activations meets `LANES` rows. Packed, bits
//! of several registers share one: low nibbles of register `j` with high nibbles of `j + 4`, and so on.
//!
//! A weight is `scale * quant + min` with the scale and min of its group of 32, or of its half.
#![expect(unsafe_code, reason = "reads packed memory through pointers; each function says what must be readable")]

use super::{extract::Block, simd::Simd};
use crate::WeightFormat;
use crate::simd::Simd as _;

/// Consecutive k that share an activation scale.
pub(crate) const GROUP: usize = 32;

/// Values of IQ4_NL and IQ4_XS codes (ggml's `kvalues_iq4nl`).
const CODEBOOK: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Values of MXFP4 codes, doubled (ggml's `kvalues_mxfp4`).
const FLOATS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// How quants are packed.
pub(super) trait Quants: 'static {
    /// Bytes of a row's group.
    const LANE_BYTES: usize;
    /// What is subtracted from unsigned quants when the format has no min of its own.
    const OFFSET: u8;
    /// The words of a row's group of quants; the first `LANE_BYTES / 4` count.
    fn pack(quants: &[u8; GROUP]) -> [u32; 8];
    /// The eight registers of a group.
    /// # Safety
    /// `LANE_BYTES * LANES` bytes must be readable.
    unsafe fn unpack<S: Simd>(s: S, from: *const u8) -> [S::Int; 8];
}

/// Four bits.
pub(super) struct Nibbles;
/// Five bits: nibbles, then one register of fifth bits.
pub(super) struct FiveBits;
/// Six bits: nibbles, then two registers of bit pairs.
pub(super) struct SixBits;
/// Signed bytes; biased by 128 for [`Simd::WIDE_DOT`].
pub(super) struct Bytes;
/// Four-bit codes of [`CODEBOOK`].
pub(super) struct Codes;
/// Four-bit codes of [`FLOATS`].
pub(super) struct FloatCodes;

/// Four consecutive quants per word.
#[inline]
fn words(quants: &[u8; GROUP]) -> [u32; 8] {
    std::array::from_fn(|j| {
        u32::from_le_bytes([quants[4 * j], quants[4 * j + 1], quants[4 * j + 2], quants[4 * j + 3]])
    })
}

/// The low nibbles of words `j` and `j + 4` in word `j`.
#[inline]
fn pack_nibbles(words: &[u32; 8]) -> [u32; 8] {
    let low = |word: u32| word & 0x0f0f_0f0f;
    std::array::from_fn(|i| if i < 4 { low(words[i]) | (low(words[i + 4]) << 4) } else { 0 })
}

/// # Safety
/// As [`Nibbles::unpack`].
#[inline(always)]
unsafe fn unpack_nibbles<S: Simd>(s: S, from: *const u8) -> [S::Int; 8] {
    let low = s.splat_byte(15);
    let mut out = [s.zero(); 8];
    for i in 0..4 {
        // SAFETY: the caller vouches for four registers.
        let packed = unsafe { s.load_int(from.add(i * 4 * S::LANES)) };
        out[i] = s.and(packed, low);
        out[i + 4] = s.and(s.shr::<4>(packed), low);
    }
    out
}

impl Quants for Nibbles {
    const LANE_BYTES: usize = 16;
    const OFFSET: u8 = 8;
    #[inline]
    fn pack(quants: &[u8; GROUP]) -> [u32; 8] {
        pack_nibbles(&words(quants))
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, from: *const u8) -> [S::Int; 8] {
        // SAFETY: passed on.
        unsafe { unpack_nibbles(s, from) }
    }
}

impl Quants for FiveBits {
    const LANE_BYTES: usize = 20;
    const OFFSET: u8 = 16;
    #[inline]
    fn pack(quants: &[u8; GROUP]) -> [u32; 8] {
        let words = words(quants);
        let mut out = pack_nibbles(&words);
        out[4] = (0..8).fold(0, |high, j| high | (((words[j] >> 4) & 0x0101_0101) << j));
        out
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, from: *const u8) -> [S::Int; 8] {
        // SAFETY: five registers, vouched for by the caller.
        let (mut out, high) = unsafe { (unpack_nibbles(s, from), s.load_int(from.add(16 * S::LANES))) };
        let bit = s.splat_byte(16);
        let fifth = [
            s.shl::<4>(high),
            s.shl::<3>(high),
            s.shl::<2>(high),
            s.shl::<1>(high),
            high,
            s.shr::<1>(high),
            s.shr::<2>(high),
            s.shr::<3>(high),
        ];
        for j in 0..8 {
            out[j] = s.or(out[j], s.and(fifth[j], bit));
        }
        out
    }
}

impl Quants for SixBits {
    const LANE_BYTES: usize = 24;
    const OFFSET: u8 = 32;
    #[inline]
    fn pack(quants: &[u8; GROUP]) -> [u32; 8] {
        let words = words(quants);
        let mut out = pack_nibbles(&words);
        let pairs =
            |odd: usize| (0..4).fold(0, |high, t| high | (((words[2 * t + odd] >> 4) & 0x0303_0303) << (2 * t)));
        (out[4], out[5]) = (pairs(0), pairs(1));
        out
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, from: *const u8) -> [S::Int; 8] {
        // SAFETY: six registers, vouched for by the caller.
        let (mut out, even, odd) = unsafe {
            (unpack_nibbles(s, from), s.load_int(from.add(16 * S::LANES)), s.load_int(from.add(20 * S::LANES)))
        };
        let pair = s.splat_byte(48);
        let high = [
            s.shl::<4>(even),
            s.shl::<4>(odd),
            s.shl::<2>(even),
            s.shl::<2>(odd),
            even,
            odd,
            s.shr::<2>(even),
            s.shr::<2>(odd),
        ];
        for j in 0..8 {
            out[j] = s.or(out[j], s.and(high[j], pair));
        }
        out
    }
}

impl Quants for Bytes {
    const LANE_BYTES: usize = 32;
    const OFFSET: u8 = 128;
    #[inline]
    fn pack(quants: &[u8; GROUP]) -> [u32; 8] {
        words(quants)
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, from: *const u8) -> [S::Int; 8] {
        let mut out = [s.zero(); 8];
        for (j, out) in out.iter_mut().enumerate() {
            // SAFETY: eight registers, vouched for by the caller.
            *out = unsafe { s.load_int(from.add(j * 4 * S::LANES)) };
            if S::WIDE_DOT {
                *out = s.xor(*out, s.splat_byte(128));
            }
        }
        out
    }
}

/// # Safety
/// As [`Codes::unpack`].
#[inline(always)]
unsafe fn unpack_codes<S: Simd>(s: S, from: *const u8, values: &[i8; 16]) -> [S::Int; 8] {
    // SAFETY: passed on.
    let mut out = unsafe { unpack_nibbles(s, from) };
    for out in &mut out {
        *out = s.lookup(values, *out);
        if S::WIDE_DOT {
            *out = s.xor(*out, s.splat_byte(128));
        }
    }
    out
}

impl Quants for Codes {
    const LANE_BYTES: usize = 16;
    const OFFSET: u8 = 128;
    #[inline]
    fn pack(quants: &[u8; GROUP]) -> [u32; 8] {
        pack_nibbles(&words(quants))
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, from: *const u8) -> [S::Int; 8] {
        // SAFETY: passed on.
        unsafe { unpack_codes(s, from, &CODEBOOK) }
    }
}

impl Quants for FloatCodes {
    const LANE_BYTES: usize = 16;
    const OFFSET: u8 = 128;
    #[inline]
    fn pack(quants: &[u8; GROUP]) -> [u32; 8] {
        pack_nibbles(&words(quants))
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, from: *const u8) -> [S::Int; 8] {
        // SAFETY: passed on.
        unsafe { unpack_codes(s, from, &FLOATS) }
    }
}

/// Scales and mins of one group; only the first of each if the group is not halved, and mins only if they are stored.
pub(super) struct GroupScales<S: Simd> {
    pub(super) scale: [S::Vector; 2],
    pub(super) min: [S::Vector; 2],
}

/// The sign of a half-precision float.
const SIGN: u16 = 0x8000;

/// One row's part of a record of scales: fields of all lanes lie together.
pub(super) struct Record<'a> {
    /// The record, all lanes.
    pub(super) bytes: &'a mut [u8],
    pub(super) lanes: usize,
    pub(super) lane: usize,
}

impl Record<'_> {
    /// Writes a field that starts `at` bytes per lane into the record.
    #[inline]
    fn put_byte(&mut self, at: usize, value: u8) {
        self.bytes[at * self.lanes + self.lane] = value;
    }

    #[inline]
    fn put_half(&mut self, at: usize, value: u16) {
        let at = at * self.lanes + 2 * self.lane;
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
}

/// How scales are packed.
pub(super) trait Scales: 'static {
    /// Groups that share a record.
    const PERIOD: usize;
    /// Bytes of a row's scales in a record.
    const LANE_BYTES: usize;
    /// Whether mins are stored; otherwise they follow from the offset.
    const AFFINE: bool;
    /// Writes a row's scales of one block of the format, the `index`th block in the record.
    fn pack(block: &Block, index: usize, record: &mut Record<'_>);
    /// Scales and stored mins of the `group`th group of a record.
    /// # Safety
    /// The record must be readable.
    unsafe fn unpack<S: Simd>(s: S, record: *const u8, group: usize) -> GroupScales<S>;
}

/// A half-precision scale per group; two groups share a record to fill a cache line.
pub(super) struct Half;
/// A bfloat16 scale per group, likewise.
pub(super) struct Brain;
/// A half-precision scale and min per group.
pub(super) struct HalfAffine;
/// Per 256: half-precision d and -dmin; per group: byte scale and min.
pub(super) struct SuperAffine;
/// Per 256: half-precision d and -dmin; per half group: byte scale and min.
pub(super) struct SuperAffineHalved;
/// Per 256: half-precision d; per group: signed byte scale.
pub(super) struct SuperScaled;
/// Per 256: half-precision d; per half group: signed byte scale.
pub(super) struct SuperScaledHalved;

impl Scales for Half {
    const PERIOD: usize = 2;
    const LANE_BYTES: usize = 4;
    const AFFINE: bool = false;
    #[inline]
    fn pack(block: &Block, index: usize, record: &mut Record<'_>) {
        record.put_half(2 * index, block.d);
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, record: *const u8, group: usize) -> GroupScales<S> {
        // SAFETY: within the record.
        let d = unsafe { s.float().load_f16(record.add(group * 2 * S::LANES).cast()) };
        GroupScales { scale: [d; 2], min: [d; 2] }
    }
}

impl Scales for Brain {
    const PERIOD: usize = 2;
    const LANE_BYTES: usize = 4;
    const AFFINE: bool = false;
    #[inline]
    fn pack(block: &Block, index: usize, record: &mut Record<'_>) {
        Half::pack(block, index, record);
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, record: *const u8, group: usize) -> GroupScales<S> {
        // SAFETY: within the record.
        let d = unsafe { s.float().load_bf16(record.add(group * 2 * S::LANES).cast()) };
        GroupScales { scale: [d; 2], min: [d; 2] }
    }
}

impl Scales for HalfAffine {
    const PERIOD: usize = 1;
    const LANE_BYTES: usize = 4;
    const AFFINE: bool = true;
    #[inline]
    fn pack(block: &Block, _: usize, record: &mut Record<'_>) {
        record.put_half(0, block.d);
        record.put_half(2, block.dmin);
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, record: *const u8, _: usize) -> GroupScales<S> {
        // SAFETY: within the record.
        let (d, min) =
            unsafe { (s.float().load_f16(record.cast()), s.float().load_f16(record.add(2 * S::LANES).cast())) };
        GroupScales { scale: [d; 2], min: [min; 2] }
    }
}

impl Scales for SuperAffine {
    const PERIOD: usize = 8;
    const LANE_BYTES: usize = 20;
    const AFFINE: bool = true;
    #[inline]
    fn pack(block: &Block, _: usize, record: &mut Record<'_>) {
        record.put_half(0, block.d);
        record.put_half(2, block.dmin ^ SIGN);
        for group in 0..8 {
            record.put_byte(4 + 2 * group, block.scales[group]);
            record.put_byte(5 + 2 * group, block.mins[group]);
        }
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, record: *const u8, group: usize) -> GroupScales<S> {
        // SAFETY: within the record.
        unsafe {
            let (d, dmin) = (s.float().load_f16(record.cast()), s.float().load_f16(record.add(2 * S::LANES).cast()));
            let bytes = record.add((4 + group * 2) * S::LANES);
            let scale = s.float().mul(d, s.load_u8_float(bytes));
            let min = s.float().mul(dmin, s.load_u8_float(bytes.add(S::LANES)));
            GroupScales { scale: [scale; 2], min: [min; 2] }
        }
    }
}

impl Scales for SuperAffineHalved {
    const PERIOD: usize = 8;
    const LANE_BYTES: usize = 36;
    const AFFINE: bool = true;
    #[inline]
    fn pack(block: &Block, _: usize, record: &mut Record<'_>) {
        record.put_half(0, block.d);
        record.put_half(2, block.dmin ^ SIGN);
        for group in 0..8 {
            for half in 0..2 {
                record.put_byte(4 + 4 * group + half, block.scales[2 * group + half]);
                record.put_byte(6 + 4 * group + half, block.mins[2 * group + half]);
            }
        }
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, record: *const u8, group: usize) -> GroupScales<S> {
        // SAFETY: within the record.
        unsafe {
            let (d, dmin) = (s.float().load_f16(record.cast()), s.float().load_f16(record.add(2 * S::LANES).cast()));
            let bytes = record.add((4 + group * 4) * S::LANES);
            let byte = |index: usize| s.load_u8_float(bytes.add(index * S::LANES));
            GroupScales {
                scale: [s.float().mul(d, byte(0)), s.float().mul(d, byte(1))],
                min: [s.float().mul(dmin, byte(2)), s.float().mul(dmin, byte(3))],
            }
        }
    }
}

impl Scales for SuperScaled {
    const PERIOD: usize = 8;
    const LANE_BYTES: usize = 10;
    const AFFINE: bool = false;
    #[inline]
    fn pack(block: &Block, _: usize, record: &mut Record<'_>) {
        record.put_half(0, block.d);
        (0..8).for_each(|group| record.put_byte(2 + group, block.scales[group]));
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, record: *const u8, group: usize) -> GroupScales<S> {
        // SAFETY: within the record.
        unsafe {
            let scale =
                s.float().mul(s.float().load_f16(record.cast()), s.load_i8_float(record.add((2 + group) * S::LANES)));
            GroupScales { scale: [scale; 2], min: [scale; 2] }
        }
    }
}

impl Scales for SuperScaledHalved {
    const PERIOD: usize = 8;
    const LANE_BYTES: usize = 18;
    const AFFINE: bool = false;
    #[inline]
    fn pack(block: &Block, _: usize, record: &mut Record<'_>) {
        record.put_half(0, block.d);
        (0..16).for_each(|half| record.put_byte(2 + half, block.scales[half]));
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, record: *const u8, group: usize) -> GroupScales<S> {
        // SAFETY: within the record.
        unsafe {
            let d = s.float().load_f16(record.cast());
            let bytes = record.add((2 + group * 2) * S::LANES);
            let scale =
                [s.float().mul(d, s.load_i8_float(bytes)), s.float().mul(d, s.load_i8_float(bytes.add(S::LANES)))];
            GroupScales { scale, min: scale }
        }
    }
}

/// Evaluates an expression with the layout of a quantised format bound to the given names; `None` for float formats.
/// `$run` is the number of products whose 16-bit sum can not overflow, 0 if quants are signed bytes; `$parts` is the
/// number of parts of a group that have a scale of their own.
macro_rules! with_layout {
    ($format:expr, $quants:ident, $scales:ident, $run:ident, $parts:ident => $body:expr) => {{
        macro_rules! with {
            ($q:ident, $s:ident, $r:literal, $p:literal) => {{
                #[allow(dead_code, reason = "not every use needs all four")]
                type $quants = $crate::linear::layout::$q;
                #[allow(dead_code, reason = "not every use needs all four")]
                type $scales = $crate::linear::layout::$s;
                #[allow(dead_code, reason = "not every use needs all four")]
                const $run: usize = $r;
                #[allow(dead_code, reason = "not every use needs all four")]
                const $parts: usize = $p;
                Some($body)
            }};
        }
        match $format {
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 => None,
            WeightFormat::Q4_0 => with!(Nibbles, Half, 8, 1),
            WeightFormat::Q4_1 => with!(Nibbles, HalfAffine, 8, 1),
            WeightFormat::Q5_0 => with!(FiveBits, Half, 4, 1),
            WeightFormat::Q5_1 => with!(FiveBits, HalfAffine, 4, 1),
            WeightFormat::Q8_0 => with!(Bytes, Half, 0, 1),
            WeightFormat::Q2_K => with!(Nibbles, SuperAffineHalved, 4, 2),
            WeightFormat::Q3_K => with!(Nibbles, SuperScaledHalved, 4, 2),
            WeightFormat::Q4_K => with!(Nibbles, SuperAffine, 8, 1),
            WeightFormat::Q5_K => with!(FiveBits, SuperAffine, 4, 1),
            WeightFormat::Q6_K => with!(SixBits, SuperScaledHalved, 2, 2),
            WeightFormat::IQ4_NL => with!(Codes, Half, 0, 1),
            WeightFormat::IQ4_XS => with!(Codes, SuperScaled, 0, 1),
            WeightFormat::MXFP4 => with!(FloatCodes, Brain, 0, 1),
        }
    }};
}
pub(super) use with_layout;

/// Bytes of the scales of a record: whole registers.
pub(super) const fn scale_bytes<C: Scales>(lanes: usize) -> usize {
    (C::LANE_BYTES * lanes).next_multiple_of(4 * lanes)
}

/// Bytes of a record: scales and quants of [`Scales::PERIOD`] groups.
pub(super) const fn record_bytes<Q: Quants, C: Scales>(lanes: usize) -> usize {
    scale_bytes::<C>(lanes) + C::PERIOD * Q::LANE_BYTES * lanes
}

/// Bytes from a tile of `lanes` rows of `cols` values to the next; `None` if they overflow.
pub(super) fn tile_bytes(format: WeightFormat, lanes: usize, cols: usize) -> Option<usize> {
    let groups = cols.div_ceil(GROUP);
    let quantized = with_layout!(format, Q, C, RUN, PARTS => {
        groups.div_ceil(C::PERIOD).checked_mul(record_bytes::<Q, C>(lanes))?
    });
    let bytes = match quantized {
        Some(bytes) => bytes,
        None => cols.checked_mul(format.block_bytes() * lanes)?,
    };
    bytes.checked_next_multiple_of(64)
}
