//! Rows of a checkpoint's tensor, which tensors of the destination are put together from.

use crate::{ModelError, weights::Place};
use std::{iter, ops::Range};
use yantra_formats::{Checkpoint, TensorView};
use yantra_kernels::{Compute, WeightFormat, dequantize_row, quantize_rows};

/// Some rows of a tensor, in an order of their own.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The tensor's name.
    pub(super) tensor: String,
    /// Where in it the rows lie.
    pub(super) place: Place,
    /// Values of a row.
    pub(super) cols: usize,
}

impl Part {
    /// The matrix of `cols` columns at a place.
    pub(super) fn weight(place: &Place, cols: usize) -> Self {
        Self { tensor: place.weight_name(), place: place.clone(), cols }
    }

    /// What is added to the matrix's products, a row for each value.
    pub(super) fn bias(place: &Place) -> Self {
        Self { tensor: place.bias_name(), place: Place { transposed: false, ..place.clone() }, cols: 1 }
    }

    /// A vector.
    pub(super) fn vector(tensor: String, len: usize) -> Self {
        Self { place: Place::whole(&tensor, len), tensor, cols: 1 }
    }

    pub(super) fn num_rows(&self) -> usize {
        self.place.num_rows()
    }

    /// The rows that `order` names among those of this part.
    fn with_rows(self, order: impl FnOnce(&[usize]) -> Vec<usize>) -> Self {
        let rows: Vec<usize> = self.place.rows.iter().cloned().flatten().collect();
        let rows = joined(order(&rows).into_iter().map(|row| row..row + 1));
        Self { place: Place { rows, ..self.place }, ..self }
    }

    /// Some of its rows.
    pub(super) fn slice(self, rows: Range<usize>) -> Self {
        if rows == (0..self.num_rows()) { self } else { self.with_rows(|all| all[rows].to_vec()) }
    }

    /// Rows of heads of `dim` components, stored so that the first half is rotated with the second, in the order in which
    /// neighbours are.
    pub(super) fn halves_to_neighbours(self, dim: usize) -> Self {
        self.with_rows(|rows| heads(rows, dim, |at| at % 2 * (dim / 2) + at / 2))
    }

    /// The opposite.
    pub(super) fn neighbours_to_halves(self, dim: usize) -> Self {
        self.with_rows(|rows| heads(rows, dim, |at| at % (dim / 2) * 2 + at / (dim / 2)))
    }

    /// The rows where the checkpoint has them, which is checked to be as large as is thought.
    pub(super) fn view<'c>(&self, checkpoint: &'c Checkpoint) -> Result<TensorView<'c>, ModelError> {
        let view = checkpoint.require(&self.tensor)?;
        let (index, count) = self.place.part.unwrap_or((0, 1));
        if view.num_elements() != count * self.place.stored_rows * self.cols {
            let expected = vec![count, self.place.stored_rows, self.cols];
            return Err(ModelError::TensorShape { name: self.tensor.clone(), given: view.shape, expected });
        }
        let bytes = view.data.len() / count.max(1);
        Ok(TensorView { data: &view.data[index * bytes..][..bytes], ..view })
    }

    /// The rows in a format, `offset` being added to every value.
    pub(super) fn bytes(
        &self,
        cx: &Compute,
        checkpoint: &Checkpoint,
        format: WeightFormat,
        offset: f32,
    ) -> Result<Vec<u8>, ModelError> {
        let view = self.view(checkpoint)?;
        let stored = self.place.bytes(&view, self.cols);
        if view.format == format && offset == 0.0 {
            return Ok(stored.into_owned());
        }
        let len = self.num_rows() * self.cols;
        let mut values = vec![0.0; len];
        dequantize_row(view.format, &stored, &mut values)?;
        if offset != 0.0 {
            values.iter_mut().for_each(|value| *value += offset);
        }
        let mut bytes = vec![0; len / format.block_len() * format.block_bytes()];
        quantize_rows(cx, format, self.cols, &values, &mut bytes)?;
        Ok(bytes)
    }
}

/// Puts the rows of each head in another order: `from` says at which of them the row for a place lies.
fn heads(rows: &[usize], dim: usize, from: impl Fn(usize) -> usize) -> Vec<usize> {
    rows.chunks(dim).flat_map(|head| (0..head.len()).map(|at| head[from(at)])).collect()
}

/// Ranges one after another, those that touch put together.
fn joined(ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => all.push(range),
        }
    }
    all
}

/// Parts one after another; those of one tensor that follow each other put together.
pub(super) fn concatenated(parts: impl IntoIterator<Item = Part>) -> Vec<Part> {
    let mut all: Vec<Part> = Vec::new();
    for part in parts {
        match all.last_mut() {
            Some(last) if last.tensor == part.tensor && last.place.part == part.place.part => {
                let rows = std::mem::take(&mut last.place.rows);
                last.place.rows = joined(rows.into_iter().chain(part.place.rows));
            }
            _ => all.push(part),
        }
    }
    all
}

/// Parts of several matrices, taken in turn by group.
pub(super) fn by_group(matrices: &[Part], groups: usize) -> Vec<Part> {
    let of_group = |group: usize| {
        matrices.iter().map(move |matrix| {
            let rows = matrix.num_rows() / groups;
            matrix.clone().slice(group * rows..(group + 1) * rows)
        })
    };
    concatenated((0..groups).flat_map(of_group))
}

/// A matrix `[rows, cols]` of values of `size` bytes, by columns.
pub(super) fn transposed(bytes: &[u8], rows: usize, cols: usize, size: usize) -> Vec<u8> {
    let value = |row: usize, col: usize| bytes[(row * cols + col) * size..][..size].iter().copied();
    (0..cols).flat_map(|col| iter::repeat_n(col, rows).enumerate()).flat_map(|(row, col)| value(row, col)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(part: &Part) -> Vec<usize> {
        part.place.rows.iter().cloned().flatten().collect()
    }

    #[test]
    fn neighbours_and_halves_are_opposites() {
        let part = Part::vector("x".to_owned(), 12);
        let there = part.clone().halves_to_neighbours(6);
        assert_eq!(rows(&there), [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert_eq!(rows(&there.neighbours_to_halves(6)), rows(&part));
    }

    #[test]
    fn groups_take_turns() {
        let matrix = |name: &str, rows| Part::vector(name.to_owned(), rows);
        let parts = by_group(&[matrix("q", 4), matrix("k", 2)], 2);
        let found: Vec<_> = parts.iter().map(|part| (part.tensor.as_str(), rows(part))).collect();
        assert_eq!(found, [("q", vec![0, 1]), ("k", vec![0]), ("q", vec![2, 3]), ("k", vec![1])]);
        let shared = [matrix("qkv", 6).slice(0..4), matrix("qkv", 6).slice(4..6)];
        assert_eq!(by_group(&shared, 1).len(), 1);
    }

    #[test]
    fn columns_become_rows() {
        assert_eq!(transposed(&[1, 2, 3, 4, 5, 6], 2, 3, 1), [1, 4, 2, 5, 3, 6]);
    }
}
