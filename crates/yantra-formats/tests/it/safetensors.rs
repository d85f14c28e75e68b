//! Single safetensors files: against the reference implementation, and against damage.

use crate::support::{assert_says, pattern, small_safetensors};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use std::collections::HashMap;
use yantra_formats::{SafetensorsError, SafetensorsFile, SafetensorsWriter};
use yantra_kernels::WeightFormat;

/// A file with the given table and `len` bytes of data.
fn raw(table: &str, len: usize) -> Vec<u8> {
    let mut bytes = (table.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(table.as_bytes());
    bytes.extend(pattern(len));
    bytes
}

fn error(table: &str, len: usize) -> SafetensorsError {
    SafetensorsFile::from_bytes(raw(table, len)).unwrap_err()
}

#[test]
fn the_reference_implementation_reads_what_is_written() {
    let bytes = small_safetensors(["a.weight", "b.weight"]);
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = reference.tensor("b.weight").unwrap();
    assert_eq!((tensor.dtype(), tensor.shape(), tensor.data()), (Dtype::BF16, &[5][..], &pattern(10)[..]));
    let file = SafetensorsFile::from_bytes(bytes.clone()).unwrap();
    assert_eq!(file.metadata().get("format").map(String::as_str), Some("pt"));
    let tensor = file.tensor("a.weight").unwrap();
    assert_eq!((tensor.format, &tensor.shape[..]), (WeightFormat::F32, &[2, 3][..]));
    assert_eq!(tensor.data, pattern(24));
}

#[test]
fn what_the_reference_implementation_writes_is_read() {
    let data = pattern(64);
    let tensors = [
        ("f16", Dtype::F16, vec![2, 2], 8),
        ("odd", Dtype::BF16, vec![3], 6),
        ("scalar", Dtype::F32, vec![], 4),
        ("none", Dtype::F32, vec![0, 7], 0),
        ("ids", Dtype::I64, vec![1, 2], 16),
        ("mask", Dtype::BOOL, vec![3], 3),
        ("fp8", Dtype::F8_E4M3, vec![2, 3], 6),
    ];
    let views = tensors.iter().map(|(name, dtype, shape, len)| {
        ((*name).to_owned(), TensorView::new(*dtype, shape.clone(), &data[..*len]).unwrap())
    });
    let bytes = serialize(views, Some(HashMap::from([("by".to_owned(), "reference".to_owned())]))).unwrap();
    let file = SafetensorsFile::from_bytes(bytes).unwrap();
    assert_eq!(file.tensors().len(), 4);
    assert_eq!(file.tensor("odd").unwrap().data, pattern(6));
    assert_eq!(file.tensor("scalar").unwrap().num_elements(), 1);
    assert!(file.tensor("none").unwrap().data.is_empty());
    assert!(file.tensor("ids").is_none());
    let mut skipped: Vec<(&str, &str)> =
        file.skipped().iter().map(|tensor| (tensor.name.as_str(), tensor.dtype.as_str())).collect();
    skipped.sort_unstable();
    assert_eq!(skipped, [("fp8", "F8_E4M3"), ("ids", "I64"), ("mask", "BOOL")]);
    let fp8 = file.raw("fp8").unwrap();
    assert_eq!((fp8.dtype, fp8.shape, fp8.data), ("F8_E4M3", &[2, 3][..], &pattern(6)[..]));
    assert_eq!(file.raw("odd").unwrap().dtype, "BF16");
    assert!(file.raw("nothing").is_none());
}

#[test]
fn wrong_tables_are_explained() {
    let entry = |dtype, shape, start, end| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}}}"#)
    };
    let check = |table: String, len, parts: &[&str]| assert_says(error(&table, len), parts);
    check(entry("F64", "[1]", 0, 8), 8, &["'t'", "F64", "F32, F16 or BF16"]);
    check(entry("C64", "[1]", 0, 8), 8, &["'t'", "C64"]);
    check(entry("X", "[1]", 0, 1), 1, &["'t'", "type X"]);
    check(entry("F32", "[2]", 0, 4), 4, &["'t'", "[2]", "needs 8 bytes", "give 4"]);
    check(entry("F32", "[1]", 4, 0), 4, &["'t'", "needs 4 bytes"]);
    check(entry("F32", "[1]", 4, 8), 8, &["'t'", "offset 4", "ends at 0"]);
    check(entry("F32", "[4294967296,4294967296]", 0, 4), 4, &["'t'", "too large"]);
    check(entry("F32", "[-1]", 0, 4), 4, &["'t'", "-1"]);
    check(entry("F32", "[2]", 0, 8), 4, &["truncated", "tensor data", "present"]);
    check(entry("F32", "[1]", 0, 4), 6, &["2 bytes follow the last tensor"]);
    check("{".to_owned(), 0, &["table is not valid"]);
    check(r#"{"t":3}"#.to_owned(), 0, &["'t'"]);
    check(r#"{"__metadata__":{"a":3}}"#.to_owned(), 0, &["table is not valid"]);
    let same = r#""t":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    check(format!("{{{same},{same}}}"), 0, &["'t' occurs twice"]);
    assert_says(SafetensorsFile::from_bytes(vec![1, 2]).unwrap_err(), &["truncated", "length field", "2 present"]);
    let mut long = (1_u64 << 40).to_le_bytes().to_vec();
    long.extend_from_slice(b"{}");
    assert_says(SafetensorsFile::from_bytes(long).unwrap_err(), &["larger than the limit"]);
    assert_says(SafetensorsFile::from_bytes(pattern(99)).unwrap_err(), &["no JSON table"]);
}

#[test]
fn a_hostile_sum_of_sizes_is_refused() {
    // Each tensor is addressable, their sum is not: the offsets run past 64 bits.
    let half = usize::MAX / 8 + 1;
    let mut entries = Vec::new();
    for index in 0..8 {
        let (start, end) = (half.wrapping_mul(index), half.wrapping_mul(index + 1));
        entries.push(format!(r#""t{index}":{{"dtype":"U8","shape":[{half}],"data_offsets":[{start},{end}]}}"#));
    }
    let table = format!("{{{}}}", entries.join(","));
    assert!(SafetensorsFile::from_bytes(raw(&table, 64)).is_err());
}

#[test]
fn the_writer_refuses_what_could_not_be_read() {
    let mut writer = SafetensorsWriter::new();
    assert_says(writer.declare("q", WeightFormat::Q4_0, &[32]).unwrap_err(), &["'q'", "q4_0", "f32, f16 or bf16"]);
    assert_says(writer.declare("q", WeightFormat::F32, &[usize::MAX, 2]).unwrap_err(), &["too large"]);
    assert_says(writer.declare("__metadata__", WeightFormat::F32, &[2]).unwrap_err(), &["__metadata__"]);
    writer.declare("x", WeightFormat::F32, &[2]).unwrap();
    assert_says(writer.declare("x", WeightFormat::F32, &[2]).unwrap_err(), &["'x'", "twice"]);
    let mut body = writer.begin(Vec::new()).unwrap();
    assert_says(body.write("y", &[0; 8]).unwrap_err(), &["'y'", "'x' was due"]);
    body.write("x", &[0; 7]).unwrap();
    assert_says(body.write("x", &[0; 2]).unwrap_err(), &["8 bytes", "9 were written"]);
    assert_says(body.finish().unwrap_err(), &["8 bytes", "7 were written"]);
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let bytes = small_safetensors(["a", "b"]);
    for len in 0..bytes.len() {
        let error = SafetensorsFile::from_bytes(bytes[..len].to_vec()).unwrap_err();
        assert!(error.to_string().contains("truncated"), "cut at {len}: {error}");
    }
}

fn read_all(bytes: Vec<u8>) {
    let Ok(file) = SafetensorsFile::from_bytes(bytes) else { return };
    for tensor in file.tensors() {
        let view = file.tensor(&tensor.name).unwrap();
        assert_eq!(view.num_elements() * view.format.block_bytes(), view.data.len());
    }
}

#[test]
fn a_file_with_any_bit_flipped_does_not_panic() {
    let bytes = small_safetensors(["a", "b"]);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        read_all(flipped);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_is_read_by_both(
        tensors in prop::collection::btree_map(
            "[a-z.\"\\\\नम]{1,9}",
            (prop::sample::select(vec![WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16]),
             prop::collection::vec(0_usize..5, 0..4)),
            0..6,
        ),
    ) {
        let num_bytes = |format: &WeightFormat, shape: &[usize]| shape.iter().product::<usize>() * format.block_bytes();
        let mut writer = SafetensorsWriter::new();
        for (name, (format, shape)) in &tensors {
            writer.declare(name, *format, shape).unwrap();
        }
        let mut body = writer.begin(Vec::new()).unwrap();
        for (name, (format, shape)) in &tensors {
            body.write(name, &pattern(num_bytes(format, shape))).unwrap();
        }
        let bytes = body.finish().unwrap();
        let reference = SafeTensors::deserialize(&bytes).unwrap();
        let file = SafetensorsFile::from_bytes(bytes.clone()).unwrap();
        prop_assert_eq!(file.tensors().len(), tensors.len());
        for (name, (format, shape)) in &tensors {
            let tensor = file.tensor(name).unwrap();
            prop_assert_eq!((tensor.format, &tensor.shape), (*format, shape));
            prop_assert_eq!(tensor.data, pattern(num_bytes(format, shape)));
            prop_assert_eq!(tensor.data, reference.tensor(name).unwrap().data());
        }
    }
}
