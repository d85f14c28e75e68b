//! The router of a mixture of experts: which experts a token goes to and with what weights, its tokens sorted by expert,
//! and their results added up (Shazeer et al. 2017, arXiv:1701.06538).
//!
//! Every choice has one outcome: of equal scores the lower expert is chosen. What a token is given depends on its own
//! logits only, and its experts' results are added in the order in which they were chosen.

use crate::{
    Compute,
    parallel::{FORK_THRESHOLD, SharedSlice, for_each_row_group},
    simd::{Simd, simd_dispatch},
};
use std::{cell::Cell, ops::Range};

/// How experts' logits become the scores that weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExpertScoring {
    /// Softmax over all experts (Mixtral, Qwen, DeepSeek-V2).
    Softmax,
    /// Softmax over the chosen ones, which are chosen by their logits (gpt-oss).
    SoftmaxOfChosen,
    /// A sigmoid of each logit (DeepSeek-V3, Llama 4).
    Sigmoid,
}

/// What a group of experts is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupScoring {
    /// The best of its experts (DeepSeek-V2, arXiv:2405.04434).
    Best,
    /// The sum of the two best (DeepSeek-V3, arXiv:2412.19437).
    SumOfBestTwo,
}

/// Experts in groups of neighbours, few of which a token's experts are chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// How many groups there are, all of the same size.
    pub count: usize,
    /// How many groups are chosen first.
    pub chosen: usize,
    /// By what they are chosen.
    pub scoring: GroupScoring,
}

/// How a router chooses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Router<'a> {
    /// Experts there are.
    pub num_experts: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// What weights are made from.
    pub scoring: ExpertScoring,
    /// Added to scores where experts and groups are chosen, `[num_experts]`; weights do not know of it.
    pub choice_bias: Option<&'a [f32]>,
    /// Groups that are chosen before experts are.
    pub groups: Option<ExpertGroups>,
    /// Whether a token's weights are divided by their sum.
    pub normalize: bool,
    /// Factor of the weights.
    pub scale: f32,
}

/// Added to a sum that weights are divided by (DeepSeek's own code), so that none is divided by zero.
const LEAST_SUM: f32 = 1e-20;

/// Chooses the experts of every token, best first: from `logits`, `[num_tokens, num_experts]`, to `experts` and `weights`,
/// `[num_tokens, top_k]`.
///
/// # Panics
/// If slices do not have these shapes, groups do not divide the experts, or fewer than `top_k` experts can be chosen.
pub fn route(cx: &Compute, router: &Router<'_>, logits: &[f32], experts: &mut [u32], weights: &mut [f32]) {
    let Router { num_experts, top_k, .. } = *router;
    let num_tokens = router.check(logits, experts.len(), weights.len());
    let (experts, weights) = (SharedSlice::new(experts), SharedSlice::new(weights));
    let work = num_tokens * num_experts * (top_k + 4);
    let num_tasks = (work / FORK_THRESHOLD).clamp(1, cx.num_threads() * 4);
    cx.run(num_tasks, &|task| {
        let tokens = task * num_tokens / num_tasks..(task + 1) * num_tokens / num_tasks;
        // SAFETY: tasks have disjoint tokens.
        #[expect(unsafe_code, reason = "disjoint by construction")]
        let (experts, weights) = unsafe {
            let (start, len) = (tokens.start * top_k, tokens.len() * top_k);
            (experts.slice(start, len), weights.slice(start, len))
        };
        let logits = &logits[tokens.start * num_experts..tokens.end * num_experts];
        let mut scores = SCORES.take();
        for ((logits, experts), weights) in
            logits.chunks_exact(num_experts).zip(experts.chunks_exact_mut(top_k)).zip(weights.chunks_exact_mut(top_k))
        {
            router.choose(logits, &mut scores, experts, weights);
        }
        SCORES.set(scores);
    });
}

thread_local! {
    /// Kept by each thread, so that a step allocates nothing once they have grown.
    static SCORES: Cell<Scores> = Cell::default();
}

#[derive(Default)]
struct Scores {
    /// What weights are made from, `[num_experts]`.
    scores: Vec<f32>,
    /// What experts are chosen by; NaN of those that can not be, or have been.
    choice: Vec<f32>,
    /// What groups are chosen by, likewise.
    groups: Vec<f32>,
}

