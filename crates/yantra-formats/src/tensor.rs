//! A tensor in a file: where it lies and what it looks like, whatever the file's format.

use std::ops::Range;
use yantra_kernels::WeightFormat;

/// Where a tensor lies and what it looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// How its values are stored.
    pub format: WeightFormat,
    /// Its dimensions, outermost first: `[rows, cols]`; empty for a single value.
    pub shape: Vec<usize>,
    /// Which file of the checkpoint holds it (0 unless the checkpoint is split or sharded).
    pub part: usize,
    /// Its bytes within that file.
    pub range: Range<usize>,
}

impl TensorInfo {
    /// Bytes the tensor takes in the file.
    pub fn num_bytes(&self) -> usize {
        self.range.len()
    }

    /// Number of values. Can not overflow: it was checked when the file was opened.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub(crate) fn view<'a>(&'a self, file: &'a [u8]) -> Option<TensorView<'a>> {
        let data = file.get(self.range.clone())?;
        Some(TensorView { name: &self.name, format: self.format, shape: self.shape.clone(), data })
    }
}

/// A tensor's bytes in the mapped file. They need not be aligned to anything.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorView<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// How its values are stored.
    pub format: WeightFormat,
    /// Its dimensions, outermost first: `[rows, cols]`; empty for a single value.
    pub shape: Vec<usize>,
    /// The stored values, little-endian.
    pub data: &'a [u8],
}

impl TensorView<'_> {
    /// Number of values.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}
