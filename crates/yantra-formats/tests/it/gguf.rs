//! GGUF in one file: what is written is read, and nothing in a file can break the reader.

use crate::support::{assert_says, pattern, small_gguf};
use proptest::prelude::*;
use yantra_formats::{Array, GgufError, GgufFile, GgufWriter, Value};
use yantra_kernels::WeightFormat;

/// Builds files that a writer would refuse to write.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn head(version: u32, num_tensors: u64, num_pairs: u64) -> Self {
        Self::default().bytes(b"GGUF").u32(version).u64(num_tensors).u64(num_pairs)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    /// A tensor of the table; `dimensions` as in the file, innermost first.
    fn tensor(self, name: &str, dimensions: &[u64], number: u32, offset: u64) -> Self {
        let raw = self.text(name).u32(dimensions.len() as u32);
        let raw = dimensions.iter().fold(raw, |raw, &dimension| raw.u64(dimension));
        raw.u32(number).u64(offset)
    }

    /// Pads the head and adds `len` bytes of data.
    fn data(mut self, len: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 7);
        self
    }

    fn error(self) -> GgufError {
        GgufFile::from_bytes(self.0).unwrap_err()
    }
}

#[test]
fn written_files_are_read() {
    let file = GgufFile::from_bytes(small_gguf()).unwrap();
    assert_eq!((file.version(), file.alignment()), (3, 32));
    assert_eq!(file.metadata().get_strings("tokenizer.ggml.tokens").unwrap(), ["<s>", "नम", ""]);
    let names: Vec<&str> = file.tensors().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["token_embd.weight", "blk.0.ffn_up.weight", "output.weight"]);
    let up = file.tensor("blk.0.ffn_up.weight").unwrap();
    assert_eq!((up.format, up.shape.as_slice(), up.num_elements()), (WeightFormat::Q8_0, &[2, 64][..], 128));
    assert_eq!(up.data, pattern(136));
    assert!(file.tensor("blk.1.ffn_up.weight").is_none());
}

#[test]
fn every_value_type_survives() {
    let arrays = [
        Array::U8(vec![1, 255]),
        Array::I8(vec![-1]),
        Array::U16(vec![65535]),
        Array::I16(vec![-300, 300]),
        Array::U32(vec![]),
        Array::I32(vec![i32::MIN]),
        Array::F32(vec![1.5, f32::INFINITY]),
        Array::Bool(vec![true, false]),
        Array::Strings(vec!["".into(), "x".into()]),
        Array::U64(vec![u64::MAX]),
        Array::I64(vec![i64::MIN]),
        Array::F64(vec![-0.0]),
    ];
    let scalars = [
        Value::U8(1),
        Value::I8(-1),
        Value::U16(2),
        Value::I16(-2),
        Value::U32(3),
        Value::I32(-3),
        Value::F32(4.5),
        Value::Bool(false),
        Value::String("five".into()),
        Value::U64(6),
        Value::I64(-6),
        Value::F64(7.5),
    ];
    let mut writer = GgufWriter::new();
    for (index, value) in scalars.into_iter().chain(arrays.map(Value::Array)).enumerate() {
        writer.set(format!("key.{index}"), value).unwrap();
    }
    let expected: Vec<String> = (0..24).map(|index| format!("key.{index}")).collect();
    let bytes = writer.begin(Vec::new()).unwrap().finish().unwrap();
    let file = GgufFile::from_bytes(bytes.clone()).unwrap();
    assert_eq!(file.metadata().iter().map(|(key, _)| key).collect::<Vec<_>>(), expected);
    let mut again = GgufWriter::new();
    again.set_all(file.metadata()).unwrap();
    assert_eq!(again.begin(Vec::new()).unwrap().finish().unwrap(), bytes);
}

#[test]
fn data_may_be_streamed_and_alignment_chosen() {
    let mut writer = GgufWriter::new();
    writer.set("general.alignment", 128_u32).unwrap();
    writer.declare("a", WeightFormat::F32, &[3]).unwrap();
    writer.declare("none", WeightFormat::F32, &[0, 4]).unwrap();
    writer.declare("b", WeightFormat::F32, &[]).unwrap();
    let mut body = writer.begin(Vec::new()).unwrap();
    for piece in pattern(12).chunks(5) {
        body.write("a", piece).unwrap();
    }
    body.write("b", &pattern(4)).unwrap();
    let file = GgufFile::from_bytes(body.finish().unwrap()).unwrap();
    assert!(file.tensors().all(|tensor| tensor.range.start % 128 == 0));
    assert_eq!(file.tensor("a").unwrap().data, pattern(12));
    assert!(file.tensor("none").unwrap().data.is_empty());
    assert!(file.tensor("b").unwrap().shape.is_empty());
}

