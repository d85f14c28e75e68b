//! Measures `linear`: Gop/s (a multiply-add counts as two) and GB/s of packed weights, best of many.
//!
//! `cargo run --release -p yantra-kernels --example linear_bench -- [--threads 1] [--level avx2] [--only q4_k] [--tokens 1,512]`
//!
//! With `--stream MB`, as many copies of each weight as make up that size are read in turn, as decoding reads a model:
//! from memory, one fork a matrix.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};
use yantra_kernels::{ActivationKinds, Activations, Compute, CpuLevel, LinearJob, PackedLinear, WeightFormat, linear};

const SHAPES: &[(&str, usize, usize)] = &[
    ("q4_1", 576, 576),
    ("q4_1", 192, 576),
    ("q4_1", 1536, 576),
    ("q4_1", 576, 1536),
    ("q4_1", 49152, 576),
    ("q4_k", 1536, 1536),
    ("q4_k", 256, 1536),
    ("q4_k", 8960, 1536),
    ("q4_k", 1536, 8960),
    ("q6_k", 1536, 8960),
    ("q6_k", 151_936, 1536),
    ("q5_k", 1536, 1536),
    ("q8_0", 1536, 1536),
    ("q8_0", 49152, 576),
    ("q2_k", 1536, 1536),
    ("iq4_nl", 1536, 1536),
    ("mxfp4", 1536, 1536),
    ("bf16", 1536, 1536),
    ("bf16", 49152, 576),
    ("f32", 1536, 1536),
];

fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args();
    arguments.find(|argument| argument == name)?;
    arguments.next()
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // No byte pattern that is an infinite or invalid half float: speed must not depend on the values.
        bytes.extend_from_slice(&(state & 0x3b3b_3b3b_3b3b_3b3b).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn best(mut run: impl FnMut()) -> f64 {
    let (started, mut best) = (Instant::now(), Duration::MAX);
    let mut runs = 0;
    while runs < 3 || (started.elapsed() < Duration::from_millis(300) && runs < 2000) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
        runs += 1;
    }
    best.as_secs_f64()
}

fn main() {
    let threads = argument("--threads").map_or(1, |text| text.parse().unwrap());
    let level = argument("--level").map_or(CpuLevel::detect(), |text| text.parse().unwrap());
    let cx = Compute::with_level(threads, level).unwrap();
    let tokens = argument("--tokens").unwrap_or_else(|| "1,2,4,8,16,512".to_owned());
    let tokens: Vec<usize> = tokens.split(',').map(|count| count.parse().unwrap()).collect();
    let only = argument("--only");
    let stream = argument("--stream").map(|text| text.parse::<usize>().unwrap() << 20);
    println!("{level}, {threads} threads");
    for (name, rows, cols) in SHAPES {
        if only.as_ref().is_some_and(|only| !format!("{name} {rows}x{cols}").contains(only.as_str())) {
            continue;
        }
        let format: WeightFormat = name.parse().unwrap();
        let data = random_bytes(rows * format.row_bytes(*cols).unwrap());
        let start = Instant::now();
        let copies = stream.map_or(1, |bytes| bytes.div_ceil(data.len()));
        let pack = || PackedLinear::pack(&cx, format, *rows, *cols, &data).unwrap();
        let weights: Vec<PackedLinear> = (0..copies).map(|_| pack()).collect();
        let weight = &weights[0];
        let packing = (copies * data.len()) as f64 / start.elapsed().as_secs_f64() / 1e9;
        let growth = weight.bytes() as f64 / data.len() as f64;
        print!("{name:7} {rows:6} x {cols:5}  pack {packing:4.1} GB/s (x{growth:.3})");
        for count in &tokens {
            let values: Vec<f32> = (0..count * cols).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut x = Activations::new(ActivationKinds { float: true, int8: true });
            x.set(&cx, &values, *count, *cols);
            let mut out = vec![0.0; count * rows];
            let seconds = best(|| {
                for weight in &weights {
                    linear(&cx, &x, &mut [LinearJob { weight, bias: None, out: &mut out, accumulate: false }]);
                }
            }) / copies as f64;
            let gops = 2.0 * (rows * cols * count) as f64 / seconds / 1e9;
            print!(" | M{count} {gops:5.0} Gop/s");
            if *count <= 4 {
                print!(" {:4.1} GB/s", weight.bytes() as f64 / seconds / 1e9);
            }
        }
        println!();
    }
}
