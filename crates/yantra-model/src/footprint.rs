//! What a model will take of the memory, to the byte where it is large, before anything large is allocated.

use crate::{
    ModelError,
    weights::{Place, WeightSource},
};
use std::collections::HashMap;
use yantra_kernels::{Compute, DenseLinear, DenseType, PackedLinear, WeightFormat};

/// Bytes that a model takes besides its KV cache and logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Packed matrices and the embedding table.
    pub weight_bytes: usize,
    /// Norms, biases, and the rotary tables of a sequence of full length.
    pub table_bytes: usize,
    /// Buffers of a step, for each of its tokens.
    pub step_bytes_per_token: usize,
    /// Buffers of quantisation at load, gone when the model is loaded.
    pub load_bytes: usize,
}

/// Sums what matrices take once packed.
pub(crate) struct Sizes<'a> {
    source: &'a WeightSource<'a>,
    cx: &'a Compute,
    /// Bytes and rows of a tile, by format and columns.
    tiles: HashMap<(WeightFormat, usize), (usize, usize)>,
    pub(crate) weight_bytes: usize,
    pub(crate) load_bytes: usize,
    /// Whether some matrix reads activations in single precision, and whether some reads signed bytes.
    pub(crate) float: bool,
    pub(crate) int8: bool,
}

impl<'a> Sizes<'a> {
    pub(crate) fn new(source: &'a WeightSource<'a>, cx: &'a Compute) -> Self {
        Self { source, cx, tiles: HashMap::new(), weight_bytes: 0, load_bytes: 0, float: false, int8: false }
    }

    /// Counts a matrix as [`WeightSource::matrix`] will make it.
    pub(crate) fn matrix(&mut self, place: &Place, cols: usize) -> Result<(), ModelError> {
        let stored = self.source.stored(place, cols)?;
        let (rows, copied) = (place.num_rows(), stored.copied_bytes(place, cols));
        self.load_bytes = self.load_bytes.max(copied);
        let target = self.source.target(stored.format(), cols);
        let format = target.unwrap_or(stored.format());
        let (tile_bytes, tile_rows) = self.tile(format, cols)?;
        self.weight_bytes += rows.div_ceil(tile_rows) * tile_bytes;
        if target.is_some() {
            let quantized = rows * cols / format.block_len() * format.block_bytes();
            self.load_bytes = self.load_bytes.max(copied + rows * cols * size_of::<f32>() + quantized);
        }
        if format.is_float() {
            self.float = true
        } else {
            self.int8 = true
        }
        Ok(())
    }

    /// Counts a matrix that is packed into a file, by way of memory.
    pub(crate) fn matrix_in_file(&mut self, place: &Place, cols: usize) -> Result<(), ModelError> {
        let before = self.weight_bytes;
        self.matrix(place, cols)?;
        let packed = std::mem::replace(&mut self.weight_bytes, before) - before;
        let copied = self.source.stored(place, cols)?.copied_bytes(place, cols);
        self.load_bytes = self.load_bytes.max(copied + packed);
        Ok(())
    }

    /// Counts a matrix of a format that is made while loading.
    pub(crate) fn made(&mut self, format: WeightFormat, rows: usize, cols: usize) -> Result<(), ModelError> {
        let (tile_bytes, tile_rows) = self.tile(format, cols)?;
        self.weight_bytes += rows.div_ceil(tile_rows) * tile_bytes;
        self.float |= format.is_float();
        self.int8 |= !format.is_float();
        Ok(())
    }

    /// Counts a matrix as [`DenseLinear::pack`] will make it.
    pub(crate) fn dense(&mut self, dense: DenseType, place: &Place, cols: usize) -> Result<(), ModelError> {
        self.source.stored(place, cols)?;
        let rows = place.num_rows();
        self.weight_bytes += DenseLinear::packed_bytes(self.cx.level(), dense, rows, cols);
        self.load_bytes = self.load_bytes.max(rows * cols * size_of::<f32>());
        Ok(())
    }

    /// Bytes of the activations that a token takes before a matrix of so many columns.
    pub(crate) fn activation_bytes(&self, cols: usize) -> usize {
        // A signed byte per value, and 16 bytes of scale and sums per 32 of them.
        let int8 = cols.next_multiple_of(32) + cols.div_ceil(32) * 16;
        usize::from(self.float) * cols * size_of::<f32>() + usize::from(self.int8) * int8
    }

    /// Packs a few rows of nothing and sees what they take: only the kernels know their layout.
    fn tile(&mut self, format: WeightFormat, cols: usize) -> Result<(usize, usize), ModelError> {
        /// A multiple of the rows of every tile.
        const ROWS: usize = 64;
        if let Some(&tile) = self.tiles.get(&(format, cols)) {
            return Ok(tile);
        }
        let row_bytes = format.row_bytes(cols).unwrap_or(0);
        let rows = vec![0; ROWS * row_bytes];
        let packed = |count: usize| PackedLinear::pack(self.cx, format, count, cols, &rows[..count * row_bytes]);
        let (one, many) = (packed(1)?.bytes().max(1), packed(ROWS)?.bytes().max(1));
        let tile = (one, (ROWS * one / many).max(1));
        self.tiles.insert((format, cols), tile);
        Ok(tile)
    }
}
