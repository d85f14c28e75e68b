//! Products in which both sides are narrow: bfloat16 pairs, or signed bytes with a scale per row of weights and per 128
//! values of a token.
//!
//! This is the arithmetic of models that read whole texts and have no weights to save bytes on (embedding models): scales
//! interrupt the sums never or seldom, so a product runs near the rate of the dot-product instruction. Weights lie
//! in units of two registers of rows; a word of 32 bits holds consecutive k (two bfloat16 values or four bytes), so that
//! one broadcast word of a token meets all rows of a register. A block of tokens keeps its sums in registers along all of
//! k, therefore an element's bits depend on its row and its token only.
//!
//! Quantisation to bytes is symmetric, `round(127 x / max |x|)`, and of tokens dynamic (as in Zafrir et al., 2019,
//! "Q8BERT").

mod kernel;
mod rows;
#[cfg(test)]
mod tests;

use super::simd::{Isa, Operation, Simd};
use crate::{Compute, CpuLevel, KernelError, buffer::Buffer, simd};
use half::bf16;
use kernel::{Block, UNIT_VECTORS};
pub use rows::DenseRows;
use std::ops::Range;

/// What both sides of a dense product are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenseType {
    /// bfloat16, sums in f32.
    Bf16,
    /// Signed bytes with a scale per row of weights and per 128 values of a token, sums in 32-bit integers.
    Int8,
}

impl DenseType {
    /// Whether a level has the dot-product instruction of this type; others do the same arithmetic in several steps.
    pub fn is_native(self, level: CpuLevel) -> bool {
        match self {
            Self::Bf16 => level == CpuLevel::Avx512Bf16,
            Self::Int8 => matches!(level, CpuLevel::Avx512Bf16 | CpuLevel::Avx512Vnni),
        }
    }

    /// Values of a word.
    fn per_word(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::Int8 => 4,
        }
    }

    /// Words of a row of `cols` values: whole vectors of them can be stored.
    fn words(self, cols: usize) -> usize {
        cols.div_ceil(self.per_word()).next_multiple_of(8)
    }

    /// Groups of a token of `cols` values whose sums are taken by themselves.
    fn groups(self, cols: usize) -> usize {
        match self {
            Self::Bf16 => 1,
            Self::Int8 => self.words(cols).div_ceil(rows::GROUP_WORDS),
        }
    }

    /// Rows of a register at a level.
    fn lanes(self, level: CpuLevel) -> usize {
        match self {
            Self::Bf16 => float_lanes(level),
            Self::Int8 => Isa::of(level).lanes(),
        }
    }
}

simd::simd_dispatch! {
    fn float_lanes() -> usize = lanes_body;
}

#[inline(always)]
fn lanes_body<S: simd::Simd>(_: S) -> usize {
    S::LANES
}

/// Whether signed bytes must be biased by 128 to be multiplied.
fn is_biased(isa: Isa) -> bool {
    struct Biased;
    impl Operation for Biased {
        type Output = bool;
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> bool {
            S::WIDE_DOT
        }
    }
    isa.dispatch(Biased)
}

/// What becomes of a product before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseThen {
    /// Nothing.
    Store,
    /// It is added to what is there: a residual.
    Add,
    /// `x/2 (1 + erf(x / sqrt 2))` (Hendrycks and Gimpel, 2016).
    Gelu,
}

/// A weight matrix `[rows, cols]` with its bias, rounded to a [`DenseType`] and packed for a CPU level.
pub struct DenseLinear {
    dense: DenseType,
    level: CpuLevel,
    rows: usize,
    cols: usize,
    lanes: usize,
    /// `[units, words, UNIT_VECTORS, lanes]` words
    buffer: Buffer,
    /// `[rows rounded up to whole units]`; of bytes only.
    scales: Vec<f32>,
    /// `[rows rounded up to whole units]`
    bias: Vec<f32>,
}

