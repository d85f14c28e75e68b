//! A rotation that spreads what is large in few dimensions of a head over many.
//!
//! Some dimensions of keys are tens of times larger than the others; rounded to a step that fits them, the others would
//! be lost. A Hadamard matrix is orthogonal: keys and queries turned alike have the same products, and a sum of values
//! turned is the sum of the values, turned (Ashkboos et al. 2024, QuaRot, arXiv:2404.00456).

use crate::simd::{MAX_LANES, Simd};

/// Sylvester's matrix of order 16: the sign is the parity of the bits that row and column share.
const HADAMARD: [[f32; MAX_LANES]; MAX_LANES] = {
    let mut matrix = [[1.0; MAX_LANES]; MAX_LANES];
    let mut row = 0;
    while row < MAX_LANES {
        let mut column = 0;
        while column < MAX_LANES {
            if (row & column).count_ones() % 2 == 1 {
                matrix[row][column] = -1.0;
            }
            column += 1;
        }
        row += 1;
    }
    matrix
};

/// Values that a head of so many is turned by together: the largest power of two that divides them. Whole blocks of a head
/// can be turned alone.
pub(super) fn rotation_block(head_dim: usize) -> usize {
    1 << head_dim.trailing_zeros()
}

/// Multiplies by the Hadamard matrix of order `size`, a power of two, block by block, scaled to be orthogonal: it is its
/// own inverse. The same bits at every level.
#[inline(always)]
pub(super) fn rotate<S: Simd>(simd: S, x: &mut [f32], size: usize) {
    let scale = 1.0 / (size as f32).sqrt();
    for value in &mut *x {
        *value *= scale;
    }
    let mut half = 1;
    if size >= MAX_LANES {
        for tile in x.chunks_exact_mut(MAX_LANES) {
            let mut values = [0.0; MAX_LANES];
            values.copy_from_slice(tile);
            for (start, out) in tile.chunks_exact_mut(S::LANES).enumerate() {
                let mut sum = simd.splat(0.0);
                for (value, row) in values.iter().zip(&HADAMARD) {
                    sum = simd.fma(simd.splat(*value), simd.load_slice(&row[start * S::LANES..]), sum);
                }
                simd.store_slice(out, sum);
            }
        }
        half = MAX_LANES;
    }
    while half < size {
        for pair in x.chunks_exact_mut(2 * half) {
            let (first, second) = pair.split_at_mut(half);
            for (first, second) in first.iter_mut().zip(second) {
                (*first, *second) = (*first + *second, *first - *second);
            }
        }
        half *= 2;
    }
}
