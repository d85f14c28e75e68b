//! A LoRA adapter on disk: a PEFT directory, or a GGUF file as llama.cpp's `convert_lora_to_gguf.py` writes it.

use crate::{
    FormatError, GgufFile, SafetensorsFile, TensorInfo, TensorView,
    checkpoint::{file_names, recognise, summary},
    hf::Config,
    mapping::Mapping,
};
use sha2::{Digest, Sha256};
use std::{fs, path::Path};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// An open adapter.
#[derive(Debug)]
pub enum AdapterFile {
    /// A directory with `adapter_config.json` and `adapter_model.safetensors`.
    Peft {
        /// The settings.
        config: Config,
        /// The matrices.
        weights: SafetensorsFile,
    },
    /// A GGUF file whose `general.type` is `adapter`.
    Gguf(GgufFile),
}

impl AdapterFile {
    /// Opens the adapter at `path`: a PEFT directory, one of the two files in it, or a GGUF file.
    ///
    /// # Errors
    /// If there is no adapter, or it is damaged; the message says what was found and what was expected.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let path = path.as_ref();
        let metadata = fs::metadata(path).map_err(|source| FormatError::io("open", path, source))?;
        if metadata.is_dir() {
            return Self::open_directory(path);
        }
        if path.extension().is_some_and(|extension| extension == "gguf") {
            return Self::open_gguf(path);
        }
        match path.parent() {
            Some(parent) if path.ends_with(CONFIG) || path.ends_with(WEIGHTS) => Self::open_directory(parent),
            _ => {
                let mapping = Mapping::open(path)?;
                let found = recognise(&mapping).unwrap_or_else(|| "a file of another kind".to_owned());
                Err(FormatError::NotAnAdapter { path: path.to_owned(), found })
            }
        }
    }

    fn open_directory(path: &Path) -> Result<Self, FormatError> {
        let not_an_adapter = |found| FormatError::NotAnAdapter { path: path.to_owned(), found };
        if let Some(config) = Config::read_optional_object(&path.join(CONFIG))? {
            let weights = path.join(WEIGHTS);
            if !weights.is_file() {
                let names = summary(&file_names(path)?);
                return Err(not_an_adapter(format!("the directory has no {WEIGHTS} ({names})")));
            }
            let weights = SafetensorsFile::open(weights)?;
            return match weights.skipped().first() {
                None => Ok(Self::Peft { config, weights }),
                Some(tensor) => {
                    Err(not_an_adapter(format!("its tensor '{}' is of type {}", tensor.name, tensor.dtype)))
                }
            };
        }
        let names = file_names(path)?;
        match names.iter().filter(|name| name.ends_with(".gguf")).collect::<Vec<_>>()[..] {
            [file] => Self::open_gguf(&path.join(file)),
            _ => Err(not_an_adapter(format!("the directory has no {CONFIG} ({})", summary(&names)))),
        }
    }

    fn open_gguf(path: &Path) -> Result<Self, FormatError> {
        let file = GgufFile::open(path)?;
        match file.metadata().get_str("general.type") {
            Ok("adapter") => Ok(Self::Gguf(file)),
            Ok(other) => Err(FormatError::NotAnAdapter {
                path: path.to_owned(),
                found: format!("a GGUF file of type '{other}'"),
            }),
            Err(_) => {
                let found = "a GGUF file that does not say what it is (general.type)".to_owned();
                Err(FormatError::NotAnAdapter { path: path.to_owned(), found })
            }
        }
    }

    /// The file that the matrices are in.
    pub fn path(&self) -> &Path {
        match self {
            Self::Peft { weights, .. } => weights.path(),
            Self::Gguf(file) => file.path(),
        }
    }

    /// Every tensor.
    pub fn tensors(&self) -> Box<dyn ExactSizeIterator<Item = &TensorInfo> + '_> {
        match self {
            Self::Peft { weights, .. } => Box::new(weights.tensors()),
            Self::Gguf(file) => Box::new(file.tensors()),
        }
    }

    /// The tensor `name`, if there is one.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        match self {
            Self::Peft { weights, .. } => weights.tensor(name),
            Self::Gguf(file) => file.tensor(name),
        }
    }

    /// SHA-256 of all that the adapter is: equal for equal settings and matrices, wherever they lie.
    pub fn content_hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        match self {
            Self::Peft { config, weights } => {
                let settings = config.value().to_string();
                hash.update((settings.len() as u64).to_le_bytes());
                hash.update(settings);
                hash.update(weights.bytes());
            }
            Self::Gguf(file) => file.bytes().for_each(|part| hash.update(part)),
        }
        hash.finalize().into()
    }
}
