//! Reading the K formats: super-blocks of 256 values whose groups of 16 or 32 have quantised scales (and minima).
//!
//! Byte offsets of the parts, in order of the layout:
//! Q2_K: 16 scales (4-bit scale, 4-bit minimum), 64 codes, d, dmin. Q3_K: 32 high bits, 64 low codes, 12 scales, d.
//! Q4_K: d, dmin, 12 scales, 128 codes. Q5_K: d, dmin, 12 scales, 32 high bits, 128 codes.
//! Q6_K: 128 low codes, 64 high codes, 16 scales (i8), d.

use super::read_f16;

pub(super) fn read_q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (read_f16(block, 80), read_f16(block, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scales = block[group];
        let (scale, min) = (d * f32::from(scales & 15), dmin * f32::from(scales >> 4));
        let (codes, shift) = crumbs(&block[16..80], group);
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = scale * f32::from(code >> shift & 3) - min;
        }
    }
}

pub(super) fn read_q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = read_f16(block, 108);
    let scales = read_3_k_scales(&block[96..108]);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[group]);
        let (codes, shift) = crumbs(&block[32..96], group);
        let high_bits = &block[group % 2 * 16..];
        for ((out, &code), &high) in out.iter_mut().zip(codes).zip(high_bits) {
            let code = i32::from(code >> shift & 3) + i32::from(high >> (group / 2) & 1) * 4 - 4;
            *out = scale * code as f32;
        }
    }
}

/// The bytes and the shift at which group `group` (of 16 values) keeps its 2-bit codes: each half of the super-block
/// has 32 bytes, used four times over, 32 values per shift.
fn crumbs(codes: &[u8], group: usize) -> (&[u8], usize) {
    let (half, within) = (group / 8, group % 8);
    (&codes[half * 32 + within % 2 * 16..][..16], within / 2 * 2)
}

/// Sixteen signed 6-bit scales: low nibbles in 8 bytes, two high bits each in 4 more.
pub(super) fn read_3_k_scales(packed: &[u8]) -> [i8; 16] {
    std::array::from_fn(|i| {
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// Scale and minimum of group `group` (of 32 values): 6 bits each, in 12 bytes for all eight.
pub(super) fn read_scale_min(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let (low, scale_high, min_high) = (packed[group + 4], packed[group - 4] >> 6, packed[group] >> 6);
        (low & 15 | scale_high << 4, low >> 4 | min_high << 4)
    }
}

pub(super) fn read_q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    read_with_minima(block, &block[16..], None, out);
}

pub(super) fn read_q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    read_with_minima(block, &block[48..], Some(&block[16..48]), out);
}

/// Q4_K and Q5_K: nibbles of two groups share 32 bytes; the fifth bit of group `g` is bit `g` of 32 further bytes.
fn read_with_minima(head: &[u8], nibbles: &[u8], high_bits: Option<&[u8]>, out: &mut [f32; 256]) {
    let (d, dmin) = (read_f16(head, 0), read_f16(head, 2));
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = read_scale_min(&head[4..16], group);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let nibbles = &nibbles[group / 2 * 32..][..32];
        for (i, (out, &byte)) in out.iter_mut().zip(nibbles).enumerate() {
            let high = high_bits.map_or(0, |bits| (bits[i] >> group & 1) << 4);
            *out = scale * f32::from(byte >> (group % 2 * 4) & 15 | high) - min;
        }
    }
}

pub(super) fn read_q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = read_f16(block, 208);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(block[192 + group] as i8);
        for (i, out) in out.iter_mut().enumerate() {
            let (low, low_shift, high, high_shift) = q6_k_position(group * 16 + i);
            let code = block[low] >> low_shift & 15 | (block[128 + high] >> high_shift & 3) << 4;
            *out = scale * (i32::from(code) - 32) as f32;
        }
    }
}

/// Where value `i` of a Q6_K super-block keeps its 4 low bits (byte, shift) and its 2 high bits (byte, shift).
///
/// Each half of 128 values has 64 bytes of low and 32 of high bits; its four quarters of 32 share them.
pub(super) fn q6_k_position(i: usize) -> (usize, usize, usize, usize) {
    let (half, quarter, within) = (i / 128, i / 32 % 4, i % 32);
    (half * 64 + quarter % 2 * 32 + within, quarter / 2 * 4, half * 32 + within, quarter * 2)
}
