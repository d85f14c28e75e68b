//! Times of the operations that are not matmul, the least of many runs: `cargo run --release -p yantra-kernels --example
//! ops_bench [threads] [part of a name]`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring program")]

use std::time::{Duration, Instant};
use yantra_kernels::{
    ActivationFn, AttentionParams, AttentionSequence, Compute, KvFormat, KvLayout, KvPages, RopeStyle, RopeTable,
    activate_gated, argmax, attention, log_softmax_in_place, rms_norm, rope, top_k,
};

fn values(len: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Nanoseconds this thread has been on a processor: unlike wall time, blind to others on a shared machine. Zero where
/// the system does not tell.
fn processor_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Prints the least time of `runs` runs, and the rate of `work` (floating-point operations or bytes) it makes.
fn measure(name: &str, runs: usize, work: f64, unit: &str, mut run: impl FnMut()) {
    if std::env::args().nth(2).is_some_and(|part| !name.contains(&part)) {
        return;
    }
    let mut least = Duration::MAX;
    let processor_started = processor_time();
    for _ in 0..runs {
        let started = Instant::now();
        run();
        least = least.min(started.elapsed());
    }
    let mean = (processor_time() - processor_started) as f64 / 1e3 / runs as f64;
    let (least, rate) = (least.as_secs_f64() * 1e6, work / least.as_secs_f64() / 1e9);
    println!("{name:<44} least {least:>9.1} us {rate:>6.1} G{unit}/s; caller's processor time {mean:>9.1} us");
}

struct Shape {
    name: &'static str,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

fn bench_attention(cx: &Compute, shape: &Shape, format: KvFormat, queries: usize, context: usize) {
    let Shape { name, heads, kv_heads, head_dim } = *shape;
    let layout = KvLayout::new(kv_heads, head_dim, 32, format);
    let mut kv = KvPages::new(&[layout], context.div_ceil(32)).unwrap();
    let (k, v) = (values(context * kv_heads * head_dim), values(context * kv_heads * head_dim));
    let slots: Vec<u32> = (0..context as u32).collect();
    kv.store(cx, 0, &k, &v, &slots);
    let pages: Vec<u32> = (0..context.div_ceil(32) as u32).collect();
    let q = values(queries * heads * head_dim);
    let mut out = vec![0.0; q.len()];
    let params = AttentionParams::new(heads, 0.125);
    let sequences = [AttentionSequence { query_start: 0, query_len: queries, context_len: context, pages: &pages }];
    let seen: usize = (context - queries + 1..=context).sum();
    let work = (seen * heads * head_dim * 4) as f64;
    let runs = (60 * 2048 / context).clamp(3, 60);
    measure(&format!("attention {name} {format:?} {queries} @ {context}"), runs, work, "FLOP", || {
        attention(cx, &params, &q, kv.layer(0), &sequences, &mut out);
    });
    if queries == context {
        let bytes = (k.len() * 8) as f64;
        measure(&format!("store {name} {format:?} {queries}"), 60, bytes, "B", || kv.store(cx, 0, &k, &v, &slots));
    }
}

/// A step of sequences that decode: `shared` tokens they have in common, then `own` ones each. Layers take turns, so that
/// keys and values come from memory, as they do in a model.
fn bench_batch(cx: &Compute, shape: &Shape, num_sequences: usize, shared: usize, own: usize) {
    const LAYERS: usize = 30;
    let Shape { name, heads, kv_heads, head_dim } = *shape;
    let layout = KvLayout::new(kv_heads, head_dim, 32, KvFormat::BF16);
    let (shared_pages, own_pages) = (shared / 32, own.div_ceil(32));
    let num_pages = shared_pages + num_sequences * own_pages;
    let mut kv = KvPages::new(&[layout; LAYERS], num_pages).unwrap();
    let slots: Vec<u32> = (0..num_pages as u32 * 32).collect();
    let stored = values(slots.len() * kv_heads * head_dim);
    (0..LAYERS).for_each(|layer| kv.store(cx, layer, &stored, &stored, &slots));
    let pages_of = |index: usize| {
        let first = (shared_pages + index * own_pages) as u32;
        (0..shared_pages as u32).chain(first..first + own_pages as u32).collect::<Vec<u32>>()
    };
    let tables: Vec<Vec<u32>> = (0..num_sequences).map(pages_of).collect();
    let context_len = shared_pages * 32 + own;
    let sequences: Vec<AttentionSequence<'_>> = tables
        .iter()
        .enumerate()
        .map(|(query_start, pages)| AttentionSequence { query_start, query_len: 1, context_len, pages })
        .collect();
    let q = values(num_sequences * heads * head_dim);
    let mut out = vec![0.0; q.len()];
    let params = AttentionParams::new(heads, 0.125);
    let work = (num_sequences * context_len * heads * head_dim * 4) as f64;
    let mut layer = 0;
    measure(&format!("attention {name} {num_sequences} x ({shared} + {own})"), 300, work, "FLOP", || {
        attention(cx, &params, &q, kv.layer(layer), &sequences, &mut out);
        layer = (layer + 1) % LAYERS;
    });
    let (key, slots) = (
        values(num_sequences * kv_heads * head_dim),
        Vec::from_iter(
            (0..num_sequences)
                .map(|index| (tables[index][(context_len - 1) / 32] as usize * 32 + (context_len - 1) % 32) as u32),
        ),
    );
    measure(&format!("store {name} {num_sequences} x ({shared} + {own})"), 300, (key.len() * 8) as f64, "B", || {
        kv.store(cx, layer, &key, &key, &slots);
        layer = (layer + 1) % LAYERS;
    });
}

/// Latent vectors as DeepSeek's: one key for all heads, the value in its beginning.
fn bench_latent(cx: &Compute, format: KvFormat, heads: usize, queries: usize, context: usize) {
    let (head_dim, value_dim) = (576, 512);
    let layout = KvLayout::latent(head_dim, value_dim, 32, format);
    let mut kv = KvPages::new(&[layout], context.div_ceil(32)).unwrap();
    let slots: Vec<u32> = (0..context as u32).collect();
    kv.store(cx, 0, &values(context * head_dim), &[], &slots);
    let pages: Vec<u32> = (0..context.div_ceil(32) as u32).collect();
    let (q, mut out) = (values(queries * heads * head_dim), vec![0.0; queries * heads * value_dim]);
    let params = AttentionParams::new(heads, 0.05);
    let sequences = [AttentionSequence { query_start: 0, query_len: queries, context_len: context, pages: &pages }];
    let seen: usize = (context - queries + 1..=context).sum();
    let work = (seen * heads * (head_dim + value_dim) * 2) as f64;
    measure(&format!("attention latent {format:?} {heads} x {queries} @ {context}"), 20, work, "FLOP", || {
        attention(cx, &params, &q, kv.layer(0), &sequences, &mut out);
    });
}

fn bench_rows(cx: &Compute) {
    let (rows, cols) = (512, 576);
    let (x, weight) = (values(rows * cols), values(cols));
    let mut out = vec![0.0; rows * cols];
    let bytes = (rows * cols * 8) as f64;
    measure("rms_norm 512 x 576", 200, bytes, "B", || rms_norm(cx, &x, &weight, 1e-5, &mut out, rows, cols));
    measure("rms_norm 1 x 576", 2000, bytes / 512.0, "B", || {
        rms_norm(cx, &x[..cols], &weight, 1e-5, &mut out[..cols], 1, cols);
    });
    let inv_freq: Vec<f32> = (0..32).map(|i| 1e5_f32.powf(-(i as f32) / 32.0)).collect();
    let table = RopeTable::new(64, &inv_freq, 1.0, 8192);
    let positions: Vec<u32> = (0..512).collect();
    for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
        measure(&format!("rope {style:?} 512 x 9 x 64"), 200, bytes, "B", || {
            rope(cx, &table, style, &mut out, 9, 64, &positions);
        });
    }
    // Twice the activation is near the value itself: repeated in place, nothing dies away to denormal numbers.
    let (mut gate, up) = (values(512 * 1536), vec![2.0; 512 * 1536]);
    for activation in [ActivationFn::Silu, ActivationFn::GeluTanh] {
        measure(&format!("gated {activation:?} 512 x 1536"), 50, (512 * 1536 * 12) as f64, "B", || {
            activate_gated(cx, activation, &mut gate, &up);
        });
    }
}

fn bench_sampling(vocab: usize) {
    let mut logits = values(vocab);
    let bytes = (vocab * 4) as f64;
    measure(&format!("argmax {vocab}"), 300, bytes, "B", || {
        std::hint::black_box(argmax(&logits));
    });
    for k in [1, 40, 1000] {
        measure(&format!("top_k {k} of {vocab}"), 100, bytes, "B", || {
            std::hint::black_box(top_k(&logits, k));
        });
    }
    measure(&format!("log_softmax {vocab}"), 100, bytes, "B", || log_softmax_in_place(&mut logits));
}

fn main() {
    let threads = std::env::args().nth(1).map_or(2, |text| text.parse().unwrap());
    let cx = Compute::new(threads);
    println!("{} threads, {}", cx.num_threads(), cx.level());
    let smollm = Shape { name: "9/3 x 64", heads: 9, kv_heads: 3, head_dim: 64 };
    let qwen = Shape { name: "12/2 x 128", heads: 12, kv_heads: 2, head_dim: 128 };
    let gemma = Shape { name: "4/1 x 256", heads: 4, kv_heads: 1, head_dim: 256 };
    let long = Shape { name: "8/2 x 64", heads: 8, kv_heads: 2, head_dim: 64 };
    for shape in [&smollm, &qwen, &gemma] {
        bench_attention(&cx, shape, KvFormat::BF16, 512, 512);
        bench_attention(&cx, shape, KvFormat::BF16, 1, 2048);
    }
    for format in [KvFormat::F16, KvFormat::BF16, KvFormat::Int8, KvFormat::Int4] {
        bench_attention(&cx, &smollm, format, 512, 512);
        bench_attention(&cx, &smollm, format, 512, 2560);
        bench_attention(&cx, &smollm, format, 1, 256);
        bench_attention(&cx, &smollm, format, 1, 2048);
        bench_attention(&cx, &long, format, 512, 131_072);
        bench_attention(&cx, &long, format, 1, 131_072);
    }
    bench_attention(&cx, &smollm, KvFormat::F32, 1, 2048);
    for (num_sequences, shared, own) in [(16, 0, 128), (16, 0, 512), (16, 384, 96), (16, 256, 224)] {
        bench_batch(&cx, &smollm, num_sequences, shared, own);
    }
    for format in [KvFormat::F16, KvFormat::BF16, KvFormat::Int8] {
        bench_latent(&cx, format, 16, 1, 2048);
        bench_latent(&cx, format, 128, 1, 2048);
        bench_latent(&cx, format, 16, 64, 2048);
    }
    measure("fork and join of 2 empty tasks", 5000, 0.0, "", || cx.run(2, &|_| {}));
    bench_rows(&cx);
    bench_sampling(49_152);
    bench_sampling(151_936);
}
