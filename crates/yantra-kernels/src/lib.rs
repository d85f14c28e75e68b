//! Arithmetic on slices: block-quantised formats, matmul, attention, norms; the compute thread pool.
//!
//! This crate knows nothing of models, files or requests. Each operation is a plain function over slices and dimensions
//! with a scalar specification and faster versions picked at run time by [`CpuLevel`].

mod compute;
mod cpu;
mod error;
mod format;

pub use compute::Compute;
pub use cpu::CpuLevel;
pub use error::KernelError;
pub use format::WeightFormat;
