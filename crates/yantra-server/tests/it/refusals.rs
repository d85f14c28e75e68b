//! What is refused, and how.

use serde_json::{Value, json};

use crate::support::{Harness, chat, prompt};

/// Sends a body and checks status, code and parameter of the refusal.
async fn check(
    server: &Harness,
    path: &str,
    body: impl Into<reqwest::Body>,
    expected: (u16, &str, Option<&str>),
) -> String {
    let response = server.send("POST", path, body).await;
    let status = response.status().as_u16();
    assert!(response.headers().contains_key("x-request-id"));
    let text = response.text().await.unwrap();
    let error: Value = serde_json::from_str::<Value>(&text).unwrap()["error"].clone();
    assert_eq!((status, error["code"].as_str().unwrap_or(""), error["param"].as_str()), expected, "{text}");
    error["message"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_chat_requests_are_refused_with_their_place() {
    let server = Harness::start().await;
    let url = "/v1/chat/completions";
    for (key, value, code) in [
        ("temperature", json!("hot"), "invalid_type"),
        ("temperature", json!(-0.1), "invalid_value"),
        ("temperature", json!(2.1), "invalid_value"),
        ("top_p", json!(0), "invalid_value"),
        ("max_tokens", json!(-1), "invalid_value"),
        ("max_tokens", json!(1e30), "invalid_type"),
        ("max_tokens", json!("many"), "invalid_type"),
        ("n", json!(0), "invalid_value"),
        ("n", json!(1000), "invalid_value"),
        ("seed", json!(1.5), "invalid_type"),
        ("stream", json!("yes"), "invalid_type"),
        ("messages", json!([]), "invalid_value"),
        ("messages", json!("hi"), "invalid_type"),
        ("model", json!(7), "invalid_type"),
        ("model", json!("gpt-4"), "model_not_found"),
        ("no_such_thing", json!(1), "unknown_parameter"),
        ("response_format", json!({"type": "xml"}), "invalid_type"),
        ("response_format", json!({"type": "regex", "pattern": "("}), "invalid_value"),
        ("structured_outputs", json!({"regex": "a", "choice": ["b"]}), "invalid_value"),
        ("tool_choice", json!("required"), "invalid_value"),
        ("logit_bias", json!({"999999": 1}), "invalid_value"),
        ("stop_token_ids", json!([999_999_999_999u64]), "invalid_type"),
    ] {
        let mut request = chat("Hello");
        request[key] = value.clone();
        let status = if code == "model_not_found" { 404 } else { 400 };
        let response = server.post(url, &request).await;
        assert_eq!(response.status(), status, "{key} {value}");
        let error: Value = response.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!(error["code"], code, "{key} {value} {error}");
        let param = error["param"].as_str().unwrap();
        assert!(param.starts_with(key), "{key} {value} {error}");
    }
    let message =
        check(&server, url, chat("x").to_string().replace("story", "gpt-4"), (404, "model_not_found", Some("model")))
            .await;
    assert_eq!(message, "the model 'gpt-4' does not exist; available: story, counter");
    let misspelt = json!({"messages": [{"role": "user", "contnt": "x"}]});
    let param = Some("messages[0].contnt");
    let message = check(&server, url, misspelt.to_string(), (400, "unknown_parameter", param)).await;
    assert_eq!(message, "unknown parameter 'messages[0].contnt'; did you mean 'content'?");
    let long = chat(&"word ".repeat(1000)).to_string();
    check(&server, url, long, (400, "context_length_exceeded", Some("messages"))).await;
    let image =
        json!({"model": "story", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]});
    check(&server, url, image.to_string(), (400, "unsupported_value", Some("messages[0].content[0].type"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_json_are_refused_with_their_place() {
    let server = Harness::start().await;
    let url = "/v1/completions";
    let message = check(&server, url, "{\"model\": \"story\",\n \"prompt\" 7}", (400, "invalid_json", None)).await;
    assert!(message.ends_with("at line 2 column 11"), "{message}");
    check(&server, url, "", (400, "invalid_json", None)).await;
    check(&server, url, "{", (400, "invalid_json", None)).await;
    check(&server, url, "[]", (400, "invalid_type", None)).await;
    check(&server, url, "null", (400, "invalid_type", None)).await;
    check(&server, url, b"{\"model\":\"\xff\xfe\"}".to_vec(), (400, "invalid_json", None)).await;
    check(&server, url, "{\"model\":\"story\",\"prompt\":\"\\ud800\"}", (400, "invalid_json", None)).await;
    check(&server, url, "{\"model\":\"story\"}", (400, "missing_parameter", Some("prompt"))).await;
    check(&server, url, "[".repeat(1_000_000), (400, "invalid_type", None)).await;
    check(&server, url, format!("{{\"model\":{}", "[".repeat(1_000_000)), (400, "invalid_type", Some("model"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_prompts_are_refused() {
    let server = Harness::start().await;
    let url = "/v1/completions";
    let long = check(
        &server,
        url,
        prompt(&"word ".repeat(1000)).to_string(),
        (400, "context_length_exceeded", Some("prompt")),
    )
    .await;
    assert_eq!(long, "the prompt has 5000 tokens, at most 511 fit into this model's context");
    // With more bytes than so many tokens can have it is not even tokenised.
    let huge = prompt(&" ".repeat(9_900_000)).to_string();
    let begun = std::time::Instant::now();
    let message = check(&server, url, huge, (400, "context_length_exceeded", Some("prompt"))).await;
    assert!(message.starts_with("the prompt has at least "), "{message}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    let mut second = prompt("");
    second["prompt"] = json!(["short", "word ".repeat(1000)]);
    check(&server, url, second.to_string(), (400, "context_length_exceeded", Some("prompt[1]"))).await;
    for (form, code, param) in [
        (json!([]), "invalid_value", "prompt"),
        (json!([[]]), "invalid_value", "prompt[0]"),
        (json!([1, "a"]), "invalid_type", "prompt"),
        (json!([999]), "invalid_value", "prompt"),
        (json!([-1]), "invalid_type", "prompt[0]"),
        (json!(""), "invalid_value", "prompt"),
        (json!({}), "invalid_type", "prompt"),
    ] {
        let mut request = prompt("");
        request["prompt"] = form.clone();
        let response = server.post(url, &request).await;
        assert_eq!(response.status(), 400, "{form}");
        let error: Value = response.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!(error["param"], param, "{form} {error}");
        assert!([code, "invalid_type", "invalid_value"].contains(&error["code"].as_str().unwrap()), "{form} {error}");
    }
    let mut request = prompt("x");
    request["suffix"] = json!("y");
    check(&server, url, request.to_string(), (400, "unsupported_value", Some("suffix"))).await;
    check(&server, url, prompt("x").to_string().replace("story", "counter"), (400, "wrong_model_kind", Some("model")))
        .await;
    // Refused requests leave nothing behind.
    let stats = server.idle().await;
    assert_eq!((stats.requests_accepted, stats.pages_used), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_paths_methods_and_types_are_refused() {
    let server = Harness::start().await;
    let response = server.send("GET", "/v1/chat/completions", "").await;
    assert_eq!((response.status().as_u16(), response.headers()["allow"].to_str().unwrap()), (405, "POST"));
    assert!(response.text().await.unwrap().contains("method_not_allowed"));
    let (status, body) = server.get("/v1/nothing").await;
    assert_eq!(status, 404);
    assert!(body.contains("unknown_url") && body.contains("/openapi.json"), "{body}");
    let (status, _) = server.get("/v1/models/nothing").await;
    assert_eq!(status, 404);
    for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut request = server.client.post(format!("{}/v1/completions", server.url)).body(prompt("x").to_string());
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        assert_eq!(request.send().await.unwrap().status(), 415, "{kind:?}");
    }
    let request = server.client.post(format!("{}/v1/completions", server.url)).body(prompt("x").to_string());
    let request = request.header("content-type", "application/json; charset=utf-8");
    assert_eq!(request.send().await.unwrap().status(), 200);
}
