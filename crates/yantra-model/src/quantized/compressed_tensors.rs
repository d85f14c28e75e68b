//! compressed-tensors, what llm-compressor writes: a frame for several formats, told apart by their tensors.
//!
//! * pack-quantized: `weight_packed` has the codes of a row one after another in words (`[rows, cols * bits / 32]`), with
//!   half their range added; `weight_scale` a scale for each row or group of it, `weight_zero_point` the zero points, where
//!   there are any, packed down the rows (`[rows * bits / 32, groups]`); `weight_g_idx` the group of each column, if they
//!   are out of order.
//! * int-quantized: `weight` has signed bytes, `weight_zero_point` too.
//! * float-quantized, mxfp8-quantized: as in [`super::fp8`].
//! * mxfp4-pack-quantized, nvfp4-pack-quantized: `weight_packed` has two floats of 4 bits in a byte, the first in the lower
//!   half; `weight_scale` a power of two for 32 of them, or a float of 8 bits for 16, to be divided by
//!   `weight_global_scale`.
//!
//! Activations are rounded by none of this: where the configuration rounds them with a scale found on the spot they are
//! kept as they are, and ranges fixed beforehand are refused.
//!
//! Layout: `compressed_tensors/compressors/*/base.py` and `pack_quantized/helpers.py` (0.20).

use super::{
    CodeRange, Floats, Groups, Integers, Matrix, Scales, Wanted,
    bits::{unpack, word},
    bitsandbytes::Bytes,
    fp8, gptq, mxfp4,
    tensors::Tensors,
    unsupported,
};
use crate::ModelError;
use std::ops::Range;
use yantra_formats::hf::Config;

/// What the tensors do not tell.
pub(super) struct Settings {
    /// Rows and columns of a block of float-quantized, if a group of layers has blocks.
    block: Option<[usize; 2]>,
    /// Columns of a group, if all layers have the same.
    group_size: Option<usize>,
    bits: Option<usize>,
}

impl Settings {
    pub(super) fn read(config: &Config) -> Result<Self, ModelError> {
        check_format(config)?;
        let sparse = config.find::<&str>("sparsity_config.format")?.unwrap_or("dense");
        if sparse != "dense" {
            return Err(unsupported(format!("compressed-tensors with sparse weights ('{sparse}')")));
        }
        if config
            .section("transform_config.config_groups")
            .is_some_and(|groups| groups.value().as_object().is_some_and(|groups| !groups.is_empty()))
        {
            return Err(unsupported("compressed-tensors with transforms of activations".to_owned()));
        }
        let mut settings = Self { block: None, group_size: None, bits: None };
        let groups = config.section("config_groups");
        let names = groups.as_ref().and_then(|groups| groups.value().as_object());
        for group in names.into_iter().flat_map(|names| names.keys()) {
            let Some(group) = groups.as_ref().and_then(|groups| groups.section(group)) else { continue };
            check_format(&group)?;
            check_activations(&group, "input_activations")?;
            check_activations(&group, "output_activations")?;
            if let Some([rows, cols]) = group.find::<Vec<usize>>("weights.block_structure")?.as_deref() {
                settings.block = Some([*rows, *cols]);
            }
            let size = group.find::<f64>("weights.group_size")?.filter(|size| *size > 0.0);
            settings.group_size = size.map(|size| size as usize).or(settings.group_size);
            settings.bits = group.find("weights.num_bits")?.or(settings.bits);
        }
        Ok(settings)
    }
}

fn check_format(config: &Config) -> Result<(), ModelError> {
    const BUILT: [&str; 9] = [
        "dense",
        "pack-quantized",
        "int-quantized",
        "float-quantized",
        "naive-quantized",
        "mixed-precision",
        "mxfp4-pack-quantized",
        "nvfp4-pack-quantized",
        "mxfp8-quantized",
    ];
    match config.find::<&str>("format")? {
        Some(format) if !BUILT.contains(&format) => {
            Err(unsupported(format!("compressed-tensors in the format '{format}' ({} are)", BUILT.join(", "))))
        }
        _ => Ok(()),
    }
}

/// Refuses activations that are cut off at a range fixed beforehand.
fn check_activations(group: &Config, key: &str) -> Result<(), ModelError> {
    let Some(activations) = group.section(key) else { return Ok(()) };
    // "local" is dynamic within a scale for the whole tensor, which changes nothing where activations are not rounded.
    let dynamic = &activations.value()["dynamic"];
    if dynamic.as_bool() == Some(true) || dynamic.as_str() == Some("local") {
        return Ok(());
    }
    let bits = activations.find::<usize>("num_bits")?.unwrap_or(8);
    Err(unsupported(format!("compressed-tensors with static {key} of {bits} bits (dynamic ones are)")))
}