#[test]
fn the_writer_refuses_what_could_not_be_read() {
    let mut writer = GgufWriter::new();
    assert_says(writer.set("general.alignment", 24_u32).unwrap_err(), &["24", "power of two"]);
    assert_says(writer.set("general.alignment", "32").unwrap_err(), &["string", "u32"]);
    assert_says(writer.declare("x", WeightFormat::Q4_K, &[2, 100]).unwrap_err(), &["'x'", "100", "q4_k", "256"]);
    assert_says(writer.declare("x", WeightFormat::F32, &[1; 5]).unwrap_err(), &["'x'", "5 dimensions"]);
    assert_says(writer.declare("x", WeightFormat::F32, &[usize::MAX, 2]).unwrap_err(), &["'x'", "too large"]);
    writer.declare("x", WeightFormat::F32, &[2]).unwrap();
    assert_says(writer.declare("x", WeightFormat::F32, &[2]).unwrap_err(), &["'x'", "twice"]);
    let mut body = writer.begin(Vec::new()).unwrap();
    assert_says(body.write("y", &[0; 8]).unwrap_err(), &["'y'", "'x' was due"]);
    assert_says(body.write("x", &[0; 9]).unwrap_err(), &["'x'", "8 bytes", "9 were written"]);
    body.write("x", &[0; 7]).unwrap();
    assert_says(body.finish().unwrap_err(), &["'x'", "8 bytes", "7 were written"]);
}

#[test]
fn wrong_versions_are_named() {
    assert_says(Raw::default().bytes(b"GGML").u32(3).error(), &["GGML", "GGUF"]);
    assert_says(Raw::head(1, 0, 0).error(), &["version 1", "convert"]);
    assert_says(Raw::head(3_u32.swap_bytes(), 0, 0).error(), &["big-endian", "version 3"]);
    assert_says(Raw::head(4, 0, 0).error(), &["version 4", "2 or 3"]);
    assert_says(Raw::head(0, 0, 0).error(), &["version 0"]);
    assert_eq!(GgufFile::from_bytes(Raw::head(2, 0, 0).0).unwrap().version(), 2);
}

#[test]
fn lying_counts_are_refused_before_memory_is_taken() {
    assert_says(Raw::head(3, u64::MAX, 0).error(), &["tensor count", "18446744073709551615"]);
    assert_says(Raw::head(3, 1 << 19, 0).error(), &["524288 tensors", "bytes needed", "0 present"]);
    assert_says(Raw::head(3, 0, 1 << 40).error(), &["metadata count"]);
    assert_says(Raw::head(3, 0, 1).u64(u64::MAX).error(), &["metadata key 0", "at most 65535"]);
    assert_says(Raw::head(3, 0, 1).text("k").u32(8).u64(1 << 60).error(), &["'k'", "at most"]);
    assert_says(Raw::head(3, 0, 1).text("k").u32(9).u32(6).u64(1 << 23).error(), &["'k'", "33554432 bytes needed"]);
    assert_says(Raw::head(3, 0, 1).text("k").u32(9).u32(8).u64(1 << 50).error(), &["'k'", "at most"]);
}

#[test]
fn wrong_metadata_is_refused() {
    let twice = Raw::head(3, 0, 2).text("k").u32(0).bytes(&[1]).text("k").u32(0).bytes(&[2]);
    assert_says(twice.error(), &["'k'", "twice"]);
    assert_says(Raw::head(3, 0, 1).text("k").u32(13).error(), &["'k'", "13", "0 to 12"]);
    assert_says(Raw::head(3, 0, 1).text("k").u32(7).bytes(&[2]).error(), &["'k'", "bool", "value 2"]);
    let nested = Raw::head(3, 0, 1).text("k").u32(9).u32(9).u64(1).bytes(&[0; 64]);
    assert_says(nested.error(), &["'k'", "array of arrays"]);
    let not_text = Raw::head(3, 0, 1).text("k").u32(8).u64(2).bytes(&[0xff, 0xfe]);
    assert_says(not_text.error(), &["'k'", "UTF-8"]);
    let alignment = |value| Raw::head(3, 0, 1).text("general.alignment").u32(4).u32(value);
    assert_says(alignment(0).error(), &["alignment is 0"]);
    assert_says(alignment(48).error(), &["alignment is 48"]);
    assert_says(alignment(1 << 30).error(), &["alignment"]);
    let text = Raw::head(3, 0, 1).text("general.alignment").u32(8).text("32");
    assert_says(text.error(), &["general.alignment", "string"]);
}

