//! A server with a real model, in a process of its own.

use crate::yantra::command;
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};
use yantra_hub::{Catalogue, ModelCache};

fn model() -> Option<PathBuf> {
    let catalogue = Catalogue::builtin();
    let path = ModelCache::from_env().ok()?.entry(catalogue.find("smollm2-135m")?);
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var("YANTRA_REQUIRE_DATA").unwrap_or_default();
    let is_required = required.split(',').any(|kind| kind == "models");
    assert!(!is_required, "{} is not there, and YANTRA_REQUIRE_DATA={required}", path.display());
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

/// `yantra serve` with SmolLM2, called `m`; killed when dropped, without a word.
pub(crate) struct Serving {
    pub(crate) child: Child,
    port: u16,
    /// Sent with every request.
    pub(crate) key: String,
}

impl Serving {
    /// `None` where the model is not there.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        let model = model()?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = command(&["serve", model.to_str().unwrap(), "--name"]);
        command.arg(format!("m={}", model.display())).args(["--port", &port.to_string()]).args(options);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut serving = Self { child, port, key: String::new() };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(serving.child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(serving)
    }

    /// Waits until the model is loaded.
    pub(crate) fn wait_until_ready(&self) {
        let begun = Instant::now();
        loop {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
            write!(stream, "GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            if answer.starts_with("HTTP/1.1 200 ") {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{answer}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The answer to a request, which must be a good one.
    pub(crate) fn ask(&self, method: &str, path: &str, kind: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let (length, key) = (body.len(), &self.key);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\nauthorization: Bearer {key}"
        );
        write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{method} {path}: {answer}");
        body.to_owned()
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.ask("GET", path, "text/plain", "")).unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
