//! AWQ (Lin et al. 2023) as AutoAWQ stores it in its version `gemm`: 4 bits with zero points.
//!
//! `qweight` has `[cols, rows / 8]` words, `qzeros` `[groups, rows / 8]`, `scales` `[groups, rows]`. The eight codes of a
//! word belong to rows 0, 2, 4, 6, 1, 3, 5, 7 of eight, from the lowest bits on.
//!
//! Layout: `WQLinear_GEMM.from_linear` of `awq/modules/linear/gemm.py` and `awq/utils/packing_utils.py` (AutoAWQ 0.2.9).

use super::{Groups, Integers, Matrix, Scales, Wanted, bits::word, tensors::Tensors, unsupported};
use crate::ModelError;
use std::ops::Range;
use yantra_formats::hf::Config;

/// Bits of a code, and codes in a word.
const BITS: usize = 4;
const PER_WORD: usize = 32 / BITS;
/// Where in a word the code of each of eight rows is.
const PLACE_OF_ROW: [usize; PER_WORD] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Refuses what is stored otherwise.
pub(super) fn check(config: &Config) -> Result<(), ModelError> {
    let version = config.find::<&str>("version")?.or(config.find("checkpoint_format")?).unwrap_or("gemm");
    let bits = config.find::<usize>("bits")?.or(config.find("w_bit")?).unwrap_or(BITS);
    if !version.eq_ignore_ascii_case("gemm") {
        return Err(unsupported(format!("AWQ in the layout '{version}' (gemm is)")));
    }
    if bits != BITS {
        return Err(unsupported(format!("AWQ of {bits} bits (4 are)")));
    }
    match config.find::<bool>("zero_point")? {
        Some(false) => Err(unsupported("AWQ without zero points".to_owned())),
        _ => Ok(()),
    }
}

pub(super) fn matrix<'a>(tensors: &Tensors<'a>, wanted: &Wanted<'_>) -> Result<Option<Matrix<'a>>, ModelError> {
    let Wanted { name, rows, cols, .. } = *wanted;
    let part = |ending: &str| format!("{name}.{ending}");
    if tensors.find(&part("qweight")).is_none() {
        return Ok(None);
    }
    let words_per_col = rows.div_ceil(PER_WORD);
    let words = tensors.bytes(&part("qweight"), "I32", &[cols, words_per_col])?;
    let shape = tensors.require(&part("scales"))?.shape;
    let num_groups = shape.first().copied().filter(|groups| *groups > 0 && cols.is_multiple_of(*groups));
    let num_groups = num_groups.ok_or_else(|| {
        let message = format!("has shape {shape:?}: expected [groups, {rows}] with groups that divide {cols}");
        tensors.wrong(&part("scales"), message)
    })?;
    let scales = tensors.floats_of(&part("scales"), num_groups * rows)?;
    let stored = tensors.bytes(&part("qzeros"), "I32", &[num_groups, words_per_col])?;
    let zero = |index: usize| code(stored, words_per_col, index / rows, index % rows);
    let zeros: Vec<i16> = (0..num_groups * rows).map(zero).collect();
    const MOST: i16 = (1 << BITS) - 1;
    let (low, high) = zeros.iter().fold((MOST, 0), |(low, high), zero| (low.min(*zero), high.max(*zero)));
    let group_size = cols / num_groups;
    let integers = Interleaved { words, words_per_col, num_rows: rows, cols, zeros, group_size };
    let scales = Scales::by_group(scales, rows, Groups::Of(group_size));
    Ok(Some(Matrix::whole([rows, cols], integers, [-high, MOST - low], scales)))
}

/// The code of a row in one of the lists of words, each of all rows.
pub(super) fn code(words: &[u8], words_per_list: usize, list: usize, row: usize) -> i16 {
    let word = word(words, list * words_per_list + row / PER_WORD);
    (word >> (BITS * PLACE_OF_ROW[row % PER_WORD]) & 15) as i16
}

/// Codes of neighbouring rows in a word, out of order.
struct Interleaved<'a> {
    words: &'a [u8],
    words_per_col: usize,
    num_rows: usize,
    cols: usize,
    /// `[groups, rows]`
    zeros: Vec<i16>,
    group_size: usize,
}

impl Integers for Interleaved<'_> {
    fn read(&self, rows: Range<usize>, out: &mut [i16]) {
        for col in 0..self.cols {
            let zeros = &self.zeros[col / self.group_size * self.num_rows..];
            for row in rows.clone() {
                let code = code(self.words, self.words_per_col, col, row);
                out[(row - rows.start) * self.cols + col] = code - zeros[row];
            }
        }
    }

    fn held_bytes(&self) -> usize {
        size_of_val(&*self.zeros)
    }
}
