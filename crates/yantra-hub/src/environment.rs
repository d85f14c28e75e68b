//! The environment variables this crate reads, all in one place. (`hf-hub` reads `HF_HOME` and `HF_ENDPOINT` itself.)

use std::{env, ffi::OsString, path::PathBuf};

/// `YANTRA_MODELS`: the directory models are kept in.
pub(crate) fn models_directory() -> Option<PathBuf> {
    non_empty("YANTRA_MODELS").map(PathBuf::from)
}

/// `HF_TOKEN`: the login to Hugging Face, for repositories that need one.
pub(crate) fn hugging_face_token() -> Option<String> {
    non_empty("HF_TOKEN").and_then(|token| token.into_string().ok())
}

fn non_empty(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}
