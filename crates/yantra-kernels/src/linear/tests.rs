//! Every format and instruction set against plain arithmetic, and the invariant that blocking changes no bit.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::{ActivationFn, ActivationKinds, CpuLevel, dequantize_row};
use half::{bf16, f16};
use std::path::Path;

/// Reproducible numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [-1, 1).
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }
}

/// Where a format keeps half-precision scales in a block.
fn half_fields(format: WeightFormat) -> &'static [usize] {
    use WeightFormat as W;
    match format {
        W::F32 | W::F16 | W::BF16 | W::MXFP4 => &[],
        W::Q4_0 | W::Q5_0 | W::Q8_0 | W::IQ4_NL | W::IQ4_XS => &[0],
        W::Q4_1 | W::Q5_1 | W::Q4_K | W::Q5_K => &[0, 2],
        W::Q2_K => &[80, 82],
        W::Q3_K => &[108],
        W::Q6_K => &[208],
    }
}

/// Random weights in every bit, with sensible scales.
fn random_weights(random: &mut Random, format: WeightFormat, rows: usize, cols: usize) -> Vec<u8> {
    let count = rows * cols;
    match format {
        WeightFormat::F32 => random.floats(count).iter().flat_map(|v| v.to_le_bytes()).collect(),
        WeightFormat::F16 => random.floats(count).iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        WeightFormat::BF16 => random.floats(count).iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => {
            let mut bytes: Vec<u8> = (0..rows * format.row_bytes(cols).unwrap()).map(|_| random.next() as u8).collect();
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                for at in half_fields(format) {
                    block[*at..at + 2].copy_from_slice(&f16::from_f32(random.float() * 0.02).to_le_bytes());
                }
                if format == WeightFormat::MXFP4 {
                    // A power of two from 2^-10 to 2^-3.
                    block[0] = 118 + block[0] % 8;
                }
            }
            bytes
        }
    }
}

/// The values of a row by the specification of its format.
fn values(format: WeightFormat, row: &[u8]) -> Vec<f64> {
    let mut values = vec![0.0; row.len() / format.block_bytes() * format.block_len()];
    dequantize_row(format, row, &mut values).unwrap();
    values.into_iter().map(f64::from).collect()
}

/// Every implementation this processor can run.
fn isas() -> Vec<Isa> {
    let mut isas = vec![Isa::Emulated512, Isa::Emulated512Vnni];
    isas.extend(CpuLevel::supported().into_iter().map(Isa::of));
    isas
}

struct Case {
    format: WeightFormat,
    rows: usize,
    cols: usize,
    data: Vec<u8>,
    x: Vec<f32>,
    num_tokens: usize,
    bias: Vec<f32>,
    before: Vec<f32>,
}

impl Case {
    fn new(format: WeightFormat, rows: usize, cols: usize, num_tokens: usize) -> Self {
        let mut random = Random((rows * 31 + cols * 7 + num_tokens) as u64);
        let data = random_weights(&mut random, format, rows, cols);
        let x = random.floats(num_tokens * cols);
        let (bias, before) = (random.floats(rows), random.floats(num_tokens * rows));
        Self { format, rows, cols, data, x, num_tokens, bias, before }
    }

    fn activations(&self, cx: &Compute) -> Activations {
        let mut x = Activations::new(ActivationKinds { float: true, int8: true });
        x.set(cx, &self.x, self.num_tokens, self.cols);
        x
    }

    fn run(&self, cx: &Compute, isa: Isa) -> Vec<f32> {
        let weight =
            PackedLinear::pack_for(cx, isa, self.format, self.rows, self.cols, &self.data, Buffer::zeroed).unwrap();
        let mut out = self.before.clone();
        let x = self.activations(cx);
        linear(cx, &x, &mut [LinearJob { weight: &weight, bias: Some(&self.bias), out: &mut out, accumulate: true }]);
        out
    }

    /// The result in double precision, and the sum of magnitudes that errors are relative to.
    fn expected(&self, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let row_bytes = self.format.row_bytes(self.cols).unwrap();
        let weight: Vec<Vec<f64>> =
            (0..self.rows).map(|row| values(self.format, &self.data[row * row_bytes..(row + 1) * row_bytes])).collect();
        let elements = (0..self.num_tokens).flat_map(|token| (0..self.rows).map(move |row| (token, row)));
        elements
            .map(|(token, row)| {
                let x = &x[token * self.cols..(token + 1) * self.cols];
                let products = || weight[row].iter().zip(x).map(|(w, x)| w * f64::from(*x));
                let rest = f64::from(self.bias[row]) + f64::from(self.before[token * self.rows + row]);
                (products().sum::<f64>() + rest, products().map(f64::abs).sum::<f64>() + rest.abs())
            })
            .unzip()
    }

