//! Runs every main kernel once, on one thread and fixed inputs, for a tool that counts instructions.
//!
//! `cargo run -p yantra-kernels --example kernel_counts -- avx2` prints the names of the cases in the order they ran; with a
//! second argument, only those whose name contains it. Under `valgrind --tool=callgrind
//! --toggle-collect='*counted_kernel*' --dump-after='*case_is_over*'` each case leaves a file with its instructions.
//! `cargo xtask budgets` does that and compares.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring program")]

use std::hint::black_box;
use yantra_kernels::{
    ActivationFn, ActivationKinds, Activations, AttentionParams, AttentionSequence, Compute, CpuLevel, ExpertScoring,
    GroupedJob, KvFormat, KvLayout, KvPages, LinearJob, PackedLinear, RopeStyle, RopeTable, Router, SortedAssignments,
    WeightFormat, argmax, attention, linear, linear_grouped, log_softmax_in_place, rope, route, scatter_add_weighted,
    softmax_in_place, top_k,
};

/// One format of each layout, and of each way of unpacking it.
const FORMATS: [&str; 14] =
    ["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "mxfp4"];

/// A decoded token, and more than a block of a prompt.
const TOKENS: [usize; 2] = [1, 48];

/// What is counted is what happens in here; nothing else may have this in its name.
#[inline(never)]
fn counted_kernel(kernel: &mut dyn FnMut()) {
    kernel();
}

/// Called after each case, for a counter that waits for it.
#[inline(never)]
fn case_is_over(name: &str) {
    println!("{name}");
}

struct Counts {
    only: Option<String>,
}

impl Counts {
    /// Runs a case twice: buffers are grown before the run that counts.
    fn run(&self, name: &str, mut kernel: impl FnMut()) {
        if self.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            return;
        }
        kernel();
        counted_kernel(&mut kernel);
        case_is_over(name);
    }
}

fn values(len: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Bytes that are no infinite half float in any place.
fn weights(len: usize) -> Vec<u8> {
    values(len).iter().map(|value| (value.to_bits() >> 7) as u8 & 0x3b).collect()
}

fn linear_cases(counts: &Counts, cx: &Compute) {
    let (rows, cols) = (128, 512);
    for name in FORMATS {
        let format: WeightFormat = name.parse().unwrap();
        let data = weights(rows * format.row_bytes(cols).unwrap());
        let weight = PackedLinear::pack(cx, format, rows, cols, &data).unwrap();
        for tokens in TOKENS {
            let mut x = Activations::new(ActivationKinds { float: format.is_float(), int8: !format.is_float() });
            x.set(cx, &values(tokens * cols), tokens, cols);
            let mut out = vec![0.0; tokens * rows];
            counts.run(&format!("linear {name} x{tokens}"), || {
                linear(cx, &x, &mut [LinearJob { weight: &weight, bias: None, out: &mut out, accumulate: false }]);
            });
        }
    }
}

fn attention_cases(counts: &Counts, cx: &Compute) {
    let (heads, kv_heads, head_dim, page_tokens): (usize, usize, usize, usize) = (6, 2, 64, 32);
    let params = AttentionParams::new(heads, 0.125);
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::BF16] {
        for (queries, context) in [(64_usize, 64_usize), (1, 256)] {
            let layout = KvLayout::new(kv_heads, head_dim, page_tokens, format);
            let num_pages = context.div_ceil(page_tokens);
            let mut kv = KvPages::new(&[layout], num_pages).unwrap();
            let stored = values(context * kv_heads * head_dim);
            let slots: Vec<u32> = (0..context as u32).collect();
            kv.store(cx, 0, &stored, &stored, &slots);
            let pages: Vec<u32> = (0..num_pages as u32).collect();
            let q = values(queries * heads * head_dim);
            let mut out = vec![0.0; q.len()];
            let sequence =
                AttentionSequence { query_start: 0, query_len: queries, context_len: context, pages: &pages };
            let name = format!("{format:?}").to_lowercase();
            counts.run(&format!("attention {name} {queries}@{context}"), || {
                attention(cx, &params, &q, kv.layer(0), &[sequence], &mut out);
            });
            if queries > 1 {
                counts.run(&format!("store {name} x{context}"), || kv.store(cx, 0, &stored, &stored, &slots));
            }
        }
    }
}