pub(super) fn matrix<'a>(
    tensors: &Tensors<'a>,
    settings: &Settings,
    wanted: &Wanted<'_>,
) -> Result<Option<Matrix<'a>>, ModelError> {
    let dtype = |ending: &str| tensors.find(&format!("{}.{ending}", wanted.name)).map(|tensor| tensor.dtype);
    match (dtype("weight_packed"), dtype("weight")) {
        (Some("I32"), _) => packed(tensors, settings, wanted).map(Some),
        (Some(_), _) => floats_of_4_bits(tensors, wanted).map(Some),
        (None, Some("I8")) => bytes(tensors, settings, wanted).map(Some),
        _ => fp8::scaled(tensors, &format!("{}.weight_scale", wanted.name), settings.block, wanted),
    }
}

fn packed<'a>(tensors: &Tensors<'a>, settings: &Settings, wanted: &Wanted<'_>) -> Result<Matrix<'a>, ModelError> {
    let Wanted { name, rows, cols, .. } = *wanted;
    let packed = format!("{name}.weight_packed");
    let shape = tensors.require(&packed)?.shape;
    // Groups of layers may have other numbers of bits.
    let numbers = settings.bits.into_iter().chain(1..=8);
    let bits = numbers.into_iter().find(|bits| shape == [rows, (cols * bits).div_ceil(32)]).filter(|bits| *bits <= 8);
    let bits = bits.ok_or_else(|| {
        let expected = format!("[{rows}, {cols} * bits / 32] words with 1 to 8 bits");
        tensors.wrong(&packed, format!("has shape {shape:?}: expected {expected}"))
    })?;
    let words = tensors.bytes(&packed, "I32", shape)?;
    let (scales, groups) = scales(tensors, settings, wanted)?;
    let name_of_zeros = format!("{name}.weight_zero_point");
    let (half, most) = (1 << (bits - 1), (1 << bits) - 1);
    let zeros = match tensors.find(&name_of_zeros) {
        None => Zeros { values: vec![half], num_groups: 0, groups: Groups::Of(cols) },
        Some(stored) => {
            let num_groups = stored.shape.last().copied().unwrap_or(0);
            let stored = tensors.bytes(&name_of_zeros, "I32", &[(rows * bits).div_ceil(32), num_groups])?;
            let zero = |row: usize, group: usize| unpack(|at| word(stored, at * num_groups + group), bits, row);
            let values = (0..rows * num_groups).map(|index| zero(index / num_groups, index % num_groups)).collect();
            Zeros::new(tensors, &name_of_zeros, values, num_groups, groups, cols)?
        }
    };
    let [low, high] = zeros.range();
    let words_per_row = (cols * bits).div_ceil(32);
    let integers = Rows { words, words_per_row, bits, cols, zeros };
    Ok(Matrix::whole([rows, cols], integers, [-high, most - low], scales))
}

/// The scales of whole numbers, and which columns share one.
fn scales(tensors: &Tensors<'_>, settings: &Settings, wanted: &Wanted<'_>) -> Result<(Scales, Groups), ModelError> {
    let Wanted { name, rows, cols, .. } = *wanted;
    let name_of_scales = format!("{name}.weight_scale");
    let block = settings.group_size.map(|size| [1, size]);
    let scales = Scales::read(tensors, &name_of_scales, [rows, cols], block)?;
    let index = format!("{name}.weight_g_idx");
    // -1 stands for columns in their order.
    let listed = tensors.find(&index).filter(|tensor| !tensor.data.starts_with(&(-1_i32).to_le_bytes()));
    let num_groups = tensors.require(&name_of_scales)?.shape.last().copied().unwrap_or(1);
    let groups = match listed {
        Some(_) => gptq::listed(tensors, &index, cols, num_groups)?,
        None => scales.groups().clone(),
    };
    Ok((scales.grouped(groups.clone()), groups))
}

fn bytes<'a>(tensors: &Tensors<'a>, settings: &Settings, wanted: &Wanted<'_>) -> Result<Matrix<'a>, ModelError> {
    let Wanted { name, rows, cols, .. } = *wanted;
    let data = tensors.bytes(&format!("{name}.weight"), "I8", &[rows, cols])?;
    let (scales, groups) = scales(tensors, settings, wanted)?;
    let name_of_zeros = format!("{name}.weight_zero_point");
    let Some(stored) = tensors.find(&name_of_zeros) else {
        return Ok(Matrix::whole([rows, cols], Bytes { data, cols }, [-128, 127], scales));
    };
    let stored = tensors.bytes(&name_of_zeros, "I8", stored.shape)?;
    let values: Vec<i16> = stored.iter().map(|byte| i16::from(*byte as i8)).collect();
    // One for each row and group, for each row, or for all.
    let num_groups = if values.len() < rows { 0 } else { values.len() / rows.max(1) };
    let zeros = Zeros::new(tensors, &name_of_zeros, values, num_groups, groups, cols)?;
    let [low, high] = zeros.range();
    let integers = Shifted { bytes: Bytes { data, cols }, zeros };
    Ok(Matrix::whole([rows, cols], integers, [-128 - high, 127 - low], scales))
}