impl Router<'_> {
    /// The number of tokens.
    fn check(&self, logits: &[f32], experts: usize, weights: usize) -> usize {
        let Self { num_experts, top_k, .. } = *self;
        assert!(num_experts > 0 && (1..=num_experts).contains(&top_k), "some of the experts for each token");
        let num_tokens = logits.len() / num_experts;
        assert_eq!(logits.len(), num_tokens * num_experts, "logits of every expert");
        assert!(experts == num_tokens * top_k && weights == experts, "experts and weights of every token");
        assert!(self.choice_bias.is_none_or(|bias| bias.len() == num_experts), "a bias for every expert");
        if let Some(ExpertGroups { count, chosen, .. }) = self.groups {
            assert!(count > 0 && num_experts.is_multiple_of(count), "groups of the same size");
            assert!(chosen <= count && top_k <= chosen * (num_experts / count), "enough experts in the chosen groups");
        }
        num_tokens
    }

    /// Chooses a token's experts.
    fn choose(&self, logits: &[f32], buffers: &mut Scores, experts: &mut [u32], weights: &mut [f32]) {
        let Scores { scores, choice, groups } = buffers;
        scores.clear();
        scores.extend_from_slice(logits);
        match self.scoring {
            ExpertScoring::Softmax => softmax(scores),
            ExpertScoring::SoftmaxOfChosen => {}
            ExpertScoring::Sigmoid => scores.iter_mut().for_each(|score| *score = 1.0 / (1.0 + (-*score).exp())),
        }
        choice.clear();
        // The larger of NaN and minus infinity is the latter.
        let bias = |expert: usize| self.choice_bias.map_or(0.0, |bias| bias[expert]);
        let score_of_choice = |(expert, score): (usize, &f32)| (score + bias(expert)).max(f32::NEG_INFINITY);
        choice.extend(scores.iter().enumerate().map(score_of_choice));
        if let Some(limit) = self.groups {
            limit.apply(choice, groups);
        }
        for (expert, weight) in experts.iter_mut().zip(&mut *weights) {
            let best = take_best(choice);
            (*expert, *weight) = (best as u32, scores[best]);
        }
        if self.scoring == ExpertScoring::SoftmaxOfChosen {
            softmax(weights);
        }
        let sum = if self.normalize { weights.iter().sum::<f32>() + LEAST_SUM } else { 1.0 };
        weights.iter_mut().for_each(|weight| *weight = *weight / sum * self.scale);
    }
}

impl ExpertGroups {
    /// Makes the experts of groups that are not chosen impossible to choose.
    fn apply(self, choice: &mut [f32], groups: &mut Vec<f32>) {
        let group_len = choice.len() / self.count;
        groups.clear();
        groups.extend(choice.chunks_exact(group_len).map(|scores| {
            let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            for &score in scores {
                (first, second) = if score > first { (score, first) } else { (first, second.max(score)) };
            }
            let of_two = self.scoring == GroupScoring::SumOfBestTwo && group_len > 1;
            if of_two { (first + second).max(f32::NEG_INFINITY) } else { first }
        }));
        for _ in 0..self.chosen {
            take_best(groups);
        }
        for (scores, group) in choice.chunks_exact_mut(group_len).zip(groups) {
            if !group.is_nan() {
                scores.fill(f32::NAN);
            }
        }
    }
}

/// The first of the largest scores that are not NaN, which becomes NaN.
fn take_best(scores: &mut [f32]) -> usize {
    let mut best = scores.iter().position(|score| !score.is_nan()).unwrap_or(0);
    for (index, &score) in scores.iter().enumerate() {
        if score > scores[best] {
            best = index;
        }
    }
    scores[best] = f32::NAN;
    best
}

