//! Blocks of 32 values with one half-precision scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! The 4 low bits of values 0–15 are the low halves of the bytes, of values 16–31 the high halves; fifth bits are packed
//! in a 32-bit word, bit `i` for value `i`. The `_0` formats are symmetric around zero, the `_1` formats add a minimum.

use super::{inverse, read_f16, write_f16};

pub(super) fn read_q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = read_f16(block, 0);
    for (i, &byte) in block[2..].iter().enumerate() {
        out[i] = (i32::from(byte & 15) - 8) as f32 * scale;
        out[i + 16] = (i32::from(byte >> 4) - 8) as f32 * scale;
    }
}

pub(super) fn read_q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, min) = (read_f16(block, 0), read_f16(block, 2));
    for (i, &byte) in block[4..].iter().enumerate() {
        out[i] = f32::from(byte & 15) * scale + min;
        out[i + 16] = f32::from(byte >> 4) * scale + min;
    }
}

pub(super) fn read_q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = read_f16(block, 0);
    let codes = read_5_bit(&block[2..]);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = (i32::from(code) - 16) as f32 * scale;
    }
}

pub(super) fn read_q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, min) = (read_f16(block, 0), read_f16(block, 2));
    let codes = read_5_bit(&block[4..]);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = f32::from(code) * scale + min;
    }
}

pub(super) fn read_q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = read_f16(block, 0);
    for (out, &code) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(code as i8) * scale;
    }
}

/// Four bytes of high bits, then sixteen bytes of low nibbles.
fn read_5_bit(packed: &[u8]) -> [u8; 32] {
    let high = u32::from_le_bytes([packed[0], packed[1], packed[2], packed[3]]);
    let high_bit = |i: usize| ((high >> i & 1) << 4) as u8;
    std::array::from_fn(|i| {
        let byte = packed[4 + i % 16];
        (if i < 16 { byte & 15 } else { byte >> 4 }) | high_bit(i)
    })
}

/// The value of largest magnitude, with its sign.
fn extreme(x: &[f32; 32]) -> f32 {
    x.iter().fold(0.0, |extreme: f32, &x| if x.abs() > extreme.abs() { x } else { extreme })
}

fn min_max(x: &[f32; 32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), &x| (min.min(x), max.max(x)))
}

pub(super) fn write_q4_0(x: &[f32; 32], block: &mut [u8; 18]) {
    let scale = extreme(x) / -8.0;
    let inverse = inverse(scale);
    write_f16(block, 0, scale);
    let code = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    for i in 0..16 {
        block[2 + i] = code(x[i]) | code(x[i + 16]) << 4;
    }
}

pub(super) fn write_q4_1(x: &[f32; 32], block: &mut [u8; 20]) {
    let (min, max) = min_max(x);
    let scale = (max - min) / 15.0;
    let inverse = inverse(scale);
    write_f16(block, 0, scale);
    write_f16(block, 2, min);
    let code = |x: f32| (((x - min) * inverse + 0.5) as u8).min(15);
    for i in 0..16 {
        block[4 + i] = code(x[i]) | code(x[i + 16]) << 4;
    }
}

pub(super) fn write_q5_0(x: &[f32; 32], block: &mut [u8; 22]) {
    let scale = extreme(x) / -16.0;
    let inverse = inverse(scale);
    write_f16(block, 0, scale);
    write_5_bit(&mut block[2..], |i| ((x[i] * inverse + 16.5) as u8).min(31));
}

pub(super) fn write_q5_1(x: &[f32; 32], block: &mut [u8; 24]) {
    let (min, max) = min_max(x);
    let scale = (max - min) / 31.0;
    let inverse = inverse(scale);
    write_f16(block, 0, scale);
    write_f16(block, 2, min);
    write_5_bit(&mut block[4..], |i| (((x[i] - min) * inverse + 0.5) as u8).min(31));
}

pub(super) fn write_q8_0(x: &[f32; 32], block: &mut [u8; 34]) {
    let scale = extreme(x).abs() / 127.0;
    let inverse = inverse(scale);
    write_f16(block, 0, scale);
    for (code, x) in block[2..].iter_mut().zip(x) {
        *code = (x * inverse).round() as i8 as u8;
    }
}

fn write_5_bit(packed: &mut [u8], code: impl Fn(usize) -> u8) {
    let mut high = 0_u32;
    for i in 0..16 {
        let (first, second) = (code(i), code(i + 16));
        packed[4 + i] = first & 15 | (second & 15) << 4;
        high |= u32::from(first >> 4) << i | u32::from(second >> 4) << (i + 16);
    }
    packed[..4].copy_from_slice(&high.to_le_bytes());
}
