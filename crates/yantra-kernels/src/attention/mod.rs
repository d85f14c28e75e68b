//! Attention of queries over paged keys and values: causal or not, grouped queries, sliding window, soft cap.
//!
//! One algorithm serves prefill and decode. A task takes a block of query rows (some consecutive queries times the query
//! heads that share a key/value head) and walks the pages they see; memory per task does not grow with the context. Where
//! rows are few (decode), the context is divided over tasks as well.
//!
//! The context is always summed in splits of [`SPLIT_TOKENS`], joined in order, whoever computes them: a query's result is
//! the same bits alone or in a chunk, on one thread or many.

mod pages;
mod quantized;
mod rotation;
mod rows;
mod stored;
mod tile;

#[cfg(test)]
mod tests;

pub use pages::{KvFormat, KvLayer, KvLayout, KvPages};

use crate::{
    Compute,
    parallel::SharedSlice,
    simd::{Simd, simd_dispatch},
};
use quantized::{Int4, Int8};
use rows::{RowShape, Rows};
use std::{
    cell::Cell,
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
};
use stored::{Bf16, F16, F32, Stored};

/// Tokens that are summed by themselves before they are joined with what came before (rounded to whole pages).
const SPLIT_TOKENS: usize = 256;

/// Query rows in a block: enough that reading a page is paid for, few enough that their sums stay in the second cache.
const BLOCK_ROWS: usize = 128;

/// What all sequences of a call share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionParams {
    /// Query heads; a multiple of the key/value heads.
    pub num_heads: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Sliding window: a query sees keys less than this many positions away (itself included).
    pub window: Option<usize>,
    /// Bound of the scores: `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Whether a query sees no later position than its own.
    pub causal: bool,
}

/// One sequence of a batch. Its queries are the last `query_len` positions of its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionSequence<'a> {
    /// The first of its tokens in the batch.
    pub query_start: usize,
    /// Its tokens in the batch.
    pub query_len: usize,
    /// Its tokens in the pages, those of this step included.
    pub context_len: usize,
    /// Page of each group of `page_tokens` positions. Pages that no query sees (before the window) are not read.
    pub pages: &'a [u32],
}

/// `out = softmax(mask(q k^T * scale)) v` for every sequence.
///
/// `q` and `out` are `[num_tokens, num_heads, head_dim]`; keys and values of all tokens are already stored. Tokens that no
/// sequence names are left as they are. Scores and sums are `f32` whatever the storage format.
///
/// # Panics
/// If heads do not divide, a sequence names tokens that `q` or `out` lacks, has more queries than context, or has too few
/// pages for its context; or if sequences overlap.
pub fn attention(
    cx: &Compute,
    params: &AttentionParams,
    q: &[f32],
    kv: KvLayer<'_>,
    sequences: &[AttentionSequence<'_>],
    out: &mut [f32],
) {
    check(params, q, kv, sequences, out);
    let layout = kv.layout();
    let shape = RowShape { head_dim: layout.head_dim, page_tokens: layout.page_tokens };
    let heads_per_group = params.num_heads / layout.num_kv_heads;
    let mut plan = PLAN.take();
    plan.fill(cx.num_threads(), params, shape, layout.num_kv_heads, heads_per_group, sequences);
    let Plan { tasks, groups, partials, .. } = &mut plan;
    let (out, partials) = (SharedSlice::new(out), SharedSlice::new(partials));
    let call = Call { params, shape, heads_per_group, q, kv, sequences, tasks, groups, out, partials };
    cx.run(tasks.len(), &|index| {
        let mut rows = ROWS.take();
        run_task(cx.level(), &call, index, &mut rows);
        ROWS.set(rows);
    });
    PLAN.set(plan);
}

thread_local! {
    /// Buffers are kept by each thread, so that a step allocates nothing once they have grown.
    static PLAN: Cell<Plan> = Cell::default();
    static ROWS: Cell<Rows> = Cell::default();
}

fn check(params: &AttentionParams, q: &[f32], kv: KvLayer<'_>, sequences: &[AttentionSequence<'_>], out: &[f32]) {
    let layout = kv.layout();
    assert!(
        params.num_heads > 0 && params.num_heads.is_multiple_of(layout.num_kv_heads),
        "heads share key/value heads evenly"
    );
    let num_tokens = q.len() / (params.num_heads * layout.head_dim);
    assert!(out.len() == q.len(), "an output for every query");
    let mut end = 0;
    for sequence in sequences {
        assert!(sequence.query_start >= end, "sequences in order, without overlap");
        end = sequence.query_start + sequence.query_len;
        assert!(end <= num_tokens, "queries of every token");
        assert!(sequence.query_len <= sequence.context_len, "queries are the last tokens of the context");
        assert!(sequence.pages.len() * layout.page_tokens >= sequence.context_len, "a page for every token");
    }
}

