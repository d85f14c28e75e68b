//! Hugging Face model directories: `config.json`, tokeniser files, chat templates, and weights in safetensors.

mod config;
mod directory;
mod templates;
mod weights;

pub use config::{Config, FromJson};
pub use directory::HfDirectory;
pub use templates::NamedTemplate;

use crate::FormatError;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// The largest JSON file or template read. The largest tokenizer.json known has some 35 MB.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// The bytes of the file at `path`, or `None` if there is none.
fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, FormatError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FormatError::io("open", path, source)),
    };
    let bytes = file.metadata().map_err(|source| FormatError::io("read", path, source))?.len();
    if bytes > MAX_TEXT_BYTES {
        return Err(FormatError::TooLarge { path: path.to_owned(), bytes, limit: MAX_TEXT_BYTES });
    }
    let mut content = Vec::new();
    let read = file.take(MAX_TEXT_BYTES).read_to_end(&mut content);
    read.map_err(|source| FormatError::io("read", path, source))?;
    Ok(Some(content))
}
