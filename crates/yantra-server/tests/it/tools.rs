//! Tool calls through HTTP, in every way that they can be written, streamed and not.

use serde_json::{Value, json};

use crate::support::{Harness, Setup, chat, chunks};

fn request(extra: &Value) -> Value {
    let mut request = chat("Hello");
    let parameters = json!({"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"]});
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "description": "Tells the weather.", "parameters": parameters}});
    request["tools"] = json!([tool("weather"), tool("forecast")]);
    request["max_tokens"] = json!(250);
    for (key, value) in extra.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

/// The message of a streamed answer, put together, and why it ended.
async fn streamed(server: &Harness, request: &Value) -> (Value, String) {
    let (mut content, mut reasoning, mut reason) = (String::new(), String::new(), String::new());
    let mut calls: Vec<Value> = Vec::new();
    for chunk in chunks(&server.stream("/v1/chat/completions", request).await) {
        let Some(choice) = chunk["choices"].get(0) else { continue };
        let delta = &choice["delta"];
        content += delta["content"].as_str().unwrap_or_default();
        reasoning += delta["reasoning_content"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            if call["id"].is_string() {
                assert_eq!(index, calls.len());
                calls.push(json!({"type": "function", "function": call["function"]}));
            } else {
                let more = call["function"]["arguments"].as_str().unwrap();
                let so_far = calls[index]["function"]["arguments"].as_str().unwrap().to_owned();
                calls[index]["function"]["arguments"] = json!(so_far + more);
            }
        }
        if let Some(text) = choice["finish_reason"].as_str() {
            text.clone_into(&mut reason);
        }
    }
    (json!({"content": content, "reasoning": reasoning, "calls": calls}), reason)
}

async fn whole(server: &Harness, request: &Value) -> (Value, String) {
    let body = server.ok("/v1/chat/completions", request).await;
    let message = &body["choices"][0]["message"];
    let without_id = |call: &Value| json!({"type": call["type"], "function": call["function"]});
    let calls: Vec<Value> = message["tool_calls"].as_array().into_iter().flatten().map(without_id).collect();
    let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
    let message = json!({"content": text("content"), "reasoning": text("reasoning_content"), "calls": calls});
    (message, body["choices"][0]["finish_reason"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn calls_are_well_formed_in_every_dialect() {
    let server = Setup { context: 2048, ..Setup::default() }.start().await;
    for format in [
        "auto",
        "hermes",
        "llama",
        "pythonic",
        "gemma",
        "qwen3_coder",
        "glm",
        "minimax",
        "minimax_m1",
        "kimi",
        "json",
        "react",
    ] {
        let request = request(
            &json!({"tool_format": format, "tool_choice": "required", "parallel_tool_calls": false, "max_tokens": 1200}),
        );
        let (message, reason) = whole(&server, &request).await;
        assert_eq!(reason, "tool_calls", "{format}: {message}");
        assert_eq!(message["calls"].as_array().unwrap().len(), 1, "{format}: {message}");
        let function = &message["calls"][0]["function"];
        assert!(function["name"] == "weather" || function["name"] == "forecast", "{format}: {message}");
        let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["city"] == "Rome" || arguments["city"] == "Oslo", "{format}: {message}");
        assert!((1..=9).contains(&arguments["days"].as_i64().unwrap()), "{format}: {message}");
        assert_eq!(message["content"], "", "{format}");
        assert_eq!(message["reasoning"] != "", format == "react", "{format}: {message}");
        assert_eq!(streamed(&server, &request).await, (message, reason), "{format}");
    }
    let (_, requests) = server.get("/v1/requests").await;
    let requests: Value = serde_json::from_str(&requests).unwrap();
    let requests = requests["data"].as_array().unwrap();
    assert!(requests.iter().all(|request| request["finish_reasons"] == json!(["tool_calls"])), "{requests:?}");
}

#[tokio::test]
async fn the_tool_that_is_named_is_called() {
    let server = Setup { context: 2048, ..Setup::default() }.start().await;
    let choice = json!({"type": "function", "function": {"name": "forecast"}});
    for format in ["hermes", "json"] {
        let (message, _) = whole(
            &server,
            &request(&json!({"tool_format": format, "tool_choice": choice, "parallel_tool_calls": false})),
        )
        .await;
        assert_eq!(message["calls"][0]["function"]["name"], "forecast");
    }
}

#[tokio::test]
async fn text_stays_text_where_no_call_is_demanded() {
    let server = Setup { context: 2048, ..Setup::default() }.start().await;
    let plain = whole(&server, &request(&json!({"tool_choice": "none", "max_tokens": 24}))).await;
    assert!(plain.0["content"].as_str().unwrap().len() > 20 && plain.0["calls"] == json!([]));
    for format in ["hermes", "pythonic", "llama"] {
        let request = request(&json!({"tool_format": format, "max_tokens": 24}));
        let (message, reason) = whole(&server, &request).await;
        assert_eq!((message["content"].as_str().unwrap().is_empty(), reason.as_str()), (false, "length"), "{format}");
        assert_eq!(message["calls"], json!([]));
        assert_eq!(streamed(&server, &request).await.0, message);
    }
}

#[tokio::test]
async fn conversations_with_calls_go_on() {
    let server = Setup { context: 2048, ..Setup::default() }.start().await;
    let messages = json!([
        {"role": "user", "content": "The weather in Rome?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "abc", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}}]},
        {"role": "tool", "tool_call_id": "abc", "content": "sunny"},
    ]);
    for format in ["hermes", "json", "react"] {
        let (message, _) = whole(
            &server,
            &request(&json!({"messages": messages, "tool_format": format, "max_tokens": 8, "tool_choice": "none"})),
        )
        .await;
        assert!(!message["content"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_is_wrong_with_tools_is_said() {
    let server = Setup { context: 2048, ..Setup::default() }.start().await;
    let strange = json!([{"type": "function", "function": {"name": "f", "strict": true, "parameters": {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}}}}]);
    for (extra, param) in [
        (json!({"tool_format": "xml"}), "tool_format"),
        (json!({"tool_choice": {"type": "function", "function": {"name": "g"}}}), "tool_choice"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"tools": strange}), "tools"),
    ] {
        let response = server.post("/v1/chat/completions", &request(&extra)).await;
        assert_eq!(response.status(), 400, "{extra}");
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
    }
    // Without `strict` any object will do for what can not be followed.
    let mut loose = strange.clone();
    loose[0]["function"]["strict"] = json!(false);
    let (message, _) = whole(
        &server,
        &request(&json!({"tools": loose, "tool_choice": "required", "tool_format": "json", "max_tokens": 60})),
    )
    .await;
    assert_eq!(message["calls"][0]["function"]["name"], "f");
}
