//! One safetensors file.

use super::{RawTensor, SafetensorsError, SkippedTensor, dtype_of, header};
use crate::{AccessPattern, FormatError, TensorInfo, TensorView, mapping::Mapping};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

/// An open safetensors file, memory-mapped and checked.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    mapping: Mapping,
    header: header::Header,
    index: HashMap<String, usize>,
    skipped: HashMap<String, usize>,
}

impl SafetensorsFile {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// If it can not be read, is damaged, truncated, or holds weights in a type that is not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        Self::open_part(path.as_ref(), 0)
    }

    /// Opens the file that is number `part` of its checkpoint.
    pub(crate) fn open_part(path: &Path, part: usize) -> Result<Self, FormatError> {
        let mapping = Mapping::open(path)?;
        let wrap = |source| FormatError::Safetensors { path: path.to_owned(), source };
        let header = header::parse(&mapping, part).map_err(|error| wrap(explain(error, &mapping)))?;
        Ok(Self::new(path.to_owned(), mapping, header))
    }

    /// Reads the bytes of a file, for tests and embedded models.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SafetensorsError> {
        let header = header::parse(&bytes, 0)?;
        Ok(Self::new(PathBuf::from("(memory)"), Mapping::Owned(bytes), header))
    }

    fn new(path: PathBuf, mapping: Mapping, header: header::Header) -> Self {
        let index = header.tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        let skipped = header.skipped.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Self { path, mapping, header, index, skipped }
    }

    /// The path opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.mapping
    }

    /// The free-form `__metadata__` of the file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// Every tensor that can be a weight, in the order of the data.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.header.tensors.iter()
    }

    /// The tensors of types that weights do not have.
    pub fn skipped(&self) -> &[SkippedTensor] {
        &self.header.skipped
    }

    /// The tensor `name`, if there is one that can be a weight.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let info = self.index.get(name).and_then(|&at| self.header.tensors.get(at))?;
        info.view(&self.mapping)
    }

    /// The tensor `name`, whatever its type.
    pub fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        let (name, dtype, shape, range) = match self.skipped.get(name) {
            Some(&at) => {
                let SkippedTensor { name, dtype, shape, range } = self.header.skipped.get(at)?;
                (name, dtype.as_str(), shape, range)
            }
            None => {
                let TensorInfo { name, format, shape, range, .. } = self.header.tensors.get(*self.index.get(name)?)?;
                (name, dtype_of(*format)?, shape, range)
            }
        };
        Some(RawTensor { name, dtype, shape, data: self.mapping.get(range.clone())? })
    }

    /// Bytes of the file.
    pub fn total_bytes(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Tells the operating system how the file is about to be read.
    pub fn advise(&self, pattern: AccessPattern) {
        self.mapping.advise(pattern);
    }
}

/// Says what a file that is no safetensors file is instead, if that can be told.
fn explain(error: SafetensorsError, bytes: &[u8]) -> SafetensorsError {
    match crate::checkpoint::recognise(bytes) {
        Some(found) => SafetensorsError::NotSafetensors(format!("it is {found}")),
        None => error,
    }
}
