//! The scales of a matrix, one for each group of its values, and what products with them need of a float format.

use super::tensors::Tensors;
use crate::ModelError;
use yantra_kernels::{WeightFormat, dequantize_row, quantize_row};

/// Which columns of a row share a scale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Groups {
    /// So many one after another.
    Of(usize),
    /// The group of each column.
    Listed(Vec<u32>),
}

impl Groups {
    pub(super) fn of_column(&self, col: usize) -> usize {
        match self {
            Self::Of(size) => col / size.max(&1),
            Self::Listed(groups) => groups[col] as usize,
        }
    }

    /// Whether the columns of each block of `len` share a scale, where there are `cols`.
    fn covers_blocks(&self, len: usize, cols: usize) -> bool {
        match self {
            Self::Of(size) => *size >= cols || size.is_multiple_of(len),
            Self::Listed(groups) => {
                groups.chunks(len).all(|block| block.iter().all(|group| Some(group) == block.first()))
            }
        }
    }
}

/// The scale of each value of a matrix.
#[derive(Clone, Debug)]
pub(super) struct Scales {
    values: Vec<f32>,
    /// Rows that share their scales.
    rows: usize,
    /// How far apart the scales of neighbouring rows and groups are stored.
    strides: [usize; 2],
    groups: Groups,
}

impl Scales {
    /// Stored `[groups, rows]`.
    pub(super) fn by_group(values: Vec<f32>, rows: usize, groups: Groups) -> Self {
        Self { values, rows: 1, strides: [1, rows], groups }
    }

    /// As `name` has them, for a matrix of `rows` and `cols`: one for all, one for each row, or a grid `[rows, groups]` of
    /// `block`s where they are known, else of those that divide the matrix evenly.
    pub(super) fn read(
        tensors: &Tensors<'_>,
        name: &str,
        [rows, cols]: [usize; 2],
        block: Option<[usize; 2]>,
    ) -> Result<Self, ModelError> {
        let shape = tensors.require(name)?.shape;
        let values = tensors.floats(name)?;
        let [down, across] = match shape {
            [] => [1, 1],
            [1] => [1, 1],
            [down] if *down == rows => [rows, 1],
            [down, across] => [*down, *across],
            _ => [0, 0],
        };
        let size = |extent: usize, count: usize, known: Option<usize>| {
            let known = known.filter(|size| *size > 0 && extent.div_ceil(*size) == count);
            known.or_else(|| (count > 0 && extent.is_multiple_of(count)).then(|| extent / count))
        };
        let sizes = [size(rows, down, block.map(|block| block[0])), size(cols, across, block.map(|block| block[1]))];
        let [Some(rows_of), Some(cols_of)] = sizes else {
            let blocks = block.map_or(String::new(), |block| format!(" in blocks of {block:?}"));
            let message = format!("has shape {shape:?}: expected scales of a matrix of {rows} x {cols}{blocks}");
            return Err(tensors.wrong(name, message));
        };
        Ok(Self { values, rows: rows_of, strides: [across, 1], groups: Groups::Of(cols_of) })
    }

    /// The same with all multiplied.
    pub(super) fn times(mut self, factor: impl Fn(f32) -> f32) -> Self {
        self.values.iter_mut().for_each(|value| *value = factor(*value));
        self
    }

    /// The same with the groups listed.
    pub(super) fn grouped(self, groups: Groups) -> Self {
        Self { groups, ..self }
    }

    pub(super) fn groups(&self) -> &Groups {
        &self.groups
    }

    pub(super) fn at(&self, row: usize, col: usize) -> f32 {
        let [row_stride, group_stride] = self.strides;
        self.values[row / self.rows * row_stride + self.groups.of_column(col) * group_stride]
    }

    pub(super) fn num_bytes(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }

    pub(super) fn covers_blocks(&self, len: usize, cols: usize) -> bool {
        self.groups.covers_blocks(len, cols)
    }

    /// Whether half precision has every scale.
    pub(super) fn fit_half(&self) -> bool {
        let mut halves = vec![0; self.values.len() * 2];
        let mut back = vec![0.0; self.values.len()];
        let read = quantize_row(WeightFormat::F16, &self.values, &mut halves)
            .and_then(|()| dequantize_row(WeightFormat::F16, &halves, &mut back));
        read.is_ok() && self.values.iter().zip(&back).all(|(value, back)| value.is_finite() && value == back)
    }

    /// The smallest float format that has every product of a code of this range and a scale; f32 where none has, which
    /// rounds it as a product of two f32 is.
    pub(super) fn float_format(&self, codes: CodeRange) -> WeightFormat {
        // Of products of normal numbers far from the ends of the range, only the digits matter.
        let (mut digits, mut lowest, mut largest) = (0, i32::MAX, 0.0_f32);
        for value in self.values.iter().filter(|value| **value != 0.0) {
            if !value.is_normal() {
                return WeightFormat::F32;
            }
            let mantissa = value.to_bits() & 0x7F_FFFF | 0x80_0000;
            let used = 24 - mantissa.trailing_zeros();
            let exponent = (value.to_bits() >> 23 & 0xFF) as i32 - 127;
            digits = digits.max(used);
            lowest = lowest.min(exponent - used as i32 + 1);
            largest = largest.max(value.abs());
        }
        let (digits, lowest, largest) =
            (digits + codes.digits, lowest.saturating_add(codes.lowest), largest * codes.largest);
        if digits <= 8 && lowest > -120 && largest < 1e37 {
            WeightFormat::BF16
        } else if digits <= 11 && lowest >= -24 && largest <= 65504.0 {
            WeightFormat::F16
        } else {
            WeightFormat::F32
        }
    }
}

/// What the values that scales multiply can be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CodeRange {
    /// Binary digits from the first to the last that is not zero.
    pub(super) digits: u32,
    /// All are multiples of two to this.
    pub(super) lowest: i32,
    /// None is larger.
    pub(super) largest: f32,
}

impl CodeRange {
    /// Whole numbers from `low` to `high`.
    pub(super) fn whole(low: i16, high: i16) -> Self {
        let largest = low.unsigned_abs().max(high.unsigned_abs()).max(1);
        Self { digits: largest.next_power_of_two().ilog2().max(1), lowest: 0, largest: f32::from(largest) }
    }
}
