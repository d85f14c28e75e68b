//! A GGUF model: one file, or the parts it was split into.

use super::{GgufError, limits, parse};
use crate::{AccessPattern, FormatError, Metadata, TensorInfo, TensorView, mapping::Mapping};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// An open GGUF model, memory-mapped and checked.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    version: u32,
    alignment: usize,
    metadata: Metadata,
    parts: Vec<Mapping>,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

impl GgufFile {
    /// Opens the model at `path`. Of a split model (`NAME-00001-of-00003.gguf`) any part may be given; all are opened.
    ///
    /// # Errors
    /// If the file or a part can not be read, is damaged, truncated, or uses what is not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let path = path.as_ref();
        let mapping = Mapping::open(path)?;
        let head = parse::parse(&mapping, 0).map_err(FormatError::gguf(path))?;
        let Some(split) = Split::of(path, &head.metadata)? else {
            return Ok(Self::single(path.to_owned(), mapping, head));
        };
        // The first part carries the metadata; the one given need not be the first.
        let (mapping, head) = if split.number == 0 { (mapping, head) } else { split.open_part(0)? };
        let mut model = Self::single(split.path(0), mapping, head);
        for part in 1..split.count {
            model.add_part(&split, part)?;
        }
        split.check_tensor_count(&model)?;
        Ok(model)
    }

    /// Reads a model from the bytes of an unsplit file, for tests and embedded models.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        let head = parse::parse(&bytes, 0)?;
        Ok(Self::single(PathBuf::from("(memory)"), Mapping::Owned(bytes), head))
    }

    fn single(path: PathBuf, mapping: Mapping, head: parse::Head) -> Self {
        let parse::Head { version, metadata, tensors, alignment } = head;
        let index = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Self { path, version, alignment, metadata, parts: vec![mapping], tensors, index }
    }

    fn add_part(&mut self, split: &Split, part: u32) -> Result<(), FormatError> {
        let (mapping, head) = split.open_part(part)?;
        for tensor in head.tensors {
            if self.index.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                let duplicate = GgufError::DuplicateTensor { tensor: tensor.name };
                return Err(FormatError::gguf(&split.path(part))(duplicate));
            }
            self.tensors.push(tensor);
        }
        self.parts.push(mapping);
        Ok(())
    }

    /// The path opened; of a split model, its first part's.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Tensor data starts at multiples of this many bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// The key-value pairs at the head of the (first) file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Every tensor, in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// Where the tensor `name` lies, if there is one.
    pub fn tensor_info(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).and_then(|&at| self.tensors.get(at))
    }

    /// The tensor `name`, if there is one.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let info = self.tensor_info(name)?;
        info.view(self.parts.get(info.part)?)
    }

    /// All bytes of the files.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| &**part)
    }

    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }

    /// Tells the operating system how the files are about to be read.
    pub fn advise(&self, pattern: AccessPattern) {
        self.parts.iter().for_each(|part| part.advise(pattern));
    }
}

/// Where a file stands in a split model, after its `split.*` metadata and its name, `PREFIX-00002-of-00003.gguf`.
struct Split {
    prefix: PathBuf,
    /// Counted from 0.
    number: u32,
    count: u32,
    num_tensors: Option<u64>,
}

impl Split {
    /// `None` for a model in one file.
    fn of(path: &Path, metadata: &Metadata) -> Result<Option<Self>, FormatError> {
        let keys = || {
            let count = metadata.find::<u32>("split.count")?.unwrap_or(1);
            let number = metadata.find::<u32>("split.no")?.unwrap_or(0);
            Ok::<_, GgufError>((count, number, metadata.find::<u64>("split.tensors.count")?))
        };
        let (count, number, num_tensors) = keys().map_err(FormatError::gguf(path))?;
        if count <= 1 {
            return Ok(None);
        }
        let problem = |problem| FormatError::Split { path: path.to_owned(), problem };
        if count > limits::PARTS || number >= count {
            return Err(problem(format!("it claims to be part {number} (from 0) of {count}")));
        }
        let suffix = Self::suffix(number, count);
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(&suffix));
        let prefix = name.map(|prefix| path.with_file_name(prefix)).ok_or_else(|| {
            problem(format!("its name does not end in '{suffix}', so the other parts can not be found"))
        })?;
        Ok(Some(Self { prefix, number, count, num_tensors }))
    }

    fn suffix(number: u32, count: u32) -> String {
        format!("-{:05}-of-{count:05}.gguf", number + 1)
    }

    fn path(&self, part: u32) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(Self::suffix(part, self.count));
        path.into()
    }

    fn open_part(&self, part: u32) -> Result<(Mapping, parse::Head), FormatError> {
        let path = self.path(part);
        let problem = |problem| FormatError::Split { path: self.path(self.number), problem };
        let mapping = Mapping::open(&path).map_err(|error| match error {
            FormatError::NotFound { path } => problem(format!("'{}' is missing", path.display())),
            other => other,
        })?;
        let head = parse::parse(&mapping, part as usize).map_err(FormatError::gguf(&path))?;
        let found = (head.metadata.find::<u32>("split.no"), head.metadata.find::<u32>("split.count"));
        if found != (Ok(Some(part)), Ok(Some(self.count))) {
            let (number, count) = (part + 1, self.count);
            return Err(problem(format!("'{}' does not say that it is part {number} of {count}", path.display())));
        }
        Ok((mapping, head))
    }

    fn check_tensor_count(&self, model: &GgufFile) -> Result<(), FormatError> {
        let found = model.tensors.len();
        match self.num_tensors {
            Some(expected) if expected != found as u64 => Err(FormatError::Split {
                path: self.path(self.number),
                problem: format!("its {} parts hold {found} tensors where it names {expected}", self.count),
            }),
            _ => Ok(()),
        }
    }
}
