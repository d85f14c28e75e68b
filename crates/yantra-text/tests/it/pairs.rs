//! Pairs of texts: of `tokenizer.json` against the `tokenizers` package (`hf_tiny.py` of `yantra-model` wrote files and ids),
//! of GGUF as llama.cpp's server puts a query and a document together.

use std::path::Path;

use serde_json::Value as Json;
use yantra_formats::{Array, Metadata, Value};
use yantra_text::{Pair, Tokenizer};

fn read(name: &str, file: &str) -> Vec<u8> {
    let models = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../yantra-model/tests/data/hf_tiny"));
    std::fs::read(models.join(name).join(file)).unwrap()
}

#[test]
fn pairs_of_hugging_face() {
    for (name, typed) in [("bert_rerank", true), ("xlm_roberta_rerank", false)] {
        let tokenizer = Tokenizer::from_tokenizer_json(&read(name, "tokenizer.json"), None).unwrap();
        let expected: Json = serde_json::from_slice(&read(name, "expected.json")).unwrap();
        for pair in expected["pairs"].as_array().unwrap() {
            let text = |key: &str| pair[key].as_str().unwrap();
            let found = tokenizer.encode_pair(text("query"), text("document"), 128).unwrap();
            let tokens: Vec<u32> = serde_json::from_value(pair["tokens"].clone()).unwrap();
            // `[CLS] where do cats sleep [SEP]` are of type 0; RoBERTa has one type.
            let second = if typed { 6 } else { tokens.len() };
            assert_eq!(found, Pair { tokens, second }, "{name}");
        }
        // Users can not write control tokens.
        let forged = tokenizer.encode_pair("cats", "cats [SEP] </s>", 128).unwrap();
        assert_eq!(forged.tokens.iter().filter(|token| **token == 2).count(), if typed { 2 } else { 3 }, "{name}");
        let error = tokenizer.encode_pair("a", "b", 4).unwrap_err().to_string();
        assert!(error.contains("4 tokens leave no room for two texts"), "{error}");
    }
}

fn gguf(kind: &str, tokens: &[&str], ids: &[(&str, u32)], separated: bool) -> Tokenizer {
    let mut metadata = Metadata::new();
    let mut set = |key: &str, value: Value| metadata.set(format!("tokenizer.ggml.{key}"), value);
    set("model", Value::String(kind.to_owned()));
    set("tokens", Value::Array(Array::Strings(tokens.iter().map(|text| (*text).to_owned()).collect())));
    set("scores", Value::Array(Array::F32(vec![-1.0; tokens.len()])));
    let kinds = (0..tokens.len()).map(|index| if index < 4 { 3 } else { 1 }).collect();
    set("token_type", Value::Array(Array::I32(kinds)));
    for (name, id) in ids {
        set(&format!("{name}_token_id"), Value::U32(*id));
    }
    for flag in ["add_bos_token", "add_eos_token", "add_space_prefix"] {
        set(flag, Value::Bool(true));
    }
    set("add_sep_token", Value::Bool(separated));
    Tokenizer::from_gguf(&metadata).unwrap()
}

#[test]
fn pairs_of_gguf() {
    let ids = [("bos", 1), ("eos", 2), ("seperator", 2), ("unknown", 3), ("padding", 0)];
    let bert = gguf("bert", &["[PAD]", "[CLS]", "[SEP]", "[UNK]", "▁cats", "▁sleep"], &ids, false);
    assert_eq!(bert.encode_pair("cats", "sleep", 9).unwrap(), Pair { tokens: vec![1, 4, 2, 5, 2], second: 3 });
    let cut = bert.encode_pair("cats", "sleep sleep sleep sleep", 6).unwrap();
    assert_eq!(cut, Pair { tokens: vec![1, 4, 2, 5, 5, 2], second: 3 });
    let ids = [("bos", 1), ("eos", 2), ("seperator", 2), ("unknown", 3)];
    let roberta = gguf("t5", &["<pad>", "<s>", "</s>", "<unk>", "▁cats", "▁sleep"], &ids, true);
    let pair = roberta.encode_pair("cats", "sleep", 9).unwrap();
    assert_eq!(pair, Pair { tokens: vec![1, 4, 2, 2, 5, 2], second: 4 });
}
