//! MXFP4 (OCP Microscaling Formats 1.0, as GGUF keeps it): a power of two for 32 floats of 4 bits, each of a sign, two bits
//! of exponent and one of mantissa.
//!
//! A byte of exponent, then nibbles as the other 4-bit formats have them.

/// Twice the values that codes stand for, so that they are whole numbers.
const LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The power of two that twice a value is multiplied by: `2^(exponent - 128)`, the smallest ones not normal.
fn scale(exponent: u8) -> f32 {
    f32::from_bits(u32::from(scale_bits(exponent)) << 16)
}

/// The same as bfloat16, which has them all.
pub(crate) fn scale_bits(exponent: u8) -> u16 {
    if exponent < 2 { 0x0020 << exponent } else { u16::from(exponent - 1) << 7 }
}

pub(super) fn read_mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let scale = scale(block[0]);
    for (i, &byte) in block[1..].iter().enumerate() {
        out[i] = scale * f32::from(LEVELS[usize::from(byte & 15)]);
        out[i + 16] = scale * f32::from(LEVELS[usize::from(byte >> 4)]);
    }
}

/// The largest power of two of a code meets that of the largest value, as the specification says in section 6.3.
pub(super) fn write_mxfp4(x: &[f32; 32], block: &mut [u8; 17]) {
    const LARGEST_CODE_EXPONENT: u32 = 2;
    let largest = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    block[0] = (largest.to_bits() >> 23).saturating_sub(LARGEST_CODE_EXPONENT) as u8;
    let scale = scale(block[0]);
    for i in 0..16 {
        block[i + 1] = nearest(x[i], scale) | nearest(x[i + 16], scale) << 4;
    }
}

/// The code nearest to a value, of two that are as near the smaller.
fn nearest(x: f32, scale: f32) -> u8 {
    let mut best = (0, x.abs());
    for (code, &level) in (1..).zip(&LEVELS[1..8]) {
        let error = (scale * f32::from(level) - x.abs()).abs();
        if error < best.1 {
            best = (code, error);
        }
    }
    if x < 0.0 && best.0 > 0 { best.0 | 8 } else { best.0 }
}