    /// Compares every implementation with the reference; the integers are exact, so only f32 rounding is tolerated.
    #[track_caller]
    fn check(&self) {
        const TOLERANCE: f64 = 1e-5;
        for isa in isas() {
            let cx = Compute::with_level(2, CpuLevel::Scalar).unwrap();
            let x = self.activations(&cx);
            let x = if self.format.is_float() { x.float().to_vec() } else { x.dequantized() };
            let (expected, magnitude) = self.expected(&x);
            for (index, given) in self.run(&cx, isa).into_iter().enumerate() {
                let error = (f64::from(given) - expected[index]).abs();
                assert!(
                    error <= TOLERANCE * magnitude[index].max(1.0),
                    "{} {isa:?} [{}, {}] x {} element {index}: {given} given, {} expected",
                    self.format,
                    self.rows,
                    self.cols,
                    self.num_tokens,
                    expected[index]
                );
            }
        }
    }
}

#[test]
fn every_format_matches_the_reference() {
    for format in WeightFormat::all() {
        let block = format.block_len();
        let cols: &[usize] = match block {
            1 => &[1, 7, 64, 172, 300],
            32 => &[32, 96, 576, 1056],
            _ => &[256, 768, 1280],
        };
        for cols in cols {
            for (rows, num_tokens) in [(1, 1), (8, 2), (17, 3), (40, 4), (33, 5), (16, 7), (50, 13)] {
                Case::new(format, rows, *cols, num_tokens).check();
            }
        }
    }
}

#[test]
fn empty_shapes_do_nothing() {
    for format in WeightFormat::all() {
        for (rows, num_tokens) in [(0, 3), (5, 0), (0, 0)] {
            Case::new(format, rows, format.block_len(), num_tokens).check();
        }
        Case::new(format, 9, 0, 2).check();
    }
}

#[test]
fn extreme_integers_do_not_overflow() {
    for format in WeightFormat::all().filter(|format| !format.is_float()) {
        for fill in [0x00, 0x7f, 0x80, 0xff] {
            let mut case = Case::new(format, 20, 512, 6);
            for block in case.data.chunks_exact_mut(format.block_bytes()) {
                let halves: Vec<[u8; 2]> = half_fields(format).iter().map(|at| [block[*at], block[at + 1]]).collect();
                block.fill(fill);
                for (at, half) in half_fields(format).iter().zip(halves) {
                    block[*at..at + 2].copy_from_slice(&half);
                }
                if format == WeightFormat::MXFP4 {
                    block[0] = 118 + fill % 8;
                }
            }
            for (index, x) in case.x.iter_mut().enumerate() {
                *x = if index % 512 < 256 { 1.0 } else { -1.0 };
            }
            case.check();
        }
    }
}

#[test]
fn bits_do_not_depend_on_batch_or_threads() {
    for format in WeightFormat::all() {
        for isa in isas() {
            let (rows, cols, num_tokens) = (72, 1280, 37);
            let case = Case::new(format, rows, cols, num_tokens);
            let cx = [1, 3].map(|threads| Compute::with_level(threads, CpuLevel::detect()).unwrap());
            let all = case.run(&cx[0], isa);
            assert_eq!(all, case.run(&cx[1], isa), "{format} {isa:?} threads");
            for (first, count) in [(0, 1), (36, 1), (5, 2), (9, 3), (20, 4), (30, 5), (3, 11)] {
                let part = Case {
                    x: case.x[first * cols..(first + count) * cols].to_vec(),
                    before: case.before[first * rows..(first + count) * rows].to_vec(),
                    data: case.data.clone(),
                    bias: case.bias.clone(),
                    num_tokens: count,
                    ..case
                };
                assert_eq!(
                    part.run(&cx[1], isa),
                    all[first * rows..(first + count) * rows],
                    "{format} {isa:?} {count}"
                );
            }
        }
    }
}

#[test]
fn jobs_share_one_fork() {
    let cx = Compute::with_level(3, CpuLevel::detect()).unwrap();
    let formats = [WeightFormat::Q4_K, WeightFormat::F16, WeightFormat::Q6_K, WeightFormat::Q8_0];
    let cases: Vec<Case> = formats.iter().cycle().take(10).map(|format| Case::new(*format, 41, 256, 6)).collect();
    let x = cases[0].activations(&cx);
    let pack = |case: &Case| PackedLinear::pack(&cx, case.format, case.rows, case.cols, &case.data).unwrap();
    let weights: Vec<PackedLinear> = cases.iter().map(pack).collect();
    let single: Vec<Vec<f32>> = weights
        .iter()
        .map(|weight| {
            let mut out = vec![0.0; 41 * 6];
            linear(&cx, &x, &mut [LinearJob { weight, bias: None, out: &mut out, accumulate: false }]);
            out
        })
        .collect();
    let mut outs = vec![vec![0.0; 41 * 6]; weights.len()];
    let mut jobs: Vec<LinearJob<'_>> = weights
        .iter()
        .zip(&mut outs)
        .map(|(weight, out)| LinearJob { weight, bias: None, out, accumulate: false })
        .collect();
    linear(&cx, &x, &mut jobs);
    assert_eq!(outs, single);
}

