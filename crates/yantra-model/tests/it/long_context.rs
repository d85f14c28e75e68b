//! A long prompt in chunks: memory that does not grow with the square of the context, and time beside what the attention's
//! arithmetic takes at the processor's measured rate.

use crate::{
    harness::Runner,
    made::{Shape, llama_of},
};
use std::time::{Duration, Instant};
use yantra_formats::{Checkpoint, GgufFile};
use yantra_kernels::{Compute, KvFormat, WeightFormat};
use yantra_model::{KvCache, LoadOptions, PAGE_TOKENS};

const HEADS: usize = 8;
const LAYERS: usize = 8;
const CHUNK: usize = 512;

/// Chunks at the end whose time counts.
const LAST_CHUNKS: usize = 8;

/// What is neither weights nor cache may take this much.
const OTHER_BYTES: usize = 300 << 20;

/// The most memory this process has had resident, in bytes; none where the system does not tell.
fn peak_resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? << 10)
}

/// Feeds `context` tokens through a model of random weights and checks what memory that took.
fn check_long_prompt(format: KvFormat, context: usize) {
    let shape = Shape { layers: LAYERS, hidden: 512, inner: 1536, heads: HEADS, kv_heads: 2, vocab: 512, context };
    let compute = Compute::new(2);
    let mut runner = {
        let bytes = llama_of(&compute, WeightFormat::Q8_0, &shape);
        let checkpoint = Checkpoint::Gguf(GgufFile::from_bytes(bytes).unwrap());
        Runner::with_options(&checkpoint, format, context, LoadOptions::default(), compute)
    };
    let tokens: Vec<u32> = (0..context as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 23).collect();
    let mut times: Vec<Duration> = Vec::new();
    let started = Instant::now();
    for (index, chunk) in tokens.chunks(CHUNK).enumerate() {
        let chunk_started = Instant::now();
        let logits = runner.feed(chunk, index * CHUNK, chunk.len() - 1);
        times.push(chunk_started.elapsed());
        assert!(logits.len() == shape.vocab && logits.iter().all(|logit| logit.is_finite()), "chunk {index}");
    }
    let spec = runner.decoder.spec();
    let (weights, cache) =
        (runner.decoder.weight_bytes(), context / PAGE_TOKENS * KvCache::bytes_per_page(spec, format));
    let last = &times[times.len().saturating_sub(LAST_CHUNKS)..];
    let per_token = last.iter().sum::<Duration>().as_secs_f64() / (last.len() * CHUNK) as f64;
    let flops = (4 * context * spec.attention.num_heads * spec.attention.head_dim * LAYERS) as f64;
    eprintln!(
        "{context} tokens, {format:?}: {:.0} s; at the end {:.3} ms per token, {:.1} GFLOP/s of attention in that time; \
         weights {} MiB, cache {} MiB",
        started.elapsed().as_secs_f64(),
        per_token * 1e3,
        flops / per_token / 1e9,
        weights >> 20,
        cache >> 20,
    );
    let Some(resident) = peak_resident() else { return };
    eprintln!("resident at most {} MiB", resident >> 20);
    assert!(resident <= weights + cache + OTHER_BYTES, "{resident} bytes resident, {weights} weights, {cache} cache");
}

#[test]
fn a_prompt_takes_little_memory_beside_its_keys_and_values() {
    check_long_prompt(KvFormat::Int8, 4096);
}

#[test]
#[ignore = "takes minutes"]
fn a_prompt_of_131072_tokens_bf16() {
    check_long_prompt(KvFormat::BF16, 131_072);
}

#[test]
#[ignore = "takes minutes"]
fn a_prompt_of_131072_tokens_int8() {
    check_long_prompt(KvFormat::Int8, 131_072);
}
