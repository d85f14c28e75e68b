//! Files and batches.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use yantra_engine::EngineConfig;
use yantra_store::{FileFacts, NewBatch, Store};

use crate::support::{Harness, Setup, chat, prompt};

fn keeping(directory: &Path) -> Setup {
    let mut setup = Setup::default();
    setup.server.state_dir = Some(directory.to_owned());
    setup
}

/// A request, perhaps with a key.
async fn call(
    server: &Harness,
    key: &str,
    method: &str,
    path: &str,
    kind: &str,
    body: impl Into<String>,
) -> (u16, Value) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let request = server.client.request(method, format!("{}{path}", server.url)).header("content-type", kind);
    let response = request.bearer_auth(key).body(body.into()).send().await.unwrap();
    let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn get(server: &Harness, key: &str, path: &str) -> (u16, Value) {
    call(server, key, "GET", path, "text/plain", "").await
}

async fn post(server: &Harness, key: &str, path: &str, body: &Value) -> (u16, Value) {
    call(server, key, "POST", path, "application/json", body.to_string()).await
}

const FORM: &str = "multipart/form-data; boundary=cut";

fn form(fields: &[(&str, &str)]) -> String {
    let field = |(name, value): &(&str, &str)| {
        let filename = if *name == "file" { "; filename=\"items.jsonl\"" } else { "" };
        format!("--cut\r\ncontent-disposition: form-data; name=\"{name}\"{filename}\r\n\r\n{value}\r\n")
    };
    fields.iter().map(field).collect::<String>() + "--cut--\r\n"
}

async fn upload(server: &Harness, key: &str, content: &str) -> String {
    let fields = form(&[("purpose", "batch"), ("file", content)]);
    let (status, file) = call(server, key, "POST", "/v1/files", FORM, fields).await;
    assert_eq!(status, 200, "{file}");
    file["id"].as_str().unwrap().to_owned()
}

fn line(number: usize, url: &str, body: &Value) -> String {
    json!({"custom_id": format!("c{number}"), "method": "POST", "url": url, "body": body}).to_string() + "\n"
}

fn lines(count: usize, url: &str, body: &Value) -> String {
    (0..count).map(|number| line(number, url, body)).collect()
}

async fn begin(server: &Harness, key: &str, url: &str, content: &str) -> Value {
    let file = upload(server, key, content).await;
    let request = json!({"input_file_id": file, "endpoint": url, "completion_window": "24h"});
    let (status, batch) = post(server, key, "/v1/batches", &request).await;
    assert_eq!((status, &batch["status"]), (200, &json!("validating")), "{batch}");
    batch
}

/// Waits until a batch is as it should be.
async fn wait(server: &Harness, id: &Value, is_there: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/v1/batches/{}", id.as_str().unwrap());
    for _ in 0..2000 {
        let (status, batch) = get(server, "", &path).await;
        assert_eq!(status, 200, "{batch}");
        if is_there(&batch) {
            return batch;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not come to that: {:?}", get(server, "", &path).await);
}

async fn end(server: &Harness, id: &Value) -> Value {
    let ends = ["completed", "failed", "expired", "cancelled"];
    wait(server, id, |batch| ends.iter().any(|end| batch["status"] == *end)).await
}

/// The lines of a batch's file, by the items' names; none twice.
async fn answers(server: &Harness, batch: &Value, file: &str) -> BTreeMap<String, Value> {
    let Some(id) = batch[file].as_str() else { return BTreeMap::new() };
    let response = server.client.get(format!("{}/v1/files/{id}/content", server.url)).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    let text = response.text().await.unwrap();
    let mut answers = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let is_twice = answers.insert(line["custom_id"].as_str().unwrap().to_owned(), line).is_some();
        assert!(!is_twice, "{text}");
    }
    answers
}

/// Names and times are different every time, and so is which item finds what another has computed.
fn shown(value: &Value) -> Value {
    match value {
        Value::Array(values) => values.iter().map(shown).collect(),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                let is_time = name.ends_with("_at") || name == "created";
                let is_name = (name == "id" || name.ends_with("_id")) && name != "custom_id";
                let value = match value {
                    Value::Number(_) if is_time => json!("TIME"),
                    Value::String(_) if is_name => json!("NAME"),
                    Value::Number(_) if name == "cached_tokens" => json!("SHARED"),
                    value => shown(value),
                };
                (name.clone(), value)
            };
            Value::Object(fields.iter().map(field).collect())
        }
        value => value.clone(),
    }
}

