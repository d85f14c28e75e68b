//! What several tests need: small files and the places of large ones.

use std::{
    env,
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};
use yantra_formats::{GgufWriter, SafetensorsWriter};
use yantra_kernels::WeightFormat;

/// The error's text must hold every one of `parts`.
pub(crate) fn assert_says(error: impl Display, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "expected '{part}' in: {text}");
    }
}

/// `len` bytes that differ from their neighbours.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 37 + 11) as u8).collect()
}

/// A GGUF file with a pair of every kind and three tensors, the last of which ends on the alignment.
pub(crate) fn small_gguf() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "llama").unwrap();
    writer.set("llama.block_count", 2_u32).unwrap();
    writer.set("llama.rope.freq_base", 10000.0_f32).unwrap();
    writer.set("tokenizer.ggml.add_bos_token", true).unwrap();
    writer.set("tokenizer.ggml.tokens", vec!["<s>".to_owned(), "नम".to_owned(), String::new()]).unwrap();
    writer.set("tokenizer.ggml.scores", vec![0.0_f32, -1.5, 2.0]).unwrap();
    writer.declare("token_embd.weight", WeightFormat::F32, &[3, 4]).unwrap();
    writer.declare("blk.0.ffn_up.weight", WeightFormat::Q8_0, &[2, 64]).unwrap();
    writer.declare("output.weight", WeightFormat::F16, &[4, 4]).unwrap();
    let mut body = writer.begin(Vec::new()).unwrap();
    body.write("token_embd.weight", &pattern(48)).unwrap();
    body.write("blk.0.ffn_up.weight", &pattern(136)).unwrap();
    body.write("output.weight", &pattern(32)).unwrap();
    body.finish().unwrap()
}

/// A safetensors file with two tensors.
pub(crate) fn small_safetensors(names: [&str; 2]) -> Vec<u8> {
    let mut writer = SafetensorsWriter::new();
    writer.set("format", "pt");
    writer.declare(names[0], WeightFormat::F32, &[2, 3]).unwrap();
    writer.declare(names[1], WeightFormat::BF16, &[5]).unwrap();
    let mut body = writer.begin(Vec::new()).unwrap();
    body.write(names[0], &pattern(24)).unwrap();
    body.write(names[1], &pattern(10)).unwrap();
    body.finish().unwrap()
}

/// Writes `files` into a new directory.
pub(crate) fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    directory
}

/// Test data too large for the project, or `None` with a plain word that the test skips.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let root = env::var_os("YANTRA_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    existing(root.join("data/models").join(path), "shared")
}

/// A model of the user's cache, or `None` with a plain word that the test skips.
pub(crate) fn cached_model(path: &str) -> Option<PathBuf> {
    let root = env::var_os("YANTRA_MODELS").map(PathBuf::from).or_else(|| {
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")));
        Some(cache?.join("yantra/models"))
    });
    existing(root?.join(path), "models")
}

/// The path, if there is something. Where there is not, a test of it skips, and says so; unless `YANTRA_REQUIRE_DATA` asks
/// for this `kind` of data (`shared`, `models`, both with a comma between, or `1` for all), which makes it fail.
fn existing(path: PathBuf, kind: &str) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    let required = env::var("YANTRA_REQUIRE_DATA").unwrap_or_default();
    let is_required = required.split(',').any(|word| word == kind || word == "1");
    assert!(!is_required, "{} is not there, and YANTRA_REQUIRE_DATA={required}", path.display());
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}