#[test]
fn wrong_tensors_are_refused() {
    let one =
        |dimensions: &[u64], number, offset| Raw::head(3, 1, 0).tensor("t", dimensions, number, offset).data(4096);
    assert_says(one(&[4], 19, 0).error(), &["'t'", "type IQ1_S (19) is not supported"]);
    assert_says(one(&[4], 26, 0).error(), &["type I32 (26) is not supported"]);
    assert_says(one(&[4], 40, 0).error(), &["type NVFP4 (40) is not supported"]);
    assert_says(one(&[4], 777, 0).error(), &["'t'", "type 777 is unknown"]);
    assert_says(one(&[1; 5], 0, 0).error(), &["'t'", "5 dimensions"]);
    assert_says(one(&[33], 2, 0).error(), &["'t'", "33", "q4_0", "32"]);
    assert_says(one(&[4], 0, 8).error(), &["'t'", "offset 8", "alignment 32"]);
    assert_says(one(&[u64::MAX, 2], 0, 0).error(), &["'t'", "too large"]);
    assert_says(one(&[1 << 32, 1 << 32], 0, 0).error(), &["'t'", "too large"]);
    // 2^64 elements of half a byte each: the bytes fit, their number does not.
    assert_says(one(&[1 << 32, 1 << 32], 2, 0).error(), &["'t'", "too large"]);
    assert_says(one(&[4], 0, u64::MAX - 31).error(), &["'t'"]);
    assert_says(one(&[2000], 0, 0).error(), &["truncated", "'t'", "8064", "4160 present"]);
    let twice = Raw::head(3, 2, 0).tensor("t", &[4], 0, 0).tensor("t", &[4], 0, 32).data(64);
    assert_says(twice.error(), &["'t'", "twice"]);
    let overlapping = Raw::head(3, 2, 0).tensor("b", &[4], 0, 32).tensor("a", &[16], 0, 0).data(64);
    assert_says(overlapping.error(), &["'a' and 'b' overlap"]);
}

#[test]
fn tensors_may_come_in_any_order_and_need_no_final_padding() {
    let raw = Raw::head(3, 2, 0).tensor("b", &[3], 0, 32).tensor("a", &[8], 0, 0).data(44);
    let file = GgufFile::from_bytes(raw.0).unwrap();
    assert_eq!(file.tensor("b").unwrap().data, [7; 12]);
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let bytes = small_gguf();
    for len in 0..bytes.len() {
        let error = GgufFile::from_bytes(bytes[..len].to_vec()).unwrap_err();
        assert!(error.to_string().contains("truncated"), "cut at {len}: {error}");
    }
}

/// Reads everything in a file that may be anything.
fn read_all(bytes: Vec<u8>) {
    let Ok(file) = GgufFile::from_bytes(bytes) else { return };
    for tensor in file.tensors() {
        let view = file.tensor(&tensor.name).unwrap();
        assert_eq!(view.data.len(), tensor.num_bytes());
        let rows: usize = view.shape.iter().rev().skip(1).product();
        let cols = view.shape.last().copied().unwrap_or(1);
        assert_eq!(view.format.row_bytes(cols).unwrap() * rows, view.data.len());
    }
}

#[test]
fn a_file_with_any_bit_flipped_does_not_panic() {
    let bytes = small_gguf();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        read_all(flipped);
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i64>().prop_map(Value::I64),
        (-1e30_f32..1e30).prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        ".{0,20}".prop_map(Value::String),
        prop::collection::vec(any::<u16>(), 0..20).prop_map(|values| Value::Array(Array::U16(values))),
        prop::collection::vec(".{0,9}", 0..9).prop_map(|values| Value::Array(Array::Strings(values))),
    ]
}

fn any_tensor() -> impl Strategy<Value = (WeightFormat, Vec<usize>)> {
    let format = prop::sample::select(WeightFormat::all().collect::<Vec<_>>());
    (format, prop::collection::vec(0_usize..4, 0..3), 0_usize..3).prop_map(|(format, mut shape, blocks)| {
        shape.push(blocks * format.block_len());
        (format, shape)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_is_read(
        pairs in prop::collection::btree_map("[a-z.]{1,12}", any_value(), 0..8),
        tensors in prop::collection::vec(any_tensor(), 0..6),
    ) {
        let mut writer = GgufWriter::new();
        for (key, value) in &pairs {
            writer.set(key.clone(), value.clone()).unwrap();
        }
        for (index, (format, shape)) in tensors.iter().enumerate() {
            writer.declare(&format!("t{index}"), *format, shape).unwrap();
        }
        let num_bytes = |format: WeightFormat, shape: &[usize]| {
            let (cols, rows) = shape.split_last().unwrap();
            format.row_bytes(*cols).unwrap() * rows.iter().product::<usize>()
        };
        let mut body = writer.begin(Vec::new()).unwrap();
        for (index, (format, shape)) in tensors.iter().enumerate() {
            body.write(&format!("t{index}"), &pattern(num_bytes(*format, shape))).unwrap();
        }
        let file = GgufFile::from_bytes(body.finish().unwrap()).unwrap();
        let read: Vec<(&str, &Value)> = file.metadata().iter().collect();
        prop_assert_eq!(read, pairs.iter().map(|(key, value)| (key.as_str(), value)).collect::<Vec<_>>());
        for (index, (format, shape)) in tensors.iter().enumerate() {
            let tensor = file.tensor(&format!("t{index}")).unwrap();
            prop_assert_eq!((tensor.format, &tensor.shape), (*format, shape));
            prop_assert_eq!(tensor.data, pattern(num_bytes(*format, shape)));
        }
    }

    #[test]
    fn any_bytes_overwritten_do_not_panic(at in 0_usize..600, bytes in prop::collection::vec(any::<u8>(), 1..12)) {
        let mut file = small_gguf();
        let at = at % file.len();
        let end = (at + bytes.len()).min(file.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
        read_all(file);
    }
}