/// Latent vectors as DeepSeek's, read by several heads.
fn latent_case(counts: &Counts, cx: &Compute) {
    let (heads, head_dim, value_dim, context): (usize, usize, usize, usize) = (16, 576, 512, 256);
    let mut kv = KvPages::new(&[KvLayout::latent(head_dim, value_dim, 32, KvFormat::F16)], context / 32).unwrap();
    let slots: Vec<u32> = (0..context as u32).collect();
    kv.store(cx, 0, &values(context * head_dim), &[], &slots);
    let pages: Vec<u32> = (0..context as u32 / 32).collect();
    let (params, q) = (AttentionParams::new(heads, 0.05), values(heads * head_dim));
    let sequence = AttentionSequence { query_start: 0, query_len: 1, context_len: context, pages: &pages };
    let mut out = vec![0.0; heads * value_dim];
    counts.run("attention latent f16 1@256", || attention(cx, &params, &q, kv.layer(0), &[sequence], &mut out));
}

/// A token's experts, from the choice to their sum.
fn expert_cases(counts: &Counts, cx: &Compute) {
    let (num_experts, top_k, rows, cols) = (64, 8, 128, 256);
    let router = Router {
        num_experts,
        top_k,
        scoring: ExpertScoring::Softmax,
        choice_bias: None,
        groups: None,
        normalize: true,
        scale: 1.0,
    };
    let (logits, mut experts, mut factors) = (values(num_experts), [0; 8], [0.0; 8]);
    counts.run("route 8 of 64", || route(cx, &router, &logits, &mut experts, &mut factors));
    let mut sorted = SortedAssignments::default();
    sorted.sort(&experts, top_k, num_experts);
    let format = WeightFormat::Q4_0;
    let data = weights(rows * format.row_bytes(cols).unwrap());
    let packed: Vec<PackedLinear> =
        (0..top_k).map(|_| PackedLinear::pack(cx, format, rows, cols, &data).unwrap()).collect();
    let mut x = Activations::new(ActivationKinds { float: false, int8: true });
    x.set(cx, &values(top_k * cols), top_k, cols);
    let (mut out, mut sum) = (vec![0.0; top_k * rows], vec![0.0; rows]);
    counts.run("linear grouped q4_0 8 x1", || {
        let jobs = packed.iter().zip(out.chunks_exact_mut(rows)).enumerate();
        let job = |(index, (weight, out))| GroupedJob { weight, tokens: index..index + 1, bias: None, out };
        linear_grouped(cx, &x, &mut jobs.map(job).collect::<Vec<_>>());
    });
    counts.run("scatter 8", || scatter_add_weighted(cx, &sorted, &out, &factors, rows, &mut sum));
}

fn row_cases(counts: &Counts, cx: &Compute) {
    let (tokens, cols) = (8, 576);
    let (x, weight) = (values(tokens * cols), values(cols));
    let mut int8 = Activations::new(ActivationKinds { float: false, int8: true });
    counts.run("rms-norm and quantise", || int8.set_rms_norm(cx, &x, &weight, 1e-5, tokens, cols));
    for function in [ActivationFn::Silu, ActivationFn::GeluTanh] {
        let name = format!("{function:?} and quantise").to_lowercase();
        counts.run(&name, || int8.set_activated(cx, function, &x, tokens, cols));
    }
    let mut float = Activations::new(ActivationKinds { float: true, int8: false });
    counts.run("rms-norm", || float.set_rms_norm(cx, &x, &weight, 1e-5, tokens, cols));
    let inv_freq: Vec<f32> = (0..32).map(|i| 1e5_f32.powf(-(i as f32) / 32.0)).collect();
    let table = RopeTable::new(64, &inv_freq, 1.0, 64);
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let mut rotated = x.clone();
    for (name, style) in [("halves", RopeStyle::HalfSplit), ("pairs", RopeStyle::Interleaved)] {
        counts.run(&format!("rope of {name}"), || rope(cx, &table, style, &mut rotated, cols / 64, 64, &positions));
    }
}

fn sampling_cases(counts: &Counts) {
    let mut logits = values(16_384);
    counts.run("argmax", || {
        black_box(argmax(&logits));
    });
    counts.run("top-k 40", || {
        black_box(top_k(&logits, 40));
    });
    counts.run("softmax", || softmax_in_place(&mut logits));
    counts.run("log-softmax", || log_softmax_in_place(&mut logits));
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let level: CpuLevel = arguments.next().unwrap_or_else(|| "scalar".to_owned()).parse().unwrap();
    let counts = Counts { only: arguments.next() };
    let cx = Compute::with_level(1, level).unwrap();
    linear_cases(&counts, &cx);
    attention_cases(&counts, &cx);
    latent_case(&counts, &cx);
    expert_cases(&counts, &cx);
    row_cases(&counts, &cx);
    // Sampling takes the level of the processor, not of `cx`: counted once.
    if level != CpuLevel::Scalar {
        sampling_cases(&counts);
    }
}
