//! Attention of queries over paged keys and values: causal or not, grouped queries, sliding window, soft cap, linear biases,
//! sinks.
//!
//! One algorithm serves prefill and decode. A task takes a block of query rows (some consecutive queries times the query
//! heads that share a key/value head) and walks the pages they see; memory per task does not grow with the context. Where
//! rows are few (decode), the context is divided over tasks as well, and what sequences have in common is read once for
//! all of them (Juravsky et al. 2024, arXiv:2402.05099).
//!
//! The context is always summed in splits of [`SPLIT_TOKENS`], joined in order, whoever computes them: a query's result is
//! the same bits alone or in a chunk, on one thread or many.

mod alibi;
mod pages;
mod quantized;
mod rotation;
mod rows;
mod stored;
mod tile;

#[cfg(test)]
mod tests;

pub use alibi::alibi_slopes;
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
pub struct AttentionParams<'a> {
    /// Query heads; a multiple of the key/value heads.
    pub num_heads: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Sliding window: a query sees keys less than this many positions away (itself included).
    pub window: Option<usize>,
    /// Chunks of the context (Llama 4): a query sees keys of its own chunk, of so many positions, only.
    pub chunk: Option<usize>,
    /// With a window or chunks, the first so many positions of the context are seen beside it (StreamingLLM, Xiao et al. 2024,
    /// arXiv:2309.17453). Without all are.
    pub sink_tokens: usize,
    /// Bound of the scores: `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Whether a query sees no later position than its own.
    pub causal: bool,
    /// Linear biases: a slope for each query head (see [`alibi_slopes`]). A score, scaled, is lowered by its head's slope
    /// for every position between key and query; what bounds scores bounds the sum.
    pub alibi: Option<&'a [f32]>,
    /// Attention sinks (Xiao et al. 2024, arXiv:2309.17453; gpt-oss): a logit for each query head that joins the softmax
    /// as one more score, neither scaled nor bounded, of a token whose value is zero.
    pub sinks: Option<&'a [f32]>,
}

impl AttentionParams<'_> {
    /// Causal attention to the whole context, without bound, bias or sinks.
    pub fn new(num_heads: usize, scale: f32) -> Self {
        Self {
            num_heads,
            scale,
            window: None,
            chunk: None,
            sink_tokens: 0,
            softcap: None,
            causal: true,
            alibi: None,
            sinks: None,
        }
    }
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
    /// Page of each group of `page_tokens` positions. Pages that no query sees (before the window, but for its sink tokens)
    /// are not read.
    pub pages: &'a [u32],
}

