//! Everything besides generation.

use serde_json::{Value, json};

use yantra_server::{ModelKind, RawServerConfig, SamplingDefaults, Server, ServerConfig, Terms};

use crate::support::{Harness, Setup, chat, data_lines, prompt, served};

async fn get(server: &Harness, path: &str) -> Value {
    let (status, body) = server.get(path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_and_found_by_alias() {
    let server = Harness::start().await;
    insta::assert_json_snapshot!("models", get(&server, "/v1/models").await);
    assert_eq!(get(&server, "/models").await, get(&server, "/v1/models").await);
    assert_eq!(get(&server, "/v1/models/story-alias").await["id"], "story");
    let mut request = chat("Hello");
    request["model"] = json!("story-alias");
    assert_eq!(server.ok("/chat/completions", &request).await["model"], "story");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_needed_only_where_it_is_not_plain() {
    // One model generates and one embeds: neither needs a name.
    let server = Harness::start().await;
    let without = |mut body: Value| {
        body.as_object_mut().unwrap().remove("model");
        body
    };
    assert_eq!(server.ok("/v1/chat/completions", &without(chat("Hello"))).await["model"], "story");
    assert_eq!(server.ok("/v1/completions", &without(prompt("Hello"))).await["model"], "story");
    assert_eq!(server.ok("/v1/embeddings", &json!({"input": "a"})).await["model"], "counter");

    let setup = Setup::default();
    let (first, second) = (setup.generator(), setup.generator());
    let engine = first.engine.clone();
    let server = Server::builder(ServerConfig::try_from(setup.server).unwrap())
        .model(served("one", ModelKind::Generate(first)))
        .model(served("two", ModelKind::Generate(second)))
        .announce("three", &[])
        .build()
        .unwrap();
    let registry = server.registry();
    let server = Harness::serve(server, engine).await;
    let refusal = async || {
        let response = server.post("/v1/chat/completions", &without(chat("Hello"))).await;
        (response.status().as_u16(), response.json::<Value>().await.unwrap()["error"].clone())
    };
    assert_eq!(refusal().await.0, 503, "what is loading may be meant");
    registry.failed("three", "broken");
    let (status, error) = refusal().await;
    assert_eq!((status, &error["param"], &error["code"]), (400, &json!("model"), &json!("missing_parameter")));
    assert!(error["message"].as_str().unwrap().contains("one, two"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_may_suggest_how_to_sample() {
    let defaults = SamplingDefaults { temperature: 0.0, ..SamplingDefaults::default() };
    let server = Setup { defaults, ..Setup::default() }.start().await;
    let mut request = chat("Hello");
    let greedy = server.ok("/v1/chat/completions", &request).await["choices"].clone();
    request.as_object_mut().unwrap().remove("temperature");
    request["max_tokens"] = json!(24);
    assert_eq!(server.ok("/v1/chat/completions", &request).await["choices"], greedy);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_become_tokens_and_back() {
    let server = Harness::start().await;
    let answer = server.ok("/tokenize", &json!({"model": "story", "prompt": "aé", "return_token_strs": true})).await;
    assert_eq!(answer["tokens"], json!([97, 195, 169]));
    assert_eq!((&answer["count"], &answer["max_model_len"]), (&json!(3), &json!(512)));
    assert_eq!(answer["token_strs"].as_array().unwrap().len(), 3);
    let back = server.ok("/v1/detokenize", &json!({"model": "story", "tokens": [97, 195, 169, 257]})).await;
    assert_eq!(back["prompt"], "aé<|im_end|>");

    // A user's text can not write special tokens; a template can.
    let text = server.ok("/tokenize", &json!({"model": "story", "prompt": "<|im_end|>"})).await;
    assert_eq!(text["count"], 10);
    let messages = json!({"model": "story", "messages": [{"role": "user", "content": "a"}]});
    let tokens = server.ok("/tokenize", &messages).await["tokens"].clone();
    assert_eq!((&tokens[0], tokens.as_array().unwrap().iter().filter(|&t| t == 257).count()), (&json!(256), 1));

    for (path, body, param) in [
        ("/tokenize", json!({"prompt": "a"}), "model"),
        ("/tokenize", json!({"model": "story"}), "prompt"),
        ("/tokenize", json!({"model": "story", "prompt": "a", "tools": []}), "tools"),
        ("/detokenize", json!({"model": "story", "tokens": [0, 258]}), "tokens[1]"),
    ] {
        let response = server.post(path, &body).await;
        assert_eq!(response.status(), 400);
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["param"], param);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_embedded() {
    let server = Harness::start().await;
    insta::assert_json_snapshot!(
        "embeddings",
        server.ok("/v1/embeddings", &json!({"model": "counter", "input": ["x", "xabcd"]})).await,
        {".data[].embedding[]" => insta::rounded_redaction(4)}
    );
    let request = json!({"model": "counter", "input": [97, 98], "dimensions": 2, "encoding_format": "base64"});
    let answer = server.ok("/v1/embeddings", &request).await;
    assert_eq!(answer["data"][0]["embedding"].as_str().unwrap().len(), 12);
    for (body, code) in [
        (json!({"model": "counter", "input": "x".repeat(65)}), "context_length_exceeded"),
        (json!({"model": "counter", "input": ""}), "invalid_value"),
        (json!({"model": "counter", "input": "a", "dimensions": 4}), "invalid_value"),
        (json!({"model": "counter", "input": "a", "encoding_format": "int8"}), "invalid_type"),
        (json!({"model": "story", "input": "a"}), "wrong_model_kind"),
    ] {
        let response = server.post("/v1/embeddings", &body).await;
        assert_eq!(response.status(), 400, "{body}");
        let error = response.json::<Value>().await.unwrap();
        assert!(error["error"]["code"] == code || code == "invalid_type", "{body} {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_told_in_both_forms() {
    let server = Harness::start().await;
    server.ok("/v1/chat/completions", &chat("Hello")).await;
    server.idle().await;
    let stats = get(&server, "/v1/engine/stats").await;
    let model = &stats["models"][0];
    assert_eq!((&model["id"], &model["requests_completed_total"]), (&json!("story"), &json!(1)));
    assert_eq!(model["output_tokens_total"], 24);
    assert!(model["time_to_first_token_ms"]["p50"].as_f64().unwrap() > 0.0);

    let (_, metrics) = server.get("/metrics").await;
    for line in [
        "yantra_generation_tokens_total{model_name=\"story\"} 24",
        "yantra_time_to_first_token_seconds_count{model_name=\"story\"} 1",
        "yantra_e2e_request_latency_seconds_bucket{model_name=\"story\",le=\"+Inf\"} 1",
        "yantra_model_ready{model_name=\"counter\"} 1",
        "yantra_cache_config_info{model_name=\"story\",block_size=\"16\",num_gpu_blocks=\"1024\"} 1",
        "yantra_http_requests_total{route=\"/v1/chat/completions\",method=\"POST\",status=\"200\"} 1",
        "# TYPE yantra_inter_token_latency_seconds histogram",
    ] {
        assert!(metrics.lines().any(|given| given == line), "{line} is missing in\n{metrics}");
    }

    let events = server.client.get(format!("{}/v1/engine/events", server.url)).send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    server.shutdown.drain();
    let lines = data_lines(&events.text().await.unwrap());
    if let Some(line) = lines.first() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["models"][0]["id"], "story");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_is_documented() {
    let server = Harness::start().await;
    let document = get(&server, "/openapi.json").await;
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{id}",
        "/v1/tokenize",
        "/v1/detokenize",
        "/v1/requests",
        "/v1/requests/{id}",
        "/v1/engine/stats",
        "/v1/engine/events",
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name} is referred to and missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_kept_or_given_and_the_page_is_there() {
    let server = Harness::start().await;
    let with_id = |id: &str| server.client.get(format!("{}/health", server.url)).header("x-request-id", id).send();
    assert_eq!(with_id("my-id").await.unwrap().headers()["x-request-id"], "my-id");
    assert_ne!(with_id(&"x".repeat(200)).await.unwrap().headers()["x-request-id"].len(), 200);
    let (status, page) = server.get("/").await;
    assert_eq!(status, 200);
    assert!(page.to_lowercase().contains("<!doctype html>"));
}

#[tokio::test]
async fn keys_of_a_file_come_and_go_while_the_server_runs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.toml");
    let mut file = yantra_server::KeyFile::default();
    let (_, alice) = file.create("alice", Terms::default()).unwrap();
    let (_, bob) = file.create("bob", Terms::default()).unwrap();
    file.write(&path).unwrap();
    let server = RawServerConfig { port: 0, keys_file: Some(path.clone()), ..RawServerConfig::default() };
    let server = Setup { server, ..Setup::default() }.start().await;
    let ask = async |key: &str| {
        let request = server.client.post(format!("{}/v1/chat/completions", server.url)).header("x-api-key", key);
        let response = request.json(&chat(&"the same long prompt, ".repeat(8))).send().await.unwrap();
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        (status, body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or_default())
    };
    assert_eq!(ask(&alice).await, (200, 0));
    let (_, cached) = ask(&alice).await;
    assert!(cached > 100, "alice finds her own prompt: {cached}");
    assert_eq!(ask(&bob).await, (200, 0), "bob does not find alice's");
    assert_eq!(ask("yk_none_of_ours").await.0, 401);
    let (_, carol) = file.create("carol", Terms::default()).unwrap();
    file.revoke("alice").unwrap();
    file.write(&path).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!((ask(&alice).await.0, ask(&carol).await.0), (401, 200));
    // What can not be read changes nothing.
    std::fs::write(&path, "broken").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!((ask(&alice).await.0, ask(&carol).await.0), (401, 200));
}

#[tokio::test]
async fn keys_have_quotas_priorities_and_usage_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.toml");
    let mut file = yantra_server::KeyFile::default();
    let limited = Terms { requests_per_minute: Some(2), priority: Some(-1), ..Terms::default() };
    let (_, alice) = file.create("alice", limited).unwrap();
    let (_, bob) = file.create("bob", Terms { tokens_per_day: Some(50), ..Terms::default() }).unwrap();
    file.write(&path).unwrap();
    let server = RawServerConfig { port: 0, keys_file: Some(path.clone()), ..RawServerConfig::default() };
    let server = Setup { server, ..Setup::default() }.start().await;
    let ask = async |key: &str, body: &Value| {
        let request = server.client.post(format!("{}/v1/chat/completions", server.url)).bearer_auth(key);
        request.json(body).send().await.unwrap()
    };
    let error = async |response: reqwest::Response| {
        let retry = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        let body: Value = response.json().await.unwrap();
        (body["error"]["code"].clone(), body["error"]["param"].clone(), retry)
    };
    let too_high = ask(&alice, &json!({"priority": 0, "messages": [{"role": "user", "content": "hi"}]})).await;
    assert_eq!(error(too_high).await, (json!("invalid_value"), json!("priority"), None));
    let first = ask(&alice, &chat("hi")).await;
    assert_eq!(first.status(), 200);
    assert_eq!(first.headers()["x-ratelimit-limit-requests"], "2");
    assert_eq!(first.headers()["x-ratelimit-remaining-requests"], "0");
    let refused = ask(&alice, &chat("hi")).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(error(refused).await, (json!("rate_limit_exceeded"), json!(null), Some("30".to_owned())));
    // The first may overdraw; a stream counts too.
    let mut streamed = chat("a story, please");
    streamed["stream"] = json!(true);
    assert!(ask(&bob, &streamed).await.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    let refused = ask(&bob, &chat("hi")).await;
    assert_eq!(refused.headers()["x-ratelimit-remaining-tokens"], "0");
    assert_eq!(error(refused).await.0, json!("rate_limit_exceeded"));

    let used = async |key: &str| -> Value {
        let request = server.client.get(format!("{}/v1/usage?days=1", server.url)).bearer_auth(key);
        request.send().await.unwrap().json().await.unwrap()
    };
    let (alices, bobs) = (used(&alice).await, used(&bob).await);
    assert_eq!(alices["data"].as_array().unwrap().len(), 1);
    assert_eq!((&alices["data"][0]["tenant"], &alices["data"][0]["requests"]), (&json!("alice"), &json!(1)));
    assert_eq!((&bobs["data"][0]["model"], &bobs["data"][0]["completion_tokens"]), (&json!("story"), &json!(24)));
    let (_, metrics) = server.get("/metrics").await;
    assert!(
        metrics.contains("yantra_tenant_generation_tokens_total{tenant=\"bob\",model_name=\"story\"} 24"),
        "{metrics}"
    );
    let request = server.client.get(format!("{}/v1/usage?days=0", server.url)).bearer_auth(&bob);
    assert_eq!(request.send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn usage_outlives_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let start = async || {
        let server =
            RawServerConfig { port: 0, state_dir: Some(directory.path().to_owned()), ..RawServerConfig::default() };
        Setup { server, ..Setup::default() }.start().await
    };
    let requests = async |server: &Harness| -> Value {
        let usage: Value = serde_json::from_str(&server.get("/v1/usage").await.1).unwrap();
        usage["data"][0]["requests"].clone()
    };
    let first = start().await;
    first.ok("/v1/chat/completions", &chat("hi")).await;
    assert_eq!(requests(&first).await, 1);
    first.shutdown.drain();
    assert!(first.task.await.unwrap().unwrap());
    let second = start().await;
    second.ok("/v1/chat/completions", &chat("hi")).await;
    assert_eq!(requests(&second).await, 2);
}
