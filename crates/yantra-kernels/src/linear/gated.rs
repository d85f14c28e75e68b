//! The first half of a gated MLP in one fork: `function(x * gate^T) * (x * up^T)`, left in the form that the second half
//! reads. The two products never leave the cache, and their floats are never memory of their own.

use super::{PackedLinear, Split, epilogue::Epilogue, layout::GROUP, scratch};
use crate::{ActivationFn, Activations, Compute, activations::GatedParts};
use std::ops::Range;

/// The operands of [`linear_gated`].
#[derive(Clone, Copy)]
pub struct GatedJob<'a> {
    /// The gate's weight, `[rows, cols]`.
    pub gate: &'a PackedLinear,
    /// Added to every token's gate, `[rows]`.
    pub gate_bias: Option<&'a [f32]>,
    /// The weight of what is gated, `[rows, cols]`.
    pub up: &'a PackedLinear,
    /// Added to every token's values, `[rows]`.
    pub up_bias: Option<&'a [f32]>,
    /// What the gate goes through.
    pub function: ActivationFn,
}

/// Makes `out`, `[num_tokens, rows]`, from the activations `x`, `[num_tokens, cols]`.
///
/// # Panics
/// If shapes disagree or `x` does not hold the form of activations a weight reads.
pub fn linear_gated(cx: &Compute, x: &Activations, job: GatedJob<'_>, out: &mut Activations) {
    let rows = job.up.rows;
    check_gated(x, &job, rows);
    let parts = out.start_gated(cx.level(), x.num_tokens(), rows, job.function);
    let num_groups = rows.div_ceil(GROUP);
    let mut split = Split::new(cx.num_threads(), x, num_groups, 2 * num_groups * GROUP * x.cols());
    if split.num_chunks == 1 {
        // Each task reads two parts of memory: few and long ones are read faster.
        split.num_ranges = split.num_ranges.min(2 * cx.num_threads());
    }
    split.run(cx, &|tokens, groups| {
        // SAFETY: this task alone has these groups of these tokens.
        #[expect(unsafe_code, reason = "tasks are disjoint")]
        unsafe {
            fill_gated(x, &job, tokens, groups, &parts);
        }
    });
}

pub(super) fn check_gated(x: &Activations, job: &GatedJob<'_>, rows: usize) {
    assert!(job.gate.rows == rows && job.up.rows == rows, "rows of a gate and of what it gates");
    for (weight, bias) in [(job.gate, job.gate_bias), (job.up, job.up_bias)] {
        assert_eq!(weight.cols, x.cols(), "columns of a weight and of its activations");
        assert!(x.has(weight.activation_kind()), "activations were not made for {} weights", weight.format);
        assert!(bias.is_none_or(|bias| bias.len() == rows), "values of a linear bias");
    }
}

/// Makes groups `groups` of tokens `tokens`.
///
/// # Safety
/// Both are of the activations being made; no other thread makes any of them.
#[expect(unsafe_code, reason = "threads write disjoint parts of the activations")]
pub(super) unsafe fn fill_gated(
    x: &Activations,
    job: &GatedJob<'_>,
    tokens: Range<usize>,
    groups: Range<usize>,
    parts: &GatedParts<'_>,
) {
    /// Floats of a product that a task computes before it goes on to the activation function: an eighth of a second-level
    /// cache for both.
    const PASS_VALUES: usize = 16 << 10;
    let pass = (PASS_VALUES / GROUP / tokens.len()).max(1);
    for first in groups.clone().step_by(pass) {
        let groups = first..groups.end.min(first + pass);
        let stride = groups.len() * GROUP;
        scratch::with_values(2 * tokens.len() * stride, |values| {
            let (gate, up) = values.split_at_mut(tokens.len() * stride);
            // What follows elsewhere in memory is on its way while this is computed.
            job.up.fetch(groups.start * units_per_group(job.up));
            multiply(job.gate, job.gate_bias, x, tokens.clone(), groups.clone(), gate);
            job.gate.fetch(groups.end * units_per_group(job.gate));
            multiply(job.up, job.up_bias, x, tokens.clone(), groups.clone(), up);
            // SAFETY: the caller's promise.
            unsafe {
                parts.fill(tokens.clone(), groups, gate, up);
            }
        });
    }
}

fn units_per_group(weight: &PackedLinear) -> usize {
    GROUP / (scratch::UNIT_TILES * weight.lanes)
}

/// Rows `groups`, counted in groups, of the product with some tokens, `[tokens, groups * GROUP]`.
fn multiply(
    weight: &PackedLinear,
    bias: Option<&[f32]>,
    x: &Activations,
    tokens: Range<usize>,
    groups: Range<usize>,
    out: &mut [f32],
) {
    let units_per_group = units_per_group(weight);
    let units = groups.start * units_per_group..(groups.end * units_per_group).min(weight.num_units());
    let epilogue = Epilogue {
        out: out.as_mut_ptr().wrapping_sub(groups.start * GROUP),
        stride: groups.len() * GROUP,
        rows: weight.rows,
        bias,
        accumulate: false,
    };
    weight.multiply(x, tokens, units, epilogue);
}
