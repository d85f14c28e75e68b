//! Adapters of low rank: to each job's tokens of a product, `up * (down * x)` is added.
//!
//! Many adapters are met in one batch, each by a few tokens. All their first halves are one fork, all their second halves
//! another, cut at even shares of the work whatever belongs to which adapter (as Punica's and S-LoRA's kernels do; Chen et
//! al., 2023, Sheng et al., 2023).

use super::{
    GroupedJob, PackedLinear,
    epilogue::Epilogue,
    grouped::{PLAN, linear_grouped},
};
use crate::{Activations, Compute};
use std::ops::Range;

/// What one adapter adds to one matrix's product: `out += x[tokens] * down^T * up^T`.
pub struct LowRankJob<'a> {
    /// `[rank, cols]`, in any format.
    pub down: &'a PackedLinear,
    /// `[rows, rank]`, in a float format.
    pub up: &'a PackedLinear,
    /// Its tokens among the activations.
    pub tokens: Range<usize>,
    /// What is added to, `[tokens, rows]`.
    pub out: &'a mut [f32],
}

/// Adds every job's part, from the activations `x`, `[num_tokens, cols]`, in two forks over the pool. `between` is a buffer.
///
/// A token's result is the same bits whatever other jobs and tokens there are.
///
/// # Panics
/// If shapes disagree, a job has tokens that `x` lacks, `x` does not hold the form of activations that a `down` reads, or an
/// `up` is quantised.
pub fn add_low_rank(cx: &Compute, x: &Activations, jobs: &mut [LowRankJob<'_>], between: &mut Vec<f32>) {
    let mut len = 0;
    for LowRankJob { down, up, tokens, out } in jobs.iter() {
        assert_eq!(up.cols, down.rows, "ranks of an adapter's matrices");
        assert!(up.format.is_float(), "an adapter's second matrix in {}", up.format);
        assert_eq!(out.len(), tokens.len() * up.rows, "values that an adapter adds to");
        len += tokens.len() * down.rows;
    }
    if between.len() < len {
        between.resize(len, 0.0);
    }
    let mut rest = &mut between[..len];
    let mut downs: Vec<_> = jobs
        .iter()
        .map(|LowRankJob { down, tokens, .. }| {
            let (out, after) = std::mem::take(&mut rest).split_at_mut(tokens.len() * down.rows);
            rest = after;
            GroupedJob { weight: down, tokens: tokens.clone(), bias: None, out }
        })
        .collect();
    linear_grouped(cx, x, &mut downs);
    let mut plan = PLAN.take();
    plan.clear();
    for LowRankJob { up, tokens, out, .. } in jobs.iter_mut() {
        plan.push(up.cols, tokens.len(), up.num_units(), up.unit_work(), out.as_mut_ptr());
    }
    let jobs = &*jobs;
    plan.run(cx, 8, &|index, out, tokens, units| {
        let (up, x) = (jobs[index].up, &*downs[index].out);
        let epilogue = Epilogue {
            out: out.wrapping_add(tokens.start * up.rows),
            stride: up.rows,
            rows: up.rows,
            bias: None,
            accumulate: true,
        };
        let rows = &x[tokens.start * up.cols..tokens.end * up.cols];
        up.multiply_floats(rows, tokens.len(), units, epilogue);
    });
    PLAN.set(plan);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{ActivationKinds, LinearJob, WeightFormat, linear, quantize_rows, test_support};

    fn packed(cx: &Compute, format: WeightFormat, seed: u64, rows: usize, cols: usize) -> PackedLinear {
        let values = test_support::random(seed, rows * cols);
        let mut bytes = vec![0; rows * cols / format.block_len() * format.block_bytes()];
        quantize_rows(cx, format, cols, &values, &mut bytes).unwrap();
        PackedLinear::pack(cx, format, rows, cols, &bytes).unwrap()
    }

    /// Ranks, formats and runs of tokens of several adapters: each adds the bits of two products of its own.
    #[test]
    fn each_adapter_adds_its_own_part() {
        const COLS: usize = 64;
        let cases = [
            (16, 70, WeightFormat::F32, WeightFormat::F32, 0..3),
            (3, 70, WeightFormat::F16, WeightFormat::F16, 3..4),
            (8, 33, WeightFormat::Q8_0, WeightFormat::F16, 4..24),
            (1, 5, WeightFormat::Q8_0, WeightFormat::F32, 25..25),
            (40, 500, WeightFormat::BF16, WeightFormat::BF16, 25..400),
        ];
        for cx in test_support::computes() {
            let mut x = Activations::new(ActivationKinds { float: true, int8: true });
            x.set(&cx, &test_support::random(1, 400 * COLS), 400, COLS);
            let weights: Vec<_> = cases
                .iter()
                .map(|(rank, rows, down, up, _)| {
                    (packed(&cx, *down, 2, *rank, COLS), packed(&cx, *up, 3, *rows, *rank))
                })
                .collect();
            let start = |rows: usize, tokens: &Range<usize>| test_support::random(4, rows * tokens.len());
            let mut outs: Vec<_> = cases.iter().map(|(_, rows, .., tokens)| start(*rows, tokens)).collect();
            let mut jobs: Vec<_> = (weights.iter().zip(&mut outs).zip(&cases))
                .map(|(((down, up), out), (.., tokens))| LowRankJob { down, up, tokens: tokens.clone(), out })
                .collect();
            add_low_rank(&cx, &x, &mut jobs, &mut Vec::new());
            for (((down, up), out), (rank, rows, .., tokens)) in weights.iter().zip(&outs).zip(&cases) {
                let mut all = vec![0.0; 400 * rank];
                linear(&cx, &x, &mut [LinearJob { weight: down, bias: None, out: &mut all, accumulate: false }]);
                let mut between = Activations::new(ActivationKinds { float: true, int8: false });
                between.set(&cx, &all[tokens.start * rank..tokens.end * rank], tokens.len(), *rank);
                let mut expected = start(*rows, tokens);
                linear(
                    &cx,
                    &between,
                    &mut [LinearJob { weight: up, bias: None, out: &mut expected, accumulate: true }],
                );
                assert_eq!(*out, expected, "rank {rank}");
            }
        }
    }
}
