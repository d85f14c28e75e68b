//! What is kept of requests, for whom, and for how long.

use std::time::Duration;

use serde_json::{Value, json};
use yantra_engine::EngineConfig;
use yantra_server::{RawServerConfig, Terms};

use crate::support::{Harness, Setup, chat, prompt};

async fn get(server: &Harness, path: &str, key: &str) -> (u16, Value) {
    let response = server.client.get(format!("{}{path}", server.url)).bearer_auth(key).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn post(server: &Harness, path: &str, id: &str, body: &Value) -> reqwest::Response {
    let request = server.client.post(format!("{}{path}", server.url)).header("x-request-id", id).json(body);
    request.send().await.unwrap()
}

/// A request that is over, with the engine's part of it.
async fn ended(server: &Harness, id: &str) -> Value {
    for _ in 0..400 {
        let (status, record) = get(server, &format!("/v1/requests/{id}"), "none").await;
        let has_timeline = record["timelines"].as_array().is_some_and(|timelines| !timelines.is_empty());
        if status == 200 && record["state"] != "running" && (has_timeline || record["usage"]["completion_tokens"] == 0)
        {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("request {id} has not ended")
}

/// Times and ids taken out.
fn masked(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if (name.ends_with("_ms") || name == "created") && value.is_number() {
                    *value = json!("TIME");
                } else if name == "answer_id" {
                    *value = json!("ID");
                } else if name == "gaps" {
                    value.as_array_mut().unwrap().iter_mut().for_each(|gap| gap[0] = json!("TIME"));
                }
                masked(value);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(masked),
        _ => {}
    }
}

#[tokio::test]
async fn a_request_tells_where_its_time_went() {
    let server = Setup { delay: Duration::from_millis(10), ..Setup::default() }.start().await;
    let mut body = chat("Hello");
    body["max_tokens"] = json!(4);
    let answer: Value = post(&server, "/chat/completions", "first", &body).await.json().await.unwrap();
    let mut record = ended(&server, "first").await;
    let why = record["why"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>();
    assert!(why[0].starts_with("generating 4 tokens took"), "{why:?}");
    assert!(why.iter().any(|line| line.starts_with("computing 24 prompt tokens took")), "{why:?}");
    let (_, by_answer) = get(&server, &format!("/v1/requests/{}", answer["id"].as_str().unwrap()), "none").await;
    assert_eq!(by_answer, record);
    assert!(record["total_ms"].as_f64().unwrap() >= 40.0, "{record}");
    record["why"] = json!("WHY");
    masked(&mut record);
    insta::assert_json_snapshot!("request", record);
}

#[tokio::test]
async fn who_waits_is_told_for_whom() {
    let engine = EngineConfig { max_sequences: 1, ..EngineConfig::default() };
    let server = Setup { delay: Duration::from_millis(5), engine, ..Setup::default() }.start().await;
    let (body, mut several) = (chat("Hello"), prompt("one"));
    several["prompt"] = json!(["one", "two"]);
    let first = post(&server, "/v1/chat/completions", "first", &body);
    let second = async {
        server.running(1).await;
        post(&server, "/v1/completions", "second", &several).await
    };
    tokio::join!(first, second);
    let record = ended(&server, "second").await;
    assert!(record["why"][0].as_str().unwrap().contains("in the queue behind 1 running"), "{record}");
    assert_eq!(record["timelines"].as_array().unwrap().len(), 2);
    assert_eq!(record["usage"]["completion_tokens"], 48);
    assert_eq!(record["finish_reasons"], json!(["length", "length"]));
    let (_, slowest) = get(&server, "/v1/requests?order=slow&limit=1", "none").await;
    assert_eq!(slowest["data"][0]["id"], "second");
    let (_, latest) = get(&server, "/v1/requests", "none").await;
    let ids: Vec<_> = latest["data"].as_array().unwrap().iter().map(|request| request["id"].clone()).collect();
    assert_eq!(ids, ["second", "first"]);
    for query in ["limit=0", "limit=1001", "order=best", "what=1"] {
        assert_eq!(get(&server, &format!("/v1/requests?{query}"), "none").await.0, 400, "{query}");
    }
}

#[tokio::test]
async fn clients_that_go_away_leave_a_timeline() {
    let server = Setup { delay: Duration::from_millis(10), ..Setup::default() }.start().await;
    let mut body = chat("Hello");
    (body["stream"], body["max_tokens"]) = (json!(true), json!(400));
    let mut response = post(&server, "/v1/chat/completions", "gone", &body).await;
    response.chunk().await.unwrap();
    let (_, running) = get(&server, "/v1/requests/gone", "none").await;
    assert_eq!((&running["state"], &running["stream"]), (&json!("running"), &json!(true)));
    drop(response);
    let record = ended(&server, "gone").await;
    assert_eq!((&record["state"], &record["finish_reasons"]), (&json!("cancelled"), &json!([])));
    assert!(record["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{record}");
}

#[tokio::test]
async fn the_list_is_bounded_and_refused_requests_are_not_in_it() {
    let server = RawServerConfig { port: 0, kept_requests: 2, ..RawServerConfig::default() };
    let server = Setup { server, ..Setup::default() }.start().await;
    for id in ["first", "second"] {
        post(&server, "/v1/chat/completions", id, &chat("Hello")).await;
    }
    assert_eq!(post(&server, "/v1/chat/completions", "bad", &json!({"messages": []})).await.status(), 400);
    assert_eq!(get(&server, "/v1/requests/bad", "none").await.0, 404);
    let embeddings = json!({"model": "counter", "input": "abc"});
    assert_eq!(post(&server, "/v1/embeddings", "third", &embeddings).await.status(), 200);
    let record = ended(&server, "third").await;
    assert_eq!((&record["model"], &record["usage"]["prompt_tokens"]), (&json!("counter"), &json!(3)));
    let (_, list) = get(&server, "/v1/requests", "none").await;
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|request| request["id"].clone()).collect();
    assert_eq!(ids, ["third", "second"]);

    let server = RawServerConfig { port: 0, kept_requests: 0, ..RawServerConfig::default() };
    let server = Setup { server, ..Setup::default() }.start().await;
    post(&server, "/v1/chat/completions", "first", &chat("Hello")).await;
    assert_eq!(get(&server, "/v1/requests", "none").await.1["data"], json!([]));
}

#[tokio::test]
async fn tenants_see_their_own_requests_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.toml");
    let mut file = yantra_server::KeyFile::default();
    let (_, alice) = file.create("alice", Terms::default()).unwrap();
    let (_, bob) = file.create("bob", Terms::default()).unwrap();
    file.write(&path).unwrap();
    let server = RawServerConfig { port: 0, keys_file: Some(path), ..RawServerConfig::default() };
    let server = Setup { server, ..Setup::default() }.start().await;
    let request = server.client.post(format!("{}/v1/chat/completions", server.url)).bearer_auth(&alice);
    let answer: Value =
        request.header("x-request-id", "hers").json(&chat("Hello")).send().await.unwrap().json().await.unwrap();
    let answer_id = answer["id"].as_str().unwrap();
    for id in ["hers", answer_id] {
        let path = format!("/v1/requests/{id}");
        assert_eq!(get(&server, &path, &alice).await.1["tenant"], "alice");
        let (status, error) = get(&server, &path, &bob).await;
        assert_eq!((status, &error["error"]["code"]), (404, &json!("not_found")));
        assert_eq!(get(&server, &path, "none").await.0, 401);
    }
    assert_eq!(get(&server, "/v1/requests", &alice).await.1["data"].as_array().unwrap().len(), 1);
    assert_eq!(get(&server, "/v1/requests", &bob).await.1["data"], json!([]));
}
