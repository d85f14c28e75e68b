//! Conversations in Anthropic's form: whole, streamed, with tools, counted, refused.

use serde_json::{Value, json};

use crate::support::{Harness, Setup};

async fn start() -> Harness {
    Setup { context: 2048, ..Setup::default() }.start().await
}

fn request(extra: &Value) -> Value {
    let mut request = json!({"model": "story", "max_tokens": 24, "temperature": 0, "messages": [{"role": "user", "content": "Hello"}]});
    for (key, value) in extra.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

/// The events of a streamed answer: their names must be their types.
async fn events(server: &Harness, request: &Value) -> Vec<Value> {
    let mut request = request.clone();
    request["stream"] = json!(true);
    let response = server.post("/v1/messages", &request).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    let event = |text: &str| {
        let (name, data) = text.split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"], "{text}");
        data
    };
    text.split("\n\n").filter(|text| !text.is_empty()).map(event).collect()
}

/// The content that the events say, in order, and how they end.
fn put_together(events: &[Value]) -> (Value, Value) {
    assert_eq!(events[0]["type"], "message_start");
    assert_eq!(events.last().unwrap()["type"], "message_stop");
    let mut blocks: Vec<Value> = Vec::new();
    let (mut input, mut end) = (String::new(), json!(null));
    for event in events {
        let delta = &event["delta"];
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(event["index"], blocks.len());
                blocks.push(event["content_block"].clone());
                input.clear();
            }
            "content_block_delta" => {
                let last = blocks.last_mut().unwrap();
                match delta["type"].as_str().unwrap() {
                    "text_delta" => {
                        last["text"] =
                            json!(last["text"].as_str().unwrap().to_owned() + delta["text"].as_str().unwrap())
                    }
                    "thinking_delta" => {
                        last["thinking"] =
                            json!(last["thinking"].as_str().unwrap().to_owned() + delta["thinking"].as_str().unwrap())
                    }
                    _ => input += delta["partial_json"].as_str().unwrap(),
                }
            }
            "content_block_stop" if blocks.last().unwrap()["type"] == "tool_use" => {
                blocks.last_mut().unwrap()["input"] = serde_json::from_str(&input).unwrap();
            }
            "message_delta" => {
                end = json!({"reason": delta["stop_reason"], "sequence": delta["stop_sequence"], "output": event["usage"]["output_tokens"]})
            }
            _ => {}
        }
    }
    // Calls have names of their own in every answer.
    blocks.iter_mut().for_each(|block| {
        if block["type"] == "tool_use" {
            block["id"] = json!("ID")
        }
    });
    (json!(blocks), end)
}

async fn whole(server: &Harness, request: &Value) -> (Value, Value) {
    let mut body = server.ok("/v1/messages", request).await;
    assert_eq!(
        (&body["type"], &body["role"], &body["model"]),
        (&json!("message"), &json!("assistant"), &json!("story"))
    );
    for block in body["content"].as_array_mut().unwrap() {
        if block["type"] == "tool_use" {
            block["id"] = json!("ID");
        }
    }
    let end = json!({"reason": body["stop_reason"], "sequence": body["stop_sequence"], "output": body["usage"]["output_tokens"]});
    (body["content"].clone(), end)
}

#[tokio::test]
async fn streams_say_what_whole_answers_say() {
    let server = start().await;
    let tool = json!([{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}}]);
    for (extra, reason) in [
        (json!({}), "max_tokens"),
        (json!({"system": "Be brief."}), "max_tokens"),
        (json!({"stop_sequences": ["fox"], "max_tokens": 100}), "stop_sequence"),
        (
            json!({"tools": tool, "tool_choice": {"type": "any", "disable_parallel_tool_use": true}, "max_tokens": 200}),
            "tool_use",
        ),
        (
            json!({"tools": tool, "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": true}, "tool_format": "react", "max_tokens": 1200}),
            "tool_use",
        ),
    ] {
        let request = request(&extra);
        let (content, end) = whole(&server, &request).await;
        assert_eq!(end["reason"], reason, "{extra}: {content}");
        assert_eq!(put_together(&events(&server, &request).await), (content.clone(), end.clone()), "{extra}");
        match reason {
            "stop_sequence" => assert_eq!(end["sequence"], "fox"),
            "tool_use" => {
                let call = content.as_array().unwrap().last().unwrap();
                assert_eq!((&call["name"], call["input"]["city"].is_string()), (&json!("weather"), true));
            }
            _ => assert!(!content[0]["text"].as_str().unwrap().is_empty()),
        }
    }
}

#[tokio::test]
async fn usage_counts_what_was_computed_and_what_was_cached() {
    let server = start().await;
    let first = server.ok("/v1/messages", &request(&json!({}))).await["usage"].clone();
    let second = server.ok("/v1/messages", &request(&json!({}))).await["usage"].clone();
    let count = server
        .ok("/v1/messages/count_tokens", &json!({"model": "story", "messages": [{"role": "user", "content": "Hello"}]}))
        .await;
    assert_eq!((&first["input_tokens"], &first["cache_read_input_tokens"]), (&count["input_tokens"], &json!(0)));
    assert!(second["cache_read_input_tokens"].as_u64().unwrap() > 0);
    assert_eq!(
        second["input_tokens"].as_u64().unwrap() + second["cache_read_input_tokens"].as_u64().unwrap(),
        count["input_tokens"].as_u64().unwrap()
    );
}

#[tokio::test]
async fn errors_have_their_form() {
    let server = start().await;
    let mut without = request(&json!({}));
    without.as_object_mut().unwrap().remove("max_tokens");
    for (body, status, kind, part) in [
        (without.to_string(), 400, "invalid_request_error", "'max_tokens' is required"),
        (request(&json!({"model": "gpt-4"})).to_string(), 404, "not_found_error", "gpt-4"),
        (request(&json!({"max_token": 1})).to_string(), 400, "invalid_request_error", "did you mean 'max_tokens'"),
        ("{".to_owned(), 400, "invalid_request_error", "not valid JSON"),
    ] {
        let response = server.send("POST", "/v1/messages", body).await;
        assert_eq!(response.status(), status);
        let error: Value = response.json().await.unwrap();
        assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!(kind)));
        assert!(error["error"]["message"].as_str().unwrap().contains(part), "{error}");
    }
}