impl DenseLinear {
    /// Rounds and packs `values`, `[rows, cols]`, with `bias`, `[rows]`, if there is one.
    ///
    /// # Errors
    /// If `values` or `bias` does not have the size of the matrix, or memory runs out.
    pub fn pack(
        level: CpuLevel,
        dense: DenseType,
        rows: usize,
        cols: usize,
        values: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<Self, KernelError> {
        let expected = rows.saturating_mul(cols);
        if values.len() != expected {
            return Err(KernelError::Shape { what: "values of a weight matrix", given: values.len(), expected });
        }
        if let Some(bias) = bias.filter(|bias| bias.len() != rows) {
            return Err(KernelError::Shape { what: "values of a bias", given: bias.len(), expected: rows });
        }
        let lanes = dense.lanes(level);
        let unit_rows = UNIT_VECTORS * lanes;
        let (padded_rows, words) = (rows.next_multiple_of(unit_rows), dense.words(cols));
        let mut buffer = Buffer::zeroed(Self::packed_bytes(level, dense, rows, cols), "packed weights")?;
        let biased = dense == DenseType::Int8 && is_biased(Isa::of(level));
        let mut scales = vec![0.0; if dense == DenseType::Int8 { padded_rows } else { 0 }];
        let row_words = if cols == 0 { 0 } else { rows };
        let packed = buffer.as_mut_slice();
        if biased {
            packed.fill(128);
        }
        for (row, values) in values.chunks_exact(cols.max(1)).take(row_words).enumerate() {
            let start = (row / unit_rows * words * unit_rows + row % unit_rows) * 4;
            let word = |index: usize| start + index * unit_rows * 4;
            match dense {
                DenseType::Bf16 => {
                    for (col, value) in values.iter().enumerate() {
                        let at = word(col / 2) + col % 2 * 2;
                        packed[at..at + 2].copy_from_slice(&bf16::from_f32(*value).to_le_bytes());
                    }
                }
                DenseType::Int8 => {
                    let amax = values.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
                    scales[row] = amax / 127.0;
                    let inverse = if amax > 1e-30 { 127.0 / amax } else { 0.0 };
                    for (col, value) in values.iter().enumerate() {
                        let quant = ((value * inverse).round_ties_even() as i8).cast_unsigned();
                        packed[word(col / 4) + col % 4] = if biased { quant ^ 128 } else { quant };
                    }
                }
            }
        }
        let mut padded_bias = bias.map_or_else(Vec::new, <[f32]>::to_vec);
        padded_bias.resize(padded_rows, 0.0);
        Ok(Self { dense, level, rows, cols, lanes, buffer, scales, bias: padded_bias })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of memory the packed weights take.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// [`DenseLinear::bytes`] of a matrix that was not packed yet.
    pub fn packed_bytes(level: CpuLevel, dense: DenseType, rows: usize, cols: usize) -> usize {
        rows.next_multiple_of(UNIT_VECTORS * dense.lanes(level)).saturating_mul(dense.words(cols)).saturating_mul(4)
    }

    fn unit_rows(&self) -> usize {
        UNIT_VECTORS * self.lanes
    }

    /// Units `units` of the product with tokens `tokens`.
    fn multiply(&self, x: &DenseRows, tokens: Range<usize>, units: Range<usize>, out: *mut f32, then: DenseThen) {
        let words = self.dense.words(self.cols);
        let groups = self.dense.groups(self.cols);
        let most = kernel::token_block(self.dense, self.lanes);
        for unit in units {
            let first_row = unit * self.unit_rows();
            let unit_start = unit * words * self.unit_rows() * 4;
            let weight = self.buffer.as_ptr().wrapping_add(unit_start).cast();
            let mut token = tokens.start;
            while token < tokens.end {
                let count = super::scratch::block(tokens.end - token, most);
                let block = Block {
                    weight,
                    scales: self.scales.as_ptr().wrapping_add(first_row),
                    bias: self.bias.as_ptr().wrapping_add(first_row),
                    x: x.words(token),
                    stats: x.stats(token),
                    words,
                    groups,
                    out: out.wrapping_add(token * self.rows + first_row),
                    stride: self.rows,
                    rows: (self.rows - first_row).min(self.unit_rows()),
                    then,
                };
                match self.dense {
                    DenseType::Bf16 => kernel::pairs(self.level, &block, count),
                    DenseType::Int8 => Isa::of(self.level).dispatch(kernel::Quads { block: &block, count }),
                }
                token += count;
            }
        }
    }
}

/// Where tasks write rows and tokens of their own.
struct SharedOut(*mut f32);

// SAFETY: tasks write disjoint tokens or rows.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Sync for SharedOut {}

impl SharedOut {
    fn start(&self) -> *mut f32 {
        self.0
    }
}

/// `out = x * weight^T + bias` and what comes `then`; `out` is `[num_tokens, rows]`.
///
/// # Panics
/// If shapes disagree or the activations are of another type or level than the weight.
pub fn dense(cx: &Compute, x: &DenseRows, weight: &DenseLinear, out: &mut [f32], then: DenseThen) {
    /// Tokens of a task: their activations stay in the second-level cache while weights pass by.
    const CHUNK_TOKENS: usize = 144;
    assert_eq!(weight.cols, x.cols(), "columns of a weight and of its activations");
    assert_eq!(out.len(), x.num_tokens() * weight.rows, "values of a dense output");
    assert!(x.is_for(weight.level, weight.dense), "activations were made for another type or level");
    let num_units = weight.rows.div_ceil(weight.unit_rows());
    let num_chunks = x.num_tokens().div_ceil(CHUNK_TOKENS);
    if num_units == 0 || num_chunks == 0 {
        return;
    }
    let ranges = if cx.num_threads() == 1 { 1 } else { (cx.num_threads() * 4).div_ceil(num_chunks).min(num_units) };
    let (tokens, shared) = (x.num_tokens(), SharedOut(out.as_mut_ptr()));
    cx.run(num_chunks * ranges, &|task| {
        let (chunk, range) = (task / ranges, task % ranges);
        let chunk = chunk * tokens / num_chunks..(chunk + 1) * tokens / num_chunks;
        let units = range * num_units / ranges..(range + 1) * num_units / ranges;
        weight.multiply(x, chunk, units, shared.start(), then);
    });
}
