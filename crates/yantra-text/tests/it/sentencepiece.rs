//! Two tiny models against SentencePiece itself: `tests/data/sentencepiece_models.py` trained them (unigram with a
//! normalisation map; BPE with byte fallback) and recorded its ids.

use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use yantra_formats::{Array, Metadata, Value};
use yantra_text::Tokenizer;

use crate::support::LITERAL;

fn read<T: DeserializeOwned>(value: &Json) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

/// The model as GGUF metadata.
fn metadata(kind: &str, model: &Json) -> Metadata {
    let hex: String = read(&model["charsmap"]);
    let charsmap: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let mut metadata = Metadata::new();
    let mut set = |key: &str, value: Value| metadata.set(format!("tokenizer.ggml.{key}"), value);
    set("model", Value::String(kind.to_owned()));
    set("tokens", Value::Array(Array::Strings(read(&model["tokens"]))));
    set("scores", Value::Array(Array::F32(read(&model["scores"]))));
    set("token_type", Value::Array(Array::I32(read(&model["types"]))));
    set("unknown_token_id", Value::U32(0));
    set("bos_token_id", Value::U32(1));
    set("eos_token_id", Value::U32(2));
    set("add_space_prefix", Value::Bool(read(&model["add_space_prefix"])));
    set("remove_extra_whitespaces", Value::Bool(read(&model["remove_extra_whitespaces"])));
    if !charsmap.is_empty() {
        set("precompiled_charsmap", Value::Array(Array::U8(charsmap)));
    }
    metadata
}

fn check(kind: &str) {
    let data: Json = serde_json::from_str(include_str!("../data/sentencepiece_models.json")).unwrap();
    let model = &data["models"][kind];
    let tokenizer = Tokenizer::from_gguf(&metadata(kind, model)).unwrap();
    for (text, ids) in data["texts"].as_array().unwrap().iter().zip(model["ids"].as_array().unwrap()) {
        let text = text.as_str().unwrap();
        let expected: Vec<u32> = read(ids);
        assert_eq!(tokenizer.encode(text, LITERAL).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn unigram() {
    check("t5");
}

#[test]
fn bpe_by_scores() {
    check("llama");
}

#[test]
fn malformed_metadata_are_refused() {
    let data: Json = serde_json::from_str(include_str!("../data/sentencepiece_models.json")).unwrap();
    let good = metadata("t5", &data["models"]["t5"]);
    let refuses = |key: &str, value: Value, expected: &str| {
        let mut bad = good.clone();
        bad.set(format!("tokenizer.ggml.{key}"), value);
        let error = Tokenizer::from_gguf(&bad).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    };
    refuses("model", Value::String("abacus".to_owned()), "abacus");
    refuses("tokens", Value::U32(1), "tokenizer.ggml.tokens");
    refuses("scores", Value::Array(Array::F32(vec![0.0])), "1 entries for 600 tokens");
    refuses("precompiled_charsmap", Value::Array(Array::U8(vec![255, 255, 255, 255, 0])), "character map");
    let mut bpe = good.clone();
    bpe.set("tokenizer.ggml.model", Value::String("gpt2".to_owned()));
    bpe.set("tokenizer.ggml.pre", Value::String("no-such-pre".to_owned()));
    let error = Tokenizer::from_gguf(&bpe).unwrap_err().to_string();
    assert!(error.contains("no-such-pre"), "{error}");
}
