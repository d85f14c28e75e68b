//! Products of a mixture's experts: every weight with tokens of its own, all in one fork.
//!
//! Tokens are sorted by expert, so that each job's are neighbours. A decoded token meets a few experts once each, a prompt
//! some of them hundreds of times and others never; therefore tasks are cut at even shares of the work of all jobs, not
//! of jobs or of tokens.

use super::{
    CHUNK_BYTES, FORK_WORK, GatedJob, PackedLinear, TASK_WORK, chunk_work,
    epilogue::Epilogue,
    gated::{check_gated, fill_gated},
    layout::GROUP,
};
use crate::{Activations, Compute};
use std::{cell::Cell, ops::Range};

/// One product of [`linear_grouped`]: `out = x[tokens] * weight^T`.
pub struct GroupedJob<'a> {
    /// The weight, `[rows, cols]`.
    pub weight: &'a PackedLinear,
    /// Its tokens among the activations.
    pub tokens: Range<usize>,
    /// Added to every token's result, `[rows]`.
    pub bias: Option<&'a [f32]>,
    /// The result, `[tokens, rows]`.
    pub out: &'a mut [f32],
}

/// Computes every job's product with its tokens of the activations `x`, `[num_tokens, cols]`, in one fork over the pool.
/// Each is the bits that [`super::linear`] gives for the same tokens.
///
/// # Panics
/// If shapes disagree, a job has tokens that `x` lacks, or `x` does not hold the form of activations a weight reads.
pub fn linear_grouped(cx: &Compute, x: &Activations, jobs: &mut [GroupedJob<'_>]) {
    for job in jobs.iter() {
        assert_eq!(job.weight.cols, x.cols(), "columns of a weight and of its activations");
        assert!(job.tokens.start <= job.tokens.end && job.tokens.end <= x.num_tokens(), "tokens of the activations");
        assert_eq!(job.out.len(), job.tokens.len() * job.weight.rows, "values of a linear output");
        assert!(job.bias.is_none_or(|bias| bias.len() == job.weight.rows), "values of a linear bias");
        assert!(x.has(job.weight.activation_kind()), "activations were not made for {} weights", job.weight.format);
    }
    let mut plan = PLAN.take();
    plan.clear();
    for job in jobs.iter_mut() {
        let out = job.out.as_mut_ptr();
        plan.push(x.cols(), job.tokens.len(), job.weight.num_units(), job.weight.unit_work(), out);
    }
    let jobs = &*jobs;
    plan.run(cx, 8, &|index, out, tokens, units| {
        let GroupedJob { weight, bias, tokens: own, .. } = &jobs[index];
        let rows = weight.rows;
        let out = out.wrapping_add(tokens.start * rows);
        let epilogue = Epilogue { out, stride: rows, rows, bias: *bias, accumulate: false };
        weight.multiply(x, own.start + tokens.start..own.start + tokens.end, units, epilogue);
    });
    PLAN.set(plan);
}

/// The operands of [`linear_gated_grouped`].
pub struct GroupedGatedJob<'a> {
    /// The weights.
    pub gated: GatedJob<'a>,
    /// Their tokens among the activations.
    pub tokens: Range<usize>,
}

