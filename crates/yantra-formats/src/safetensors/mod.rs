//! safetensors, the format of Hugging Face: a JSON table, then raw values.
//!
//! The table is parsed here rather than by the `safetensors` crate, to name the tensor and the bytes in every error and
//! because that crate's check of the offsets can overflow on a hostile file. Tests hold the two against each other.
//!
//! Weights are F32, F16 or BF16. Tensors of integers, bools and floats of 8 bits are buffers of the original program
//! (position ids and the like) or parts of weights that another program quantised: they are listed in
//! [`SafetensorsFile::skipped`], and [`SafetensorsFile::raw`] has their bytes. Other types are refused by name.

mod file;
mod header;
mod write;

pub use file::SafetensorsFile;
pub use write::{SafetensorsBody, SafetensorsWriter};

use std::ops::Range;
use yantra_kernels::WeightFormat;

/// A tensor that is in a file but can not be used as a weight as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedTensor {
    /// Its name.
    pub name: String,
    /// Its type, as the file has it.
    pub dtype: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its bytes within the file.
    pub range: Range<usize>,
}

/// A tensor of any type: what the file says of it, and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type, as the file has it.
    pub dtype: &'a str,
    /// Its dimensions, outermost first.
    pub shape: &'a [usize],
    /// The stored values, little-endian.
    pub data: &'a [u8],
}

/// An error in reading or writing safetensors. The path is added by [`FormatError`](crate::FormatError).
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum SafetensorsError {
    #[error("not a safetensors file: {0}")]
    NotSafetensors(String),
    #[error("the file is truncated: its {what} needs {needed} bytes, {present} present; download or copy it again")]
    Truncated { what: String, needed: u64, present: u64 },
    #[error("the table of {bytes} bytes is larger than the limit of {limit}")]
    HeaderTooLarge { bytes: u64, limit: u64 },
    #[error("the table is not valid: {0}")]
    Header(String),
    #[error("tensor '{tensor}' has type {dtype}, which is not supported: expected F32, F16 or BF16")]
    UnsupportedType { tensor: String, dtype: String },
    #[error("tensor '{tensor}' with the shape {shape:?} is too large to address")]
    ShapeOverflow { tensor: String, shape: Vec<usize> },
    #[error("tensor '{tensor}' of type {dtype} and shape {shape:?} needs {expected} bytes, its offsets give {found}")]
    Size { tensor: String, dtype: String, shape: Vec<usize>, expected: usize, found: usize },
    #[error("tensor '{tensor}' starts at data offset {found}: the tensor before it ends at {expected}")]
    Gap { tensor: String, found: usize, expected: usize },
    #[error("tensor '{tensor}' occurs twice")]
    Duplicate { tensor: String },
    #[error("{extra} bytes follow the last tensor")]
    TrailingBytes { extra: usize },
    #[error("tensor '{tensor}': weights in {format} can not be written as safetensors: expected f32, f16 or bf16")]
    CannotWrite { tensor: String, format: WeightFormat },
    #[error("tensor '{given}' was written where {expected} was due")]
    WriteOrder { given: String, expected: String },
    #[error("tensor '{tensor}' has {expected} bytes: {given} were written")]
    WriteSize { tensor: String, given: usize, expected: usize },
    #[error("could not write the file: {0}")]
    Write(#[from] std::io::Error),
}

/// The format of a dtype that weights may have.
fn format_of(dtype: &str) -> Option<WeightFormat> {
    match dtype {
        "F32" => Some(WeightFormat::F32),
        "F16" => Some(WeightFormat::F16),
        "BF16" => Some(WeightFormat::BF16),
        _ => None,
    }
}

/// The dtype of a format that can be written.
fn dtype_of(format: WeightFormat) -> Option<&'static str> {
    match format {
        WeightFormat::F32 => Some("F32"),
        WeightFormat::F16 => Some("F16"),
        WeightFormat::BF16 => Some("BF16"),
        _ => None,
    }
}

/// Bytes of a value of a dtype that is no weight's but is skipped without complaint.
fn buffer_bytes(dtype: &str) -> Option<usize> {
    match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(1),
        "U16" | "I16" => Some(2),
        "U32" | "I32" => Some(4),
        "U64" | "I64" => Some(8),
        _ => None,
    }
}
