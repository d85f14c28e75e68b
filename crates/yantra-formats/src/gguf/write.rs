//! Writing GGUF: first declare everything, then stream the data.
//!
//! The table of tensors stands before their data, so names, formats and shapes must be known first; the data itself may
//! then be made and written piece by piece, and never needs to be in memory at once.

use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgufError, MAGIC, align_up, limits, types};
use crate::{Array, Metadata, MetadataError, Value};
use std::{collections::HashSet, io::Write};
use yantra_kernels::WeightFormat;

/// The version written.
const VERSION: u32 = 3;

/// A GGUF file being declared: metadata and the table of tensors.
///
/// ```
/// # fn main() -> Result<(), yantra_formats::GgufError> {
/// use yantra_formats::{GgufFile, GgufWriter};
/// use yantra_kernels::WeightFormat;
///
/// let mut writer = GgufWriter::new();
/// writer.set("general.architecture", "llama")?;
/// writer.declare("output_norm.weight", WeightFormat::F32, &[2])?;
/// let mut body = writer.begin(Vec::new())?;
/// body.write("output_norm.weight", &[0; 8])?;
/// let file = GgufFile::from_bytes(body.finish()?)?;
/// assert_eq!(file.metadata().get_str("general.architecture")?, "llama");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct GgufWriter {
    metadata: Metadata,
    tensors: Vec<Declared>,
    names: HashSet<String>,
}

#[derive(Debug)]
struct Declared {
    name: String,
    format: WeightFormat,
    shape: Vec<usize>,
    num_bytes: usize,
}

