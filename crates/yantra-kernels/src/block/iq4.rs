//! The 4-bit code-book formats: IQ4_NL (one scale per 32 values) and IQ4_XS (super-blocks of 256 with 6-bit scales).
//!
//! Codes index sixteen unevenly spaced levels, denser near zero where weights are.

use super::{inverse, read_f16, write_f16};

/// The levels codes stand for (ggml's `kvalues_iq4nl`).
pub(crate) const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) fn read_iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    read_group(read_f16(block, 0), &block[2..], out);
}

pub(super) fn read_iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = read_f16(block, 0);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
        let high = u16::from_le_bytes([block[2], block[3]]) >> (group * 2) & 3;
        let scale = d * (i32::from(low) + i32::from(high) * 16 - 32) as f32;
        read_group(scale, &block[8 + group * 16..][..16], out);
    }
}

fn read_group(scale: f32, nibbles: &[u8], out: &mut [f32]) {
    for (i, &byte) in nibbles.iter().enumerate() {
        out[i] = scale * f32::from(LEVELS[usize::from(byte & 15)]);
        out[i + 16] = scale * f32::from(LEVELS[usize::from(byte >> 4)]);
    }
}

pub(super) fn write_iq4_nl(x: &[f32; 32], block: &mut [u8; 18]) {
    let scale = write_f16(block, 0, best_scale(x));
    write_group(x, scale, &mut block[2..]);
}

pub(super) fn write_iq4_xs(x: &[f32; 256], block: &mut [u8; 136]) {
    let scales: [f32; 8] = std::array::from_fn(|group| best_scale(&x[group * 32..][..32]));
    let extreme = scales.iter().fold(0.0_f32, |extreme, &x| if x.abs() > extreme.abs() { x } else { extreme });
    let d = write_f16(block, 0, extreme / -32.0);
    block[2..8].fill(0);
    let mut high_bits = 0_u16;
    for (group, scale) in scales.into_iter().enumerate() {
        let code = super::k_search::code(scale * inverse(d), -32, 31);
        let stored = (code + 32) as u8;
        block[4 + group / 2] |= (stored & 15) << (group % 2 * 4);
        high_bits |= u16::from(stored >> 4) << (group * 2);
        write_group(&x[group * 32..][..32], d * code as f32, &mut block[8 + group * 16..][..16]);
    }
    block[2..4].copy_from_slice(&high_bits.to_le_bytes());
}

fn write_group(x: &[f32], scale: f32, nibbles: &mut [u8]) {
    let inverse = inverse(scale);
    for (i, byte) in nibbles.iter_mut().enumerate() {
        *byte = nearest(x[i] * inverse) | nearest(x[i + 16] * inverse) << 4;
    }
}

/// The code whose level is nearest.
fn nearest(x: f32) -> u8 {
    let above = |pair: &[i8]| x > (f32::from(pair[0]) + f32::from(pair[1])) / 2.0;
    LEVELS.windows(2).take_while(|pair| above(pair)).count() as u8
}

/// The scale of least squared error, weighted by squares: starting points put the extreme value near the ends of the code book.
fn best_scale(x: &[f32]) -> f32 {
    const STEPS: i32 = 7;
    let extreme = x.iter().fold(0.0_f32, |extreme, &x| if x.abs() > extreme.abs() { x } else { extreme });
    if extreme.abs() < 1e-15 {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    let ends = [f32::from(LEVELS[0]), f32::from(LEVELS[15])];
    for inverse in ends.into_iter().flat_map(|end| (-STEPS..=STEPS).map(move |step| (end + step as f32) / extreme)) {
        let (mut product, mut square) = (0.0_f32, 0.0_f32);
        for &x in x {
            let level = f32::from(LEVELS[usize::from(nearest(x * inverse))]);
            product += x * x * x * level;
            square += x * x * level * level;
        }
        if square > 0.0 && product * product > best.1 * square {
            best = (product / square, product * product / square);
        }
    }
    best.0
}
