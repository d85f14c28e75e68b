//! What can go wrong when a model is opened: every variant names the path.

use crate::{GgufError, SafetensorsError};
use std::{
    io,
    path::{Path, PathBuf},
};

/// An error in opening or reading a model.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Nothing lies at the path.
    #[error("'{path}' does not exist: expected a GGUF file or a Hugging Face model directory")]
    NotFound {
        /// The path given.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("could not {doing} '{path}': {source}")]
    Io {
        /// What was being done, as in "could not …".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Something is there, but it is no model.
    #[error("'{path}' is not a model: {found}; expected {expected}")]
    NotAModel {
        /// The path given.
        path: PathBuf,
        /// What was found there.
        found: String,
        /// What should be there.
        expected: &'static str,
    },
    /// Something is there, but it is no adapter.
    #[error(
        "'{path}' is not an adapter: {found}; expected a PEFT directory (adapter_config.json and \
         adapter_model.safetensors) or a GGUF adapter"
    )]
    NotAnAdapter {
        /// The path given.
        path: PathBuf,
        /// What was found there.
        found: String,
    },
    /// A GGUF file that is damaged or unsupported.
    #[error("'{path}': {source}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },
    /// A part of a split GGUF model that is missing or does not belong.
    #[error("'{path}' is part of a split model, but {problem}")]
    Split {
        /// The part that was opened.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A safetensors file that is damaged or unsupported.
    #[error("'{path}': {source}")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SafetensorsError,
    },
    /// A JSON file that is not what it should be.
    #[error("'{path}' is not valid: {problem}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with line and column where known.
        problem: String,
    },
    /// A file of a Hugging Face directory that others need is missing.
    #[error("'{path}' is missing: {needed_by}")]
    MissingFile {
        /// The file that should be there.
        path: PathBuf,
        /// Who needs it.
        needed_by: String,
    },
    /// A tensor the model needs is not in the checkpoint.
    #[error("'{path}' has no tensor '{tensor}'{reason}")]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor asked for.
        tensor: String,
        /// Why it can not be had although its name is there; empty if the name is unknown.
        reason: String,
    },
    /// A file larger than is sensible.
    #[error("'{path}' has {bytes} bytes: at most {limit} are read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

impl FormatError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            return Self::NotFound { path: path.to_owned() };
        }
        Self::Io { doing, path: path.to_owned(), source }
    }

    pub(crate) fn gguf(path: &Path) -> impl FnOnce(GgufError) -> Self + '_ {
        move |source| Self::Gguf { path: path.to_owned(), source }
    }
}
