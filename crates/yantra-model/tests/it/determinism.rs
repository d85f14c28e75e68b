//! A token's logits do not depend on chunking, threads or neighbours, to the bit; malformed batches are refused.

use crate::{
    harness::{Runner, model, shared},
    made::{Shape, llama_of},
};
use std::ops::Range;
use yantra_formats::{Checkpoint, GgufFile};
use yantra_kernels::{AttentionSequence, Compute, CpuLevel, KvFormat, WeightFormat};
use yantra_model::{Batch, Decoder, KvCache, LoadOptions, ModelError, PAGE_TOKENS};

const SMOLLM2: &str = "smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf";

fn tokens(count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * 7919 % 40_000 + 20) as u32).collect()
}

#[test]
fn chunks_and_threads_do_not_change_a_bit() {
    let Some(path) = model(SMOLLM2) else { return };
    let tokens = tokens(75);
    let run = |threads: usize, chunks: &[usize]| {
        let mut runner = Runner::with_compute(&path, KvFormat::F16, 128, Compute::new(threads));
        let (mut start, mut last) = (0, Vec::new());
        for chunk in chunks {
            last = runner.feed(&tokens[start..start + chunk], start, chunk - 1);
            start += chunk;
        }
        assert_eq!(start, tokens.len());
        last
    };
    let whole = run(1, &[75]);
    for chunks in [&[74, 1][..], &[33, 40, 2], &[1, 1, 1, 31, 9, 32]] {
        assert!(run(1, chunks) == whole, "chunks {chunks:?}");
        assert!(run(3, chunks) == whole, "three threads, chunks {chunks:?}");
    }
}

/// Numbers that look random (a linear congruential generator).
struct Random(u64);

impl Random {
    fn within(&mut self, range: Range<usize>) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        range.start + (self.0 >> 33) as usize % range.len()
    }
}

/// A sequence that is computed again and again in batches, its common start but once.
struct Sequence {
    tokens: Vec<u32>,
    pages: Vec<u32>,
    /// Tokens that are in the cache from the beginning.
    shared: usize,
    computed: usize,
    /// The logits of every position, `[tokens, vocab]`, computed alone and token by token.
    alone: Vec<f32>,
}

const SHAPE: Shape = Shape { layers: 2, hidden: 128, inner: 256, heads: 4, kv_heads: 2, vocab: 64, context: 512 };

/// Sequences, half of which begin with the same nine pages.
fn sequences(runner: &mut Runner, random: &mut Random) -> Vec<Sequence> {
    const SHARED_PAGES: usize = 9;
    let mut tokens = |count: usize| Vec::from_iter((0..count).map(|_| random.within(0..SHAPE.vocab) as u32));
    let start = tokens(SHARED_PAGES * PAGE_TOKENS);
    let mut next_page = SHARED_PAGES as u32;
    (0..20)
        .map(|index| {
            let shared_pages = if index % 2 == 0 { SHARED_PAGES } else { 0 };
            let shared = shared_pages * PAGE_TOKENS;
            let tokens = [&start[..shared], &tokens(20 + 7 * index)].concat();
            let own_pages = (tokens.len().div_ceil(PAGE_TOKENS) - shared_pages) as u32;
            let pages = (0..shared_pages as u32).chain(next_page..next_page + own_pages).collect();
            next_page += own_pages;
            let alone = (0..tokens.len()).flat_map(|at| runner.feed(&tokens[at..=at], at, 0)).collect();
            Sequence { tokens, pages, shared, computed: shared, alone }
        })
        .collect()
}

