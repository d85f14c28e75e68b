//! A quantised matrix, whatever its format: what it becomes in memory, and its rows written so.

use super::{CodeRange, Scales};
use crate::ModelError;
use std::ops::Range;
use yantra_kernels::{Compute, WeightFormat, for_each_row_group, quantize_row};

/// Values in a block of the formats that whole numbers go into.
const BLOCK: usize = 32;
/// Rows read together: some formats store columns, and reading those by one row wastes what is fetched.
const ROWS_AT_ONCE: usize = 32;

/// Whole numbers of a matrix, with zero points already taken off.
pub(super) trait Integers: Send + Sync {
    /// Writes those of `rows` to `out` (`[rows, cols]`).
    fn read(&self, rows: Range<usize>, out: &mut [i16]);

    /// Bytes of zero points and the like that are held for it.
    fn held_bytes(&self) -> usize;
}

/// Values of a matrix.
pub(super) trait Floats: Send + Sync {
    /// Writes those of `rows` to `out` (`[rows, cols]`).
    fn read(&self, rows: Range<usize>, out: &mut [f32]);

    /// Bytes of scales and the like that are held for it.
    fn held_bytes(&self) -> usize;
}

/// A quantised matrix.
pub(crate) struct Matrix<'a> {
    rows: usize,
    cols: usize,
    format: WeightFormat,
    values: Values<'a>,
}