/// What is taken off the codes of each row and group.
struct Zeros {
    /// `[rows, groups]`, or a single one.
    values: Vec<i16>,
    /// 0: there is one for all.
    num_groups: usize,
    groups: Groups,
}

impl Zeros {
    fn new(
        tensors: &Tensors<'_>,
        name: &str,
        values: Vec<i16>,
        num_groups: usize,
        groups: Groups,
        cols: usize,
    ) -> Result<Self, ModelError> {
        let needed = (0..cols).map(|col| groups.of_column(col) + 1).max().unwrap_or(0);
        if values.is_empty() || num_groups != 0 && num_groups != needed {
            return Err(tensors.wrong(name, format!("has {num_groups} groups: expected {needed}, as of scales")));
        }
        Ok(Self { values, num_groups, groups })
    }

    /// The lowest and the highest.
    fn range(&self) -> [i16; 2] {
        self.values.iter().fold([i16::MAX, i16::MIN], |[low, high], zero| [low.min(*zero), high.max(*zero)])
    }

    fn at(&self, row: usize, col: usize) -> i16 {
        if self.num_groups == 0 {
            return self.values[0];
        }
        self.values[row * self.num_groups + self.groups.of_column(col)]
    }
}

/// Codes that lie along rows of words.
struct Rows<'a> {
    words: &'a [u8],
    words_per_row: usize,
    bits: usize,
    cols: usize,
    zeros: Zeros,
}

impl Integers for Rows<'_> {
    fn read(&self, rows: Range<usize>, out: &mut [i16]) {
        for (row, out) in rows.zip(out.chunks_exact_mut(self.cols.max(1))) {
            for (col, out) in out.iter_mut().enumerate() {
                let code = unpack(|at| word(self.words, row * self.words_per_row + at), self.bits, col);
                *out = code - self.zeros.at(row, col);
            }
        }
    }

    fn held_bytes(&self) -> usize {
        size_of_val(&*self.zeros.values)
    }
}

/// Signed bytes with zero points.
struct Shifted<'a> {
    bytes: Bytes<'a>,
    zeros: Zeros,
}

impl Integers for Shifted<'_> {
    fn read(&self, rows: Range<usize>, out: &mut [i16]) {
        let (first, cols) = (rows.start, self.bytes.cols);
        self.bytes.read(rows, out);
        for (index, code) in out.iter_mut().enumerate() {
            *code -= self.zeros.at(first + index / cols, index % cols);
        }
    }

    fn held_bytes(&self) -> usize {
        size_of_val(&*self.zeros.values)
    }
}

/// MXFP4, which is a kernel's, or NVFP4.
fn floats_of_4_bits<'a>(tensors: &Tensors<'a>, wanted: &Wanted<'_>) -> Result<Matrix<'a>, ModelError> {
    let Wanted { name, rows, cols, .. } = *wanted;
    let part = |ending: &str| format!("{name}.{ending}");
    let codes = tensors.bytes(&part("weight_packed"), "U8", &[rows, cols.div_ceil(2)])?;
    if tensors.find(&part("weight_global_scale")).is_none() {
        mxfp4::whole_blocks(tensors, &part("weight_packed"), cols)?;
        let exponents = tensors.bytes(&part("weight_scale"), "U8", &[rows, cols / 32])?;
        return Ok(Matrix::mxfp4([rows, cols], codes, exponents));
    }
    let global = tensors.floats_of(&part("weight_global_scale"), 1)?[0];
    let scales = Scales::read(tensors, &part("weight_scale"), [rows, cols], Some([1, 16]))?.times(|x| x / global);
    let format = scales.float_format(CodeRange { digits: 2, lowest: -1, largest: 6.0 });
    Ok(Matrix::floats([rows, cols], format, Nvfp4 { codes, cols, scales }))
}

/// Floats of 4 bits (a sign, two bits of exponent, one of mantissa) and their scales.
struct Nvfp4<'a> {
    codes: &'a [u8],
    cols: usize,
    scales: Scales,
}

impl Floats for Nvfp4<'_> {
    fn read(&self, rows: Range<usize>, out: &mut [f32]) {
        const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        for (row, out) in rows.zip(out.chunks_exact_mut(self.cols.max(1))) {
            for (col, out) in out.iter_mut().enumerate() {
                let code = self.codes[row * self.cols.div_ceil(2) + col / 2] >> (4 * (col % 2)) & 15;
                let magnitude = MAGNITUDES[usize::from(code & 7)];
                *out = if code < 8 { magnitude } else { -magnitude } * self.scales.at(row, col);
            }
        }
    }

    fn held_bytes(&self) -> usize {
        self.scales.num_bytes()
    }
}
