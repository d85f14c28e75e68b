//! What can go wrong before a kernel runs: the kernels themselves take checked shapes.

/// An error of the arithmetic layer.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum KernelError {
    /// A name that is no instruction-set level.
    #[error("unknown CPU level '{given}': expected scalar, avx2, avx512, avx512vnni or neon")]
    UnknownCpuLevel {
        /// The text given.
        given: String,
    },
    /// A level this processor lacks.
    #[error("this processor does not support the CPU level '{given}' (it supports up to '{fastest}')")]
    UnsupportedCpuLevel {
        /// The level asked for.
        given: crate::CpuLevel,
        /// The fastest level there is.
        fastest: crate::CpuLevel,
    },
    /// A name that is no weight format.
    #[error(
        "unknown weight format '{given}': expected one of f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, mxfp4"
    )]
    UnknownFormat {
        /// The text given.
        given: String,
    },
    /// A format that can be read but not written.
    #[error("weights can not be quantised to {format}")]
    CannotQuantize {
        /// The format asked for.
        format: crate::WeightFormat,
    },
    /// Data whose size does not fit its shape.
    #[error("{what}: {given} given, {expected} expected")]
    Shape {
        /// Which size.
        what: &'static str,
        /// The size given.
        given: usize,
        /// The size expected.
        expected: usize,
    },
    /// A row length that is not a whole number of blocks.
    #[error("a row of {cols} values is not a whole number of {format} blocks of {block}")]
    Block {
        /// The row length.
        cols: usize,
        /// The format.
        format: crate::WeightFormat,
        /// Values in one block.
        block: usize,
    },
    /// A file of weights that could not be made or written.
    #[error("could not {what} a file for weights: {message}")]
    WeightFile {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        message: String,
    },
    /// Memory that could not be had.
    #[error("could not allocate {bytes} bytes for {what}")]
    OutOfMemory {
        /// The size asked for.
        bytes: usize,
        /// What it was for.
        what: &'static str,
    },
}
