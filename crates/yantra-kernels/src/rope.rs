//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864).
//!
//! How frequencies are stretched for long contexts (linear, NTK, YaRN, Llama 3) is the model's business: it gives the
//! inverse frequencies. The table holds cosines and sines per position, computed in groups of positions when first used:
//! a model of 128k positions starts at once and pays for what it reaches.

use crate::{
    Compute,
    parallel::for_each_row_group,
    simd::{Simd, simd_dispatch},
};
use std::sync::OnceLock;

/// Positions computed at a time.
const GROUP: usize = 256;

/// Which dimensions form the pairs that are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Pairs `(2i, 2i + 1)`: GPT-J, and Llama weights as GGUF stores them.
    Interleaved,
    /// Pairs `(i, i + rotated / 2)`: GPT-NeoX, Qwen, Gemma, and Llama weights as Hugging Face stores them.
    HalfSplit,
}

/// Cosines and sines of every position up to a limit.
pub struct RopeTable {
    inv_freq: Vec<f32>,
    attention_scale: f32,
    max_positions: usize,
    /// Groups of positions: `[GROUP, 2, rotated / 2]`, cosines then sines.
    groups: Vec<OnceLock<Box<[f32]>>>,
}

impl RopeTable {
    /// A table that rotates the first `rotated_dims` dimensions of each head by `position * inv_freq[i]` radians.
    ///
    /// `inv_freq` is `[rotated_dims / 2]`; cosines and sines are multiplied by `attention_scale` (1 but for YaRN and
    /// LongRoPE). Positions are below `max_positions`.
    ///
    /// # Panics
    /// If `inv_freq` is not `rotated_dims / 2` long.
    pub fn new(rotated_dims: usize, inv_freq: &[f32], attention_scale: f32, max_positions: usize) -> Self {
        assert_eq!(inv_freq.len() * 2, rotated_dims, "one inverse frequency per pair of rotated dimensions");
        let groups = (0..max_positions.div_ceil(GROUP)).map(|_| OnceLock::new()).collect();
        Self { inv_freq: inv_freq.to_vec(), attention_scale, max_positions, groups }
    }

    /// Dimensions of a head that are rotated.
    pub fn rotated_dims(&self) -> usize {
        self.inv_freq.len() * 2
    }

    /// Positions the table covers.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// Cosines and sines of a position, each `[rotated_dims / 2]`.
    fn row(&self, position: usize) -> (&[f32], &[f32]) {
        assert!(position < self.max_positions, "position {position} is past the rope table of {}", self.max_positions);
        let half = self.inv_freq.len();
        let group = self.groups[position / GROUP].get_or_init(|| self.compute_group(position / GROUP));
        group[position % GROUP * 2 * half..][..2 * half].split_at(half)
    }

    fn compute_group(&self, group: usize) -> Box<[f32]> {
        let half = self.inv_freq.len();
        let mut values = vec![0.0; GROUP * 2 * half];
        for (offset, row) in values.chunks_exact_mut((2 * half).max(1)).enumerate() {
            let position = (group * GROUP + offset) as f32;
            let (cosines, sines) = row.split_at_mut(half);
            for ((cos, sin), inv_freq) in cosines.iter_mut().zip(sines).zip(&self.inv_freq) {
                // The angle is rounded to f32 as the reference implementations do; its sine is exact.
                let (angle_sin, angle_cos) = f64::from(position * inv_freq).sin_cos();
                *cos = angle_cos as f32 * self.attention_scale;
                *sin = angle_sin as f32 * self.attention_scale;
            }
        }
        values.into_boxed_slice()
    }
}

/// Rotates queries or keys in place: `x` is `[num_tokens, num_heads, head_dim]`, `positions` is `[num_tokens]`.
///
/// Dimensions past the table's rotated ones are left as they are.
///
/// # Panics
/// If `x` is not of that shape, a position is past the table, or the table rotates more than `head_dim` dimensions.
pub fn rope(
    cx: &Compute,
    table: &RopeTable,
    style: RopeStyle,
    x: &mut [f32],
    num_heads: usize,
    head_dim: usize,
    positions: &[u32],
) {
    let width = num_heads * head_dim;
    assert_eq!(x.len(), positions.len() * width, "queries or keys of every token");
    assert!(table.rotated_dims() <= head_dim, "rotated dimensions fit in a head");
    for_each_row_group(cx, x, width, width, &|first, rows| {
        for (row, &position) in rows.chunks_exact_mut(width).zip(&positions[first..]) {
            let (cosines, sines) = table.row(position as usize);
            match style {
                RopeStyle::HalfSplit => rotate_half_split(cx.level(), row, head_dim, cosines, sines),
                RopeStyle::Interleaved => rotate_interleaved(cx.level(), row, head_dim, cosines, sines),
            }
        }
    });
}