impl GgufWriter {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a metadata value. `general.alignment` must be a u32, as the specification asks.
    ///
    /// # Errors
    /// If the key is longer than the format allows, or the alignment is not a power of two.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Result<&mut Self, GgufError> {
        let (key, value) = (key.into(), value.into());
        check_length(|| format!("the bytes of metadata key '{key}'"), key.len(), limits::KEY_BYTES)?;
        if key == ALIGNMENT_KEY {
            match value {
                Value::U32(found) if found.is_power_of_two() && found <= limits::ALIGNMENT => {}
                Value::U32(found) => return Err(GgufError::Alignment { found, limit: limits::ALIGNMENT }),
                other => {
                    let (found, expected) = (other.type_name(), "u32");
                    return Err(MetadataError::Type { key, found, expected }.into());
                }
            }
        }
        self.metadata.set(key, value);
        Ok(self)
    }

    /// Sets every pair of `metadata`.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_all(&mut self, metadata: &Metadata) -> Result<&mut Self, GgufError> {
        for (key, value) in metadata.iter() {
            self.set(key, value.clone())?;
        }
        Ok(self)
    }

    /// Declares the next tensor; `shape` is outermost first.
    ///
    /// # Errors
    /// If the name is taken or too long, or rows are not a whole number of blocks, or the size overflows.
    pub fn declare(&mut self, name: &str, format: WeightFormat, shape: &[usize]) -> Result<&mut Self, GgufError> {
        let tensor = || name.to_owned();
        check_length(|| format!("the bytes of tensor name '{name}'"), name.len(), limits::TENSOR_NAME_BYTES)?;
        if shape.len() > limits::DIMENSIONS as usize {
            let found = u32::try_from(shape.len()).unwrap_or(u32::MAX);
            return Err(GgufError::Dimensions { tensor: tensor(), found, limit: limits::DIMENSIONS });
        }
        let cols = shape.last().copied().unwrap_or(1);
        if cols % format.block_len() != 0 {
            return Err(GgufError::Block { tensor: tensor(), cols, format, block: format.block_len() });
        }
        let rows = shape.iter().rev().skip(1).try_fold(1_usize, |n, &d| n.checked_mul(d));
        let num_bytes = rows.zip(format.row_bytes(cols)).and_then(|(rows, row)| rows.checked_mul(row));
        let num_bytes = num_bytes.ok_or_else(|| GgufError::ShapeOverflow {
            tensor: tensor(),
            dimensions: shape.iter().rev().map(|&d| d as u64).collect(),
        })?;
        if !self.names.insert(tensor()) {
            return Err(GgufError::DuplicateTensor { tensor: tensor() });
        }
        self.tensors.push(Declared { name: tensor(), format, shape: shape.to_vec(), num_bytes });
        Ok(self)
    }

    /// Writes the head to `out` and goes on to the data.
    ///
    /// # Errors
    /// If writing fails or the file would be too large to address.
    pub fn begin<W: Write>(self, mut out: W) -> Result<GgufBody<W>, GgufError> {
        let alignment = self.metadata.find::<u32>(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT) as usize;
        let mut head = Vec::new();
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        head.extend_from_slice(&(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in self.metadata.iter() {
            put_string(&mut head, key);
            put_value(&mut head, value);
        }
        let mut offset = 0_usize;
        for tensor in &self.tensors {
            put_tensor(&mut head, tensor, offset);
            let end = offset.checked_add(tensor.num_bytes).and_then(|end| align_up(end, alignment));
            offset = end.ok_or_else(|| GgufError::ShapeOverflow {
                tensor: tensor.name.clone(),
                dimensions: tensor.shape.iter().rev().map(|&d| d as u64).collect(),
            })?;
        }
        head.resize(head.len().next_multiple_of(alignment), 0);
        out.write_all(&head)?;
        Ok(GgufBody { out, alignment, tensors: self.tensors, next: 0, written: 0 })
    }
}

fn check_length(what: impl Fn() -> String, len: usize, limit: u64) -> Result<(), GgufError> {
    let count = len as u64;
    if count > limit { Err(GgufError::TooMany { what: what(), count, limit }) } else { Ok(()) }
}

fn put_string(head: &mut Vec<u8>, text: &str) {
    head.extend_from_slice(&(text.len() as u64).to_le_bytes());
    head.extend_from_slice(text.as_bytes());
}

fn put_value(head: &mut Vec<u8>, value: &Value) {
    head.extend_from_slice(&value.value_type().number().to_le_bytes());
    match value {
        Value::U8(value) => head.extend_from_slice(&value.to_le_bytes()),
        Value::I8(value) => head.extend_from_slice(&value.to_le_bytes()),
        Value::U16(value) => head.extend_from_slice(&value.to_le_bytes()),
        Value::I16(value) => head.extend_from_slice(&value.to_le_bytes()),
        Value::U32(value) => head.extend_from_slice(&value.to_le_bytes()),
        Value::I32(value) => head.extend_from_slice(&value.to_le_bytes()),
        Value::F32(value) => head.extend_from_slice(&value.to_le_bytes()),
        Value::Bool(value) => head.push(u8::from(*value)),
        Value::String(value) => put_string(head, value),
        Value::Array(array) => put_array(head, array),
        Value::U64(value) => head.extend_from_slice(&value.to_le_bytes()),
        Value::I64(value) => head.extend_from_slice(&value.to_le_bytes()),
        Value::F64(value) => head.extend_from_slice(&value.to_le_bytes()),
    }
}

fn put_array(head: &mut Vec<u8>, array: &Array) {
    head.extend_from_slice(&array.element_type().number().to_le_bytes());
    head.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(values) => head.extend_from_slice(values),
        Array::I8(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::U16(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::I16(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::U32(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::I32(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::F32(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::Bool(values) => head.extend(values.iter().map(|&value| u8::from(value))),
        Array::Strings(values) => values.iter().for_each(|value| put_string(head, value)),
        Array::U64(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::I64(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::F64(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
}

fn put_tensor(head: &mut Vec<u8>, tensor: &Declared, offset: usize) {
    put_string(head, &tensor.name);
    head.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
    for &dimension in tensor.shape.iter().rev() {
        head.extend_from_slice(&(dimension as u64).to_le_bytes());
    }
    head.extend_from_slice(&types::number_of(tensor.format).to_le_bytes());
    head.extend_from_slice(&(offset as u64).to_le_bytes());
}

/// A GGUF file whose head is written and whose data is being written.
#[derive(Debug)]
pub struct GgufBody<W: Write> {
    out: W,
    alignment: usize,
    tensors: Vec<Declared>,
    /// The tensor being written.
    next: usize,
    /// Bytes of it that are written.
    written: usize,
}

impl<W: Write> GgufBody<W> {
    /// Writes the next `data` of the tensor `name`: all of it or a piece. Tensors come in the order of declaration;
    /// those without values are left out.
    ///
    /// # Errors
    /// If another tensor is due, if there is more data than the tensor takes, or if writing fails.
    pub fn write(&mut self, name: &str, data: &[u8]) -> Result<(), GgufError> {
        if data.is_empty() && self.tensors.iter().any(|tensor| tensor.name == name) {
            return Ok(());
        }
        self.skip_empty();
        let due = self.tensors.get(self.next);
        let Some(tensor) = due.filter(|tensor| tensor.name == name) else {
            let expected = due.map_or_else(|| "nothing".to_owned(), |tensor| format!("'{}'", tensor.name));
            return Err(GgufError::WriteOrder { given: name.to_owned(), expected });
        };
        let written = self.written.saturating_add(data.len());
        if written > tensor.num_bytes {
            let (tensor, expected) = (tensor.name.clone(), tensor.num_bytes);
            return Err(GgufError::WriteSize { tensor, given: written, expected });
        }
        self.out.write_all(data)?;
        self.written = written;
        if written == tensor.num_bytes {
            let padding = written.next_multiple_of(self.alignment) - written;
            self.out.write_all(&vec![0; padding])?;
            self.next += 1;
            self.written = 0;
        }
        Ok(())
    }

    fn skip_empty(&mut self) {
        while self.tensors.get(self.next).is_some_and(|tensor| tensor.num_bytes == 0) {
            self.next += 1;
        }
    }

    /// Checks that everything declared is written, flushes and gives back the writer.
    ///
    /// # Errors
    /// If a tensor is incomplete or flushing fails.
    pub fn finish(mut self) -> Result<W, GgufError> {
        self.skip_empty();
        if let Some(tensor) = self.tensors.get(self.next) {
            let (tensor, expected) = (tensor.name.clone(), tensor.num_bytes);
            return Err(GgufError::WriteSize { tensor, given: self.written, expected });
        }
        self.out.flush()?;
        Ok(self.out)
    }
}
