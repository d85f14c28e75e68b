//! Writing the K formats: scales per group by search, then quantised themselves, then codes for the scales as stored.

use super::{
    inverse,
    k_quants::{q6_k_position, read_3_k_scales, read_scale_min},
    k_search::{best_scale, best_scale_min, code, magnitude_weights},
    write_f16,
};

/// Groups of `N` values: their scales and minima, by search.
fn search_minima<const N: usize, const GROUPS: usize>(x: &[f32; 256], highest: i32) -> [(f32, f32); GROUPS] {
    std::array::from_fn(|group| {
        let x = &x[group * N..][..N];
        best_scale_min(x, &magnitude_weights::<N>(x), highest)
    })
}

/// Groups of 16 values: their scales by search, weights the squares of the values.
fn search_scales(x: &[f32; 256], levels: i32) -> [f32; 16] {
    std::array::from_fn(|group| {
        let x = &x[group * 16..][..16];
        let weights: [f32; 16] = std::array::from_fn(|i| x[i] * x[i]);
        best_scale(x, &weights, levels)
    })
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, f32::max)
}

fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0_f32, |extreme, &x| if x.abs() > extreme.abs() { x } else { extreme })
}

pub(super) fn write_q2_k(x: &[f32; 256], block: &mut [u8; 84]) {
    let groups = search_minima::<16, 16>(x, 3);
    let d = largest(groups.iter().map(|group| group.0)) / 15.0;
    let dmin = largest(groups.iter().map(|group| group.1)) / 15.0;
    let (d, dmin) = (write_f16(block, 80, d), write_f16(block, 82, dmin));
    block[16..80].fill(0);
    for (group, (scale, min)) in groups.into_iter().enumerate() {
        let (scale, min) = (code(scale * inverse(d), 0, 15), code(min * inverse(dmin), 0, 15));
        block[group] = (scale | min << 4) as u8;
        let (inverse, min) = (inverse(d * scale as f32), dmin * min as f32);
        for i in 0..16 {
            let code = code((x[group * 16 + i] + min) * inverse, 0, 3) as u8;
            block[16 + group / 8 * 32 + group % 2 * 16 + i] |= code << (group % 8 / 2 * 2);
        }
    }
}

pub(super) fn write_q3_k(x: &[f32; 256], block: &mut [u8; 110]) {
    let scales = search_scales(x, 4);
    let d = extreme(&scales) / -32.0;
    let d = write_f16(block, 108, d);
    block[..108].fill(0);
    for (group, scale) in scales.into_iter().enumerate() {
        let code = (code(scale * inverse(d), -32, 31) + 32) as u8;
        block[96 + group % 8] |= (code & 15) << (group / 8 * 4);
        block[104 + group % 4] |= (code >> 4) << (group / 4 * 2);
    }
    let scales = read_3_k_scales(&block[96..108]);
    for i in 0..256 {
        let group = i / 16;
        let code = (code(x[i] * inverse(d * f32::from(scales[group])), -4, 3) + 4) as u8;
        block[32 + i / 128 * 32 + i % 32] |= (code & 3) << (group % 8 / 2 * 2);
        block[i % 32] |= (code >> 2) << (i / 32);
    }
}

/// The head of Q4_K and Q5_K (d, dmin, scales) and the codes of all values.
fn write_with_minima(x: &[f32; 256], head: &mut [u8], highest: i32) -> [u8; 256] {
    let groups = search_minima::<32, 8>(x, highest);
    let d = largest(groups.iter().map(|group| group.0)) / 63.0;
    let dmin = largest(groups.iter().map(|group| group.1)) / 63.0;
    let (d, dmin) = (write_f16(head, 0, d), write_f16(head, 2, dmin));
    head[4..16].fill(0);
    for (group, (scale, min)) in groups.into_iter().enumerate() {
        let scale = code(scale * inverse(d), 0, 63) as u8;
        let min = code(min * inverse(dmin), 0, 63) as u8;
        if group < 4 {
            head[4 + group] |= scale;
            head[8 + group] |= min;
        } else {
            head[8 + group] = scale & 15 | (min & 15) << 4;
            head[group] |= scale >> 4 << 6;
            head[4 + group] |= min >> 4 << 6;
        }
    }
    let head = &*head;
    std::array::from_fn(|i| {
        let (scale, min) = read_scale_min(&head[4..16], i / 32);
        code((x[i] + dmin * f32::from(min)) * inverse(d * f32::from(scale)), 0, highest) as u8
    })
}

pub(super) fn write_q4_k(x: &[f32; 256], block: &mut [u8; 144]) {
    let codes = write_with_minima(x, block, 15);
    for i in 0..128 {
        let first = i / 32 * 64 + i % 32;
        block[16 + i] = codes[first] | codes[first + 32] << 4;
    }
}

pub(super) fn write_q5_k(x: &[f32; 256], block: &mut [u8; 176]) {
    let codes = write_with_minima(x, block, 31);
    for i in 0..128 {
        let first = i / 32 * 64 + i % 32;
        block[48 + i] = codes[first] & 15 | (codes[first + 32] & 15) << 4;
    }
    for i in 0..32 {
        block[16 + i] = (0..8).fold(0, |bits, group| bits | codes[group * 32 + i] >> 4 << group);
    }
}

pub(super) fn write_q6_k(x: &[f32; 256], block: &mut [u8; 210]) {
    let scales = search_scales(x, 32);
    let d = extreme(&scales) / -128.0;
    let d = write_f16(block, 208, d);
    block[..192].fill(0);
    for (group, scale) in scales.into_iter().enumerate() {
        block[192 + group] = code(scale * inverse(d), -128, 127) as i8 as u8;
    }
    for i in 0..256 {
        let scale = d * f32::from(block[192 + i / 16] as i8);
        let code = (code(x[i] * inverse(scale), -32, 31) + 32) as u8;
        let (low, low_shift, high, high_shift) = q6_k_position(i);
        block[low] |= (code & 15) << low_shift;
        block[128 + high] |= (code >> 4) << high_shift;
    }
}
