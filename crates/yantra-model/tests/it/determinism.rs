//! A token's logits do not depend on chunking, threads or neighbours, to the bit; malformed batches are refused.

use crate::harness::{Runner, model, shared};
use yantra_formats::Checkpoint;
use yantra_kernels::{AttentionSequence, Compute, CpuLevel, KvFormat};
use yantra_model::{Batch, Decoder, KvCache, LoadOptions, ModelError};

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
            let batch = Batch { tokens, positions, slots, sequences: &[sequence], logit_rows: &[] };
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
