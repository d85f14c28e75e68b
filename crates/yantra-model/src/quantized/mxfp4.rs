//! MXFP4 (OCP Microscaling Formats 1.0) as gpt-oss has its experts: 32 floats of 4 bits and a power of two.
//!
//! `…_blocks` has `[experts, rows, cols / 32, 16]` bytes, the first value of two in the lower half; `…_scales` (`[experts,
//! rows, cols / 32]`) exponents with a bias of 127. That is the kernels' MXFP4 with the halves in another order.
//!
//! Layout: `convert_moe_packed_tensors` of `transformers/integrations/mxfp4.py`.

use super::{Matrix, Wanted, tensors::Tensors};
use crate::ModelError;

/// Values in a block, and its bytes.
const BLOCK: usize = 32;
const BLOCK_BYTES: usize = 16;

pub(super) fn matrix<'a>(tensors: &Tensors<'a>, wanted: &Wanted<'_>) -> Result<Option<Matrix<'a>>, ModelError> {
    let Wanted { name, rows, cols, part } = *wanted;
    let (blocks, exponents) = (format!("{name}_blocks"), format!("{name}_scales"));
    if tensors.find(&blocks).is_none() {
        return Ok(None);
    }
    whole_blocks(tensors, &blocks, cols)?;
    let shape: Vec<usize> = part.map(|(_, count)| count).into_iter().chain([rows, cols / BLOCK]).collect();
    let exponents = tensors.bytes(&exponents, "U8", &shape)?;
    let blocks = tensors.bytes(&blocks, "U8", &[&shape[..], &[BLOCK_BYTES]].concat())?;
    let start = part.map_or(0, |(index, _)| index * rows * cols / BLOCK);
    let num_blocks = rows * cols / BLOCK;
    let inside = exponents.get(start..start + num_blocks).zip(blocks.get(start * BLOCK_BYTES..));
    let (exponents, blocks) = inside.ok_or_else(|| {
        let (index, count) = part.unwrap_or((0, 1));
        tensors.wrong(&format!("{name}_blocks"), format!("has {count} matrices: number {index} was expected"))
    })?;
    Ok(Some(Matrix::mxfp4([rows, cols], blocks, exponents)))
}

pub(super) fn whole_blocks(tensors: &Tensors<'_>, name: &str, cols: usize) -> Result<(), ModelError> {
    if cols.is_multiple_of(BLOCK) {
        return Ok(());
    }
    Err(tensors.wrong(name, format!("is for {cols} columns: expected a whole number of blocks of {BLOCK}")))
}