fn snapshot(name: &str, value: &impl serde::Serialize) {
    insta::assert_json_snapshot!(name, shown(&serde_json::to_value(value).unwrap()));
}

const CHAT: &str = "/v1/chat/completions";

#[tokio::test(flavor = "multi_thread")]
async fn without_a_state_directory_it_is_said_what_is_needed() {
    let server = Harness::start().await;
    for path in ["/v1/files", "/files/file-1", "/v1/files/file-1/content", "/v1/batches", "/batches/batch_1"] {
        let (status, body) = get(&server, "", path).await;
        assert_eq!((status, &body["error"]["code"]), (501, &json!("not_configured")), "{path}");
        assert!(body["error"]["message"].as_str().unwrap().contains("--state-dir DIR"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut setup = keeping(directory.path());
    setup.server.max_file_bytes = 200_000;
    let server = setup.start().await;
    let content = "line\n".repeat(30_000);
    let first = upload(&server, "", &content).await;
    let second = upload(&server, "", "").await;
    snapshot("file", &get(&server, "", &format!("/v1/files/{first}")).await.1);
    snapshot("files", &get(&server, "", "/v1/files?limit=1&purpose=batch").await.1);
    let (_, page) = get(&server, "", &format!("/files?after={second}&order=desc")).await;
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&json!(first), &json!(false)));
    let (status, body) = get(&server, "", &format!("/v1/files/{first}/content")).await;
    assert_eq!((status, body), (200, json!(content)));
    let (status, deleted) = call(&server, "", "DELETE", &format!("/v1/files/{second}"), "text/plain", "").await;
    assert_eq!((status, deleted), (200, json!({"id": second, "object": "file", "deleted": true})));
    for path in [format!("/v1/files/{second}"), format!("/v1/files/{second}/content"), "/v1/files/..%2Flock".to_owned()]
    {
        assert_eq!(get(&server, "", &path).await.0, 404);
    }

    let refused = async |fields: &[(&str, &str)], status: u16, part: &str| {
        let (given, body) = call(&server, "", "POST", "/v1/files", FORM, form(fields)).await;
        assert!(given == status && body.to_string().contains(part), "{fields:?}: {given} {body}");
    };
    refused(&[("purpose", "batch")], 400, "'file': nothing given").await;
    refused(&[("file", "")], 400, "'purpose': nothing given").await;
    refused(&[("file", ""), ("purpose", "fun")], 400, "'fun' given, one of batch").await;
    refused(&[("file", ""), ("purpose", "batch"), ("more", "")], 400, "has a field 'more'").await;
    refused(&[("file", &"x".repeat(200_001)), ("purpose", "batch")], 413, "larger than the 200000 bytes").await;
    let (status, body) = call(&server, "", "POST", "/v1/files", "application/json", "{}").await;
    assert!(status == 400 && body.to_string().contains("a form expected"), "{body}");
    for (origin, status) in [("http://evil.example", 400), (&server.url, 200)] {
        let request = server.client.post(format!("{}/v1/files", server.url)).header("origin", origin);
        let request = request.header("content-type", FORM).body(form(&[("purpose", "batch"), ("file", "x")]));
        assert_eq!(request.send().await.unwrap().status(), status, "{origin}");
    }
    for (query, part) in [("limit=0", "0 given, 1 to 10000"), ("order=up", "'asc' or 'desc'"), ("x=1", "unknown field")]
    {
        let (status, body) = get(&server, "", &format!("/v1/files?{query}")).await;
        assert!(status == 400 && body.to_string().contains(part), "{body}");
    }
    let names = std::fs::read_dir(directory.path().join("files")).unwrap().count();
    assert_eq!(names, 2, "what was refused or deleted is not on the disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let server = keeping(directory.path()).start().await;
    let wrong = |field: &str, value: Value| {
        let mut body = chat("Hello");
        body[field] = value;
        body
    };
    let content = [
        lines(3, CHAT, &chat("Hello")),
        "\n".to_owned(),
        line(3, CHAT, &wrong("max_tokens", json!(-1))),
        line(4, CHAT, &wrong("stream", json!(true))),
        line(5, CHAT, &wrong("model", json!("nobody"))),
        line(6, CHAT, &wrong("priority", json!(9))),
    ];
    let file = upload(&server, "", &content.concat()).await;
    let metadata = json!({"for": "a test"});
    let request = json!({"input_file_id": file, "endpoint": CHAT, "completion_window": "24h", "metadata": metadata});
    let begun = server.ok("/v1/batches", &request).await;
    snapshot("batch_begun", &begun);
    let batch = end(&server, &begun["id"]).await;
    snapshot("batch", &batch);
    let (output, errors) =
        (answers(&server, &batch, "output_file_id").await, answers(&server, &batch, "error_file_id").await);
    assert_eq!(output.keys().collect::<Vec<_>>(), ["c0", "c1", "c2", "c6"]);
    snapshot("batch_output", &output["c0"]);
    snapshot("batch_errors", &errors);
    let direct = server.ok(CHAT, &chat("Hello")).await;
    assert_eq!(output["c1"]["response"]["body"]["choices"], direct["choices"]);
    let (_, listed) = get(&server, "", "/v1/batches?limit=1").await;
    assert_eq!(listed["data"], json!([batch]));
    let (_, output_file) = get(&server, "", &format!("/v1/files/{}", batch["output_file_id"].as_str().unwrap())).await;
    assert_eq!(output_file["purpose"], "batch_output");
    let (_, usage) = get(&server, "", "/v1/usage").await;
    assert_eq!(usage["data"][0]["requests"], 5, "what batches use is counted: {usage}");
    let (status, _) =
        post(&server, "", &format!("/v1/batches/{}/cancel", batch["id"].as_str().unwrap()), &json!({})).await;
    assert_eq!(status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_takes_batches() {
    let directory = tempfile::tempdir().unwrap();
    let server = keeping(directory.path()).start().await;
    let response = json!({"model": "story", "input": "Hello", "max_output_tokens": 8});
    for (url, body) in [
        ("/v1/completions", prompt("Hello")),
        ("/v1/embeddings", json!({"model": "counter", "input": "Hello"})),
        ("/v1/responses", response),
    ] {
        let begun = begin(&server, "", url, &lines(20, url, &body)).await;
        let batch = end(&server, &begun["id"]).await;
        assert_eq!(batch["request_counts"], json!({"total": 20, "completed": 20, "failed": 0}), "{batch}");
        let output = answers(&server, &batch, "output_file_id").await;
        assert_eq!((output.len(), &batch["error_file_id"]), (20, &Value::Null));
        if url == "/v1/responses" {
            let id = output["c0"]["response"]["body"]["id"].as_str().unwrap();
            assert_eq!(get(&server, "", &format!("/v1/responses/{id}")).await.0, 404, "it pushes out no other");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_input_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let server = keeping(directory.path()).start().await;
    let content = [
        line(0, CHAT, &chat("Hello")),
        "{\"custom_id\": \"c1\"\n".to_owned(),
        line(0, CHAT, &chat("Hello")),
        line(2, "/v1/completions", &chat("Hello")),
        json!({"custom_id": "c3", "method": "POST", "url": CHAT}).to_string() + "\n",
        json!({"custom_id": "c4", "method": "GET", "url": CHAT, "body": {}}).to_string() + "\n",
    ];
    let begun = begin(&server, "", CHAT, &content.concat()).await;
    let batch = end(&server, &begun["id"]).await;
    snapshot("batch_failed", &batch);
    let begun = begin(&server, "", CHAT, "\n\n").await;
    let batch = end(&server, &begun["id"]).await;
    assert_eq!((&batch["status"], &batch["errors"]["data"][0]["code"]), (&json!("failed"), &json!("empty_file")));
    let begun = begin(&server, "", CHAT, &"{\n".repeat(1000)).await;
    let batch = end(&server, &begun["id"]).await;
    assert_eq!(batch["errors"]["data"].as_array().unwrap().len(), 100);
    let content: String = (0..50_001).map(|number| line(number, CHAT, &json!({}))).collect();
    let begun = begin(&server, "", CHAT, &content).await;
    let batch = end(&server, &begun["id"]).await;
    assert_eq!(batch["errors"]["data"][0]["code"], "too_many_requests");

    let file = upload(&server, "", "").await;
    let (_, other) = call(&server, "", "POST", "/v1/files", FORM, form(&[("file", ""), ("purpose", "evals")])).await;
    for (field, value, part) in [
        ("input_file_id", json!("file-no"), "there is no file 'file-no'"),
        ("input_file_id", other["id"].clone(), "a file for 'evals' given"),
        ("endpoint", json!("/v1/messages"), "one of /v1/chat/completions"),
        ("completion_window", json!("1h"), "'24h' expected"),
        ("metadata", json!({"a": 1}), "metadata.a"),
        ("more", json!(1), "more"),
    ] {
        let mut request = json!({"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"});
        request[field] = value;
        let (status, body) = post(&server, "", "/v1/batches", &request).await;
        assert!(status == 400 && body.to_string().contains(part), "{field}: {status} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_see_what_is_theirs() {
    let directory = tempfile::tempdir().unwrap();
    let mut setup = keeping(directory.path());
    setup.server.api_keys = vec!["first".to_owned(), "second".to_owned()];
    let server = setup.start().await;
    let begun = begin(&server, "first", CHAT, &lines(2, CHAT, &chat("Hello"))).await;
    let (batch, file) = (begun["id"].as_str().unwrap(), begun["input_file_id"].as_str().unwrap());
    for path in [format!("/v1/batches/{batch}"), format!("/v1/files/{file}"), format!("/v1/files/{file}/content")] {
        assert_eq!((get(&server, "first", &path).await.0, get(&server, "second", &path).await.0), (200, 404), "{path}");
    }
    assert_eq!(post(&server, "second", &format!("/v1/batches/{batch}/cancel"), &json!({})).await.0, 404);
    assert_eq!(call(&server, "second", "DELETE", &format!("/v1/files/{file}"), "text/plain", "").await.0, 404);
    let request = json!({"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"});
    assert_eq!(post(&server, "second", "/v1/batches", &request).await.0, 400);
    for (path, ours) in [("/v1/files", file), ("/v1/batches", batch)] {
        assert_eq!(get(&server, "second", path).await.1["data"], json!([]));
        assert_eq!(get(&server, "second", &format!("{path}?after={ours}")).await.0, 404);
        assert_eq!(get(&server, "", path).await.0, 401);
    }
    server.shutdown.drain();
    server.task.await.unwrap().unwrap();

    // The first key is taken away: its things do not become those of the key that is first then.
    let mut setup = keeping(directory.path());
    setup.server.api_keys = vec!["second".to_owned()];
    let server = setup.start().await;
    assert_eq!(get(&server, "second", &format!("/v1/files/{file}")).await.0, 404);
}

/// A model that takes its time, for two at once.
fn slow(directory: &Path) -> Setup {
    let engine = EngineConfig { max_sequences: 2, ..EngineConfig::default() };
    Setup { delay: Duration::from_millis(2), engine, ..keeping(directory) }
}

fn some_are_done(batch: &Value) -> bool {
    batch["request_counts"]["completed"].as_u64() >= Some(2)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_can_be_cancelled() {
    let directory = tempfile::tempdir().unwrap();
    let server = slow(directory.path()).start().await;
    let begun = begin(&server, "", CHAT, &lines(300, CHAT, &chat("Hello"))).await;
    wait(&server, &begun["id"], some_are_done).await;
    let path = format!("/v1/batches/{}/cancel", begun["id"].as_str().unwrap());
    let cancelling = server.ok(&path, &json!({})).await;
    assert_eq!(cancelling["status"], "cancelling");
    let batch = end(&server, &begun["id"]).await;
    assert_eq!(batch["status"], "cancelled");
    server.ok(&path, &json!({})).await;
    let (output, errors) =
        (answers(&server, &batch, "output_file_id").await, answers(&server, &batch, "error_file_id").await);
    assert!(output.len() >= 2 && errors.len() > 200, "{} {}", output.len(), errors.len());
    assert_eq!(output.len() + errors.len(), 300);
    assert!(errors.keys().all(|name| !output.contains_key(name)));
    assert!(errors.values().all(|line| line["error"]["code"] == "batch_cancelled" && line["response"].is_null()));
    assert_eq!(batch["request_counts"], json!({"total": 300, "completed": output.len(), "failed": errors.len()}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_expires() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut file = store.new_file().unwrap();
    file.write(lines(300, CHAT, &chat("Hello")).as_bytes()).unwrap();
    let facts =
        |purpose: &str| FileFacts { owner: None, filename: "a".to_owned(), purpose: purpose.to_owned(), created_at: 1 };
    let input_file = store.keep_file(file, facts("batch")).unwrap().id;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (endpoint, completion_window) = (CHAT.to_owned(), "24h".to_owned());
    let task = NewBatch {
        owner: None,
        endpoint,
        input_file,
        completion_window,
        metadata: None,
        created_at: 1,
        expires_at: now + 2,
    };
    let id = json!(store.add_batch(&task).unwrap().id);
    drop(store);
    let server = slow(directory.path()).start().await;
    let batch = end(&server, &id).await;
    assert_eq!(batch["status"], "expired", "{batch}");
    let (output, errors) =
        (answers(&server, &batch, "output_file_id").await, answers(&server, &batch, "error_file_id").await);
    assert_eq!(output.len() + errors.len(), 300);
    assert!(errors.values().all(|line| line["error"]["code"] == "batch_expired"));
    snapshot("batch_expired_line", &errors["c299"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = slow(directory.path()).start().await;
    let begun = begin(&server, "", CHAT, &lines(60, CHAT, &chat("Hello"))).await;
    wait(&server, &begun["id"], some_are_done).await;
    server.shutdown.drain();
    assert!(server.task.await.unwrap().unwrap(), "what had begun could finish");
    let server = slow(directory.path()).start().await;
    let batch = get(&server, "", &format!("/v1/batches/{}", begun["id"].as_str().unwrap())).await.1;
    assert!(some_are_done(&batch) && batch["status"] == "in_progress", "{batch}");
    let batch = end(&server, &begun["id"]).await;
    assert_eq!(batch["request_counts"], json!({"total": 60, "completed": 60, "failed": 0}));
    assert_eq!(answers(&server, &batch, "output_file_id").await.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_go_first_and_a_full_queue_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut setup = slow(directory.path());
    setup.engine.max_queue = 8;
    let server = setup.start().await;
    let begun = begin(&server, "", CHAT, &lines(80, CHAT, &chat("Hello"))).await;
    wait(&server, &begun["id"], some_are_done).await;
    let mut asked = 0;
    while asked < 3 {
        let response = server.post(CHAT, &chat("Hello, I am here")).await;
        match response.status().as_u16() {
            200 => asked += 1,
            status => {
                assert_eq!(status, 429);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let batch = get(&server, "", &format!("/v1/batches/{}", begun["id"].as_str().unwrap())).await.1;
    assert_eq!(batch["status"], "in_progress", "they were answered before it: {batch}");
    let batch = end(&server, &begun["id"]).await;
    assert_eq!(batch["request_counts"], json!({"total": 80, "completed": 80, "failed": 0}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_for_one_server() {
    let directory = tempfile::tempdir().unwrap();
    let _first = keeping(directory.path()).start().await;
    let second = keeping(directory.path()).start().await;
    let error = second.task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("is in use by another process"), "{error}");
}
