//! Answers under constraints, through HTTP: in every form they can be asked for, streamed and not.

use serde_json::{Value, json};

use crate::support::{Harness, chat, chunks, prompt};

fn with(mut request: Value, extra: &Value) -> Value {
    for (key, value) in extra.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

async fn answer(server: &Harness, extra: &Value) -> (String, String) {
    let body = server.ok("/v1/chat/completions", &with(chat("Hello"), extra)).await;
    let choice = &body["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap().to_owned();
    (text, choice["finish_reason"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn answers_are_what_they_must_be() {
    let server = Harness::start().await;
    let schema = json!({"type": "object", "properties": {"fox": {"enum": ["quick", "brown"]}, "n": {"type": "integer", "maximum": 9, "minimum": 0}},
        "required": ["fox", "n"], "additionalProperties": false});
    for format in [
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "fox", "schema": schema}}}),
        json!({"response_format": {"type": "json_object", "schema": schema}}),
        json!({"structured_outputs": {"json": schema}}),
        json!({"structured_outputs": {"json": schema.to_string()}}),
    ] {
        let (text, reason) = answer(&server, &with(json!({"max_tokens": 300}), &format)).await;
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        assert!(value["fox"] == "quick" || value["fox"] == "brown", "{text}");
        assert!(value["n"].as_u64().is_some_and(|n| n < 10), "{text}");
        assert_eq!(reason, "stop");
    }
    let (text, reason) = answer(&server, &json!({"response_format": {"type": "regex", "pattern": "[0-9]{3}"}})).await;
    assert!(text.len() == 3 && text.parse::<u32>().is_ok(), "{text}");
    assert_eq!(reason, "stop");
    let (text, _) = answer(&server, &json!({"structured_outputs": {"choice": ["नमस्ते", "fox"]}})).await;
    assert!(text == "नमस्ते" || text == "fox", "{text}");
    let grammar = json!({"response_format": {"type": "grammar", "grammar": "start: \"(\" start \")\" | \"x\""}});
    let (text, reason) = answer(&server, &with(grammar, &json!({"max_tokens": 3}))).await;
    assert!("(((x".starts_with(&text) || text.contains('x'), "{text}");
    assert!(reason == "length" || reason == "stop");
}

#[tokio::test]
async fn streams_say_what_whole_answers_say() {
    let server = Harness::start().await;
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}, "required": ["a"],
        "additionalProperties": false});
    let extra = json!({"response_format": {"type": "json_object", "schema": schema}, "n": 3, "temperature": 1.3, "seed": 5,
        "logprobs": true, "max_tokens": 60});
    let request = with(chat("Hello"), &extra);
    let whole = server.ok("/v1/chat/completions", &request).await;
    let mut texts = [const { String::new() }; 3];
    let mut logprobs = [0; 3];
    for chunk in chunks(&server.stream("/v1/chat/completions", &request).await) {
        for choice in chunk["choices"].as_array().into_iter().flatten() {
            let index = choice["index"].as_u64().unwrap() as usize;
            texts[index] += choice["delta"]["content"].as_str().unwrap_or_default();
            logprobs[index] += choice["logprobs"]["content"].as_array().map_or(0, Vec::len);
        }
    }
    for (index, text) in texts.iter().enumerate() {
        let choice = &whole["choices"][index];
        assert_eq!(choice["message"]["content"], text.as_str());
        assert_eq!(choice["logprobs"]["content"].as_array().unwrap().len(), logprobs[index]);
        let value: Value = serde_json::from_str(text).unwrap();
        assert!(value["a"].as_str().unwrap().chars().count() <= 9, "{text}");
    }
    assert_ne!(texts[0], texts[1], "three choices are three samples");
}

#[tokio::test]
async fn completions_follow_too_and_grammars_are_remembered() {
    let server = Harness::start().await;
    let extra = json!({"response_format": {"type": "regex", "pattern": "(ab){2}"}, "prompt": ["x", "y"]});
    for _ in 0..2 {
        let body = server.ok("/v1/completions", &with(prompt("x"), &extra)).await;
        for choice in body["choices"].as_array().unwrap() {
            assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("abab"), &json!("stop")));
        }
    }
    let stats = server.idle().await;
    assert_eq!((stats.grammars_compiled, stats.grammars_reused), (1, 1));
    assert_eq!(stats.forced_tokens, 16, "four letters in each of four answers");
}

#[tokio::test]
async fn what_can_not_be_followed_is_named() {
    let server = Harness::start().await;
    for (extra, param, part) in [
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema":
                {"type": "object", "properties": {"list": {"type": "array", "uniqueItems": true}}}}}}),
            "response_format.json_schema.schema",
            "'uniqueItems' at /properties/list/uniqueItems",
        ),
        (json!({"response_format": {"type": "regex", "pattern": "a("}}), "response_format.pattern", "regex"),
        (
            json!({"response_format": {"type": "grammar", "grammar": "start: nothing"}}),
            "response_format.grammar",
            "nothing",
        ),
        (json!({"structured_outputs": {"json": "{"}}), "structured_outputs.json", "not JSON"),
    ] {
        let response = server.post("/v1/chat/completions", &with(chat("Hello"), &extra)).await;
        assert_eq!(response.status(), 400);
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
    }
}