enum Values<'a> {
    Whole(Box<dyn Integers + 'a>, Scales),
    Floats(Box<dyn Floats + 'a>),
    Mxfp4 { blocks: &'a [u8], exponents: &'a [u8] },
}

impl<'a> Matrix<'a> {
    /// Whole numbers from `low` to `high` times scales.
    pub(super) fn whole(
        [rows, cols]: [usize; 2],
        integers: impl Integers + 'a,
        [low, high]: [i16; 2],
        scales: Scales,
    ) -> Self {
        use WeightFormat as F;
        let blocks = [(F::Q4_0, -8, 7), (F::Q5_0, -16, 15), (F::Q8_0, -128, 127)];
        let holding = blocks.into_iter().find(|(_, lowest, highest)| *lowest <= low && high <= *highest);
        let exact = cols.is_multiple_of(BLOCK) && scales.covers_blocks(BLOCK, cols) && scales.fit_half();
        let format = match holding.filter(|_| exact) {
            Some((format, ..)) => format,
            None => scales.float_format(CodeRange::whole(low, high)),
        };
        Self { rows, cols, format, values: Values::Whole(Box::new(integers), scales) }
    }

    /// Values that `format` has without rounding.
    pub(super) fn floats([rows, cols]: [usize; 2], format: WeightFormat, floats: impl Floats + 'a) -> Self {
        Self { rows, cols, format, values: Values::Floats(Box::new(floats)) }
    }

    /// Blocks of 16 bytes, two codes in each, the first in the lower half, and an exponent for each block.
    pub(super) fn mxfp4([rows, cols]: [usize; 2], blocks: &'a [u8], exponents: &'a [u8]) -> Self {
        Self { rows, cols, format: WeightFormat::MXFP4, values: Values::Mxfp4 { blocks, exponents } }
    }

    /// What it becomes in memory.
    pub(crate) fn format(&self) -> WeightFormat {
        self.format
    }

    /// Bytes held besides the file's while it is read.
    pub(crate) fn held_bytes(&self) -> usize {
        match &self.values {
            Values::Whole(integers, scales) => integers.held_bytes() + scales.num_bytes(),
            Values::Floats(floats) => floats.held_bytes(),
            Values::Mxfp4 { .. } => 0,
        }
    }

    /// The rows of these ranges, one after another, in [`Self::format`].
    ///
    /// # Errors
    /// If a range is outside the matrix, or rows are no whole number of blocks.
    pub(crate) fn bytes(&self, cx: &Compute, ranges: &[Range<usize>]) -> Result<Vec<u8>, ModelError> {
        let shape = || format!("rows {ranges:?} of a quantised matrix of {} x {}", self.rows, self.cols);
        let inside = ranges.iter().all(|range| range.start <= range.end && range.end <= self.rows);
        let row_bytes = self.format.row_bytes(self.cols).filter(|_| inside);
        let row_bytes = row_bytes.ok_or_else(|| ModelError::Unsupported { feature: shape() })?;
        let num_rows: usize = ranges.iter().map(ExactSizeIterator::len).sum();
        let mut out = vec![0; num_rows * row_bytes];
        let mut rest = &mut out[..];
        for range in ranges {
            let (part, after) = rest.split_at_mut(range.len() * row_bytes);
            for_each_row_group(cx, part, row_bytes, self.cols * 8, &|first, rows| {
                let mut row = range.start + first;
                for rows in rows.chunks_mut(ROWS_AT_ONCE * row_bytes) {
                    let next = row + rows.len() / row_bytes;
                    self.write(row..next, rows);
                    row = next;
                }
            });
            rest = after;
        }
        Ok(out)
    }

    /// Writes rows in [`Self::format`].
    fn write(&self, rows: Range<usize>, out: &mut [u8]) {
        match &self.values {
            Values::Whole(integers, scales) => {
                let mut codes = vec![0; rows.len() * self.cols];
                integers.read(rows.clone(), &mut codes);
                if self.format.is_float() {
                    let at = |index: usize| scales.at(rows.start + index / self.cols, index % self.cols);
                    let values: Vec<f32> =
                        codes.iter().enumerate().map(|(index, code)| f32::from(*code) * at(index)).collect();
                    write_floats(self.format, &values, out);
                    return;
                }
                let blocks = codes.as_chunks::<BLOCK>().0.iter().zip(out.chunks_exact_mut(self.format.block_bytes()));
                for (index, (codes, block)) in blocks.enumerate() {
                    let value = index * BLOCK;
                    let scale = scales.at(rows.start + value / self.cols, value % self.cols);
                    write_block(self.format, scale, codes, block);
                }
            }
            Values::Floats(floats) => {
                let mut values = vec![0.0; rows.len() * self.cols];
                floats.read(rows, &mut values);
                write_floats(self.format, &values, out);
            }
            Values::Mxfp4 { blocks, exponents } => {
                let per_row = self.cols / BLOCK;
                let blocks = blocks.as_chunks::<16>().0.iter().zip(*exponents).skip(rows.start * per_row);
                for ((codes, exponent), out) in blocks.zip(out.as_chunks_mut::<17>().0) {
                    out[0] = *exponent;
                    let code = |value: usize| codes[value / 2] >> (4 * (value % 2)) & 15;
                    out[1..].iter_mut().enumerate().for_each(|(i, byte)| *byte = code(i) | code(i + 16) << 4);
                }
            }
        }
    }
}

fn write_floats(format: WeightFormat, values: &[f32], out: &mut [u8]) {
    // Sizes are whole rows of a float format, for which every length is right.
    let _ = quantize_row(format, values, out);
}

/// Writes a block as `yantra_kernels` reads it: the scale in half precision, which has it, then the codes.
fn write_block(format: WeightFormat, scale: f32, codes: &[i16; BLOCK], block: &mut [u8]) {
    let (half, packed) = block.split_at_mut(2);
    write_floats(WeightFormat::F16, &[scale], half);
    match format {
        WeightFormat::Q4_0 => {
            let code = |i: usize| (codes[i] + 8) as u8;
            packed.iter_mut().enumerate().for_each(|(i, byte)| *byte = code(i) | code(i + 16) << 4);
        }
        WeightFormat::Q5_0 => {
            let (high, low) = packed.split_at_mut(4);
            let code = |i: usize| (codes[i] + 16) as u8;
            let bits = (0..BLOCK).fold(0_u32, |bits, i| bits | u32::from(code(i) >> 4) << i);
            high.copy_from_slice(&bits.to_le_bytes());
            low.iter_mut().enumerate().for_each(|(i, byte)| *byte = code(i) & 15 | (code(i + 16) & 15) << 4);
        }
        _ => packed.iter_mut().zip(codes).for_each(|(byte, code)| *byte = *code as i8 as u8),
    }
}
