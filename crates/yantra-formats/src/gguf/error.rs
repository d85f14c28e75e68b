//! What can be wrong with a GGUF file. The path is added by [`FormatError`](crate::FormatError).

use crate::MetadataError;
use yantra_kernels::WeightFormat;

/// An error in reading or writing GGUF.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum GgufError {
    #[error("not a GGUF file: it starts with {found}, expected the bytes \"GGUF\"")]
    Magic { found: String },
    #[error("GGUF version 1 is not supported (it was replaced in 2023): convert the model again to get version 3")]
    VersionOne,
    #[error("big-endian GGUF (version {version}) is not supported: convert the model to little-endian")]
    BigEndian { version: u32 },
    #[error("GGUF version {found} is not supported: expected 2 or 3")]
    Version { found: u32 },
    #[error("the file is truncated in {what}: {needed} bytes needed at offset {offset}, {present} present")]
    TruncatedHeader { what: String, offset: usize, needed: usize, present: usize },
    #[error(
        "the file is truncated: its tensors need {needed} bytes ('{tensor}' ends there), {present} present; \
         download or copy it again"
    )]
    TruncatedData { tensor: String, needed: usize, present: usize },
    #[error("{what}: {count} claimed, at most {limit} are read")]
    TooMany { what: String, count: u64, limit: u64 },
    #[error("{what} at offset {offset} is not UTF-8")]
    NotUtf8 { what: String, offset: usize },
    #[error("metadata key '{key}' occurs twice")]
    DuplicateKey { key: String },
    #[error("tensor '{tensor}' occurs twice")]
    DuplicateTensor { tensor: String },
    #[error("{what} has an unknown value type, {number}: expected 0 to 12")]
    UnknownValueType { what: String, number: u32 },
    #[error("{what} is an array of arrays, which is not supported")]
    NestedArray { what: String },
    #[error("{what} is a bool with the value {value}: expected 0 or 1")]
    Bool { what: String, value: u8 },
    #[error("general.alignment is {found}: expected a power of two up to {limit}")]
    Alignment { found: u32, limit: u32 },
    #[error("tensor '{tensor}' has {found} dimensions: at most {limit} are possible")]
    Dimensions { tensor: String, found: u32, limit: u32 },
    #[error("tensor '{tensor}' with the dimensions {dimensions:?} is too large to address")]
    ShapeOverflow { tensor: String, dimensions: Vec<u64> },
    #[error("tensor '{tensor}': type {name} ({number}) is not supported")]
    UnsupportedType { tensor: String, name: &'static str, number: u32 },
    #[error("tensor '{tensor}': type {number} is unknown")]
    UnknownType { tensor: String, number: u32 },
    #[error("tensor '{tensor}' has rows of {cols} values, which is not a whole number of {format} blocks of {block}")]
    Block { tensor: String, cols: usize, format: WeightFormat, block: usize },
    #[error("tensor '{tensor}' starts at data offset {offset}, which is not a multiple of the alignment {alignment}")]
    Misaligned { tensor: String, offset: u64, alignment: usize },
    #[error("tensors '{first}' and '{second}' overlap")]
    Overlap { first: String, second: String },
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error("tensor '{given}' was written where {expected} was due")]
    WriteOrder { given: String, expected: String },
    #[error("tensor '{tensor}' has {expected} bytes: {given} were written")]
    WriteSize { tensor: String, given: usize, expected: usize },
    #[error("could not write the file: {0}")]
    Write(#[from] std::io::Error),
}
