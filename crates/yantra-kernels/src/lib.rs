//! Arithmetic on slices: block-quantised formats, matmul, attention, norms; the compute thread pool.
//!
//! This crate knows nothing of models, files or requests. Each operation is a plain function over slices and dimensions
//! with a scalar specification and faster versions picked at run time by [`CpuLevel`].

mod activations;
mod attention;
mod block;
mod buffer;
mod compute;
mod cpu;
mod elementwise;
mod error;
mod format;
mod linear;
mod norm;
mod parallel;
mod roof;
mod rope;
mod routing;
mod sample;
mod simd;
#[cfg(test)]
mod test_support;

pub use activations::{ActivationKinds, Activations};
pub use attention::{
    AttentionParams, AttentionSequence, KvFormat, KvLayer, KvLayout, KvPages, alibi_slopes, attention,
};
pub use block::{dequantize_row, quantize_row, quantize_rows};
pub use compute::Compute;
pub use cpu::CpuLevel;
pub use elementwise::{
    ActivationFn, activate, activate_gated, add, add_assign, clamp, embed_rows, scale, scale_rows, sigmoid, softcap,
};
pub use error::KernelError;
pub use format::WeightFormat;
pub use linear::{
    ActivationKind, DenseLinear, DenseRows, DenseThen, DenseType, GatedJob, GroupedGatedJob, GroupedJob, LinearJob,
    LowRankJob, PackedLinear, WeightFile, add_low_rank, dense, linear, linear_gated, linear_gated_grouped,
    linear_grouped,
};
pub use norm::{l2_normalize, layer_norm, layer_norm_in_place, rms_norm, rms_norm_in_place};
pub use parallel::for_each_row_group;
pub use roof::{Arithmetic, ReadBuffer, multiply_adds};
pub use rope::{RopeStyle, RopeTable, rope};
pub use routing::{ExpertGroups, ExpertScoring, GroupScoring, Router, SortedAssignments, route, scatter_add_weighted};
pub use sample::{argmax, log_softmax, log_softmax_in_place, log_sum_exp, softmax_in_place, top_k};
