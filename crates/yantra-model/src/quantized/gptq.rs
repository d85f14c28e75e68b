//! GPTQ (Frantar et al. 2022) as AutoGPTQ and GPTQModel store it.
//!
//! `qweight` has `[cols * bits / 32, rows]` words: the codes of a row lie one after another down a column of words.
//! `qzeros` (`[groups, rows * bits / 32]`) has a zero point for each row and group, less one in the older format, `scales`
//! (`[groups, rows]`) their scales. `g_idx` has the group of each column; it is out of order where columns were quantised
//! in the order of their activations (`desc_act`).
//!
//! Layout: `pack_original` and `dequantize_weight` of `gptqmodel/nn_modules/qlinear/__init__.py` (GPTQModel 7.7).

use super::{
    Groups, Integers, Matrix, Scales, Wanted,
    bits::{unpack, word},
    tensors::Tensors,
    unsupported,
};
use crate::ModelError;
use std::ops::Range;
use yantra_formats::{RawTensor, hf::Config};

/// What the tensors do not tell.
pub(super) struct Settings {
    /// Whether zero points are stored less one.
    zeros_less_one: bool,
    bits: Option<usize>,
    group_size: Option<usize>,
}

impl Settings {
    pub(super) fn read(config: &Config) -> Result<Self, ModelError> {
        let format = config.find::<&str>("checkpoint_format")?.or(config.find("format")?).unwrap_or("gptq");
        let marlin = config.find::<bool>("is_marlin_format").ok().flatten() == Some(true);
        let zeros_less_one = match format {
            _ if marlin => return Err(unsupported("GPTQ in the layout 'marlin'".to_owned())),
            "gptq" => true,
            "gptq_v2" => false,
            other => return Err(unsupported(format!("GPTQ in the layout '{other}' (gptq and gptq_v2 are)"))),
        };
        // -1: a row is a group.
        let group_size = config.find::<f64>("group_size")?.filter(|size| *size > 0.0).map(|size| size as usize);
        Ok(Self { zeros_less_one, bits: config.find("bits")?, group_size })
    }
}

pub(super) fn matrix<'a>(
    tensors: &Tensors<'a>,
    settings: &Settings,
    wanted: &Wanted<'_>,
) -> Result<Option<Matrix<'a>>, ModelError> {
    let Wanted { name, rows, cols, .. } = *wanted;
    let part = |ending: &str| format!("{name}.{ending}");
    let Some(qweight) = tensors.find(&part("qweight")) else { return Ok(None) };
    let bits = bits(tensors, settings, &qweight, [rows, cols])?;
    let words = tensors.bytes(&part("qweight"), "I32", qweight.shape)?;
    let num_groups = tensors.require(&part("scales"))?.shape.first().copied().unwrap_or(0);
    let groups = groups(tensors, settings, name, cols, num_groups)?;
    let scales = tensors.floats_of(&part("scales"), num_groups * rows)?;
    let words_per_group = (rows * bits).div_ceil(32);
    let stored = tensors.bytes(&part("qzeros"), "I32", &[num_groups, words_per_group])?;
    let most = (1 << bits) - 1;
    let zero = |index: usize| {
        let (group, row) = (index / rows, index % rows);
        let stored = unpack(|at| word(stored, group * words_per_group + at), bits, row);
        if settings.zeros_less_one { (stored + 1) & most } else { stored }
    };
    let zeros: Vec<i16> = (0..num_groups * rows).map(zero).collect();
    let (low, high) = zeros.iter().fold((most, 0), |(low, high), zero| (low.min(*zero), high.max(*zero)));
    let integers = Columns { words, bits, num_rows: rows, cols, zeros, groups: groups.clone() };
    let scales = Scales::by_group(scales, rows, groups);
    Ok(Some(Matrix::whole([rows, cols], integers, [-high, most - low], scales)))
}

/// Bits of a code, by the words there are: checkpoints may have another number in some layers than the configuration says.
fn bits(
    tensors: &Tensors<'_>,
    settings: &Settings,
    qweight: &RawTensor<'_>,
    [rows, cols]: [usize; 2],
) -> Result<usize, ModelError> {
    const BUILT: [usize; 4] = [2, 3, 4, 8];
    let fits = |bits: &usize| qweight.shape == [(cols * bits).div_ceil(32), rows];
    let usual = settings.bits.filter(|bits| BUILT.contains(bits) && fits(bits));
    usual.or_else(|| BUILT.into_iter().find(fits)).ok_or_else(|| {
        let expected = format!("[{cols} * bits / 32, {rows}] words with 2, 3, 4 or 8 bits");
        tensors.wrong(qweight.name, format!("has shape {:?}: expected {expected}", qweight.shape))
    })
}

/// The group of each column: `g_idx` where it is, else as many one after another as the configuration says.
fn groups(
    tensors: &Tensors<'_>,
    settings: &Settings,
    name: &str,
    cols: usize,
    num_groups: usize,
) -> Result<Groups, ModelError> {
    let index = format!("{name}.g_idx");
    if tensors.find(&index).is_some() {
        return listed(tensors, &index, cols, num_groups);
    }
    let size = settings.group_size.filter(|size| cols.div_ceil(*size) == num_groups);
    let even = (num_groups > 0 && cols.is_multiple_of(num_groups)).then(|| cols / num_groups);
    size.or(even).map(Groups::Of).ok_or_else(|| {
        let message = format!("has {num_groups} groups: expected a number that divides {cols} columns");
        tensors.wrong(&format!("{name}.scales"), message)
    })
}

/// A list of the group of each column.
pub(super) fn listed(tensors: &Tensors<'_>, index: &str, cols: usize, num_groups: usize) -> Result<Groups, ModelError> {
    let bytes = tensors.bytes(index, "I32", &[cols])?;
    let groups: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    match groups.iter().find(|group| **group as usize >= num_groups) {
        Some(group) => Err(tensors.wrong(index, format!("names group {group}: expected less than {num_groups}"))),
        None => Ok(Groups::Listed(groups)),
    }
}

/// Codes that lie down columns of words.
struct Columns<'a> {
    words: &'a [u8],
    bits: usize,
    num_rows: usize,
    cols: usize,
    /// `[groups, rows]`
    zeros: Vec<i16>,
    groups: Groups,
}

impl Integers for Columns<'_> {
    fn read(&self, rows: Range<usize>, out: &mut [i16]) {
        for col in 0..self.cols {
            let zeros = &self.zeros[self.groups.of_column(col) * self.num_rows..];
            for row in rows.clone() {
                let code = unpack(|at| word(self.words, at * self.num_rows + row), self.bits, col);
                out[(row - rows.start) * self.cols + col] = code - zeros[row];
            }
        }
    }

    fn held_bytes(&self) -> usize {
        size_of_val(&*self.zeros)
    }
}
