//! Where the test data is. Data that is not there skips a test, plainly said, or fails it where it is required.

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
    found(root.join(path), "shared")
}

/// A downloaded model, if it is there.
pub(crate) fn model(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("YANTRA_MODELS").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?;
        Some(cache.join("yantra").join("models"))
    })?;
    found(root.join(path), "models")
}

/// The path, if there is something. Where there is not, a test of it skips, and says so; unless `YANTRA_REQUIRE_DATA` asks
/// for this `kind` of data (`shared`, `models`, both with a comma between, or `1` for all), which makes it fail.
fn found(path: PathBuf, kind: &str) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var("YANTRA_REQUIRE_DATA").unwrap_or_default();
    let is_required = required.split(',').any(|word| word == kind || word == "1");
    assert!(!is_required, "{} is not there, and YANTRA_REQUIRE_DATA={required}", path.display());
    eprintln!("SKIPPED: {} is not there", path.display());
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