/// Makes `out`, `[num_tokens, rows]`, from the activations `x`, `[num_tokens, cols]`: of each job's tokens the bits that
/// [`super::linear_gated`] gives for them, in one fork over the pool. Tokens of no job are left unspecified.
///
/// # Panics
/// If shapes or functions of jobs disagree, jobs are not in the order of their tokens or overlap, or `x` does not hold the
/// form of activations a weight reads.
pub fn linear_gated_grouped(cx: &Compute, x: &Activations, jobs: &[GroupedGatedJob<'_>], out: &mut Activations) {
    let Some(first) = jobs.first() else {
        out.start_gated(cx.level(), x.num_tokens(), out.cols(), crate::ActivationFn::Silu);
        return;
    };
    let (rows, function) = (first.gated.up.rows, first.gated.function);
    let mut end = 0;
    for GroupedGatedJob { gated, tokens } in jobs {
        check_gated(x, gated, rows);
        assert_eq!(gated.function, function, "functions of jobs");
        assert!(end <= tokens.start && tokens.start <= tokens.end, "jobs in the order of their tokens");
        end = tokens.end;
    }
    assert!(end <= x.num_tokens(), "tokens of the activations");
    let parts = out.start_gated(cx.level(), x.num_tokens(), rows, function);
    let mut plan = PLAN.take();
    plan.clear();
    for job in jobs {
        plan.push(x.cols(), job.tokens.len(), rows.div_ceil(GROUP), 2 * GROUP * x.cols(), std::ptr::null_mut());
    }
    // Each task reads two parts of memory: few and long ones are read faster.
    plan.run(cx, 4, &|index, _, tokens, groups| {
        let GroupedGatedJob { gated, tokens: own } = &jobs[index];
        // SAFETY: this task alone has these groups of these tokens, for jobs do not overlap.
        #[expect(unsafe_code, reason = "tasks are disjoint")]
        unsafe {
            fill_gated(x, gated, own.start + tokens.start..own.start + tokens.end, groups, &parts);
        }
    });
    PLAN.set(plan);
}

thread_local! {
    /// Kept by each thread, so that a step allocates nothing once it has grown.
    pub(super) static PLAN: Cell<Plan> = Cell::default();
}

/// The work of all jobs, in a row.
#[derive(Default)]
pub(super) struct Plan {
    parts: Vec<Part>,
    work: usize,
}

/// A job: chunks of its tokens, each times all units of its weight.
struct Part {
    /// Work of the jobs before.
    start: usize,
    num_tokens: usize,
    tokens_per_chunk: usize,
    num_chunks: usize,
    num_units: usize,
    /// Work of a unit with a chunk.
    unit_work: usize,
    out: *mut f32,
}

// SAFETY: threads write disjoint rows or tokens of `out`.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Sync for Part {}

impl Plan {
    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.work = 0;
    }

    /// Adds a job of tokens and units, each unit so many multiply-adds for a token.
    pub(super) fn push(&mut self, cols: usize, num_tokens: usize, num_units: usize, unit_work: usize, out: *mut f32) {
        let most = (CHUNK_BYTES / cols.max(1)).clamp(64, 256);
        let tokens_per_chunk = num_tokens.div_ceil(num_tokens.div_ceil(most).max(1)).max(1);
        let num_chunks = num_tokens.div_ceil(tokens_per_chunk);
        let unit_work = chunk_work(unit_work, tokens_per_chunk).max(1);
        let start = self.work;
        self.parts.push(Part { start, num_tokens, tokens_per_chunk, num_chunks, num_units, unit_work, out });
        self.work += num_chunks * num_units * unit_work;
    }

    /// Runs `task(job, out, tokens, units)` until every unit has met all tokens of its job, in parallel; tokens are counted
    /// from the job's first. How the work is cut is chosen for speed only: results do not depend on it.
    pub(super) fn run(
        &self,
        cx: &Compute,
        tasks_per_thread: usize,
        task: &(dyn Fn(usize, *mut f32, Range<usize>, Range<usize>) + Sync),
    ) {
        let (threads, Self { parts, work }) = (cx.num_threads(), self);
        let alone = threads == 1 || *work < FORK_WORK;
        let num_tasks = if alone { 1 } else { (work / TASK_WORK).clamp(1, threads * tasks_per_thread) };
        cx.run(num_tasks, &|index| {
            let share = |index: usize| work / num_tasks * index + work % num_tasks * index / num_tasks;
            let (start, end) = (share(index), share(index + 1));
            let first = parts.partition_point(|part| part.start <= start).saturating_sub(1);
            for (index, part) in parts.iter().enumerate().skip(first).take_while(|(_, part)| part.start < end) {
                part.run(start, end, &|tokens, units| task(index, part.out, tokens, units));
            }
        });
    }
}

impl Part {
    /// Runs `task(tokens, units)` for the units that begin between two amounts of work.
    fn run(&self, start: usize, end: usize, task: &dyn Fn(Range<usize>, Range<usize>)) {
        let all = self.num_chunks * self.num_units;
        let before = |work: usize| work.saturating_sub(self.start).div_ceil(self.unit_work).min(all);
        let (mut at, end) = (before(start), before(end));
        while at < end {
            let (chunk, unit) = (at / self.num_units, at % self.num_units);
            let units = unit..self.num_units.min(unit + end - at);
            at += units.len();
            let first = chunk * self.tokens_per_chunk;
            task(first..self.num_tokens.min(first + self.tokens_per_chunk), units);
        }
    }
}