#[test]
fn wrong_shapes_are_refused() {
    let cx = Compute::new(1);
    let pack = |format, rows, cols, bytes| PackedLinear::pack(&cx, format, rows, cols, &vec![0; bytes]).err();
    let block = KernelError::Block { cols: 33, format: WeightFormat::Q4_0, block: 32 };
    assert_eq!(pack(WeightFormat::Q4_0, 1, 33, 18), Some(block));
    let shape = KernelError::Shape { what: "bytes of a weight matrix", given: 17, expected: 18 };
    assert_eq!(pack(WeightFormat::Q4_0, 1, 32, 17), Some(shape));
    assert!(pack(WeightFormat::F32, usize::MAX / 2, 8, 0).is_some());
}

#[test]
fn a_gated_fork_is_two_products_and_the_function() {
    let both = ActivationKinds { float: true, int8: true };
    for (format, cols) in [(WeightFormat::Q4_1, 96), (WeightFormat::Q6_K, 256), (WeightFormat::F16, 40)] {
        for (rows, num_tokens) in [(32, 1), (100, 7), (328, 70), (24, 600)] {
            let (gate, up) = (Case::new(format, rows, cols, num_tokens), Case::new(format, rows, cols, num_tokens + 1));
            for level in CpuLevel::supported() {
                for threads in [1, 3] {
                    let cx = Compute::with_level(threads, level).unwrap();
                    let x = gate.activations(&cx);
                    let pack = |case: &Case| PackedLinear::pack(&cx, format, rows, cols, &case.data).unwrap();
                    let (gate_weight, up_weight) = (pack(&gate), pack(&up));
                    let product = |weight: &PackedLinear, bias: Option<&[f32]>| {
                        let mut out = vec![0.0; num_tokens * rows];
                        linear(&cx, &x, &mut [LinearJob { weight, bias, out: &mut out, accumulate: false }]);
                        out
                    };
                    let (gate_out, up_out) = (product(&gate_weight, Some(&gate.bias)), product(&up_weight, None));
                    let mut expected = Activations::new(both);
                    expected.set_activated(&cx, ActivationFn::Silu, &gate_out, num_tokens, rows);
                    let gated: Vec<f32> = expected.float().iter().zip(&up_out).map(|(gate, up)| gate * up).collect();
                    expected.set(&cx, &gated, num_tokens, rows);
                    let job = GatedJob {
                        gate: &gate_weight,
                        gate_bias: Some(&gate.bias),
                        up: &up_weight,
                        up_bias: None,
                        function: ActivationFn::Silu,
                    };
                    let mut given = Activations::new(both);
                    linear_gated(&cx, &x, job, &mut given);
                    let what = format!("{format} {level} [{rows}, {cols}] x {num_tokens}, {threads} threads");
                    assert!(given.float() == expected.float(), "{what}");
                    assert!(given.dequantized() == expected.dequantized(), "{what}");
                }
            }
        }
    }
}

/// Token counts of experts: of a decoded token, of a prompt, of nobody.
const EXPERTS: [&[usize]; 4] = [&[1, 1, 1, 0, 1, 1], &[0, 70, 3, 0, 0, 301, 1], &[], &[0, 0]];

fn ranges(counts: &[usize]) -> Vec<Range<usize>> {
    // One token before, between and after is no expert's.
    let mut end = 0;
    let range = |count: &usize| {
        let start = end + 1;
        end = start + count;
        start..end
    };
    counts.iter().map(range).collect()
}

