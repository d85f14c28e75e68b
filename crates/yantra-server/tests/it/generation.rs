//! Answers, whole and streamed.

use serde_json::{Value, json};

use crate::support::{Harness, Setup, chat, chunks, normalised, pretty, prompt};

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_forms_of_openai() {
    let server = Harness::start().await;
    let whole = server.ok("/v1/chat/completions", &chat("Hello")).await;
    insta::assert_json_snapshot!("chat", normalised(whole));
    let mut request = chat("Hello");
    request["max_tokens"] = json!(4);
    request["stream_options"] = json!({"include_usage": true});
    insta::assert_snapshot!("chat_stream", pretty(&server.stream("/v1/chat/completions", &request).await));
    request["logprobs"] = json!(true);
    request["top_logprobs"] = json!(2);
    request["max_tokens"] = json!(2);
    insta::assert_snapshot!("chat_stream_logprobs", pretty(&server.stream("/v1/chat/completions", &request).await));

    let mut request = prompt("Hello");
    request["max_tokens"] = json!(4);
    insta::assert_json_snapshot!("completion", normalised(server.ok("/v1/completions", &request).await));
    insta::assert_snapshot!("completion_stream", pretty(&server.stream("/v1/completions", &request).await));
    request["echo"] = json!(true);
    request["logprobs"] = json!(1);
    request["max_tokens"] = json!(1);
    request["prompt"] = json!("Hi");
    insta::assert_json_snapshot!("completion_echo", normalised(server.ok("/v1/completions", &request).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_and_whole_answers_are_the_same() {
    let server = Harness::start().await;
    for (key, value) in [
        ("n", json!(3)),
        ("seed", json!(7)),
        ("stop", json!(["fox", "न"])),
        ("max_tokens", json!(29)),
        ("logprobs", json!(true)),
        ("ignore_eos", json!(true)),
        ("include_stop_str_in_output", json!(true)),
        ("presence_penalty", json!(1.5)),
    ] {
        let mut request = chat("Tell");
        request["temperature"] = json!(0.7);
        request["seed"] = json!(3);
        request["max_tokens"] = json!(60);
        request[key] = value;
        let whole = server.ok("/v1/chat/completions", &request).await;
        let streamed = chunks(&server.stream("/v1/chat/completions", &request).await);
        for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
            let mine = || {
                let choices = streamed.iter().filter_map(|chunk| chunk["choices"].get(0));
                choices.filter(move |choice| choice["index"] == index)
            };
            let text: String = mine().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
            assert_eq!(choice["message"]["content"], text, "{key}");
            let reasons: Vec<&Value> = mine().map(|choice| &choice["finish_reason"]).filter(|r| !r.is_null()).collect();
            assert_eq!(reasons, [&choice["finish_reason"]], "{key}");
            let logprobs: Vec<Value> =
                mine().filter_map(|choice| choice["logprobs"]["content"].as_array()).flatten().cloned().collect();
            let expected = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
            assert_eq!(logprobs, expected, "{key}");
        }
        assert_eq!(streamed.last().unwrap(), "[DONE]");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_prompts_and_choices_are_numbered() {
    let server = Harness::start().await;
    let mut request = prompt("");
    request["prompt"] = json!(["one", "two!"]);
    request["n"] = json!(2);
    let whole = server.ok("/v1/completions", &request).await;
    let choices = whole["choices"].as_array().unwrap();
    let numbers: Vec<_> = choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    let reasons: Vec<_> = choices.iter().map(|choice| choice["finish_reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["length", "length", "stop", "stop"]);
    assert_eq!(choices[2]["text"], "");
    assert_eq!(whole["usage"]["prompt_tokens"], 7);

    let streamed = chunks(&server.stream("/v1/completions", &request).await);
    for choice in choices {
        let mine =
            streamed.iter().filter_map(|chunk| chunk["choices"].get(0)).filter(|c| c["index"] == choice["index"]);
        let text: String = mine.filter_map(|choice| choice["text"].as_str()).collect();
        assert_eq!(choice["text"], text);
    }

    let tokens: Vec<u32> = "one".bytes().map(u32::from).collect();
    for form in [json!("one"), json!(tokens), json!([tokens])] {
        request["prompt"] = form;
        assert_eq!(server.ok("/v1/completions", &request).await["choices"][0]["text"], choices[0]["text"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn best_of_returns_the_most_likely() {
    let server = Harness::start().await;
    let mut request = prompt("Hello");
    request["temperature"] = json!(2);
    request["seed"] = json!(1);
    request["n"] = json!(8);
    request["logprobs"] = json!(0);
    let mean = |choice: &Value| {
        let tokens = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        tokens.iter().map(|token| token.as_f64().unwrap()).sum::<f64>() / tokens.len() as f64
    };
    let all = server.ok("/v1/completions", &request).await;
    let best = all["choices"].as_array().unwrap().iter().map(mean).fold(f64::NEG_INFINITY, f64::max);
    request["n"] = json!(1);
    request["best_of"] = json!(8);
    let chosen = server.ok("/v1/completions", &request).await;
    assert_eq!(chosen["choices"].as_array().unwrap().len(), 1);
    assert!((mean(&chosen["choices"][0]) - best).abs() < 1e-5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_without_generation_scores_the_prompt() {
    let server = Harness::start().await;
    let mut request = prompt("score me");
    request["echo"] = json!(true);
    request["max_tokens"] = json!(0);
    request["logprobs"] = json!(1);
    let answer = server.ok("/v1/completions", &request).await;
    assert_eq!(answer["choices"][0]["text"], "score me");
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 8);
    assert!(logprobs["token_logprobs"][0].is_null());
    assert!(logprobs["token_logprobs"][1].as_f64().unwrap() < 0.0);
    assert_eq!(answer["usage"]["completion_tokens"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_prompt_comes_from_the_cache() {
    let server = Harness::start().await;
    let request = prompt(&"a long prompt that fills several pages. ".repeat(4));
    let first = server.ok("/v1/completions", &request).await;
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let second = server.ok("/v1/completions", &request).await;
    assert!(second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() >= 128, "{second}");
    assert_eq!(first["choices"], second["choices"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_reach_the_template_unless_forbidden() {
    let server = Harness::start().await;
    let mut request = chat("Weather?");
    let plain = server.ok("/v1/chat/completions", &request).await["usage"]["prompt_tokens"].as_u64().unwrap();
    request["tools"] = json!([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]);
    let with_tools = server.ok("/v1/chat/completions", &request).await["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(with_tools > plain + 20);
    request["tool_choice"] = json!("none");
    let forbidden = server.ok("/v1/chat/completions", &request).await["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(forbidden, plain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_model_is_an_error_whole_or_streamed() {
    let server = Setup { fail: true, ..Setup::default() }.start().await;
    let response = server.post("/v1/chat/completions", &chat("Hello")).await;
    assert_eq!(response.status(), 500);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["type"], "server_error");
    let lines = server.stream("/v1/chat/completions", &chat("Hello")).await;
    let last = chunks(&lines);
    assert_eq!(last[last.len() - 2]["error"], body["error"]);
    assert_eq!(last[last.len() - 1], "[DONE]");
}
