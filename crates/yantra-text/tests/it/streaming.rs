//! Detokenising as tokens come: complete UTF-8 only, and in the end the same text as decoding at once.

use yantra_text::Tokenizer;

use crate::support::{LITERAL, ggml_vocab};

/// Scripts whose characters take three or four bytes, so that vocabularies split them.
const TEXTS: &[&str] = &[
    "नमस्ते, दुनिया! क्षत्रिय ज्ञान श्रृंखला",
    "👩‍👩‍👧‍👦 👩🏽‍🚀 🏴‍☠️ 🇮🇳 e\u{301}",
    "ៀ ᠑ 𐍈 𓀀 日本語 한국어 ﷽",
    "plain ascii,\n\ttabs  and   spaces ",
    "",
];

fn check_stream(name: &str, tokenizer: &Tokenizer) {
    for text in TEXTS {
        let ids = tokenizer.encode(text, LITERAL).unwrap();
        let mut stream = tokenizer.stream(false).at_text_start();
        let mut joined = String::new();
        for &id in &ids {
            let piece = stream.push(id);
            assert!(!piece.contains('\u{fffd}'), "{name}: {piece:?} of {text:?}");
            joined.push_str(piece);
        }
        assert_eq!(stream.finish(), "", "{name}: {text:?}");
        assert_eq!(joined, *text, "{name}");
        assert_eq!(tokenizer.decode(&ids, false), *text, "{name}");
    }
}

#[test]
fn texts_stream_back_whole() {
    for name in ["gpt-2", "llama-bpe", "qwen2", "starcoder", "deepseek-llm", "llama-spm", "phi-3"] {
        if let Some(tokenizer) = ggml_vocab(name) {
            check_stream(name, &tokenizer);
        }
    }
}

/// The token of one byte, in a byte-level vocabulary.
fn byte_token(tokenizer: &Tokenizer, byte: u8) -> u32 {
    (0..u32::try_from(tokenizer.vocab_size()).unwrap())
        .find(|&id| tokenizer.token_bytes(id).is_some_and(|bytes| *bytes == [byte]) && !tokenizer.is_special(id))
        .unwrap()
}

#[test]
fn every_split_of_a_character_waits_for_its_last_byte() {
    let Some(tokenizer) = ggml_vocab("gpt-2") else { return };
    let bytes: Vec<u32> = (0..=255).map(|byte| byte_token(&tokenizer, byte)).collect();
    for text in TEXTS {
        let mut stream = tokenizer.stream(false);
        for character in text.chars() {
            let mut buffer = [0; 4];
            let encoded = character.encode_utf8(&mut buffer).as_bytes();
            for (at, &byte) in encoded.iter().enumerate() {
                let piece = stream.push(bytes[usize::from(byte)]);
                let expected = if at + 1 == encoded.len() { character.to_string() } else { String::new() };
                assert_eq!(piece, expected);
            }
        }
        assert_eq!(stream.pending_bytes(), 0);
    }
}

/// Bytes that can never become a character leave at once as U+FFFD; all in all the text is that of `from_utf8_lossy`.
#[test]
fn invalid_bytes_are_replaced_as_soon_as_they_are_hopeless() {
    let Some(tokenizer) = ggml_vocab("gpt-2") else { return };
    let bytes: Vec<u32> = (0..=255).map(|byte| byte_token(&tokenizer, byte)).collect();
    let cases: &[&[u8]] = &[
        b"a\xff",
        b"\xe0\xa4",
        b"\xe0\xa4x",
        b"\xf0\x9f\x98",
        b"\xf0\x9f\xf0\x9f\x98\x80",
        b"\x80\xc3\xa9",
        b"\xed\xa0\x80",
    ];
    for case in cases {
        let mut stream = tokenizer.stream(false);
        let mut joined = String::new();
        for &byte in *case {
            joined.push_str(stream.push(bytes[usize::from(byte)]));
            assert!(stream.pending_bytes() <= 3);
        }
        joined.push_str(&stream.finish());
        assert_eq!(joined, String::from_utf8_lossy(case), "{case:x?}");
    }
    let mut stream = tokenizer.stream(false);
    assert_eq!(stream.push(bytes[0xff]), "\u{fffd}");
}

#[test]
fn leading_spaces_of_sentencepiece() {
    let Some(tokenizer) = ggml_vocab("llama-spm") else { return };
    let ids = tokenizer.encode("Hello world", LITERAL).unwrap();
    assert_eq!(tokenizer.decode(&ids, false), "Hello world");
    // As a continuation the space stays: it separates from what came before.
    let mut stream = tokenizer.stream(false);
    assert_eq!(ids.iter().map(|&id| stream.push(id).to_owned()).collect::<String>(), " Hello world");
}

#[test]
fn special_tokens_are_skipped_or_shown() {
    let Some(tokenizer) = ggml_vocab("qwen2") else { return };
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    let mut ids = tokenizer.encode("hi", LITERAL).unwrap();
    ids.push(end);
    ids.push(9_999_999);
    assert_eq!(tokenizer.decode(&ids, true), "hi");
    assert_eq!(tokenizer.decode(&ids, false), "hi<|im_end|>");
}
