//! Model files: GGUF, safetensors and Hugging Face directories, read (memory-mapped, validated) and written.
//!
//! Enter at [`Checkpoint::open`]: it takes a path, finds out what lies there and hands out tensors as bytes in a
//! [`WeightFormat`](yantra_kernels::WeightFormat) with a shape. What the tensors mean is the model crate's business.
//!
//! Files come from strangers, so everything read is checked before use: counts and lengths against limits and against
//! the bytes present, arithmetic for overflow, tensors for overlap. A file that is wrong gives an error which says what
//! was found, what was expected and where; it never panics and never allocates more than the file could justify.

mod adapter;
mod checkpoint;
mod error;
pub mod gguf;
pub mod hf;
mod mapping;
mod metadata;
pub mod safetensors;
mod tensor;

pub use adapter::AdapterFile;
pub use checkpoint::Checkpoint;
pub use error::FormatError;
pub use gguf::{GgufError, GgufFile, GgufWriter};
pub use hf::HfDirectory;
pub use mapping::AccessPattern;
pub use metadata::{Array, FromValue, Metadata, MetadataError, Mismatch, Value, ValueType};
pub use safetensors::{RawTensor, SafetensorsError, SafetensorsFile, SafetensorsWriter};
pub use tensor::{TensorInfo, TensorView};
