//! Floats of 8 bits with scales: one for the matrix, one for each row, or one for each block of 128 x 128 values
//! (DeepSeek-V3, section 3.3 of arXiv 2412.19437; Qwen3-FP8).
//!
//! `weight` has `[rows, cols]` bytes, E4M3 without infinities (OCP 8-bit Floating Point Specification 1.0) or E5M2;
//! `weight_scale_inv` or `weight_scale` what they are multiplied by, whatever the name suggests. Activations are not
//! rounded, where the programs that these models were made for round them with a scale found on the spot; ranges fixed
//! beforehand are refused, because what lies outside of them would be cut off there.
//!
//! No kernel reads floats of 8 bits, so they become floats: bf16 where scales are powers of two, f32 mostly.

use super::{CodeRange, Floats, Matrix, Scales, Wanted, tensors::Tensors, unsupported};
use crate::ModelError;
use std::ops::Range;
use yantra_formats::hf::Config;
use yantra_kernels::{WeightFormat, dequantize_row};

/// What the tensors do not tell.
pub(super) struct Settings {
    /// Rows and columns of a block.
    block: Option<[usize; 2]>,
}

impl Settings {
    pub(super) fn read(config: &Config) -> Result<Self, ModelError> {
        let activations = config.find::<&str>("activation_scheme")?.unwrap_or("dynamic");
        if activations != "dynamic" {
            return Err(unsupported(format!("FP8 with activation_scheme '{activations}' (dynamic is)")));
        }
        let format = config.find::<&str>("fmt")?.unwrap_or("e4m3");
        if !["e4m3", "e5m2", "float8_e4m3fn"].contains(&format) {
            return Err(unsupported(format!("FP8 in the format '{format}' (e4m3 and e5m2 are)")));
        }
        let block = match config.find::<Vec<usize>>("weight_block_size")?.as_deref() {
            None => None,
            Some(&[rows, cols]) => Some([rows, cols]),
            Some(other) => return Err(unsupported(format!("FP8 with weight_block_size {other:?}"))),
        };
        Ok(Self { block })
    }
}

pub(super) fn matrix<'a>(
    tensors: &Tensors<'a>,
    settings: &Settings,
    wanted: &Wanted<'_>,
) -> Result<Option<Matrix<'a>>, ModelError> {
    let scales = ["weight_scale_inv", "weight_scale", "scale"].map(|ending| format!("{}.{ending}", wanted.name));
    let scale = scales.iter().find(|name| tensors.find(name).is_some()).unwrap_or(&scales[0]);
    scaled(tensors, scale, settings.block, wanted)
}

/// The matrix with scales of that name, if it is of floats of 8 bits.
pub(super) fn scaled<'a>(
    tensors: &Tensors<'a>,
    scale: &str,
    block: Option<[usize; 2]>,
    wanted: &Wanted<'_>,
) -> Result<Option<Matrix<'a>>, ModelError> {
    let Wanted { name, rows, cols, .. } = *wanted;
    let weight = format!("{name}.weight");
    let (read, range): (fn(u8) -> f32, _) = match tensors.find(&weight).map(|tensor| tensor.dtype) {
        Some("F8_E4M3") => (e4m3, CodeRange { digits: 4, lowest: -9, largest: 448.0 }),
        Some("F8_E5M2") => (e5m2, CodeRange { digits: 3, lowest: -16, largest: 57344.0 }),
        _ => return Ok(None),
    };
    let dtype = tensors.require(&weight)?.dtype;
    let data = tensors.bytes(&weight, dtype, &[rows, cols])?;
    let scales = Scales::read(tensors, scale, [rows, cols], block)?;
    let format = scales.float_format(range);
    let values = Scaled { data, cols, table: (0..=u8::MAX).map(read).collect(), scales };
    Ok(Some(Matrix::floats([rows, cols], format, values)))
}

/// Bytes that stand for values, and their scales.
struct Scaled<'a> {
    data: &'a [u8],
    cols: usize,
    table: Vec<f32>,
    scales: Scales,
}

impl Floats for Scaled<'_> {
    fn read(&self, rows: Range<usize>, out: &mut [f32]) {
        for (row, out) in rows.zip(out.chunks_exact_mut(self.cols.max(1))) {
            let bytes = &self.data[row * self.cols..][..self.cols];
            for (col, (byte, out)) in bytes.iter().zip(out).enumerate() {
                *out = self.table[usize::from(*byte)] * self.scales.at(row, col);
            }
        }
    }

    fn held_bytes(&self) -> usize {
        self.scales.num_bytes()
    }
}

/// A sign, four bits of exponent with a bias of 7, three of mantissa; all ones are no number.
pub(super) fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (byte >> 3 & 15, byte & 7);
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        (0, _) => f32::from(mantissa) / 512.0,
        _ => f32::from(8 + mantissa) * 2_f32.powi(i32::from(exponent) - 10),
    };
    if byte & 128 == 0 { magnitude } else { -magnitude }
}

/// The upper half of a float of half precision.
fn e5m2(byte: u8) -> f32 {
    let mut value = [0.0];
    // Two bytes are one value.
    let _ = dequantize_row(WeightFormat::F16, &[0, byte], &mut value);
    value[0]
}

/// A scale of the OCP Microscaling formats: two to the byte less 127.
pub(super) fn power_of_two(byte: u8) -> f32 {
    match byte {
        // The smallest is not normal.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}
