//! Block-quantised rows: reading and writing every [`WeightFormat`].
//!
//! [`dequantize_row`] is the specification of each format (layouts of ggml's `ggml-common.h`); matmul kernels are tested
//! against it. [`quantize_row`] makes blocks from floats: the simple formats round as the reference does, the K formats
//! and the 4-bit code book search for the scales of least squared error.

mod iq4;
mod k_quants;
mod k_search;
mod k_write;
pub(crate) mod mxfp4;
mod simple;
#[cfg(test)]
mod tests;

use crate::{Compute, KernelError, WeightFormat, parallel::for_each_row_group};
use half::{bf16, f16};

/// Expands a row of blocks: `out` is as long as the values in `bytes`.
///
/// # Errors
/// If `out` is not a whole number of blocks or `bytes` is not the size of that many values.
pub fn dequantize_row(format: WeightFormat, bytes: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
    check(format, out.len(), bytes.len())?;
    match format {
        WeightFormat::F32 => {
            each(bytes, out, |block, out: &mut [f32; 1]| out[0] = f32::from_le_bytes(*block));
        }
        WeightFormat::F16 => each(bytes, out, |block: &[u8; 2], out: &mut [f32; 1]| out[0] = read_f16(block, 0)),
        WeightFormat::BF16 => {
            each(bytes, out, |block, out: &mut [f32; 1]| out[0] = bf16::from_le_bytes(*block).to_f32());
        }
        WeightFormat::Q4_0 => each(bytes, out, simple::read_q4_0),
        WeightFormat::Q4_1 => each(bytes, out, simple::read_q4_1),
        WeightFormat::Q5_0 => each(bytes, out, simple::read_q5_0),
        WeightFormat::Q5_1 => each(bytes, out, simple::read_q5_1),
        WeightFormat::Q8_0 => each(bytes, out, simple::read_q8_0),
        WeightFormat::Q2_K => each(bytes, out, k_quants::read_q2_k),
        WeightFormat::Q3_K => each(bytes, out, k_quants::read_q3_k),
        WeightFormat::Q4_K => each(bytes, out, k_quants::read_q4_k),
        WeightFormat::Q5_K => each(bytes, out, k_quants::read_q5_k),
        WeightFormat::Q6_K => each(bytes, out, k_quants::read_q6_k),
        WeightFormat::IQ4_NL => each(bytes, out, iq4::read_iq4_nl),
        WeightFormat::IQ4_XS => each(bytes, out, iq4::read_iq4_xs),
        WeightFormat::MXFP4 => each(bytes, out, mxfp4::read_mxfp4),
    }
    Ok(())
}

/// Makes a row of blocks from floats: `out` is the size of `src.len()` values in `format`.
///
/// Values are taken as finite; a block that holds an infinity or NaN is not meaningful afterwards.
///
/// # Errors
/// If `src` is not a whole number of blocks or `out` is not the size of that many values.
pub fn quantize_row(format: WeightFormat, src: &[f32], out: &mut [u8]) -> Result<(), KernelError> {
    check(format, src.len(), out.len())?;
    match format {
        WeightFormat::F32 => each_mut(src, out, |x: &[f32; 1], block| *block = x[0].to_le_bytes()),
        WeightFormat::F16 => each_mut(src, out, |x: &[f32; 1], block| *block = f16::from_f32(x[0]).to_le_bytes()),
        WeightFormat::BF16 => each_mut(src, out, |x: &[f32; 1], block| *block = bf16::from_f32(x[0]).to_le_bytes()),
        WeightFormat::Q4_0 => each_mut(src, out, simple::write_q4_0),
        WeightFormat::Q4_1 => each_mut(src, out, simple::write_q4_1),
        WeightFormat::Q5_0 => each_mut(src, out, simple::write_q5_0),
        WeightFormat::Q5_1 => each_mut(src, out, simple::write_q5_1),
        WeightFormat::Q8_0 => each_mut(src, out, simple::write_q8_0),
        WeightFormat::Q2_K => each_mut(src, out, k_write::write_q2_k),
        WeightFormat::Q3_K => each_mut(src, out, k_write::write_q3_k),
        WeightFormat::Q4_K => each_mut(src, out, k_write::write_q4_k),
        WeightFormat::Q5_K => each_mut(src, out, k_write::write_q5_k),
        WeightFormat::Q6_K => each_mut(src, out, k_write::write_q6_k),
        WeightFormat::IQ4_NL => each_mut(src, out, iq4::write_iq4_nl),
        WeightFormat::IQ4_XS => each_mut(src, out, iq4::write_iq4_xs),
        WeightFormat::MXFP4 => each_mut(src, out, mxfp4::write_mxfp4),
    }
    Ok(())
}

/// [`quantize_row`] of a whole matrix over the pool: `src` is `[rows, cols]`.
///
/// # Errors
/// If `cols` is not a whole number of blocks, or `src` or `out` is not a whole number of rows, as many in both.
pub fn quantize_rows(
    cx: &Compute,
    format: WeightFormat,
    cols: usize,
    src: &[f32],
    out: &mut [u8],
) -> Result<(), KernelError> {
    let row_bytes = format.row_bytes(cols).ok_or(KernelError::Block { cols, format, block: format.block_len() })?;
    check(format, src.len(), out.len())?;
    if cols == 0 || !src.len().is_multiple_of(cols) {
        let expected = src.len().next_multiple_of(cols.max(1));
        return Err(KernelError::Shape { what: "values of a matrix to quantise", given: src.len(), expected });
    }
    // The whole was checked, so no row can fail.
    for_each_row_group(cx, out, row_bytes, cols * 16, &|first, rows| {
        let src = &src[first * cols..][..rows.len() / row_bytes * cols];
        let _ = quantize_row(format, src, rows);
    });
    Ok(())
}

fn check(format: WeightFormat, values: usize, bytes: usize) -> Result<(), KernelError> {
    let block = format.block_len();
    let expected = format.row_bytes(values).ok_or(KernelError::Block { cols: values, format, block })?;
    if bytes == expected { Ok(()) } else { Err(KernelError::Shape { what: "bytes of a row", given: bytes, expected }) }
}

/// Runs `read` on each block of `B` bytes and the `N` values it expands to.
fn each<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn(&[u8; B], &mut [f32; N])) {
    let (blocks, _) = bytes.as_chunks::<B>();
    let (values, _) = out.as_chunks_mut::<N>();
    blocks.iter().zip(values).for_each(|(block, values)| read(block, values));
}

/// Runs `write` on each group of `N` values and the block of `B` bytes made from it.
fn each_mut<const B: usize, const N: usize>(src: &[f32], out: &mut [u8], write: impl Fn(&[f32; N], &mut [u8; B])) {
    let (values, _) = src.as_chunks::<N>();
    let (blocks, _) = out.as_chunks_mut::<B>();
    values.iter().zip(blocks).for_each(|(values, block)| write(values, block));
}

fn read_f16(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Stores a half-precision value and returns what was stored.
fn write_f16(block: &mut [u8], at: usize, value: f32) -> f32 {
    let rounded = f16::from_f32(value);
    block[at..at + 2].copy_from_slice(&rounded.to_le_bytes());
    rounded.to_f32()
}

/// `1 / x`, or 0 for 0: the inverse scale of a block of zeros.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}
