//! bitsandbytes: 4 bits by a code book (NF4 of Dettmers et al. 2023, or FP4), or 8 bits (LLM.int8, 2022).
//!
//! 4 bits: `weight` has two codes in a byte, the first in the upper half, of all values row after row; `weight.quant_map`
//! what the 16 codes stand for; `weight.absmax` a factor for each block of values, which may itself be quantised:
//! bytes that `weight.nested_quant_map` maps, times `weight.nested_absmax` for each block of them, plus an offset. Block
//! sizes, offset and shape are JSON in the bytes of `weight.quant_state.bitsandbytes__nf4` (or `__fp4`). Neither code
//! book is a kernel's, so these become f32.
//!
//! 8 bits: `weight` has bytes with a sign, `SCB` the largest value of each row, which stands for 127.
//!
//! Layout: `QuantState` and `dequantize_4bit` of `bitsandbytes/functional.py` (0.50).

use super::{Floats, Integers, Matrix, Scales, Wanted, tensors::Tensors};
use crate::ModelError;
use std::ops::Range;
use yantra_formats::hf::Config;
use yantra_kernels::WeightFormat;

pub(super) fn matrix<'a>(tensors: &Tensors<'a>, wanted: &Wanted<'_>) -> Result<Option<Matrix<'a>>, ModelError> {
    let weight = format!("{}.weight", wanted.name);
    match tensors.find(&weight).map(|tensor| tensor.dtype) {
        Some("I8") => bytes(tensors, &weight, wanted).map(Some),
        Some("U8") => code_book(tensors, &weight, wanted).map(Some),
        _ => Ok(None),
    }
}

fn bytes<'a>(tensors: &Tensors<'a>, weight: &str, wanted: &Wanted<'_>) -> Result<Matrix<'a>, ModelError> {
    let Wanted { name, rows, cols, .. } = *wanted;
    let layout = format!("{name}.weight_format");
    if let Some(tensor) = tensors.find(&layout)
        && tensor.data.first() != Some(&0)
    {
        return Err(tensors.wrong(&layout, format!("is {:?}: expected 0 (rows)", tensor.data)));
    }
    let data = tensors.bytes(weight, "I8", &[rows, cols])?;
    let scales = Scales::read(tensors, &format!("{name}.SCB"), [rows, cols], None)?.times(|largest| largest / 127.0);
    Ok(Matrix::whole([rows, cols], Bytes { data, cols }, [-128, 127], scales))
}

/// Whole numbers that are stored as such.
pub(super) struct Bytes<'a> {
    pub(super) data: &'a [u8],
    pub(super) cols: usize,
}

impl Integers for Bytes<'_> {
    fn read(&self, rows: Range<usize>, out: &mut [i16]) {
        let bytes = &self.data[rows.start * self.cols..rows.end * self.cols];
        bytes.iter().zip(out).for_each(|(byte, out)| *out = i16::from(*byte as i8));
    }

    fn held_bytes(&self) -> usize {
        0
    }
}

fn code_book<'a>(tensors: &Tensors<'a>, weight: &str, wanted: &Wanted<'_>) -> Result<Matrix<'a>, ModelError> {
    let Wanted { rows, cols, .. } = *wanted;
    let (name, state) = state(tensors, weight)?;
    let shape: Vec<usize> = state.get("shape")?;
    if shape != [rows, cols] {
        return Err(tensors.wrong(&name, format!("says the shape {shape:?}: expected [{rows}, {cols}]")));
    }
    let num_values = rows * cols;
    let stored = tensors.require(weight)?;
    let codes = tensors.bytes(weight, "U8", stored.shape)?;
    if codes.len() != num_values.div_ceil(2) {
        let message = format!("has {} bytes: expected {} for two codes in each", codes.len(), num_values.div_ceil(2));
        return Err(tensors.wrong(weight, message));
    }
    let block = block_size(tensors, &name, &state, "blocksize")?;
    let part = |ending: &str| format!("{weight}.{ending}");
    let map = tensors.floats_of(&part("quant_map"), 16)?;
    let largest = match tensors.require(&part("absmax"))?.dtype {
        "U8" => nested(tensors, weight, &name, &state)?,
        _ => tensors.floats(&part("absmax"))?,
    };
    if largest.len() != num_values.div_ceil(block) {
        let message = format!("has {} values: expected one for each {block} of {num_values}", largest.len());
        return Err(tensors.wrong(&part("absmax"), message));
    }
    let values = CodeBook { codes, map, largest, block, cols };
    Ok(Matrix::floats([rows, cols], WeightFormat::F32, values))
}

/// What is known of a quantised weight besides its tensors.
fn state(tensors: &Tensors<'_>, weight: &str) -> Result<(String, Config), ModelError> {
    let names = ["nf4", "fp4"].map(|kind| format!("{weight}.quant_state.bitsandbytes__{kind}"));
    let found = names.iter().find_map(|name| tensors.find(name));
    let tensor = found.ok_or_else(|| tensors.wrong(&names[0], "is missing, as is that of fp4".to_owned()))?;
    Ok((tensor.name.to_owned(), Config::parse(tensor.name, tensor.data)?))
}

fn block_size(tensors: &Tensors<'_>, name: &str, state: &Config, key: &str) -> Result<usize, ModelError> {
    match state.get::<usize>(key)? {
        0 => Err(tensors.wrong(name, format!("says {key} 0: expected at least 1"))),
        size => Ok(size),
    }
}

/// The factors of blocks that are quantised themselves.
fn nested(tensors: &Tensors<'_>, weight: &str, name: &str, state: &Config) -> Result<Vec<f32>, ModelError> {
    let part = |ending: &str| format!("{weight}.{ending}");
    let codes = tensors.require(&part("absmax"))?.data;
    let map = tensors.floats_of(&part("nested_quant_map"), 256)?;
    let block = block_size(tensors, name, state, "nested_blocksize")?;
    let largest = tensors.floats_of(&part("nested_absmax"), codes.len().div_ceil(block))?;
    let offset: f32 = state.get("nested_offset")?;
    let value = |(index, code): (usize, &u8)| map[usize::from(*code)] * largest[index / block] + offset;
    Ok(codes.iter().enumerate().map(value).collect())
}

/// Codes of 4 bits and a factor for each block of them.
struct CodeBook<'a> {
    codes: &'a [u8],
    map: Vec<f32>,
    largest: Vec<f32>,
    block: usize,
    cols: usize,
}

impl Floats for CodeBook<'_> {
    fn read(&self, rows: Range<usize>, out: &mut [f32]) {
        for (index, out) in (rows.start * self.cols..).zip(out) {
            let byte = self.codes[index / 2];
            let code = if index % 2 == 0 { byte >> 4 } else { byte & 15 };
            *out = self.map[usize::from(code)] * self.largest[index / self.block];
        }
    }

    fn held_bytes(&self) -> usize {
        size_of_val(&*self.largest)
    }
}
