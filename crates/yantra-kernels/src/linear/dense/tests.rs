//! Both types at every level against plain arithmetic, and the invariant that blocking changes no bit.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::test_support::{computes, random};

const TYPES: [DenseType; 2] = [DenseType::Bf16, DenseType::Int8];

struct Case {
    rows: usize,
    cols: usize,
    num_tokens: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
    x: Vec<f32>,
    before: Vec<f32>,
}

impl Case {
    fn new(rows: usize, cols: usize, num_tokens: usize) -> Self {
        let seed = (rows * 31 + cols * 7 + num_tokens) as u64;
        let values = |part: u64, len| random(seed * 4 + part, len);
        let (weight, x) = (values(0, rows * cols), values(1, num_tokens * cols));
        let (bias, before) = (values(2, rows), values(3, num_tokens * rows));
        Self { rows, cols, num_tokens, weight, bias, x, before }
    }

    fn run(&self, cx: &Compute, dense_type: DenseType, then: DenseThen) -> (Vec<f32>, Vec<f32>) {
        let (rows, cols) = (self.rows, self.cols);
        let weight = DenseLinear::pack(cx.level(), dense_type, rows, cols, &self.weight, Some(&self.bias)).unwrap();
        assert_eq!(weight.bytes(), DenseLinear::packed_bytes(cx.level(), dense_type, rows, cols));
        let mut x = DenseRows::new(cx.level(), dense_type);
        // Something larger before: stale content must not show.
        x.set(cx, &vec![9.0; (self.num_tokens + 1) * (cols + 40)], self.num_tokens + 1, cols + 40);
        x.set(cx, &self.x, self.num_tokens, cols);
        let mut out = self.before.clone();
        dense(cx, &x, &weight, &mut out, then);
        (out, x.values())
    }

    /// A row of weights as it is rounded.
    fn rounded(&self, dense_type: DenseType, row: usize) -> Vec<f64> {
        let values = &self.weight[row * self.cols..(row + 1) * self.cols];
        let amax = values.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        let round = |value: &f32| match dense_type {
            DenseType::Bf16 => f64::from(bf16::from_f32(*value).to_f32()),
            DenseType::Int8 => f64::from((value * (127.0 / amax)).round_ties_even()) * f64::from(amax / 127.0),
        };
        values.iter().map(round).collect()
    }

    /// Compares every level with plain arithmetic on the rounded values: only the rounding of f32 sums is tolerated.
    #[track_caller]
    fn check(&self, dense_type: DenseType) {
        for cx in computes() {
            let (given, x) = self.run(&cx, dense_type, DenseThen::Add);
            let (gelu, _) = self.run(&cx, dense_type, DenseThen::Gelu);
            for (rounded, exact) in x.iter().zip(&self.x) {
                assert!((rounded - exact).abs() <= 1.0 / 254.0 * 1.001, "{rounded} for {exact}");
            }
            for row in 0..self.rows {
                let weight = self.rounded(dense_type, row);
                for token in 0..self.num_tokens {
                    let at = token * self.rows + row;
                    let x = &x[token * self.cols..(token + 1) * self.cols];
                    let products = || weight.iter().zip(x).map(|(w, x)| w * f64::from(*x));
                    let value = products().sum::<f64>() + f64::from(self.bias[row]);
                    let allowed = 2e-6 * (1.0 + products().map(f64::abs).sum::<f64>());
                    let expected = value + f64::from(self.before[at]);
                    let shape = (dense_type, cx.level(), self.rows, self.cols, self.num_tokens);
                    assert!((f64::from(given[at]) - expected).abs() <= allowed, "{shape:?}: {} {expected}", given[at]);
                    let mut activated = [value as f32];
                    crate::activate(&cx, crate::ActivationFn::Gelu, &mut activated);
                    assert!(f64::from(gelu[at] - activated[0]).abs() <= 2.0 * allowed, "{shape:?} gelu");
                }
            }
        }
    }
}

#[test]
fn both_types_match_plain_arithmetic() {
    for dense_type in TYPES {
        for (rows, cols, num_tokens) in
            [(1, 1, 1), (32, 64, 12), (17, 33, 5), (40, 100, 13), (70, 384, 27), (33, 7, 3), (96, 1536, 2)]
        {
            Case::new(rows, cols, num_tokens).check(dense_type);
        }
        for tokens in 2..=12 {
            Case::new(34, 24, tokens).check(dense_type);
        }
    }
}

#[test]
fn empty_shapes_do_nothing() {
    for dense_type in TYPES {
        for (rows, cols, num_tokens) in [(0, 8, 3), (5, 8, 0), (0, 0, 0), (9, 0, 2)] {
            Case::new(rows, cols, num_tokens).check(dense_type);
        }
    }
}

#[test]
fn extreme_integers_do_not_overflow() {
    for value in [1.0, -1.0] {
        let mut case = Case::new(40, 4096, 7);
        case.weight.fill(value);
        case.x.iter_mut().enumerate().for_each(|(index, x)| *x = if index / 4096 % 2 == 0 { 1.0 } else { -1.0 });
        case.check(DenseType::Int8);
    }
}

#[test]
fn bits_do_not_depend_on_batch_or_threads() {
    let case = Case::new(72, 300, 301);
    for dense_type in TYPES {
        for level in CpuLevel::supported() {
            let cx = [1, 3].map(|threads| Compute::with_level(threads, level).unwrap());
            let (all, _) = case.run(&cx[0], dense_type, DenseThen::Gelu);
            assert_eq!(all, case.run(&cx[1], dense_type, DenseThen::Gelu).0, "{dense_type:?} {level} threads");
            for (first, count) in [(0, 1), (300, 1), (5, 2), (90, 7), (20, 30)] {
                let part = Case {
                    x: case.x[first * 300..(first + count) * 300].to_vec(),
                    before: case.before[first * 72..(first + count) * 72].to_vec(),
                    weight: case.weight.clone(),
                    bias: case.bias.clone(),
                    num_tokens: count,
                    ..case
                };
                let (given, _) = part.run(&cx[1], dense_type, DenseThen::Gelu);
                assert_eq!(given, all[first * 72..(first + count) * 72], "{dense_type:?} {level} {first} {count}");
            }
        }
    }
}

#[test]
fn tiny_values_stay_finite() {
    let cx = Compute::new(1);
    for value in [0.0, 1e-38, 1e-45, 3e38] {
        let mut x = DenseRows::new(cx.level(), DenseType::Int8);
        x.set(&cx, &[value; 20], 2, 10);
        assert!(x.values().iter().all(|value| value.is_finite()), "{value}");
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let pack = |values: usize, bias: usize| {
        DenseLinear::pack(CpuLevel::Scalar, DenseType::Bf16, 2, 3, &vec![0.0; values], Some(&vec![0.0; bias])).err()
    };
    let shape = |what, given, expected| Some(KernelError::Shape { what, given, expected });
    assert_eq!(pack(5, 2), shape("values of a weight matrix", 5, 6));
    assert_eq!(pack(6, 3), shape("values of a bias", 3, 2));
    assert_eq!(pack(6, 2), None);
}
