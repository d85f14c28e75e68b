//! Where the test data is. Data that is not there skips a test, plainly said.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};

use yantra_formats::GgufFile;
use yantra_text::{EncodeOptions, Tokenizer};

pub(crate) const LITERAL: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

/// The folder of shared test data, if it is there.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("YANTRA_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    found(root.join(path))
}

/// A downloaded model, if it is there.
pub(crate) fn model(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("YANTRA_MODELS").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?;
        Some(cache.join("yantra").join("models"))
    })?;
    found(root.join(path))
}

fn found(path: PathBuf) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

/// A vocabulary of the shared folder, by the name llama.cpp gives it; read once for all tests.
pub(crate) fn ggml_vocab(name: &str) -> Option<Tokenizer> {
    static READ: LazyLock<Mutex<HashMap<String, Tokenizer>>> = LazyLock::new(Mutex::default);
    let path = shared(&format!("data/models/ggml_vocab/ggml-vocab-{name}.gguf"))?;
    let read = || Tokenizer::from_gguf(GgufFile::open(path).unwrap().metadata()).unwrap();
    Some(READ.lock().unwrap().entry(name.to_owned()).or_insert_with(read).clone())
}

/// A gzipped file of the shared folder, unpacked.
pub(crate) fn unpacked(path: &str) -> Option<Vec<u8>> {
    let file = std::fs::File::open(shared(path)?).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    Some(bytes)
}
