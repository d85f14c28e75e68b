//! A model on disk, whatever its format: the crate's front door.

use crate::{
    AccessPattern, FormatError, GgufFile, HfDirectory, RawTensor, TensorInfo, TensorView, gguf, mapping::Mapping,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

const EXPECTED: &str = "a GGUF file or a Hugging Face model directory (config.json and model.safetensors)";

/// An open model.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a process holds a handful of these; a box would only be in the way")]
pub enum Checkpoint {
    /// A GGUF file, or the parts of a split one.
    Gguf(GgufFile),
    /// A directory with `config.json` and safetensors.
    HuggingFace(HfDirectory),
}

impl Checkpoint {
    /// Opens the model at `path` after finding out what it is: a GGUF file; a Hugging Face directory, or the safetensors
    /// file in one; a directory with a single GGUF model.
    ///
    /// # Errors
    /// If there is no model, or it is damaged or unsupported; the message says what was found and what was expected.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let path = path.as_ref();
        let metadata = fs::metadata(path).map_err(|source| FormatError::io("open", path, source))?;
        if metadata.is_dir() { Self::open_directory(path) } else { Self::open_file(path) }
    }

    fn open_directory(path: &Path) -> Result<Self, FormatError> {
        if path.join("config.json").is_file() {
            return HfDirectory::open(path).map(Self::HuggingFace);
        }
        let names = file_names(path)?;
        let models: Vec<&String> = names.iter().filter(|name| is_model_start(name)).collect();
        let not_a_model = |found| FormatError::NotAModel { path: path.to_owned(), found, expected: EXPECTED };
        match models.as_slice() {
            [model] => GgufFile::open(path.join(model)).map(Self::Gguf),
            [] if names.iter().any(|name| name == "adapter_config.json") => Err(not_a_model(
                "it holds an adapter (adapter_config.json), which needs the model it was made for".to_owned(),
            )),
            [] => Err(not_a_model(format!("the directory has no config.json and no .gguf file ({})", summary(&names)))),
            several => Err(not_a_model(format!(
                "the directory holds {} GGUF models ({}); name one of them",
                several.len(),
                summary(&several.iter().map(|name| (*name).clone()).collect::<Vec<_>>())
            ))),
        }
    }

    fn open_file(path: &Path) -> Result<Self, FormatError> {
        let mapping = Mapping::open(path)?;
        if mapping.starts_with(&gguf::MAGIC) {
            drop(mapping);
            return GgufFile::open(path).map(Self::Gguf);
        }
        let directory = path.parent().filter(|parent| parent.join("config.json").is_file());
        let is_safetensors = path.extension().is_some_and(|extension| extension == "safetensors");
        if let Some(directory) = directory
            && (is_safetensors || path.ends_with("config.json"))
        {
            return HfDirectory::open(directory).map(Self::HuggingFace);
        }
        let found = match recognise(&mapping) {
            Some(found) => found,
            None if is_safetensors => {
                "a safetensors file without the config.json that says what its tensors mean".to_owned()
            }
            None => format!("the file starts with {}", start_of(&mapping)),
        };
        Err(FormatError::NotAModel { path: path.to_owned(), found, expected: EXPECTED })
    }

    /// The path opened.
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf(file) => file.path(),
            Self::HuggingFace(directory) => directory.path(),
        }
    }

    /// Every tensor that can be a weight.
    pub fn tensors(&self) -> Box<dyn ExactSizeIterator<Item = &TensorInfo> + '_> {
        match self {
            Self::Gguf(file) => Box::new(file.tensors()),
            Self::HuggingFace(directory) => Box::new(directory.tensors()),
        }
    }

    /// The tensor `name`, if there is one that can be a weight.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        match self {
            Self::Gguf(file) => file.tensor(name),
            Self::HuggingFace(directory) => directory.tensor(name),
        }
    }

    /// The tensors that can not be weights as they stand: parts of weights that another program quantised, and buffers.
    pub fn others(&self) -> impl Iterator<Item = RawTensor<'_>> {
        let directory = match self {
            Self::Gguf(_) => None,
            Self::HuggingFace(directory) => Some(directory),
        };
        let names = directory.into_iter().flat_map(HfDirectory::skipped);
        names.filter_map(move |tensor| directory?.raw(&tensor.name))
    }

    /// The tensor `name`, which must be there.
    ///
    /// # Errors
    /// If it is not, saying whether the name is unknown or its type can not be a weight's.
    pub fn require(&self, name: &str) -> Result<TensorView<'_>, FormatError> {
        self.tensor(name).ok_or_else(|| {
            let skipped = match self {
                Self::Gguf(_) => None,
                Self::HuggingFace(directory) => directory.skipped().find(|tensor| tensor.name == name),
            };
            let reason = skipped.map(|tensor| format!(" that can be a weight (its type is {})", tensor.dtype));
            FormatError::MissingTensor {
                path: self.path().to_owned(),
                tensor: name.to_owned(),
                reason: reason.unwrap_or_default(),
            }
        })
    }

    /// Bytes of all weights files together.
    pub fn total_bytes(&self) -> u64 {
        match self {
            Self::Gguf(file) => file.total_bytes(),
            Self::HuggingFace(directory) => directory.total_bytes(),
        }
    }

    /// Tells the operating system how the weights are about to be read.
    pub fn advise(&self, pattern: AccessPattern) {
        match self {
            Self::Gguf(file) => file.advise(pattern),
            Self::HuggingFace(directory) => directory.advise(pattern),
        }
    }
}

