//! The vocabularies llama.cpp tests itself with: 46 texts each, and the ids Hugging Face's tokenisers gave for them.

use std::fs;

use yantra_text::Tokenizer;

use crate::support::{LITERAL, ggml_vocab, shared};

/// Texts and the ids expected for them.
fn pairs(name: &str) -> Option<Vec<(String, Vec<u32>)>> {
    let base = shared(&format!("data/models/ggml_vocab/ggml-vocab-{name}.gguf.inp"))?;
    let texts = fs::read_to_string(&base).unwrap();
    let ids = fs::read_to_string(base.with_extension("out")).unwrap();
    // Every text is followed by a separator.
    let mut texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    assert_eq!(texts.pop(), Some(""), "{name}");
    let ids: Vec<Vec<u32>> =
        ids.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
    assert_eq!(texts.len(), ids.len(), "{name}");
    Some(texts.into_iter().map(str::to_owned).zip(ids).collect())
}

fn check_pairs(name: &str, tokenizer: &Tokenizer) {
    let Some(pairs) = pairs(name) else { return };
    let mut wrong = Vec::new();
    for (text, expected) in &pairs {
        let ids = tokenizer.encode(text, LITERAL).unwrap();
        if ids != *expected {
            wrong.push(format!("{text:?}\n  got      {ids:?}\n  expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{name}: {} of {} differ\n{}", wrong.len(), pairs.len(), wrong.join("\n"));
}

fn check(name: &str) {
    if let Some(tokenizer) = ggml_vocab(name) {
        check_pairs(name, &tokenizer);
    }
}

#[test]
fn gpt_2() {
    check("gpt-2");
}

#[test]
fn llama_bpe() {
    check("llama-bpe");
}

#[test]
fn qwen2() {
    check("qwen2");
}

#[test]
fn starcoder() {
    check("starcoder");
}

#[test]
fn deepseek_llm() {
    check("deepseek-llm");
}

#[test]
fn llama_spm() {
    check("llama-spm");
}

#[test]
fn phi_3() {
    check("phi-3");
}

#[test]
fn bert_bge() {
    check("bert-bge");
}

/// Byte-level vocabularies give back every text; SentencePiece too, whose added space decoding drops.
#[test]
fn texts_decode_to_themselves() {
    for name in ["gpt-2", "llama-bpe", "qwen2", "starcoder", "deepseek-llm", "llama-spm", "phi-3"] {
        let (Some(tokenizer), Some(pairs)) = (ggml_vocab(name), pairs(name)) else { continue };
        for (text, ids) in pairs {
            assert_eq!(tokenizer.decode(&ids, false), text, "{name}");
        }
    }
}
