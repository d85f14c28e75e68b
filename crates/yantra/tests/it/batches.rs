//! A batch in a process that is killed: every item is answered once all the same.

use crate::yantra::command;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

const ITEMS: usize = 500;
const URL: &str = "/v1/chat/completions";

fn model() -> Option<PathBuf> {
    let cache = std::env::var_os("YANTRA_MODELS").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        Some(cache?.join("yantra/models"))
    })?;
    let path = cache.join("smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf");
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var("YANTRA_REQUIRE_DATA").unwrap_or_default();
    let is_required = required.split(',').any(|kind| kind == "models");
    assert!(!is_required, "{} is not there, and YANTRA_REQUIRE_DATA={required}", path.display());
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

/// A server with a state directory; killed when dropped, without a word.
struct Serving {
    child: Child,
    port: u16,
}

impl Serving {
    fn start(model: &Path, state: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = command(&["serve", model.to_str().unwrap(), "--name"]);
        command.arg(format!("m={}", model.display())).args(["--port", &port.to_string(), "--context", "256"]);
        command.arg("--state-dir").arg(state);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut serving = Self { child, port };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(serving.child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
        serving
    }

    /// The answer to a request, which must be a good one.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}");
        write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{method} {path}: {answer}");
        body.to_owned()
    }

    fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.ask("GET", path, "text/plain", "")).unwrap()
    }

    /// Waits until a batch is as it should be.
    fn wait(&self, batch: &str, is_there: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let batch = self.get(&format!("/v1/batches/{batch}"));
            if is_there(&batch) {
                return batch;
            }
            assert!(begun.elapsed() < Duration::from_secs(300), "it does not come to that: {batch}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn names(&self, file: &Value) -> Vec<String> {
        let Some(id) = file.as_str() else { return Vec::new() };
        let text = self.ask("GET", &format!("/v1/files/{id}/content"), "text/plain", "");
        let name = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["custom_id"].as_str().unwrap().to_owned()
        };
        text.lines().map(name).collect()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn done(batch: &Value) -> u64 {
    batch["request_counts"]["completed"].as_u64().unwrap()
}

#[test]
fn a_batch_outlives_a_kill() {
    let Some(model) = model() else { return };
    let directory = tempfile::tempdir().unwrap();
    let first = Serving::start(&model, directory.path());
    let line = |number: usize| {
        // Some items are wrong, and end in the other file.
        let max_tokens = if number % 100 == 7 { -1 } else { 4 };
        let messages = json!([{"role": "user", "content": format!("What comes after {number}?")}]);
        let body = json!({"model": "m", "messages": messages, "max_tokens": max_tokens, "temperature": 0});
        json!({"custom_id": format!("item-{number}"), "method": "POST", "url": URL, "body": body}).to_string() + "\n"
    };
    let lines: String = (0..ITEMS).map(line).collect();
    let form = format!(
        "--cut\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--cut\r\n\
         content-disposition: form-data; name=\"file\"; filename=\"items.jsonl\"\r\n\r\n{lines}\r\n--cut--\r\n"
    );
    let file = first.ask("POST", "/v1/files", "multipart/form-data; boundary=cut", &form);
    let file: Value = serde_json::from_str(&file).unwrap();
    let request = json!({"input_file_id": file["id"], "endpoint": URL, "completion_window": "24h"});
    let batch = first.ask("POST", "/v1/batches", "application/json", &request.to_string());
    let batch: Value = serde_json::from_str(&batch).unwrap();
    let batch = batch["id"].as_str().unwrap();
    let seen = done(&first.wait(batch, |batch| done(batch) >= 50));
    assert!(seen <= 450, "it was too fast to be killed in the middle: {seen}");
    // SIGKILL.
    drop(first);

    let second = Serving::start(&model, directory.path());
    assert!(done(&second.get(&format!("/v1/batches/{batch}"))) >= seen, "what was done stays done");
    let ended = second.wait(batch, |batch| batch["status"] == "completed");
    assert_eq!(ended["request_counts"], json!({"total": ITEMS, "completed": ITEMS - 5, "failed": 5}));
    let (output, errors) = (second.names(&ended["output_file_id"]), second.names(&ended["error_file_id"]));
    assert_eq!((output.len(), errors.len()), (ITEMS - 5, 5));
    let names: BTreeSet<_> = output.into_iter().chain(errors).collect();
    assert_eq!(names, (0..ITEMS).map(|number| format!("item-{number}")).collect());
}
