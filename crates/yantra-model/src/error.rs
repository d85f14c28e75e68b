//! What can go wrong between a checkpoint and a running model.

use yantra_kernels::KernelError;

/// An error of loading or running a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The checkpoint is of a family that is not known.
    #[error("unknown architecture '{given}': known are {known}")]
    UnknownArchitecture {
        /// The architecture named by the checkpoint.
        given: String,
        /// The architectures there are.
        known: String,
    },
    /// The checkpoint is of another kind than was asked for.
    #[error("'{architecture}' is {found}, not {expected}")]
    WrongKind {
        /// The architecture named by the checkpoint.
        architecture: String,
        /// What it is.
        found: &'static str,
        /// What was asked for.
        expected: &'static str,
    },
    /// A hyper-parameter is missing or out of range.
    #[error("hyper-parameter '{key}': {message}")]
    Parameter {
        /// Its key in the checkpoint.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// A feature of the checkpoint that is not built.
    #[error("{feature} is not supported")]
    Unsupported {
        /// The feature, with its value.
        feature: String,
    },
    /// A checkpoint that can not be converted as was asked.
    #[error("{message}")]
    Convert {
        /// What can not, and why.
        message: String,
    },
    /// A weight has another shape than the hyper-parameters say.
    #[error("tensor '{name}' has shape {given:?}, expected {expected:?}")]
    TensorShape {
        /// Its name.
        name: String,
        /// The shape found.
        given: Vec<usize>,
        /// The shape expected.
        expected: Vec<usize>,
    },
    /// A part of a matrix that another program quantised is not what it should be.
    #[error("{format}: tensor '{tensor}' {message}")]
    Quantized {
        /// The format, as people call it.
        format: &'static str,
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it, and what was expected.
        message: String,
    },
    /// A batch that does not fit the model.
    #[error("invalid batch: {message}")]
    Batch {
        /// What is wrong.
        message: String,
    },
    /// An error of the arithmetic layer.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// An error of the file.
    #[error(transparent)]
    Format(#[from] yantra_formats::FormatError),
    /// A hyper-parameter of another type than expected.
    #[error(transparent)]
    Metadata(#[from] yantra_formats::MetadataError),
}
