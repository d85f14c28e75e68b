//! What holds for every text.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use yantra_text::{EncodeOptions, Tokenizer};

use crate::support::{LITERAL, ggml_vocab};

const RENDERED: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn all(names: &[&'static str]) -> Vec<(&'static str, Tokenizer)> {
    names.iter().filter_map(|&name| Some((name, ggml_vocab(name)?))).collect()
}

/// Texts of any characters, with pieces that look like special tokens mixed in.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "\\PC{0,12}",
        2 => any::<String>(),
        1 => "[ \\n\\t\\r]{1,6}",
        1 => "[0-9]{1,9}",
        1 => Just("<|im_start|>".to_owned()),
        1 => Just("<s><0x0A>▁</s>".to_owned()),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

#[test]
fn byte_level_vocabularies_give_back_any_text() {
    let tokenizers = all(&["gpt-2", "llama-bpe", "qwen2", "starcoder", "deepseek-llm"]);
    proptest!(ProptestConfig::with_cases(64), |(text in texts())| {
        for (name, tokenizer) in &tokenizers {
            for options in [LITERAL, EncodeOptions::rendered()] {
                let ids = tokenizer.encode(&text, options).unwrap();
                prop_assert_eq!(tokenizer.decode(&ids, false), text.as_str(), "{}", name);
            }
        }
    });
}

/// SentencePiece writes a space as `▁`, so a text with that character does not come back; every other does.
#[test]
fn sentencepiece_gives_back_texts() {
    let tokenizers = all(&["llama-spm"]);
    proptest!(ProptestConfig::with_cases(64), |(text in texts())| {
        let text = text.replace('▁', "_");
        for (name, tokenizer) in &tokenizers {
            let ids = tokenizer.encode(&text, LITERAL).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, false), text.as_str(), "{}", name);
        }
    });
}

#[test]
fn no_text_and_no_ids_panic() {
    let tokenizers = all(&["bert-bge", "phi-3", "llama-spm", "qwen2"]);
    proptest!(ProptestConfig::with_cases(64), |(text in texts(), ids in prop::collection::vec(any::<u32>(), 0..20))| {
        for (_, tokenizer) in &tokenizers {
            let encoded = tokenizer.encode(&text, RENDERED).unwrap();
            let _ = tokenizer.decode(&encoded, true);
            let _ = tokenizer.decode(&ids, false);
            let small: Vec<u32> = ids.iter().map(|id| id % 40_000).collect();
            let _ = tokenizer.decode(&small, false);
        }
    });
}

/// Users cannot write control tokens: without `parse_special` their texts stay text.
#[test]
fn control_tokens_are_read_only_where_asked() {
    for (name, tokenizer) in all(&["qwen2", "llama-bpe", "llama-spm", "phi-3", "gpt-2"]) {
        let control = (0..u32::try_from(tokenizer.vocab_size()).unwrap())
            .filter(|&id| tokenizer.is_special(id))
            .filter(|&id| tokenizer.token_text(id).is_some_and(|text| text.starts_with('<')))
            .take(20);
        for id in control {
            let text = format!("a{}b", tokenizer.token_text(id).unwrap());
            let literal = tokenizer.encode(&text, LITERAL).unwrap();
            assert!(!literal.iter().any(|&id| tokenizer.is_special(id)), "{name}: {text}");
            assert!(tokenizer.encode(&text, EncodeOptions::rendered()).unwrap().contains(&id), "{name}: {text}");
        }
    }
}

#[test]
fn every_declared_end_is_known() {
    for (name, expected) in [
        ("qwen2", &["<|endoftext|>", "<|im_end|>"][..]),
        ("llama-bpe", &["<|end_of_text|>", "<|eot_id|>"]),
        ("llama-spm", &["</s>"]),
        ("phi-3", &["<|endoftext|>", "<|end|>"]),
        ("gpt-2", &["<|endoftext|>"]),
    ] {
        let Some(tokenizer) = ggml_vocab(name) else { continue };
        for text in expected {
            let id = tokenizer.token_id(text).unwrap();
            assert!(tokenizer.eos_ids().contains(&id), "{name}: {text} not among {:?}", tokenizer.eos_ids());
        }
    }
}

/// Ten times the text takes about ten times the time, whatever it is made of (with room for a busy machine).
#[test]
fn long_texts_take_linear_time() {
    let tokenizers = all(&["llama-bpe", "deepseek-llm", "llama-spm", "bert-bge"]);
    for unit in ["a", " ", "\n", "1", "नमस्ते ", "The quick brown fox. ", "<|", "ab\t"] {
        for (name, tokenizer) in &tokenizers {
            let time = |bytes: usize| {
                let text = unit.repeat(bytes / unit.len());
                let start = Instant::now();
                tokenizer.encode(&text, LITERAL).unwrap();
                start.elapsed()
            };
            let small = time(20_000).max(Duration::from_millis(2));
            let large = time(200_000);
            assert!(large < small * 60, "{name}: {unit:?} took {small:?}, then {large:?}");
        }
    }
}

/// A bound that refuses texts must never refuse one that fits.
#[test]
fn no_text_has_fewer_tokens_than_its_bound() {
    let names = ["gpt-2", "llama-bpe", "qwen2", "starcoder", "deepseek-llm", "llama-spm", "phi-3", "bert-bge"];
    let tokenizers = all(&names);
    let runs = prop_oneof![texts(), "[ ]{0,400}", "[=]{0,400}", "(\\n){0,300}", "(▁){0,99}", "[क-ह]{0,99}"];
    proptest!(ProptestConfig::with_cases(64), |(text in runs)| {
        for (name, tokenizer) in &tokenizers {
            for options in [LITERAL, RENDERED] {
                let least = tokenizer.min_tokens(&text);
                let ids = tokenizer.encode(&text, options).unwrap();
                prop_assert!(ids.len() >= least, "{}: {} tokens, at least {} foretold", name, ids.len(), least);
            }
        }
    });
    for (name, tokenizer) in &tokenizers {
        let has_bound = !matches!(*name, "bert-bge" | "phi-3");
        assert_eq!(tokenizer.min_tokens(&" ".repeat(1_000_000)) > 1000, has_bound, "{name}");
    }
}