simd_dispatch! {
    fn rotate_half_split(row: &mut [f32], head_dim: usize, cosines: &[f32], sines: &[f32]) = rotate_half_split_body;
    fn rotate_interleaved(row: &mut [f32], head_dim: usize, cosines: &[f32], sines: &[f32]) = rotate_interleaved_body;
}

#[inline(always)]
fn rotate_half_split_body<S: Simd>(simd: S, row: &mut [f32], head_dim: usize, cosines: &[f32], sines: &[f32]) {
    let half = cosines.len();
    let whole = half / S::LANES * S::LANES;
    for head in row.chunks_exact_mut(head_dim) {
        let (first, rest) = head.split_at_mut(half);
        for start in (0..whole).step_by(S::LANES) {
            let (cos, sin) = (simd.load_slice(&cosines[start..]), simd.load_slice(&sines[start..]));
            let (a, b) = (simd.load_slice(&first[start..]), simd.load_slice(&rest[start..]));
            simd.store_slice(&mut first[start..], simd.sub(simd.mul(a, cos), simd.mul(b, sin)));
            simd.store_slice(&mut rest[start..], simd.fma(a, sin, simd.mul(b, cos)));
        }
        for index in whole..half {
            let (a, b) = (first[index], rest[index]);
            first[index] = a * cosines[index] - b * sines[index];
            rest[index] = a * sines[index] + b * cosines[index];
        }
    }
}

/// Pairs lie side by side, which plain code compiled for the level handles well enough: rope is a hundredth of a step.
#[inline(always)]
fn rotate_interleaved_body<S: Simd>(_simd: S, row: &mut [f32], head_dim: usize, cosines: &[f32], sines: &[f32]) {
    for head in row.chunks_exact_mut(head_dim) {
        for ((pair, &cos), &sin) in head.chunks_exact_mut(2).zip(cosines).zip(sines) {
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * cos - b * sin;
            pair[1] = a * sin + b * cos;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{assert_close, computes, random};

    fn inv_freq(rotated: usize) -> Vec<f32> {
        (0..rotated / 2).map(|i| 10_000_f32.powf(-2.0 * i as f32 / rotated as f32)).collect()
    }

    /// The definition, one pair at a time in f64.
    fn reference(style: RopeStyle, head: &mut [f32], rotated: usize, position: u32, scale: f64) {
        let inv_freq = inv_freq(rotated);
        for (i, inv_freq) in inv_freq.iter().enumerate() {
            let (a, b) = if style == RopeStyle::HalfSplit { (i, i + rotated / 2) } else { (2 * i, 2 * i + 1) };
            let (sin, cos) = f64::from(position as f32 * inv_freq).sin_cos();
            let (x, y) = (f64::from(head[a]), f64::from(head[b]));
            head[a] = ((x * cos - y * sin) * scale) as f32;
            head[b] = ((x * sin + y * cos) * scale) as f32;
        }
    }

    #[test]
    fn rotates_as_defined() {
        for cx in computes() {
            for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
                for (head_dim, rotated) in [(2, 2), (8, 8), (64, 64), (64, 16), (80, 20), (128, 128), (6, 0)] {
                    let table = RopeTable::new(rotated, &inv_freq(rotated), 1.25, 5000);
                    let (heads, positions) = (3, [0, 1, 255, 256, 4999]);
                    let mut x = random(1, positions.len() * heads * head_dim);
                    let mut expected = x.clone();
                    for (token, &position) in expected.chunks_mut(heads * head_dim).zip(&positions) {
                        token.chunks_mut(head_dim).for_each(|head| reference(style, head, rotated, position, 1.25));
                    }
                    rope(&cx, &table, style, &mut x, heads, head_dim, &positions);
                    assert_close(&x, &expected, 1e-6);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "past the rope table")]
    fn refuses_a_position_past_the_table() {
        let table = RopeTable::new(2, &[1.0], 1.0, 4);
        rope(&Compute::new(1), &table, RopeStyle::HalfSplit, &mut [0.0; 2], 1, 2, &[4]);
    }
}