/// `out = softmax(mask(q k^T * scale)) v` for every sequence.
///
/// `q` is `[num_tokens, num_heads, head_dim]`, `out` is `[num_tokens, num_heads, value_dim]`; keys and values of all tokens
/// are already stored. Tokens that no sequence names are left as they are. Scores and sums are `f32` whatever the storage format.
///
/// # Panics
/// If heads do not divide, a sequence names tokens that `q` or `out` lacks, has more queries than context, or has too few
/// pages for its context; or if sequences overlap.
pub fn attention(
    cx: &Compute,
    params: &AttentionParams<'_>,
    q: &[f32],
    kv: KvLayer<'_>,
    sequences: &[AttentionSequence<'_>],
    out: &mut [f32],
) {
    check(params, q, kv, sequences, out);
    let layout = kv.layout();
    let shape = RowShape::new(layout);
    let heads_per_group = params.num_heads / layout.num_kv_heads;
    let mut plan = PLAN.take();
    plan.fill(cx.num_threads(), params, shape, layout.num_kv_heads, heads_per_group, sequences);
    let Plan { tasks, members, groups, partials, .. } = &mut plan;
    let (out, partials) = (SharedSlice::new(out), SharedSlice::new(partials));
    let call = Call { params, shape, heads_per_group, q, kv, sequences, tasks, members, groups, out, partials };
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

fn check(params: &AttentionParams<'_>, q: &[f32], kv: KvLayer<'_>, sequences: &[AttentionSequence<'_>], out: &[f32]) {
    let layout = kv.layout();
    assert!(
        params.num_heads > 0 && params.num_heads.is_multiple_of(layout.num_kv_heads),
        "heads share key/value heads evenly"
    );
    for of_heads in [params.alibi, params.sinks].into_iter().flatten() {
        assert_eq!(of_heads.len(), params.num_heads, "a slope or a sink for every head");
    }
    let num_tokens = q.len() / (params.num_heads * layout.head_dim);
    assert_eq!(q.len(), num_tokens * params.num_heads * layout.head_dim, "queries of whole tokens");
    assert_eq!(out.len(), num_tokens * params.num_heads * layout.value_dim, "an output for every query");
    let mut end = 0;
    for sequence in sequences {
        assert!(sequence.query_start >= end, "sequences in order, without overlap");
        end = sequence.query_start + sequence.query_len;
        assert!(end <= num_tokens, "queries of every token");
        assert!(sequence.query_len <= sequence.context_len, "queries are the last tokens of the context");
        assert!(sequence.pages.len() * layout.page_tokens >= sequence.context_len, "a page for every token");
    }
}

/// Some members, one key/value head, some splits of the context, whose pages members share.
struct Task {
    /// In [`Plan::members`].
    members: Range<usize>,
    kv_head: usize,
    /// Counted without what no member sees between sink tokens and window, as in [`Group`].
    splits: Range<usize>,
}

/// Splits that no query of a member sees, between its sink tokens and its window.
#[derive(Clone, Copy, Default)]
struct Gap {
    start: usize,
    len: usize,
}

impl Gap {
    /// The split of the context that is number `split` of those that are seen.
    fn skip(self, split: usize) -> usize {
        if split < self.start { split } else { split + self.len }
    }
}

/// Some queries of a sequence.
#[derive(Clone)]
struct Member {
    sequence: usize,
    queries: Range<usize>,
    gap: Gap,
    /// The group whose sums the task is part of, when the context was divided.
    group: Option<usize>,
}

/// Tasks over the same rows that divide the context.
struct Group {
    splits: Range<usize>,
    partials_start: usize,
    unfinished: AtomicU32,
}

/// Sequences whose first pages are the same.
struct Cohort {
    leader: usize,
    /// Splits they share.
    splits: usize,
    rows: usize,
    sequences: usize,
}

#[derive(Default)]
struct Plan {
    tasks: Vec<Task>,
    members: Vec<Member>,
    groups: Vec<Group>,
    partials: Vec<f32>,
    cohorts: Vec<Cohort>,
    /// The cohort of each sequence.
    cohort_of: Vec<Option<usize>>,
}

impl Plan {
    fn fill(
        &mut self,
        num_threads: usize,
        params: &AttentionParams<'_>,
        shape: RowShape,
        num_kv_heads: usize,
        heads_per_group: usize,
        sequences: &[AttentionSequence<'_>],
    ) {
        let queries_per_block = (BLOCK_ROWS / heads_per_group).max(1);
        let blocks: usize = sequences.iter().map(|sequence| sequence.query_len.div_ceil(queries_per_block)).sum();
        let divide = num_threads > 1 && blocks * num_kv_heads < 4 * num_threads;
        self.tasks.clear();
        self.members.clear();
        self.groups.clear();
        let mut partials_len = 0;
        self.find_cohorts(params, shape, heads_per_group, sequences);
        for cohort in 0..self.cohorts.len() {
            for kv_head in 0..num_kv_heads {
                self.push_cohort(cohort, kv_head, params, shape, heads_per_group, sequences, &mut partials_len);
            }
        }
        for (index, sequence) in sequences.iter().enumerate() {
            if self.cohort_of[index].is_some() {
                continue;
            }
            // Late queries see most: they come first, so that no thread is left with a long task at the end.
            for block in (0..sequence.query_len.div_ceil(queries_per_block)).rev() {
                let first = block * queries_per_block;
                let queries = first..sequence.query_len.min(first + queries_per_block);
                let (splits, gap) = visible_splits(params, sequence, &queries, shape.page_tokens);
                for kv_head in 0..num_kv_heads {
                    let mut member = Member { sequence: index, queries: queries.clone(), gap, group: None };
                    if divide && splits.len() > 1 {
                        let rows = queries.len() * heads_per_group;
                        member.group =
                            Some(self.push_group(splits.clone(), splits.len(), rows, shape, &mut partials_len));
                        splits.clone().for_each(|split| self.push_task(member.clone(), kv_head, split..split + 1));
                    } else {
                        self.push_task(member, kv_head, splits.clone());
                    }
                }
            }
        }
        if self.partials.len() < partials_len {
            self.partials.resize(partials_len, 0.0);
        }
    }

    /// Finds sequences of few queries that share at least their first split, each in one cohort at most.
    fn find_cohorts(
        &mut self,
        params: &AttentionParams<'_>,
        shape: RowShape,
        heads_per_group: usize,
        sequences: &[AttentionSequence<'_>],
    ) {
        self.cohorts.clear();
        self.cohort_of.clear();
        for (index, sequence) in sequences.iter().enumerate() {
            let rows = sequence.query_len * heads_per_group;
            if is_local(params) || rows == 0 || 2 * rows > BLOCK_ROWS {
                self.cohort_of.push(None);
                continue;
            }
            let found = self.cohorts.iter().position(|cohort| {
                cohort.rows + rows <= BLOCK_ROWS && common_splits(shape, &sequences[cohort.leader], sequence) > 0
            });
            let found = found.unwrap_or_else(|| {
                self.cohorts.push(Cohort { leader: index, splits: usize::MAX, rows: 0, sequences: 0 });
                self.cohorts.len() - 1
            });
            let cohort = &mut self.cohorts[found];
            cohort.splits = cohort.splits.min(common_splits(shape, &sequences[cohort.leader], sequence));
            cohort.rows += rows;
            cohort.sequences += 1;
            self.cohort_of.push(Some(found));
        }
        for cohort in &mut self.cohort_of {
            *cohort = cohort.filter(|&cohort| self.cohorts[cohort].sequences > 1);
        }
    }

    /// Adds the tasks of a cohort's head: those of the splits it shares, and one for the rest of each sequence.
    #[expect(clippy::too_many_arguments, reason = "what a plan is made from")]
    fn push_cohort(
        &mut self,
        cohort: usize,
        kv_head: usize,
        params: &AttentionParams<'_>,
        shape: RowShape,
        heads_per_group: usize,
        sequences: &[AttentionSequence<'_>],
        partials_len: &mut usize,
    ) {
        let Cohort { splits: shared, sequences: count, .. } = self.cohorts[cohort];
        if count < 2 {
            return;
        }
        let first = self.members.len();
        for (index, sequence) in sequences.iter().enumerate() {
            if self.cohort_of[index] == Some(cohort) {
                let queries = 0..sequence.query_len;
                let (splits, gap) = visible_splits(params, sequence, &queries, shape.page_tokens);
                let tasks = shared + usize::from(splits.end > shared);
                let rows = queries.len() * heads_per_group;
                let group = Some(self.push_group(splits, tasks, rows, shape, partials_len));
                self.members.push(Member { sequence: index, queries, gap, group });
            }
        }
        let members = first..self.members.len();
        self.tasks.extend((0..shared).map(|split| Task {
            members: members.clone(),
            kv_head,
            splits: split..split + 1,
        }));
        for member in members {
            let all = self.members[member].group.map_or(0..0, |group| self.groups[group].splits.clone());
            if all.end > shared {
                self.tasks.push(Task { members: member..member + 1, kv_head, splits: shared..all.end });
            }
        }
    }

    fn push_task(&mut self, member: Member, kv_head: usize, splits: Range<usize>) {
        let members = self.members.len()..self.members.len() + 1;
        self.members.push(member);
        self.tasks.push(Task { members, kv_head, splits });
    }

    /// Adds a group of `rows` rows whose splits are summed by so many tasks.
    fn push_group(
        &mut self,
        splits: Range<usize>,
        tasks: usize,
        rows: usize,
        shape: RowShape,
        partials_len: &mut usize,
    ) -> usize {
        let (partials_start, unfinished) = (*partials_len, AtomicU32::new(tasks as u32));
        *partials_len += splits.len() * rows * Rows::record_len(shape);
        self.groups.push(Group { splits, partials_start, unfinished });
        self.groups.len() - 1
    }
}

/// How many whole splits from the start on have the same pages in both.
fn common_splits(shape: RowShape, a: &AttentionSequence<'_>, b: &AttentionSequence<'_>) -> usize {
    let split_pages = split_tokens(shape.page_tokens) / shape.page_tokens;
    // Tokens of this step are not seen by all queries.
    let seen = |sequence: &AttentionSequence<'_>| (sequence.context_len - sequence.query_len) / shape.page_tokens;
    let pages = seen(a).min(seen(b));
    let (a, b) = (a.pages[..pages].chunks_exact(split_pages), b.pages[..pages].chunks_exact(split_pages));
    a.zip(b).take_while(|(a, b)| a == b).count()
}

fn split_tokens(page_tokens: usize) -> usize {
    SPLIT_TOKENS.next_multiple_of(page_tokens)
}

/// Context positions that query `index` of a sequence sees; where they do not begin with the first, sink tokens as well.
fn visible(params: &AttentionParams<'_>, sequence: &AttentionSequence<'_>, index: usize) -> Range<usize> {
    let position = sequence.context_len - sequence.query_len + index;
    let end = if params.causal { position + 1 } else { sequence.context_len };
    if !is_local(params) {
        return 0..end;
    }
    let (mut first, mut last) = (0, end);
    if let Some(window) = params.window {
        (first, last) = ((position + 1).saturating_sub(window), last.min(position.saturating_add(window)));
    }
    if let Some(chunk) = params.chunk {
        let start = position / chunk * chunk;
        (first, last) = (first.max(start), last.min(start.saturating_add(chunk)));
    }
    if first <= params.sink_tokens { 0..last.max(end.min(params.sink_tokens)) } else { first..last }
}

/// Whether queries may not see what is far from them.
fn is_local(params: &AttentionParams<'_>) -> bool {
    params.window.is_some() || params.chunk.is_some()
}

/// Sink tokens there are.
fn sink_tokens(params: &AttentionParams<'_>) -> usize {
    if is_local(params) { params.sink_tokens } else { 0 }
}

/// The splits of which some query sees a token, and those between that are not counted.
fn visible_splits(
    params: &AttentionParams<'_>,
    sequence: &AttentionSequence<'_>,
    queries: &Range<usize>,
    page_tokens: usize,
) -> (Range<usize>, Gap) {
    let split = split_tokens(page_tokens);
    let (first, last) = (visible(params, sequence, queries.start), visible(params, sequence, queries.end - 1));
    let splits = first.start / split..last.end.div_ceil(split);
    let sinks = sink_tokens(params).div_ceil(split);
    if sinks == 0 {
        return (splits, Gap::default());
    }
    let gap = Gap { start: sinks, len: splits.start.saturating_sub(sinks) };
    (0..splits.end - gap.len, gap)
}

/// The context positions of a split that are computed with, where rows see `seen` and sink tokens.
fn context_of_split(split: Range<usize>, seen: &Range<usize>, sinks: usize) -> Range<usize> {
    if split.start >= sinks || seen.start <= split.start {
        return seen.start.max(split.start)..seen.end.min(split.end);
    }
    split.start..if seen.start < split.end { seen.end.min(split.end) } else { sinks.min(split.end) }
}

/// A call's arguments and shared buffers.
struct Call<'a> {
    params: &'a AttentionParams<'a>,
    shape: RowShape,
    heads_per_group: usize,
    q: &'a [f32],
    kv: KvLayer<'a>,
    sequences: &'a [AttentionSequence<'a>],
    tasks: &'a [Task],
    members: &'a [Member],
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
        let members = &self.members[task.members.clone()];
        self.gather::<S, K>(simd, task, members, rows);
        let seen = rows.any_visible();
        let split_tokens = split_tokens(self.shape.page_tokens);
        let pages = self.sequences[members[0].sequence].pages;
        let split_pages = split_tokens / self.shape.page_tokens;
        let sinks = sink_tokens(self.params);
        for number in task.splits.clone() {
            let split = members[0].gap.skip(number);
            let context = context_of_split(split * split_tokens..(split + 1) * split_tokens, &seen, sinks);
            // Tasks are taken one after another, mostly.
            let next = if number + 1 < task.splits.end {
                Some((task, number + 1))
            } else {
                self.tasks.get(index + 1).map(|task| (task, task.splits.start))
            };
            let next = next.map(|(task, number)| (task, self.members[task.members.start].gap.skip(number)));
            // Nobody sees the pages between sink tokens and window: any that holds numbers will do.
            let is_unseen = |index: usize| {
                let Range { start, end } = index * self.shape.page_tokens..(index + 1) * self.shape.page_tokens;
                sinks > 0 && start >= sinks && end <= seen.start
            };
            rows.attend_split::<S, K>(
                simd,
                self.params,
                context,
                |index| self.kv.head(pages[if is_unseen(index) { 0 } else { index }], task.kv_head),
                |index| {
                    next.and_then(|(task, next)| self.page_of(task, index + next * split_pages - split * split_pages))
                },
            );
            let mut first = 0;
            for member in members {
                match member.group {
                    None => rows.merge_split(simd),
                    Some(group) => self.save(&self.groups[group], number, rows, first, self.num_rows(member)),
                }
                first += self.num_rows(member);
            }
        }
        for member in members {
            let finished = member.group.is_none_or(|group| {
                let group = &self.groups[group];
                // The last to finish joins the splits: everybody's sums are visible to it, in the order of the context.
                let last = group.unfinished.fetch_sub(1, Ordering::AcqRel) == 1;
                if last {
                    self.join(simd, group, rows, self.num_rows(member));
                }
                last
            });
            if finished {
                self.scatter::<S, K>(simd, member, task.kv_head, rows);
            }
        }
    }

    fn num_rows(&self, member: &Member) -> usize {
        member.queries.len() * self.heads_per_group
    }

    /// Where keys and values of a task's head begin in the page at a place in its context, if it has that many.
    fn page_of(&self, task: &Task, index: usize) -> Option<(*const u8, *const u8)> {
        let sequence = &self.sequences[self.members[task.members.start].sequence];
        let page = *sequence.pages.get(index).filter(|_| index * self.shape.page_tokens < sequence.context_len)?;
        // Before the window there may be none any more.
        if page as usize >= self.kv.num_pages() {
            return None;
        }
        let (keys, values) = self.kv.head(page, task.kv_head);
        Some((keys.as_ptr(), values.as_ptr()))
    }

    /// The first of the `heads_per_group` rows of `q` and `out` that query `index` of a sequence has for a key/value head.
    fn first_row(&self, sequence: usize, kv_head: usize, index: usize) -> usize {
        let token = self.sequences[sequence].query_start + index;
        token * self.params.num_heads + kv_head * self.heads_per_group
    }

    #[inline(always)]
    fn gather<S: Simd, K: Stored>(&self, simd: S, task: &Task, members: &[Member], rows: &mut Rows) {
        let head_dim = self.shape.head_dim;
        rows.clear(self.shape);
        for Member { sequence, queries, .. } in members {
            for index in queries.clone() {
                let AttentionSequence { context_len, query_len, .. } = self.sequences[*sequence];
                let visible = visible(self.params, &self.sequences[*sequence], index);
                let start = self.first_row(*sequence, task.kv_head, index) * head_dim;
                for query in self.q[start..][..self.heads_per_group * head_dim].chunks_exact(head_dim) {
                    rows.push(query, self.params, visible.clone());
                }
                if let Some(slopes) = self.params.alibi {
                    let slopes = &slopes[task.kv_head * self.heads_per_group..][..self.heads_per_group];
                    rows.push_biases(slopes, self.params, context_len - query_len + index);
                }
            }
        }
        rows.prepare::<S, K>(simd);
    }

    #[inline(always)]
    fn scatter<S: Simd, K: Stored>(&self, simd: S, member: &Member, kv_head: usize, rows: &Rows) {
        let value_dim = self.shape.value_dim;
        for (row, index) in member.queries.clone().enumerate() {
            let start = self.first_row(member.sequence, kv_head, index) * value_dim;
            // SAFETY: sequences do not overlap, and one task at a time finishes these queries of this head.
            #[expect(unsafe_code, reason = "disjoint rows")]
            let out = unsafe { self.out.slice(start, self.heads_per_group * value_dim) };
            for (head, out) in out.chunks_exact_mut(value_dim).enumerate() {
                let sink = self.params.sinks.map(|sinks| sinks[kv_head * self.heads_per_group + head]);
                rows.finish::<S, K>(simd, row * self.heads_per_group + head, sink, out);
            }
        }
    }

    fn partial_range(&self, group: &Group, split: usize, num_rows: usize) -> (usize, usize) {
        let len = num_rows * Rows::record_len(self.shape);
        (group.partials_start + (split - group.splits.start) * len, len)
    }

    fn save(&self, group: &Group, split: usize, rows: &Rows, first: usize, num_rows: usize) {
        let (start, len) = self.partial_range(group, split, num_rows);
        // SAFETY: each split of a group is one task's, and read only after all have finished.
        #[expect(unsafe_code, reason = "disjoint splits")]
        rows.save_split(first, unsafe { self.partials.slice(start, len) });
    }

    #[inline(always)]
    fn join<S: Simd>(&self, simd: S, group: &Group, rows: &mut Rows, num_rows: usize) {
        rows.restart(num_rows);
        for split in group.splits.clone() {
            let (start, len) = self.partial_range(group, split, num_rows);
            // SAFETY: all tasks of the group have finished writing.
            #[expect(unsafe_code, reason = "no writer is left")]
            rows.merge_saved(simd, unsafe { self.partials.slice(start, len) });
        }
    }
}