/// Computes random batches and compares every logit with that of its sequence alone.
fn check_random_batches(level: CpuLevel, format: KvFormat, count: usize) {
    let computes = [1, 3].map(|threads| Compute::with_level(threads, level).unwrap());
    let bytes = llama_of(&computes[0], WeightFormat::Q4_1, &SHAPE);
    let checkpoint = Checkpoint::Gguf(GgufFile::from_bytes(bytes).unwrap());
    let compute = Compute::with_level(1, level).unwrap();
    let mut runner = Runner::with_options(&checkpoint, format, SHAPE.context, LoadOptions::default(), compute);
    let mut random = Random(7);
    let mut sequences = sequences(&mut runner, &mut random);
    let decoder = &runner.decoder;
    let mut kv = KvCache::new(decoder.spec(), format, 200).unwrap();
    let (mut scratch, mut logits) = (decoder.scratch(), Vec::new());
    // The common start is in the cache before the batches begin.
    let start = sequences[0].shared as u32;
    let (positions, tokens) = (Vec::from_iter(0..start), sequences[0].tokens[..start as usize].to_vec());
    let span = AttentionSequence {
        query_start: 0,
        query_len: start as usize,
        context_len: start as usize,
        pages: &sequences[0].pages,
    };
    let batch = Batch {
        tokens: &tokens,
        positions: &positions,
        slots: &positions,
        sequences: &[span],
        logit_rows: &[],
        adapters: &[],
    };
    decoder.forward(&computes[0], &batch, &mut kv, &mut scratch, &mut logits).unwrap();
    for index in 0..count {
        let first = random.within(0..sequences.len());
        let members: Vec<usize> = (0..random.within(1..17)).map(|member| (first + member) % sequences.len()).collect();
        let (mut tokens, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        let (mut spans, mut rows) = (Vec::new(), Vec::new());
        for &member in &members {
            let sequence = &mut sequences[member];
            if sequence.computed == sequence.tokens.len() {
                sequence.computed = sequence.shared;
            }
            let wanted = if random.within(0..10) < 7 { 1 } else { random.within(1..50) };
            let chunk = sequence.computed..sequence.tokens.len().min(sequence.computed + wanted);
            spans.push((tokens.len(), chunk.len(), chunk.end, member));
            for at in chunk.clone() {
                rows.push(tokens.len() as u32);
                tokens.push(sequence.tokens[at]);
                positions.push(at as u32);
                slots.push(sequence.pages[at / PAGE_TOKENS] * PAGE_TOKENS as u32 + (at % PAGE_TOKENS) as u32);
            }
            sequence.computed = chunk.end;
        }
        let spans = Vec::from_iter(spans.into_iter().map(|(query_start, query_len, context_len, member)| {
            AttentionSequence { query_start, query_len, context_len, pages: &sequences[member].pages }
        }));
        let batch = Batch {
            tokens: &tokens,
            positions: &positions,
            slots: &slots,
            sequences: &spans,
            logit_rows: &rows,
            adapters: &[],
        };
        decoder.forward(&computes[index % 2], &batch, &mut kv, &mut scratch, &mut logits).unwrap();
        for (span, &member) in spans.iter().zip(&members) {
            let together = &logits[span.query_start * SHAPE.vocab..][..span.query_len * SHAPE.vocab];
            let from = (span.context_len - span.query_len) * SHAPE.vocab;
            let alone = &sequences[member].alone[from..span.context_len * SHAPE.vocab];
            assert!(together == alone, "{level}, {format:?}, batch {index}: sequence {member} of {members:?}");
        }
    }
}

#[test]
fn a_thousand_random_batches_change_no_bit() {
    let best = CpuLevel::detect();
    for (format, count) in [(KvFormat::preferred(best), 800), (KvFormat::Int8, 200)] {
        check_random_batches(best, format, count);
    }
    for level in CpuLevel::supported().into_iter().filter(|&level| level != best) {
        check_random_batches(level, KvFormat::F32, 40);
    }
}

#[test]
fn levels_agree_closely() {
    let Some(path) = shared("data/models/stories260K/hf_f32") else { return };
    let tokens: Vec<u32> = (0..40).map(|i| i * 11 % 512).collect();
    let run = |level| {
        let compute = Compute::with_level(2, level).unwrap();
        Runner::with_compute(&path, KvFormat::F32, 64, compute).feed(&tokens, 0, 0)
    };
    let expected = run(CpuLevel::Scalar);
    for level in CpuLevel::supported() {
        let worst = run(level).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{level}: {worst}");
    }
}

#[test]
fn malformed_batches_are_refused() {
    let Some(path) = shared("data/models/stories260K/hf_f32") else { return };
    let compute = Compute::new(1);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let decoder = Decoder::load(&checkpoint, &compute, LoadOptions::default()).unwrap();
    let mut kv = KvCache::new(decoder.spec(), KvFormat::F32, 2).unwrap();
    let mut check =
        |tokens: &[u32], positions: &[u32], slots: &[u32], sequence: AttentionSequence<'_>, message: &str| {
            let batch = Batch { tokens, positions, slots, sequences: &[sequence], logit_rows: &[], adapters: &[] };
            let result = decoder.forward(&compute, &batch, &mut kv, &mut decoder.scratch(), &mut Vec::new());
            let error = match result {
                Err(ModelError::Batch { message }) => message,
                other => panic!("{other:?}"),
            };
            assert!(error.contains(message), "{error}");
        };
    let sequence = AttentionSequence { query_start: 0, query_len: 1, context_len: 1, pages: &[0] };
    check(&[512], &[0], &[0], sequence, "token 512 is outside the vocabulary of 512");
    check(&[1], &[512], &[0], sequence, "position 512 is outside the context of 512");
    check(&[1], &[0], &[64], sequence, "slot 64 is outside the cache of 64");
    check(&[1], &[], &[0], sequence, "0 positions");
    check(&[1, 1], &[0, 1], &[0, 1], sequence, "sequences cover 1 of 2 tokens");
    check(&[1], &[0], &[0], AttentionSequence { pages: &[2], ..sequence }, "inconsistent sequence");
    check(&[1], &[0], &[0], AttentionSequence { pages: &[], ..sequence }, "inconsistent sequence");
}
