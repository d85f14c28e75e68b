//! Runs contexts, questions and answers through a decoder whose steps are taken by hand: a context is computed once, each
//! question after it, and all answers to a question in one step over pages that they share.

use super::documents::Context;
use anyhow::{Result, bail};
use indicatif::ProgressBar;
use std::sync::Arc;
use yantra_kernels::{AttentionSequence, Compute, KvFormat, argmax, log_sum_exp};
use yantra_model::{Batch, Decoder, KvCache, PAGE_TOKENS, Scratch};

/// Tokens beside the context that a question and its answer may take.
pub(super) const ROOM: usize = 256;

/// Tokens of a step.
const CHUNK: usize = 256;

/// Ranges of positions for which losses are summed up.
const RANGES: usize = 16;

/// What a context's questions gave.
pub(super) struct Answers {
    /// Log-probability of each answer to each question, `[asked][answered]`.
    pub(super) logprobs: Vec<Vec<f64>>,
    /// Whether the right answer's tokens were each the likeliest.
    pub(super) greedy: Vec<bool>,
}

/// How well a text is predicted.
pub(super) struct Positions {
    /// The ends of the ranges of positions.
    pub(super) bounds: Vec<usize>,
    /// Mean negative log-probability in each.
    pub(super) losses: Vec<f64>,
}

pub(super) struct Stepper {
    decoder: Decoder,
    compute: Arc<Compute>,
    kv: KvCache,
    scratch: Scratch,
    logits: Vec<f32>,
    /// Pages of the one context; those after them are answers' own.
    num_pages: usize,
}

/// A sequence's tokens that are to be computed.
struct Part<'a> {
    tokens: &'a [u32],
    start: usize,
    pages: Vec<u32>,
}

impl Stepper {
    pub(super) fn new(
        decoder: Decoder,
        compute: Arc<Compute>,
        format: KvFormat,
        longest: usize,
        answers: usize,
    ) -> Result<Self> {
        let num_pages = longest.div_ceil(PAGE_TOKENS);
        let kv = KvCache::new(decoder.spec(), format, num_pages + 2 * answers)?;
        let scratch = decoder.scratch();
        Ok(Self { decoder, compute, kv, scratch, logits: Vec::new(), num_pages })
    }

    /// Asks all questions of a context.
    pub(super) fn ask(&mut self, context: &Context, bar: &ProgressBar) -> Result<Answers> {
        let length = context.prompt.len();
        self.prefill(&context.prompt, 0)?;
        bar.inc(1);
        let mut answers = Answers { logprobs: Vec::new(), greedy: Vec::new() };
        for (asked, question) in context.questions.iter().enumerate() {
            let longest = context.answers.iter().map(Vec::len).max().unwrap_or(0);
            if question.len() + longest > ROOM || longest > PAGE_TOKENS {
                bail!("a question of {} tokens and an answer of {longest} are too long", question.len());
            }
            self.prefill(question, length)?;
            let first = self.logits.clone();
            let (logprobs, greedy) = self.score(&first, length + question.len(), &context.answers, asked)?;
            answers.logprobs.push(logprobs);
            answers.greedy.push(greedy);
            bar.inc(1);
        }
        Ok(answers)
    }

    /// Computes tokens of the context from a position on; leaves the logits after the last.
    fn prefill(&mut self, tokens: &[u32], start: usize) -> Result<()> {
        let pages: Vec<u32> = (0..self.num_pages as u32).collect();
        for (index, chunk) in tokens.chunks(CHUNK).enumerate() {
            let last = [chunk.len() as u32 - 1];
            let part = Part { tokens: chunk, start: start + index * CHUNK, pages: pages.clone() };
            self.step(&[part], &last)?;
        }
        Ok(())
    }

    /// The log-probabilities of answers that follow position `end`, and whether the one asked for is the greedy one.
    fn score(&mut self, first: &[f32], end: usize, answers: &[Vec<u32>], asked: usize) -> Result<(Vec<f64>, bool)> {
        let shared = end / PAGE_TOKENS;
        let mut parts = Vec::new();
        for (index, answer) in answers.iter().enumerate() {
            let own = (self.num_pages + 2 * index) as u32;
            self.kv.copy_page(shared as u32, own);
            let pages = (0..shared as u32).chain([own, own + 1]).collect();
            // The last token predicts nothing that is asked for.
            parts.push(Part { tokens: &answer[..answer.len() - 1], start: end, pages });
        }
        let rows: Vec<u32> = (0..parts.iter().map(|part| part.tokens.len() as u32).sum()).collect();
        self.step(&parts, &rows)?;
        let vocab_size = self.decoder.spec().vocab_size;
        let mut rows = self.logits.chunks_exact(vocab_size);
        let mut logprobs = Vec::new();
        let mut greedy = false;
        for (index, answer) in answers.iter().enumerate() {
            let of_answer = std::iter::once(first).chain(rows.by_ref().take(answer.len() - 1));
            let (mut sum, mut all_likeliest) = (0.0, true);
            for (row, token) in of_answer.zip(answer) {
                sum += logprob(row, *token);
                all_likeliest &= argmax(row) == *token as usize;
            }
            logprobs.push(sum);
            greedy |= index == asked && all_likeliest;
        }
        Ok((logprobs, greedy))
    }

    /// How well a text is predicted, by position.
    pub(super) fn predict(&mut self, tokens: &[u32]) -> Result<Positions> {
        let vocab_size = self.decoder.spec().vocab_size;
        let pages: Vec<u32> = (0..self.num_pages as u32).collect();
        let (mut sums, mut counts) = (vec![0.0; RANGES], vec![0_usize; RANGES]);
        for (index, chunk) in tokens.chunks(CHUNK).enumerate() {
            let start = index * CHUNK;
            let rows: Vec<u32> = (0..chunk.len() as u32).collect();
            self.step(&[Part { tokens: chunk, start, pages: pages.clone() }], &rows)?;
            for (row, position) in self.logits.chunks_exact(vocab_size).zip(start + 1..tokens.len()) {
                let range = position * RANGES / tokens.len();
                sums[range] -= logprob(row, tokens[position]);
                counts[range] += 1;
            }
        }
        Ok(Positions {
            bounds: (1..=RANGES).map(|range| range * tokens.len() / RANGES).collect(),
            losses: sums.iter().zip(&counts).map(|(sum, count)| sum / (*count).max(1) as f64).collect(),
        })
    }

    fn step(&mut self, parts: &[Part<'_>], logit_rows: &[u32]) -> Result<()> {
        let (mut tokens, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        let mut sequences = Vec::new();
        for Part { tokens: new, start, pages } in parts {
            let (query_start, context_len) = (tokens.len(), start + new.len());
            sequences.push(AttentionSequence { query_start, query_len: new.len(), context_len, pages });
            for (position, token) in (*start..).zip(*new) {
                tokens.push(*token);
                positions.push(position as u32);
                slots.push(pages[position / PAGE_TOKENS] * PAGE_TOKENS as u32 + (position % PAGE_TOKENS) as u32);
            }
        }
        let (tokens, positions, slots) = (&tokens, &positions, &slots);
        let batch = Batch { tokens, positions, slots, sequences: &sequences, logit_rows, adapters: &[] };
        Ok(self.decoder.forward(&self.compute, &batch, &mut self.kv, &mut self.scratch, &mut self.logits)?)
    }
}

fn logprob(row: &[f32], token: u32) -> f64 {
    f64::from(row[token as usize]) - f64::from(log_sum_exp(row))
}
