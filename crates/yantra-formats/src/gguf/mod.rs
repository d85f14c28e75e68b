//! GGUF, the single-file format of llama.cpp: typed metadata, a table of tensors, and their data.
//!
//! Versions 2 and 3 are read (they differ only in that 3 may be big-endian, which is refused); version 3 is written. The
//! specification is ggml's `docs/gguf.md`. Dimensions are stored innermost first there and turned round here:
//! [`TensorInfo::shape`](crate::TensorInfo) is outermost first.

mod error;
mod file;
mod parse;
mod types;
mod write;

pub use error::GgufError;
pub use file::GgufFile;
pub use write::{GgufBody, GgufWriter};

/// The first bytes of every GGUF file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// Where tensor data starts is a multiple of this, unless `general.alignment` says otherwise.
const DEFAULT_ALIGNMENT: u32 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";

/// Limits on what a file may claim. All are far above any real model's.
mod limits {
    /// Metadata pairs.
    pub(super) const METADATA_PAIRS: u64 = 1 << 16;
    /// Tensors; mixture-of-experts models with one tensor for each expert have tens of thousands.
    pub(super) const TENSORS: u64 = 1 << 20;
    /// Bytes of a metadata key (the specification's own limit).
    pub(super) const KEY_BYTES: u64 = (1 << 16) - 1;
    /// Bytes of a string value; chat templates have tens of thousands.
    pub(super) const STRING_BYTES: u64 = 1 << 26;
    /// Elements of an array; the largest vocabularies have a quarter of a million entries.
    pub(super) const ARRAY_LEN: u64 = 1 << 24;
    /// Bytes of a tensor's name (ggml stops at 63).
    pub(super) const TENSOR_NAME_BYTES: u64 = 1024;
    /// Dimensions of a tensor (ggml's own limit).
    pub(super) const DIMENSIONS: u32 = 4;
    /// The largest alignment.
    pub(super) const ALIGNMENT: u32 = 1 << 20;
    /// Parts of a split model.
    pub(super) const PARTS: u32 = 4096;
}

/// The next multiple of `alignment`; `None` on overflow.
fn align_up(offset: usize, alignment: usize) -> Option<usize> {
    offset.checked_next_multiple_of(alignment)
}
