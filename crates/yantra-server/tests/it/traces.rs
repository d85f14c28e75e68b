//! What is kept of requests and answers, for whom, and what is not.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use yantra_server::{RawPattern, RawRedaction, RawServerConfig, RawTracesConfig, Redactor, Terms, TraceMode};

use crate::support::{Harness, Setup, chat, embedding_model, prompt, served};

fn full() -> RawTracesConfig {
    RawTracesConfig { mode: TraceMode::Full, ..RawTracesConfig::default() }
}

fn setup(directory: &Path, traces: RawTracesConfig) -> Setup {
    let state_dir = Some(directory.to_owned());
    Setup { server: RawServerConfig { port: 0, state_dir, traces, ..RawServerConfig::default() }, ..Setup::default() }
}

async fn start(traces: RawTracesConfig) -> (TempDir, Harness) {
    let directory = tempfile::tempdir().unwrap();
    let server = setup(directory.path(), traces).start().await;
    (directory, server)
}

async fn get(server: &Harness, path: &str, key: &str) -> (u16, Value) {
    let response = server.client.get(format!("{}{path}", server.url)).bearer_auth(key).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn post(server: &Harness, path: &str, id: &str, body: &Value) -> reqwest::Response {
    let request = server.client.post(format!("{}{path}", server.url)).header("x-request-id", id).json(body);
    request.send().await.unwrap()
}

/// Posts, reads the answer to its end, and waits for the trace.
async fn traced(server: &Harness, path: &str, id: &str, body: &Value) -> (Value, String) {
    let answer = post(server, path, id, body).await.text().await.unwrap();
    (trace(server, id, "none").await, answer)
}

async fn trace(server: &Harness, id: &str, key: &str) -> Value {
    for _ in 0..400 {
        let (status, trace) = get(server, &format!("/v1/traces/{id}"), key).await;
        if status == 200 {
            return trace;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("there is no trace of {id}")
}

async fn list(server: &Harness, query: &str, key: &str) -> Vec<String> {
    let (status, list) = get(server, &format!("/v1/traces?{query}"), key).await;
    assert_eq!(status, 200, "{list}");
    list["data"].as_array().unwrap().iter().map(|trace| trace["request_id"].as_str().unwrap().to_owned()).collect()
}

async fn metric(server: &Harness, name: &str) -> u64 {
    let (_, page) = server.get("/metrics").await;
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn stop(server: Harness) {
    server.shutdown.drain();
    server.task.await.unwrap().unwrap();
}

/// Ids and times of answers taken out.
fn masked(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match name.as_str() {
                    "created" | "created_at" => *value = json!(0),
                    "id" | "call_id" => *value = json!("ID"),
                    _ => masked(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(masked),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_and_its_answer_are_kept_as_they_were() {
    let (_directory, server) = start(full()).await;
    let (trace, answer) = traced(&server, "/v1/chat/completions", "mine", &chat("Hello")).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&trace["input"], &trace["output"]), (&chat("Hello"), &answer));
    assert_eq!((&trace["request_id"], &trace["answer_id"]), (&json!("mine"), &answer["id"]));
    assert_eq!((&trace["endpoint"], &trace["model"]), (&json!("/v1/chat/completions"), &json!("story")));
    assert_eq!((&trace["state"], &trace["status"], &trace["stream"]), (&json!("done"), &json!(200), &json!(false)));
    assert_eq!((&trace["usage"], &trace["finish_reasons"]), (&answer["usage"], &json!(["length"])));
    assert_eq!(trace["snippet"], "Hello");
    assert!(trace["time_to_first_token_ms"].as_f64().unwrap() <= trace["total_ms"].as_f64().unwrap());
    let (_, request) = get(&server, "/v1/requests/mine", "none").await;
    assert_eq!((&request["answer_id"], &request["traced"]), (&trace["answer_id"], &json!(true)));
    assert_eq!(trace["timeline"], true, "both lead to each other");
    let id = trace["id"].as_str().unwrap();
    let delete = |id: String| server.client.delete(format!("{}/v1/traces/{id}", server.url)).send();
    let deleted: Value = delete(id.to_owned()).await.unwrap().json().await.unwrap();
    assert_eq!(deleted, json!({"id": id, "object": "trace", "deleted": true}));
    assert_eq!(delete(id.to_owned()).await.unwrap().status(), 404);
    assert_eq!(get(&server, "/v1/traces/mine", "none").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_leaves_what_a_whole_answer_does() {
    let (_directory, server) = start(full()).await;
    let tools =
        json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]);
    let with = |mut body: Value, fields: Value| {
        fields.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        body
    };
    let messages =
        json!({"model": "story", "max_tokens": 24, "temperature": 0, "messages": [{"role": "user", "content": "Hi"}]});
    let responses = json!({"model": "story", "max_output_tokens": 24, "temperature": 0, "input": "Hi"});
    let cases = [
        ("/v1/chat/completions", chat("Hello")),
        ("/v1/chat/completions", with(chat("Hello!"), json!({"n": 2, "logprobs": true, "top_logprobs": 2}))),
        (
            "/v1/chat/completions",
            with(chat("Hi"), json!({"tools": tools, "tool_choice": "required", "tool_format": "json"})),
        ),
        ("/v1/completions", with(prompt("Once"), json!({"logprobs": 1, "echo": true, "n": 2}))),
        ("/v1/completions", with(prompt("Once"), json!({"prompt": ["Once", "Twice"]}))),
        ("/v1/messages", messages),
        ("/v1/responses", responses),
    ];
    for (number, (path, body)) in cases.iter().enumerate() {
        let (mut whole, answer) = traced(&server, path, &format!("whole-{number}"), body).await;
        assert_eq!(whole["output"], serde_json::from_str::<Value>(&answer).unwrap(), "{path}");
        let streamed = with(body.clone(), json!({"stream": true}));
        let (mut told, _) = traced(&server, path, &format!("stream-{number}"), &streamed).await;
        assert_eq!((&told["stream"], &told["state"]), (&json!(true), &json!("done")), "{path}");
        masked(&mut whole["output"]);
        masked(&mut told["output"]);
        // The second is computed from what the first left in the cache.
        let usage = |trace: &mut Value| trace["output"]["usage"].take();
        let (first, second) = (usage(&mut whole), usage(&mut told));
        let output = |usage: &Value| usage.get("completion_tokens").or(usage.get("output_tokens")).cloned();
        assert!(output(&first).is_some() && output(&first) == output(&second), "{first} {second}");
        assert_eq!(whole["output"], told["output"], "{path} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_embeddings_the_request_is_kept_and_of_ranks_the_answer_too() {
    let (_directory, server) = start(full()).await;
    let body = json!({"model": "counter", "input": "some text"});
    let (trace, _) = traced(&server, "/embeddings", "vectors", &body).await;
    assert_eq!(
        (&trace["input"], &trace["output"], &trace["endpoint"]),
        (&body, &Value::Null, &json!("/v1/embeddings"))
    );
    assert_eq!((&trace["model"], &trace["usage"]["prompt_tokens"]), (&json!("counter"), &json!(9)));
    let body = json!({"model": "counter", "query": "fox", "documents": ["a", "b"]});
    let (trace, answer) = traced(&server, "/v1/rerank", "ranks", &body).await;
    assert_eq!(trace["output"], serde_json::from_str::<Value>(&answer).unwrap());
    let body = json!({"model": "counter", "text_1": "fox", "text_2": ["a", "b"]});
    let (trace, _) = traced(&server, "/v1/score", "scores", &body).await;
    assert_eq!(trace["output"]["data"].as_array().unwrap().len(), 2);
    server.post("/v1/tokenize", &json!({"model": "story", "prompt": "not kept"})).await;
    assert_eq!(list(&server, "", "none").await, ["scores", "ranks", "vectors"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_kept_unless_nothing_was_understood() {
    let (_directory, server) = start(full()).await;
    let mut body = chat("Hello");
    body["temperature"] = json!(-1);
    let (trace, answer) = traced(&server, "/v1/chat/completions", "wrong", &body).await;
    assert_eq!((&trace["state"], &trace["status"], &trace["model"]), (&json!("failed"), &json!(400), &json!("")));
    assert_eq!(trace["output"], serde_json::from_str::<Value>(&answer).unwrap());
    assert_eq!(post(&server, "/v1/chat/completions", "odd", &json!({"texts": []})).await.status(), 400);
    traced(&server, "/v1/chat/completions", "right", &chat("Hello")).await;
    assert_eq!(list(&server, "", "none").await, ["right", "wrong"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_clients_that_go_away_what_they_were_told_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let server = Setup { delay: Duration::from_millis(5), ..setup(directory.path(), full()) }.start().await;
    for (path, mut body, text) in [
        ("/v1/chat/completions", chat("Hello"), "/output/choices/0/message/content"),
        (
            "/v1/responses",
            json!({"model": "story", "temperature": 0, "input": "Hi"}),
            "/output/output/0/content/0/text",
        ),
    ] {
        body["stream"] = json!(true);
        if path == "/v1/chat/completions" {
            body["max_tokens"] = json!(400);
        }
        let mut response = post(&server, path, path, &body).await;
        let mut seen = String::new();
        while seen.matches("delta").count() < 40 {
            seen += &String::from_utf8_lossy(&response.chunk().await.unwrap().unwrap());
        }
        drop(response);
        let traces = list_until(&server, &format!("endpoint={path}")).await;
        let trace = trace(&server, &traces, "none").await;
        assert_eq!(trace["state"], "cancelled", "{trace}");
        assert!(trace["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{trace}");
        assert!(trace.pointer(text).unwrap().as_str().unwrap().len() > 3, "{trace}");
        if path == "/v1/chat/completions" {
            assert_eq!(trace["output"]["choices"][0]["finish_reason"], Value::Null);
        }
    }
}

/// The id of the one trace that a list comes to have.
async fn list_until(server: &Harness, query: &str) -> String {
    for _ in 0..400 {
        let (_, list) = get(server, &format!("/v1/traces?{query}"), "none").await;
        if let Some(id) = list["data"][0]["id"].as_str() {
            return id.to_owned();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing comes for {query}")
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_searched_and_come_in_pages() {
    let (_directory, server) = start(full()).await;
    for (id, text) in [("first", "Tell me of the मंत्र"), ("second", "A red fox"), ("third", "The fox is red")]
    {
        let mut body = chat(text);
        // The whole story, and what it begins with once more.
        body["max_tokens"] = json!(90);
        traced(&server, "/v1/chat/completions", id, &body).await;
    }
    assert_eq!(list(&server, "query=red+fox", "none").await, ["third", "second"]);
    assert_eq!(list(&server, "query=%22red+fox%22", "none").await, ["second"]);
    assert_eq!(list(&server, "query=मंत्र", "none").await, ["first"]);
    assert_eq!(list(&server, "query=quick&model=story&endpoint=/v1/chat/completions&limit=1", "none").await, ["third"]);
    assert_eq!(list(&server, "model=other", "none").await, Vec::<String>::new());
    assert_eq!(list(&server, "since=1&until=2", "none").await, Vec::<String>::new());
    let (_, page) = get(&server, "/v1/traces?limit=2", "none").await;
    assert_eq!((&page["has_more"], &page["last_id"]), (&json!(true), &page["data"][1]["id"]));
    let rest = format!("after={}", page["last_id"].as_str().unwrap());
    assert_eq!(list(&server, &rest, "none").await, ["first"]);
    let (_, found) = get(&server, "/v1/traces?query=LAZY+fox", "none").await;
    assert_eq!(found["data"], json!([]));
    let (_, found) = get(&server, "/v1/traces?query=SAYS", "none").await;
    assert!(found["data"][0]["snippet"].as_str().unwrap().contains("says नमस्ते"), "in the answer: {found}");
    for query in
        ["%22", "*", "a+AND", "input:x", "%00", "(", "NEAR(a,b)", "%F0%9F%A6%8A", "-", "%27;+DROP+TABLE+traces"]
    {
        assert_eq!(get(&server, &format!("/v1/traces?query={query}"), "none").await.0, 200, "{query}");
    }
    for wrong in [
        "limit=0",
        "limit=101",
        "since=x",
        "since=-1",
        "until=253402300800",
        "what=1",
        &format!("query={}", "x".repeat(501)),
    ] {
        assert_eq!(get(&server, &format!("/v1/traces?{wrong}"), "none").await.0, 400, "{wrong}");
    }
    let (status, error) = get(&server, "/v1/traces?after=trace-none", "none").await;
    assert_eq!((status, &error["error"]["param"]), (404, &json!("after")));
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_see_their_own_traces_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.toml");
    let mut file = yantra_server::KeyFile::default();
    let (_, alice) = file.create("alice", Terms::default()).unwrap();
    let (_, bob) = file.create("bob", Terms::default()).unwrap();
    file.write(&path).unwrap();
    let mut setup = setup(&directory.path().join("state"), full());
    setup.server.keys_file = Some(path);
    let server = setup.start().await;
    for (key, id) in [(&alice, "hers"), (&bob, "his")] {
        let request = server.client.post(format!("{}/v1/chat/completions", server.url)).bearer_auth(key);
        assert_eq!(request.header("x-request-id", id).json(&chat("secret")).send().await.unwrap().status(), 200);
    }
    let hers = trace(&server, "hers", &alice).await;
    trace(&server, "his", &bob).await;
    assert_eq!(hers["tenant"], "alice");
    let id = hers["id"].as_str().unwrap();
    for name in [id, "hers", hers["answer_id"].as_str().unwrap()] {
        assert_eq!(get(&server, &format!("/v1/traces/{name}"), &bob).await.0, 404);
        assert_eq!(get(&server, &format!("/v1/traces/{name}"), "none").await.0, 401);
    }
    let delete = server.client.delete(format!("{}/v1/traces/{id}", server.url)).bearer_auth(&bob).send().await.unwrap();
    assert_eq!(delete.status(), 404);
    assert_eq!(get(&server, &format!("/v1/traces?after={id}"), &bob).await.0, 404);
    for query in ["", "query=secret"] {
        assert_eq!(list(&server, query, &alice).await, ["hers"]);
        assert_eq!(list(&server, query, &bob).await, ["his"]);
    }
}

fn everything_in(directory: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).flat_map(|path| std::fs::read(path).unwrap()).collect()
}

fn has(bytes: &[u8], word: &str) -> bool {
    let same = |window: &[u8]| window.eq_ignore_ascii_case(word.as_bytes());
    bytes.windows(word.len()).any(same)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_redacted_is_nowhere_in_the_files() {
    let own = RawPattern { name: "colour".to_owned(), pattern: "brown".to_owned() };
    let redact = vec![
        RawRedaction::Known("email".to_owned()),
        RawRedaction::Known("credit_card".to_owned()),
        RawRedaction::Own(own),
    ];
    let (directory, server) = start(RawTracesConfig { redact, ..full() }).await;
    let mut body = chat("Write to jane.roe@secret.example, my card is 4111 1111 1111 1111. Keepsake.");
    body["metadata"] = json!({"jane.roe@secret.example": "4111-1111-1111-1111"});
    // Its log-probabilities spell out what it says, token by token.
    (body["stream"], body["logprobs"]) = (json!(true), json!(true));
    let (kept, answer) = traced(&server, "/v1/chat/completions", "one", &body).await;
    assert!(
        answer.contains("jane") || answer.contains("brown") || answer.contains('w'),
        "the answer itself is not changed"
    );
    let said = kept["input"]["messages"][0]["content"].as_str().unwrap();
    assert_eq!(said, "Write to [redacted:email], my card is [redacted:credit_card]. Keepsake.");
    assert_eq!(kept["input"]["metadata"], json!({"[redacted:email]": "[redacted:credit_card]"}));
    assert_eq!(kept["output"]["choices"][0]["logprobs"], Value::Null);
    let told = kept["output"]["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(told.contains("[redacted:colour]"), "{told}");
    let tokens: Vec<u8> = b"jane.roe@secret.example".to_vec();
    let (kept, _) =
        traced(&server, "/v1/completions", "two", &json!({"model": "story", "prompt": tokens, "max_tokens": 4})).await;
    assert_eq!(kept["input"]["prompt"], "[redacted:tokens]");
    assert_eq!(list(&server, "query=keepsake", "none").await, ["one"]);
    for query in ["jane", "secret", "brown", "4111"] {
        assert!(list(&server, &format!("query={query}"), "none").await.is_empty(), "{query}");
    }
    let check = |bytes: &[u8]| {
        assert!(has(bytes, "keepsake"));
        for word in ["jane", "roe@", "secret.example", "brown", "4111"] {
            assert!(!has(bytes, word), "{word}");
        }
    };
    check(&everything_in(directory.path()));
    stop(server).await;
    check(&everything_in(directory.path()));
}

/// Lets no text pass while it is set.
#[derive(Debug, Default)]
struct Gate(AtomicBool);

impl Redactor for Gate {
    fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        while self.0.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        text.replace("Hello", "[hook]").into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_too_long_is_dropped_and_counted_and_the_rest_is_written_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let setup = setup(directory.path(), full());
    let generator = setup.generator();
    let engine = generator.engine.clone();
    let config = yantra_server::ServerConfig::try_from(setup.server.clone()).unwrap();
    let counter = crate::support::Counter { delay: Duration::ZERO, texts: Arc::default() };
    let server = yantra_server::Server::builder(config)
        .model(served("story", yantra_server::ModelKind::Generate(generator)))
        .model(embedding_model(counter, 64))
        .redactor(Arc::clone(&gate) as Arc<dyn Redactor>)
        .build()
        .unwrap();
    let server = Harness::serve(server, engine).await;
    gate.0.store(true, SeqCst);
    // The writer takes 64 at a time, and 1,024 may wait.
    let sent = 1024 + 64 + 30;
    for number in 0..sent {
        let body = json!({"model": "counter", "input": "Hello"});
        assert_eq!(
            post(&server, "/v1/embeddings", &format!("n-{number}"), &body).await.status(),
            200,
            "nobody waits for it"
        );
    }
    // The last is let go a little after it was answered.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let dropped = metric(&server, "yantra_traces_dropped_total{reason=\"full\"}").await;
    assert!(dropped >= 30, "{dropped}");
    assert_eq!(metric(&server, "yantra_traces_written_total").await, 0);
    gate.0.store(false, SeqCst);
    stop(server).await;
    let store = yantra_store::Store::open(directory.path()).unwrap();
    let of = yantra_store::TracesOf { limit: 2000, ..yantra_store::TracesOf::default() };
    let kept = store.whole_traces(&of).unwrap().unwrap().items;
    assert_eq!(kept.len() as u64 + dropped, sent);
    assert!(kept[0].input.contains("[hook]"), "{}", kept[0].input);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_is_counted_and_requests_go_on() {
    let (directory, server) = start(full()).await;
    traced(&server, "/v1/chat/completions", "first", &chat("Hello")).await;
    // As a full disk: nothing can be added any more.
    let other = rusqlite::Connection::open(directory.path().join("yantra.db")).unwrap();
    other.execute_batch("CREATE TRIGGER full BEFORE INSERT ON traces BEGIN SELECT RAISE(FAIL, 'full'); END").unwrap();
    for _ in 0..2 {
        server.ok("/v1/chat/completions", &chat("Hello")).await;
    }
    for _ in 0..400 {
        if metric(&server, "yantra_traces_dropped_total{reason=\"failed\"}").await == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(metric(&server, "yantra_traces_dropped_total{reason=\"failed\"}").await, 2);
    other.execute_batch("DROP TRIGGER full").unwrap();
    traced(&server, "/v1/chat/completions", "last", &chat("Hello")).await;
    assert_eq!(list(&server, "", "none").await, ["last", "first"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_much_is_kept() {
    let (_directory, server) = start(RawTracesConfig { max_bytes: 1 << 20, ..full() }).await;
    let long = "word ".repeat(100_000);
    for number in 0..4 {
        let body = json!({"model": "counter", "input": ["x", long]});
        // The text is too long for the model, which is told and kept.
        let answered = post(&server, "/v1/embeddings", &format!("n-{number}"), &body).await;
        assert_eq!(answered.status(), 400);
    }
    for _ in 0..1000 {
        let left = list(&server, "", "none").await;
        if left == ["n-3", "n-2"] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("too many are kept: {:?}", list(&server, "", "none").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_requests_are_sampled_each_time() {
    let sampled = RawTracesConfig { mode: TraceMode::Sampled, sample_rate: 0.5, ..RawTracesConfig::default() };
    let mut kept = Vec::new();
    for _ in 0..2 {
        let (directory, server) = start(sampled.clone()).await;
        for number in 0..40 {
            post(&server, "/v1/embeddings", &format!("n-{number}"), &json!({"model": "counter", "input": "x"})).await;
        }
        stop(server).await;
        let store = yantra_store::Store::open(directory.path()).unwrap();
        let of = yantra_store::TracesOf { limit: 100, ..yantra_store::TracesOf::default() };
        let items = store.traces(&of).unwrap().unwrap().items;
        kept.push(items.into_iter().map(|trace| trace.facts.request_id).collect::<Vec<_>>());
    }
    assert!((8..=32).contains(&kept[0].len()), "{kept:?}");
    assert_eq!(kept[0], kept[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_unless_it_is_wanted() {
    let (directory, server) = start(RawTracesConfig::default()).await;
    server.ok("/v1/chat/completions", &chat("Unforgettable")).await;
    for (method, path) in [("GET", "/v1/traces"), ("GET", "/v1/traces/x"), ("DELETE", "/v1/traces/x")] {
        let response = server.send(method, path, "").await;
        assert_eq!(response.status(), 501, "{method} {path}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["code"], "not_configured");
        assert!(error["error"]["message"].as_str().unwrap().contains("--traces full"), "{error}");
    }
    assert!(!server.get("/metrics").await.1.contains("yantra_traces"));
    stop(server).await;
    assert!(!has(&everything_in(directory.path()), "unforgettable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_batches_are_kept_and_are_no_requests_of_the_list() {
    let (_directory, server) = start(full()).await;
    let line = json!({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat("From a batch")});
    let form = format!(
        "--cut\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--cut\r\n\
         content-disposition: form-data; name=\"file\"; filename=\"items.jsonl\"\r\n\r\n{line}\r\n--cut--\r\n"
    );
    let request = server.client.post(format!("{}/v1/files", server.url));
    let file = request.header("content-type", "multipart/form-data; boundary=cut").body(form).send().await.unwrap();
    let file: Value = file.json().await.unwrap();
    let batch = json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    server.ok("/v1/batches", &batch).await;
    let id = list_until(&server, "query=batch").await;
    let kept = trace(&server, &id, "none").await;
    assert_eq!(kept["input"]["messages"][0]["content"], "From a batch");
    assert!(kept["output"]["choices"][0]["message"]["content"].is_string());
    assert_eq!(get(&server, "/v1/requests", "none").await.1["data"], json!([]));
}