/// Some queries of a sequence, one key/value head, some splits of the context.
struct Task {
    sequence: usize,
    kv_head: usize,
    queries: Range<usize>,
    splits: Range<usize>,
    /// The group whose sums this task is part of, when the context was divided.
    group: Option<usize>,
}

/// Tasks over the same rows that divide the context.
struct Group {
    splits: Range<usize>,
    partials_start: usize,
    unfinished: AtomicU32,
}

#[derive(Default)]
struct Plan {
    tasks: Vec<Task>,
    groups: Vec<Group>,
    partials: Vec<f32>,
}

impl Plan {
    fn fill(
        &mut self,
        num_threads: usize,
        params: &AttentionParams,
        shape: RowShape,
        num_kv_heads: usize,
        heads_per_group: usize,
        sequences: &[AttentionSequence<'_>],
    ) {
        let queries_per_block = (BLOCK_ROWS / heads_per_group).max(1);
        let blocks: usize = sequences.iter().map(|sequence| sequence.query_len.div_ceil(queries_per_block)).sum();
        let divide = num_threads > 1 && blocks * num_kv_heads < 4 * num_threads;
        self.tasks.clear();
        self.groups.clear();
        let mut partials_len = 0;
        for (index, sequence) in sequences.iter().enumerate() {
            // Late queries see most: they come first, so that no thread is left with a long task at the end.
            for block in (0..sequence.query_len.div_ceil(queries_per_block)).rev() {
                let first = block * queries_per_block;
                let queries = first..sequence.query_len.min(first + queries_per_block);
                let splits = visible_splits(params, sequence, &queries, shape.page_tokens);
                for kv_head in 0..num_kv_heads {
                    let task = Task {
                        sequence: index,
                        kv_head,
                        queries: queries.clone(),
                        splits: splits.clone(),
                        group: None,
                    };
                    if divide && splits.len() > 1 {
                        partials_len += self.push_group(task, shape, heads_per_group, partials_len);
                    } else {
                        self.tasks.push(task);
                    }
                }
            }
        }
        if self.partials.len() < partials_len {
            self.partials.resize(partials_len, 0.0);
        }
    }

    /// Adds one task per split; returns how many values their sums take.
    fn push_group(&mut self, task: Task, shape: RowShape, heads_per_group: usize, partials_start: usize) -> usize {
        let group = Some(self.groups.len());
        let splits = task.splits.clone();
        let unfinished = AtomicU32::new(splits.len() as u32);
        self.groups.push(Group { splits: splits.clone(), partials_start, unfinished });
        let tasks =
            splits.clone().map(|split| Task { splits: split..split + 1, group, queries: task.queries.clone(), ..task });
        self.tasks.extend(tasks);
        splits.len() * task.queries.len() * heads_per_group * Rows::record_len(shape)
    }
}

fn split_tokens(page_tokens: usize) -> usize {
    SPLIT_TOKENS.next_multiple_of(page_tokens)
}

/// Context positions that query `index` of a sequence sees.
fn visible(params: &AttentionParams, sequence: &AttentionSequence<'_>, index: usize) -> Range<usize> {
    let position = sequence.context_len - sequence.query_len + index;
    let end = if params.causal { position + 1 } else { sequence.context_len };
    match params.window {
        Some(window) => (position + 1).saturating_sub(window)..end.min(position.saturating_add(window)),
        None => 0..end,
    }
}

/// The splits of which some query sees a token.
fn visible_splits(
    params: &AttentionParams,
    sequence: &AttentionSequence<'_>,
    queries: &Range<usize>,
    page_tokens: usize,
) -> Range<usize> {
    let split = split_tokens(page_tokens);
    let (first, last) = (visible(params, sequence, queries.start), visible(params, sequence, queries.end - 1));
    first.start / split..last.end.div_ceil(split)
}

/// A call's arguments and shared buffers.
struct Call<'a> {
    params: &'a AttentionParams,
    shape: RowShape,
    heads_per_group: usize,
    q: &'a [f32],
    kv: KvLayer<'a>,
    sequences: &'a [AttentionSequence<'a>],
    tasks: &'a [Task],
    groups: &'a [Group],
    out: SharedSlice<'a, f32>,
    partials: SharedSlice<'a, f32>,
}

