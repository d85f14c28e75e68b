//! Prompt tokens of the reference runs (Hugging Face transformers) for the three real models.

use std::fs;

use serde_json::{Map, Value, json};
use yantra_formats::Checkpoint;
use yantra_text::{ChatInput, ChatTemplate, EncodeOptions, Tokenizer};

use crate::support::{model, shared};

fn check(reference: &str, file: &str) {
    let (Some(reference), Some(file)) = (shared(&format!("reference/{reference}.json")), model(file)) else { return };
    let reference: Value = serde_json::from_slice(&fs::read(reference).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(file).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let template = ChatTemplate::from_checkpoint(&checkpoint, &tokenizer).unwrap();
    let mut checked = 0;
    for item in reference["items"].as_array().unwrap() {
        let prompt = item["prompt"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(item["prompt_tokens"].clone()).unwrap();
        let ids = if item["chat"] == json!(true) {
            let messages = json!([{"role": "user", "content": prompt}]);
            let input = ChatInput { messages: &messages, tools: None, add_generation_prompt: true, extra: &Map::new() };
            let text = template.as_ref().unwrap().render(&input).unwrap();
            tokenizer.encode(&text, EncodeOptions::rendered()).unwrap()
        } else {
            tokenizer.encode(prompt, EncodeOptions::text()).unwrap()
        };
        assert_eq!(ids, expected, "{prompt:?}");
        // What was generated decodes to the text recorded.
        let tokens: Vec<u32> = serde_json::from_value(item["tokens"].clone()).unwrap();
        assert_eq!(tokenizer.decode(&tokens, false), item["text"].as_str().unwrap(), "{prompt:?}");
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn smollm2() {
    check("smollm2-135m", "smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf");
}

#[test]
fn qwen2_5_coder() {
    check("qwen2.5-coder-1.5b", "qwen2.5-coder-1.5b/Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf");
}

#[test]
fn gemma3() {
    check("gemma3-270m", "gemma3-270m/gemma-3-270m-q4_k_m.gguf");
}
