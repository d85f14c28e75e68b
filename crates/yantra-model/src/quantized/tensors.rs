//! Tensors that are parts of a quantised matrix: found, checked, and read as numbers.

use super::fp8;
use crate::ModelError;
use yantra_formats::{HfDirectory, RawTensor};
use yantra_kernels::{WeightFormat, dequantize_row};

/// The tensors of a checkpoint, for a format that names itself in errors.
#[derive(Clone, Copy)]
pub(super) struct Tensors<'a> {
    directory: &'a HfDirectory,
    format: &'static str,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(directory: &'a HfDirectory, format: &'static str) -> Self {
        Self { directory, format }
    }

    pub(super) fn find(&self, name: &str) -> Option<RawTensor<'a>> {
        self.directory.raw(name)
    }

    /// The tensor, which must be there.
    pub(super) fn require(&self, name: &str) -> Result<RawTensor<'a>, ModelError> {
        self.find(name).ok_or_else(|| self.wrong(name, "is missing".to_owned()))
    }

    /// The bytes of the tensor, which must have that type and shape.
    pub(super) fn bytes(&self, name: &str, dtype: &str, shape: &[usize]) -> Result<&'a [u8], ModelError> {
        let tensor = self.require(name)?;
        if tensor.dtype == dtype && tensor.shape == shape {
            return Ok(tensor.data);
        }
        Err(self.wrong(name, format!("is {} {:?}: expected {dtype} {shape:?}", tensor.dtype, tensor.shape)))
    }

    /// A tensor of floats in single precision, which has them all.
    pub(super) fn floats(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let tensor = self.require(name)?;
        let format = match tensor.dtype {
            "F32" => WeightFormat::F32,
            "F16" => WeightFormat::F16,
            "BF16" => WeightFormat::BF16,
            // Powers of two, whose exponents some programs store as plain bytes.
            "F8_E8M0" | "U8" => return Ok(tensor.data.iter().map(|&byte| fp8::power_of_two(byte)).collect()),
            "F8_E4M3" => return Ok(tensor.data.iter().map(|&byte| fp8::e4m3(byte)).collect()),
            other => return Err(self.wrong(name, format!("has type {other}: expected floats"))),
        };
        let mut values = vec![0.0; tensor.data.len() / format.block_bytes()];
        dequantize_row(format, tensor.data, &mut values)?;
        Ok(values)
    }

    /// As [`Self::floats`] of so many.
    pub(super) fn floats_of(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let values = self.floats(name)?;
        if values.len() == len {
            return Ok(values);
        }
        Err(self.wrong(name, format!("has {} values: expected {len}", values.len())))
    }

    /// The error for a tensor that is not what it should be.
    pub(super) fn wrong(&self, tensor: &str, message: String) -> ModelError {
        ModelError::Quantized { format: self.format, tensor: tensor.to_owned(), message }
    }
}