simd_dispatch! {
    fn run_task(call: &Call<'_>, task: usize, rows: &mut Rows) = run_task_body;
}

#[inline(always)]
fn run_task_body<S: Simd>(simd: S, call: &Call<'_>, task: usize, rows: &mut Rows) {
    match call.kv.layout().format {
        KvFormat::F32 => call.run::<S, F32>(simd, task, rows),
        KvFormat::F16 => call.run::<S, F16>(simd, task, rows),
        KvFormat::BF16 => call.run::<S, Bf16>(simd, task, rows),
        KvFormat::Int8 if S::NATIVE_PAIRS => call.run::<S, Int8<Bf16>>(simd, task, rows),
        KvFormat::Int8 => call.run::<S, Int8<F32>>(simd, task, rows),
        KvFormat::Int4 if S::NATIVE_PAIRS => call.run::<S, Int4<Bf16>>(simd, task, rows),
        KvFormat::Int4 => call.run::<S, Int4<F32>>(simd, task, rows),
    }
}

impl Call<'_> {
    #[inline(always)]
    fn run<S: Simd, K: Stored>(&self, simd: S, index: usize, rows: &mut Rows) {
        let task = &self.tasks[index];
        self.gather::<S, K>(simd, task, rows);
        let seen = rows.any_visible();
        let split_tokens = split_tokens(self.shape.page_tokens);
        let pages = self.sequences[task.sequence].pages;
        let split_pages = split_tokens / self.shape.page_tokens;
        for split in task.splits.clone() {
            let context = seen.start.max(split * split_tokens)..seen.end.min((split + 1) * split_tokens);
            // Tasks are taken one after another, mostly.
            let next = if split + 1 < task.splits.end {
                Some((task, split + 1))
            } else {
                self.tasks.get(index + 1).map(|task| (task, task.splits.start))
            };
            rows.attend_split::<S, K>(
                simd,
                self.params,
                context,
                |index| self.kv.head(pages[index], task.kv_head),
                |index| {
                    next.and_then(|(task, next)| self.page_of(task, index + next * split_pages - split * split_pages))
                },
            );
            match task.group {
                None => rows.merge_split(simd),
                Some(group) => self.save(&self.groups[group], split, rows, task.queries.len() * self.heads_per_group),
            }
        }
        let finished = match task.group {
            None => true,
            // The last to finish joins the splits: everybody's sums are visible to it, in the order of the context.
            Some(group) => {
                self.groups[group].unfinished.fetch_sub(1, Ordering::AcqRel) == 1 && {
                    self.join(simd, &self.groups[group], rows, task.queries.len() * self.heads_per_group);
                    true
                }
            }
        };
        if finished {
            self.scatter::<S, K>(simd, task, rows);
        }
    }

    /// Where keys and values of a task's head begin in the page at a place in its context, if it has that many.
    fn page_of(&self, task: &Task, index: usize) -> Option<(*const u8, *const u8)> {
        let sequence = &self.sequences[task.sequence];
        let page = *sequence.pages.get(index).filter(|_| index * self.shape.page_tokens < sequence.context_len)?;
        let (keys, values) = self.kv.head(page, task.kv_head);
        Some((keys.as_ptr(), values.as_ptr()))
    }

    /// Where query `index` of the task's sequence has its `heads_per_group` rows in `q` and `out`.
    fn row_start(&self, task: &Task, index: usize) -> usize {
        let token = self.sequences[task.sequence].query_start + index;
        (token * self.params.num_heads + task.kv_head * self.heads_per_group) * self.shape.head_dim
    }

    #[inline(always)]
    fn gather<S: Simd, K: Stored>(&self, simd: S, task: &Task, rows: &mut Rows) {
        let head_dim = self.shape.head_dim;
        rows.clear(self.shape);
        for index in task.queries.clone() {
            let visible = visible(self.params, &self.sequences[task.sequence], index);
            let queries = &self.q[self.row_start(task, index)..][..self.heads_per_group * head_dim];
            for query in queries.chunks_exact(head_dim) {
                rows.push(query, self.params.scale, visible.clone());
            }
        }
        rows.prepare::<S, K>(simd);
    }

    #[inline(always)]
    fn scatter<S: Simd, K: Stored>(&self, simd: S, task: &Task, rows: &Rows) {
        let head_dim = self.shape.head_dim;
        for (row, index) in task.queries.clone().enumerate() {
            // SAFETY: sequences do not overlap, and one task at a time finishes these queries of this head.
            #[expect(unsafe_code, reason = "disjoint rows")]
            let out = unsafe { self.out.slice(self.row_start(task, index), self.heads_per_group * head_dim) };
            for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
                rows.finish::<S, K>(simd, row * self.heads_per_group + head, out);
            }
        }
    }

    fn partial_range(&self, group: &Group, split: usize, num_rows: usize) -> (usize, usize) {
        let len = num_rows * Rows::record_len(self.shape);
        (group.partials_start + (split - group.splits.start) * len, len)
    }

    fn save(&self, group: &Group, split: usize, rows: &Rows, num_rows: usize) {
        let (start, len) = self.partial_range(group, split, num_rows);
        // SAFETY: each split of a group is one task's, and read only after all have finished.
        #[expect(unsafe_code, reason = "disjoint splits")]
        rows.save_split(unsafe { self.partials.slice(start, len) });
    }

    #[inline(always)]
    fn join<S: Simd>(&self, simd: S, group: &Group, rows: &mut Rows, num_rows: usize) {
        for split in group.splits.clone() {
            let (start, len) = self.partial_range(group, split, num_rows);
            // SAFETY: all tasks of the group have finished writing.
            #[expect(unsafe_code, reason = "no writer is left")]
            rows.merge_saved(simd, unsafe { self.partials.slice(start, len) });
        }
    }
}