#[test]
fn grouped_products_are_each_the_product_alone() {
    for (format, rows, cols) in
        [(WeightFormat::Q4_K, 72, 512), (WeightFormat::F16, 33, 40), (WeightFormat::Q8_0, 200, 96)]
    {
        for counts in EXPERTS {
            let tokens = ranges(counts);
            let num_tokens = counts.iter().sum::<usize>() + counts.len() + 1;
            let cases: Vec<Case> = (0..counts.len()).map(|expert| Case::new(format, rows + expert, cols, 1)).collect();
            for level in CpuLevel::supported() {
                for threads in [1, 3] {
                    let cx = Compute::with_level(threads, level).unwrap();
                    let pack = |case: &Case| PackedLinear::pack(&cx, format, case.rows, cols, &case.data).unwrap();
                    let weights: Vec<PackedLinear> = cases.iter().map(pack).collect();
                    let x = Case::new(format, 1, cols, num_tokens).activations(&cx);
                    let mut outs: Vec<Vec<f32>> =
                        counts.iter().zip(&cases).map(|(count, case)| vec![f32::NAN; count * case.rows]).collect();
                    let mut jobs: Vec<GroupedJob<'_>> = outs
                        .iter_mut()
                        .enumerate()
                        .map(|(index, out)| GroupedJob {
                            weight: &weights[index],
                            tokens: tokens[index].clone(),
                            bias: index.is_multiple_of(2).then_some(&cases[index].bias),
                            out,
                        })
                        .collect();
                    linear_grouped(&cx, &x, &mut jobs);
                    for (index, (weight, out)) in weights.iter().zip(&outs).enumerate() {
                        let bias = index.is_multiple_of(2).then_some(&*cases[index].bias);
                        let mut all = vec![0.0; num_tokens * weight.rows()];
                        linear(&cx, &x, &mut [LinearJob { weight, bias, out: &mut all, accumulate: false }]);
                        let own = tokens[index].start * weight.rows()..tokens[index].end * weight.rows();
                        assert!(*out == all[own], "{format} {level} {threads} threads, expert {index} of {counts:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn grouped_gates_are_each_the_gate_alone() {
    let both = ActivationKinds { float: true, int8: true };
    for (format, rows, cols) in
        [(WeightFormat::Q4_K, 72, 512), (WeightFormat::BF16, 33, 40), (WeightFormat::Q8_0, 200, 96)]
    {
        for counts in EXPERTS {
            let tokens = ranges(counts);
            let num_tokens = counts.iter().sum::<usize>() + counts.len() + 1;
            for (level, threads) in CpuLevel::supported().into_iter().flat_map(|level| [(level, 1), (level, 3)]) {
                let cx = Compute::with_level(threads, level).unwrap();
                let pack = |seed| {
                    let data = random_weights(&mut Random(seed), format, rows, cols);
                    PackedLinear::pack(&cx, format, rows, cols, &data).unwrap()
                };
                let weights: Vec<[PackedLinear; 2]> =
                    (0..counts.len() as u64).map(|expert| [pack(2 * expert), pack(2 * expert + 1)]).collect();
                let case = Case::new(format, rows, cols, num_tokens);
                let x = case.activations(&cx);
                let job = |expert: usize| GatedJob {
                    gate: &weights[expert][0],
                    gate_bias: expert.is_multiple_of(2).then_some(&case.bias),
                    up: &weights[expert][1],
                    up_bias: (!expert.is_multiple_of(2)).then_some(&case.bias),
                    function: ActivationFn::Silu,
                };
                let jobs: Vec<GroupedGatedJob<'_>> = tokens
                    .iter()
                    .enumerate()
                    .map(|(expert, tokens)| GroupedGatedJob { gated: job(expert), tokens: tokens.clone() })
                    .collect();
                let (mut together, mut alone) = (Activations::new(both), Activations::new(both));
                linear_gated_grouped(&cx, &x, &jobs, &mut together);
                for (expert, tokens) in tokens.iter().enumerate() {
                    linear_gated(&cx, &x, job(expert), &mut alone);
                    let own = tokens.start * rows..tokens.end * rows;
                    let what = format!("{format} {level} {threads} threads, expert {expert} of {counts:?}");
                    assert!(together.float()[own.clone()] == alone.float()[own.clone()], "{what}");
                    assert!(together.dequantized()[own.clone()] == alone.dequantized()[own], "{what}");
                }
            }
        }
    }
}

#[test]
fn weights_in_a_file_are_those_in_memory() {
    let directory = std::env::temp_dir().join("yantra-weight-file-test");
    let file = WeightFile::create(&directory).unwrap();
    let (cx, mut random) = (Compute::new(2), Random(3));
    let mut kept = Vec::new();
    for (format, rows, cols) in [(WeightFormat::Q4_K, 40, 256), (WeightFormat::F32, 3, 5), (WeightFormat::Q8_0, 0, 32)]
    {
        let data = random_weights(&mut random, format, rows, cols);
        let memory = PackedLinear::pack(&cx, format, rows, cols, &data).unwrap();
        let stored = PackedLinear::pack_to_file(&cx, format, rows, cols, &data, &file).unwrap();
        assert_eq!((stored.is_in_file(), stored.bytes()), (rows > 0, memory.bytes()));
        kept.push((memory, stored));
    }
    // No name is left, and the mappings outlive the file.
    assert!(std::fs::read_dir(&directory).unwrap().next().is_none());
    drop(file);
    for (memory, stored) in kept {
        stored.will_need();
        assert!(memory.buffer.as_slice() == stored.buffer.as_slice());
    }
    let error = WeightFile::create(Path::new("/dev/null/x")).unwrap_err().to_string();
    assert!(error.starts_with("could not make a file for weights: "), "{error}");
}