/// The names in a directory, sorted.
pub(crate) fn file_names(path: &Path) -> Result<Vec<String>, FormatError> {
    let read = || -> std::io::Result<Vec<String>> {
        let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    };
    let mut names = read().map_err(|source| FormatError::io("list", path, source))?;
    names.sort();
    Ok(names)
}

/// "a, b, c and 4 more", or "it is empty".
pub(crate) fn summary(names: &[String]) -> String {
    const SHOWN: usize = 6;
    match names.len() {
        0 => "it is empty".to_owned(),
        count if count > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), count - SHOWN),
        _ => names.join(", "),
    }
}

/// Whether `name` is a GGUF model's only or first file.
fn is_model_start(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".gguf") else { return false };
    let split = stem.rsplit_once("-of-").filter(|(_, count)| is_part_number(count));
    let part = split.and_then(|(rest, _)| rest.rsplit_once('-')).map(|(_, number)| number);
    part.is_none_or(|number| number == "00001" || !is_part_number(number))
}

fn is_part_number(text: &str) -> bool {
    text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a file is that is no model but is often taken for one; `None` if it can not be told.
pub(crate) fn recognise(bytes: &[u8]) -> Option<String> {
    const LEGACY_GGML: [&[u8]; 4] = [b"lmgg", b"fmgg", b"algg", b"tjgg"];
    const PICKLE: &str =
        "a PyTorch pickle (.bin, .pt, .pth), which can run code when it is read; convert it to safetensors";
    let starts = |prefix: &[u8]| bytes.starts_with(prefix);
    let text_start = || String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).trim_start().to_ascii_lowercase();
    let found = if bytes.is_empty() {
        "an empty file (0 bytes)"
    } else if starts(&gguf::MAGIC) {
        "a GGUF file"
    } else if LEGACY_GGML.iter().any(|magic| starts(magic)) {
        "a GGML file of before GGUF; convert the model again"
    } else if starts(b"PK\x03\x04") {
        // torch.save writes a zip archive whose first entry is NAME/data.pkl.
        let is_pickle = bytes[..bytes.len().min(512)].windows(8).any(|window| window == b"data.pkl");
        if is_pickle { PICKLE } else { "a zip archive" }
    } else if matches!(bytes, [0x80, 2..=5, ..]) {
        PICKLE
    } else if starts(b"version https://git-lfs") {
        "a Git LFS pointer, not the file it points to; fetch it with `git lfs pull`"
    } else if starts(b"\x1f\x8b") {
        "a gzip archive"
    } else if text_start().starts_with("<!doctype") || text_start().starts_with("<html") {
        "an HTML page (an error page instead of a download?)"
    } else {
        return None;
    };
    Some(found.to_owned())
}

/// The first bytes of a file for a message.
fn start_of(bytes: &[u8]) -> String {
    const SHOWN: usize = 16;
    format!("\"{}\"", bytes[..bytes.len().min(SHOWN)].escape_ascii())
}

impl From<GgufFile> for Checkpoint {
    fn from(file: GgufFile) -> Self {
        Self::Gguf(file)
    }
}

impl From<HfDirectory> for Checkpoint {
    fn from(directory: HfDirectory) -> Self {
        Self::HuggingFace(directory)
    }
}

/// The path of the file named `name` beside or in `path`, as long as `name` is a plain file name.
pub(crate) fn plain_child(directory: &Path, name: &str) -> Option<PathBuf> {
    let mut components = Path::new(name).components();
    let plain = matches!((components.next(), components.next()), (Some(std::path::Component::Normal(_)), None));
    (plain && !name.contains(['/', '\\'])).then(|| directory.join(name))
}
