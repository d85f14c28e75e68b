//! Writing safetensors: first declare everything, then stream the data.

use super::{SafetensorsError, dtype_of, header::LENGTH_BYTES};
use serde_json::json;
use std::{collections::BTreeMap, collections::HashSet, io::Write};
use yantra_kernels::WeightFormat;

/// The table is padded with spaces so that data starts at a multiple of this, as the reference implementation does.
const ALIGNMENT: usize = 8;

/// A safetensors file being declared.
///
/// Tensors are laid out in the order of declaration: declare wider types first if others are to map them aligned.
#[derive(Debug, Default)]
pub struct SafetensorsWriter {
    metadata: BTreeMap<String, String>,
    tensors: Vec<Declared>,
    names: HashSet<String>,
}

#[derive(Debug)]
struct Declared {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    num_bytes: usize,
}

impl SafetensorsWriter {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a pair of the free-form `__metadata__`. Hugging Face programs expect `format` to be `pt`.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Declares the next tensor; `shape` is outermost first.
    ///
    /// # Errors
    /// If the name is taken, the format is not F32, F16 or BF16, or the size overflows.
    pub fn declare(
        &mut self,
        name: &str,
        format: WeightFormat,
        shape: &[usize],
    ) -> Result<&mut Self, SafetensorsError> {
        let tensor = || name.to_owned();
        let dtype = dtype_of(format).ok_or_else(|| SafetensorsError::CannotWrite { tensor: tensor(), format })?;
        let num_bytes = shape.iter().try_fold(format.block_bytes(), |n, &d| n.checked_mul(d));
        let num_bytes =
            num_bytes.ok_or_else(|| SafetensorsError::ShapeOverflow { tensor: tensor(), shape: shape.to_vec() })?;
        if name == "__metadata__" || !self.names.insert(tensor()) {
            return Err(SafetensorsError::Duplicate { tensor: tensor() });
        }
        self.tensors.push(Declared { name: tensor(), dtype, shape: shape.to_vec(), num_bytes });
        Ok(self)
    }

    /// Writes the table to `out` and goes on to the data.
    ///
    /// # Errors
    /// If writing fails or the file would be too large to address.
    pub fn begin<W: Write>(self, mut out: W) -> Result<SafetensorsBody<W>, SafetensorsError> {
        let mut table = serde_json::Map::new();
        if !self.metadata.is_empty() {
            table.insert("__metadata__".to_owned(), json!(self.metadata));
        }
        let mut start = 0_usize;
        for tensor in &self.tensors {
            let end = start.checked_add(tensor.num_bytes).ok_or_else(|| SafetensorsError::ShapeOverflow {
                tensor: tensor.name.clone(),
                shape: tensor.shape.clone(),
            })?;
            let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end] });
            table.insert(tensor.name.clone(), entry);
            start = end;
        }
        let mut json = serde_json::Value::Object(table).to_string().into_bytes();
        json.resize((LENGTH_BYTES + json.len()).next_multiple_of(ALIGNMENT) - LENGTH_BYTES, b' ');
        out.write_all(&(json.len() as u64).to_le_bytes())?;
        out.write_all(&json)?;
        Ok(SafetensorsBody { out, tensors: self.tensors, next: 0, written: 0 })
    }
}

/// A safetensors file whose table is written and whose data is being written.
#[derive(Debug)]
pub struct SafetensorsBody<W: Write> {
    out: W,
    tensors: Vec<Declared>,
    /// The tensor being written.
    next: usize,
    /// Bytes of it that are written.
    written: usize,
}

impl<W: Write> SafetensorsBody<W> {
    /// Writes the next `data` of the tensor `name`: all of it or a piece. Tensors come in the order of declaration;
    /// those without values are left out.
    ///
    /// # Errors
    /// If another tensor is due, if there is more data than the tensor takes, or if writing fails.
    pub fn write(&mut self, name: &str, data: &[u8]) -> Result<(), SafetensorsError> {
        if data.is_empty() && self.tensors.iter().any(|tensor| tensor.name == name) {
            return Ok(());
        }
        self.skip_empty();
        let due = self.tensors.get(self.next);
        let Some(tensor) = due.filter(|tensor| tensor.name == name) else {
            let expected = due.map_or_else(|| "nothing".to_owned(), |tensor| format!("'{}'", tensor.name));
            return Err(SafetensorsError::WriteOrder { given: name.to_owned(), expected });
        };
        let written = self.written.saturating_add(data.len());
        if written > tensor.num_bytes {
            let (tensor, expected) = (tensor.name.clone(), tensor.num_bytes);
            return Err(SafetensorsError::WriteSize { tensor, given: written, expected });
        }
        self.out.write_all(data)?;
        self.written = written;
        if written == tensor.num_bytes {
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
    pub fn finish(mut self) -> Result<W, SafetensorsError> {
        self.skip_empty();
        if let Some(tensor) = self.tensors.get(self.next) {
            let (tensor, expected) = (tensor.name.clone(), tensor.num_bytes);
            return Err(SafetensorsError::WriteSize { tensor, given: self.written, expected });
        }
        self.out.flush()?;
        Ok(self.out)
    }
}