fn softmax(x: &mut [f32]) {
    let max = x.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
    x.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

/// Assignments of tokens to experts, sorted by expert, those of an expert in the order of tokens. A reusable buffer.
#[derive(Clone, Debug, Default)]
pub struct SortedAssignments {
    top_k: usize,
    /// Where each expert's assignments begin; one more at the end.
    starts: Vec<u32>,
    /// The token of each, sorted.
    tokens: Vec<u32>,
    /// Where each is among the sorted.
    places: Vec<u32>,
}

impl SortedAssignments {
    /// Sorts `experts`, `[num_tokens, top_k]`, by counting.
    ///
    /// # Panics
    /// If an expert is not below `num_experts`, or there are assignments of part of a token.
    pub fn sort(&mut self, experts: &[u32], top_k: usize, num_experts: usize) {
        assert!(top_k > 0 && experts.len().is_multiple_of(top_k), "experts of whole tokens");
        let Self { starts, tokens, places, .. } = self;
        self.top_k = top_k;
        starts.clear();
        starts.resize(num_experts + 1, 0);
        for &expert in experts {
            assert!((expert as usize) < num_experts, "an expert that there is");
            starts[expert as usize + 1] += 1;
        }
        for expert in 0..num_experts {
            starts[expert + 1] += starts[expert];
        }
        tokens.resize(experts.len(), 0);
        places.resize(experts.len(), 0);
        // While they are handed out, the start of an expert is its next place.
        for (index, &expert) in experts.iter().enumerate() {
            let place = starts[expert as usize];
            starts[expert as usize] += 1;
            tokens[place as usize] = (index / top_k) as u32;
            places[index] = place;
        }
        starts.copy_within(..num_experts, 1);
        starts[0] = 0;
    }

    /// The token of each assignment, sorted by expert: the rows that the experts' input is made of.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Where each assignment, `[num_tokens, top_k]`, is among the sorted.
    pub fn places(&self) -> &[u32] {
        &self.places
    }

    /// An expert's assignments among the sorted.
    ///
    /// # Panics
    /// If there is no such expert.
    pub fn of(&self, expert: usize) -> Range<usize> {
        self.starts[expert] as usize..self.starts[expert + 1] as usize
    }

    /// Experts that some token goes to, in order, each with its assignments among the sorted.
    pub fn used(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let all = self.starts.windows(2).map(|pair| pair[0] as usize..pair[1] as usize);
        all.enumerate().filter(|(_, assignments)| !assignments.is_empty())
    }
}

/// Adds to each token's row what its experts gave, weighted: `out[token] += weight * rows[place]`, one after another in the
/// order in which they were chosen. `rows` is `[assignments, cols]`, sorted; `weights` is `[num_tokens, top_k]`; `out` is
/// `[num_tokens, cols]`.
///
/// # Panics
/// If slices do not have these shapes.
pub fn scatter_add_weighted(
    cx: &Compute,
    sorted: &SortedAssignments,
    rows: &[f32],
    weights: &[f32],
    cols: usize,
    out: &mut [f32],
) {
    let SortedAssignments { top_k, places, .. } = sorted;
    assert_eq!(weights.len(), places.len(), "a weight for every assignment");
    assert_eq!(rows.len(), places.len() * cols, "a row for every assignment");
    assert_eq!(out.len() * top_k, rows.len(), "a row for every token");
    for_each_row_group(cx, out, cols, cols * (top_k + 1), &|first, out| {
        for (token, out) in (first..).zip(out.chunks_exact_mut(cols)) {
            let slots = token * top_k..(token + 1) * top_k;
            add_weighted(cx.level(), rows, &places[slots.clone()], &weights[slots], out);
        }
    });
}

simd_dispatch! {
    fn add_weighted(rows: &[f32], places: &[u32], weights: &[f32], out: &mut [f32]) = add_weighted_body;
}

#[inline(always)]
fn add_weighted_body<S: Simd>(simd: S, rows: &[f32], places: &[u32], weights: &[f32], out: &mut [f32]) {
    let (cols, whole) = (out.len(), out.len() / S::LANES * S::LANES);
    let (vectors, rest) = out.split_at_mut(whole);
    for (index, out) in vectors.chunks_exact_mut(S::LANES).enumerate() {
        let mut sum = simd.load_slice(out);
        for (&place, &weight) in places.iter().zip(weights) {
            let row = simd.load_slice(&rows[place as usize * cols + index * S::LANES..]);
            sum = simd.fma(row, simd.splat(weight), sum);
        }
        simd.store_slice(out, sum);
    }
    let mut sum = simd.load_partial(rest, 0.0);
    for (&place, &weight) in places.iter().zip(weights) {
        let row = simd.load_partial(&rows[place as usize * cols + whole..(place as usize + 1) * cols], 0.0);
        sum = simd.fma(row, simd.splat(weight), sum);
    }
    simd.store_partial(rest, sum);
}

#[cfg(test)]
mod tests;
