//! Formats against the reference implementation, and the error that quantisation makes.

#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::test_support::{assert_close, computes, random};

/// From the `gguf` package, see `tests/data/make_block_vectors.py`.
const VECTORS: &[u8] = include_bytes!("../../tests/data/block_vectors.bin");

struct Vector {
    format: WeightFormat,
    blocks: Vec<u8>,
    values: Vec<f32>,
    /// Values that quantise to `blocks`, where the reference can quantise.
    source: Vec<f32>,
}

fn vectors() -> Vec<Vector> {
    let mut rest = VECTORS;
    let mut take = |len: usize| {
        let (head, tail) = rest.split_at(len);
        rest = tail;
        head
    };
    let mut vectors = Vec::new();
    let floats = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect::<Vec<f32>>();
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
    for _ in 0..15 {
        let name_len = number(take(4));
        let format = std::str::from_utf8(take(name_len)).unwrap().parse().unwrap();
        let (num_values, num_bytes) = (number(take(4)), number(take(4)));
        let (blocks, values) = (take(num_bytes).to_vec(), floats(take(num_values * 4)));
        let source_len = number(take(4));
        vectors.push(Vector { format, blocks, values, source: floats(take(source_len * 4)) });
    }
    assert!(rest.is_empty());
    vectors
}

#[test]
fn reads_what_the_reference_reads() {
    let mut seen = Vec::new();
    for vector in vectors() {
        let mut out = vec![0.0; vector.values.len()];
        dequantize_row(vector.format, &vector.blocks, &mut out).unwrap();
        let largest = vector.values.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
        assert!(largest > 0.0);
        // Products and differences are rounded in another order: a last place of the largest value.
        for (given, expected) in out.iter().zip(&vector.values) {
            assert!((given - expected).abs() <= 2e-7 * largest, "{}: {given}, {expected} expected", vector.format);
        }
        seen.push(vector.format);
    }
    assert!(WeightFormat::all().all(|format| format == WeightFormat::F32 || seen.contains(&format)));
}

#[test]
fn writes_what_the_reference_writes() {
    for vector in vectors().into_iter().filter(|vector| !vector.source.is_empty()) {
        let mut blocks = vec![0; vector.blocks.len()];
        quantize_row(vector.format, &vector.source, &mut blocks).unwrap();
        assert_eq!(blocks, vector.blocks, "{}", vector.format);
    }
}

/// Root mean square error relative to the root mean square of normally distributed values.
fn relative_error(format: WeightFormat) -> f64 {
    // Sums of twelve uniform values are close to normal.
    let normal: Vec<f32> = random(5, 12 * 8192).chunks(12).map(|x| x.iter().sum::<f32>() * 0.01).collect();
    let mut blocks = vec![0; format.row_bytes(normal.len()).unwrap()];
    quantize_row(format, &normal, &mut blocks).unwrap();
    let mut out = vec![0.0; normal.len()];
    dequantize_row(format, &blocks, &mut out).unwrap();
    let square = |x: &f32| f64::from(*x).powi(2);
    let error: f64 = normal.iter().zip(&out).map(|(x, y)| square(&(x - y))).sum();
    (error / normal.iter().map(square).sum::<f64>()).sqrt()
}

#[test]
fn error_on_normal_values_is_what_the_format_allows() {
    // Upper bounds a few per cent above what is measured; a broken scale or code is off by far more.
    for (format, bound) in [
        (WeightFormat::F32, 0.0),
        (WeightFormat::F16, 3e-4),
        (WeightFormat::BF16, 2e-3),
        (WeightFormat::Q8_0, 0.006),
        (WeightFormat::Q6_K, 0.02),
        (WeightFormat::Q5_K, 0.036),
        (WeightFormat::Q5_1, 0.04),
        (WeightFormat::Q5_0, 0.045),
        (WeightFormat::Q4_K, 0.073),
        (WeightFormat::IQ4_NL, 0.08),
        (WeightFormat::IQ4_XS, 0.08),
        (WeightFormat::Q4_1, 0.085),
        (WeightFormat::Q4_0, 0.095),
        (WeightFormat::MXFP4, 0.115),
        (WeightFormat::Q3_K, 0.16),
        (WeightFormat::Q2_K, 0.3),
    ] {
        let error = relative_error(format);
        assert!(error <= bound, "{format}: relative error {error:.4}, at most {bound} expected");
    }
}

#[test]
fn extreme_rows_survive() {
    for format in WeightFormat::all() {
        let mut blocks = vec![0xaa; format.row_bytes(256).unwrap()];
        let mut out = vec![1.0; 256];
        let mut spike = vec![0.0; 256];
        spike[17] = -3.0;
        for row in [vec![0.0; 256], vec![0.5; 256], vec![-0.5; 256], spike] {
            quantize_row(format, &row, &mut blocks).unwrap();
            dequantize_row(format, &blocks, &mut out).unwrap();
            assert_close(&out, &row, 0.05);
        }
    }
}

#[test]
fn refuses_sizes_that_do_not_fit() {
    let mut out = [0.0; 32];
    let block = KernelError::Block { cols: 31, format: WeightFormat::Q4_0, block: 32 };
    assert_eq!(dequantize_row(WeightFormat::Q4_0, &[0; 18], &mut out[..31]), Err(block));
    let shape = KernelError::Shape { what: "bytes of a row", given: 17, expected: 18 };
    assert_eq!(dequantize_row(WeightFormat::Q4_0, &[0; 17], &mut out), Err(shape));
    assert_eq!(quantize_row(WeightFormat::Q4_0, &[], &mut []), Ok(()));
}

#[test]
fn a_matrix_is_its_rows() {
    let (rows, cols) = (37, 512);
    let values = random(8, rows * cols);
    for cx in computes() {
        for format in [WeightFormat::Q4_0, WeightFormat::Q6_K, WeightFormat::F16] {
            let row_bytes = format.row_bytes(cols).unwrap();
            let (mut matrix, mut row) = (vec![0; rows * row_bytes], vec![0; row_bytes]);
            quantize_rows(&cx, format, cols, &values, &mut matrix).unwrap();
            for (values, bytes) in values.chunks(cols).zip(matrix.chunks(row_bytes)) {
                quantize_row(format, values, &mut row).unwrap();
                assert_eq!(row, bytes);
            }
            assert!(quantize_rows(&cx, format, cols, &values, &mut matrix[1..]).is_err());
        }
    }
}
