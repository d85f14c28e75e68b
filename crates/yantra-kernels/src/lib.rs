//! Arithmetic on slices: block-quantised formats, matmul, attention, norms; the compute thread pool.
