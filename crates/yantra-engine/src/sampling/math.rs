//! Passes over whole rows, written so that the compiler vectorises them: independent lanes, no branches.
//!
//! Sums have a fixed order that depends on the row's length only.

/// Values per partial sum.
pub(super) const BLOCK: usize = 1024;
const LANES: usize = 16;

/// The largest value and the lowest index that has it; NaN is never the largest. `None` if there is nothing but NaN and
/// −∞, or if +∞ occurs (no distribution).
pub fn argmax(row: &[f32]) -> Option<(u32, f32)> {
    let mut best = (0, f32::NEG_INFINITY);
    for (block, values) in row.chunks(BLOCK).enumerate() {
        let highest = highest(values);
        if highest > best.1 {
            best = (block, highest);
        }
    }
    let (block, value) = best;
    let offset = row.get(block * BLOCK..)?.iter().position(|&other| other == value)?;
    value.is_finite().then_some(((block * BLOCK + offset) as u32, value))
}

/// The largest value, −∞ if there is none; NaN is ignored.
fn highest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The sum of a row of weights.
pub fn sum(row: &[f32]) -> f64 {
    row.chunks(BLOCK).map(block_sum).sum()
}

/// The sum of at most [`BLOCK`] weights.
pub(super) fn block_sum(values: &[f32]) -> f64 {
    let mut lanes = [0.0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().chain(rest).map(|&value| f64::from(value)).sum()
}

/// `ln(Σ exp(row))`; NaN counts as −∞. `None` without a finite value.
pub fn log_sum_exp(row: &[f32]) -> Option<f64> {
    let (_, highest) = argmax(row)?;
    let mut total = 0.0;
    let mut weights = [0.0f32; BLOCK];
    for values in row.chunks(BLOCK) {
        let weights = &mut weights[..values.len()];
        for (weight, &value) in weights.iter_mut().zip(values) {
            *weight = exp(value - highest);
        }
        total += block_sum(weights);
    }
    Some(f64::from(highest) + total.ln())
}

/// `eˣ` for `x ≤ 0` to within 2 units in the last place; 0 below −87 (where f32 leaves its normal range) and for NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`, a polynomial for `eʳ` (coefficients of Cephes' `expf`) and `2ⁿ` by bits. Unlike
/// the library function it is inlined and vectorised, and the same on every platform.
#[inline]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5·2²³ rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.max(-87.0);
    let n = clamped * std::f32::consts::LOG2_E + ROUND - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut poly = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
        poly = poly * r + coefficient;
    }
    let power = f32::from_bits(((n as i32 + 127) << 23) as u32);
    let value = (poly * r * r + r + 1.0) * power;
    // False for NaN, too.
    if x >= -87.0 { value } else { 0.0 }
}
