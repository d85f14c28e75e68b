//! What the front end costs: requests per second through HTTP, keys, template, tokeniser and the engine's queue, with a
//! model that takes no time.
//!
//! `cargo bench -p yantra-server --bench front_end [-- --clients 32 --seconds 3 --runs 5 --tokens 8]`: the load generator
//! shares the processor with the server, as it would with `wrk` beside it.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, unused_crate_dependencies)]

#[allow(dead_code, unreachable_pub, clippy::panic)]
#[path = "../tests/it/support.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use support::Setup;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let (clients, seconds, runs, tokens) =
        (option("--clients", 32), option("--seconds", 3), option("--runs", 5), option("--tokens", 8));
    let serving = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut setup = Setup::default();
    setup.server.api_keys = vec!["a-key-that-is-long-enough".to_owned()];
    let server = serving.block_on(setup.start());
    let loading = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut rates = Vec::new();
    for run in 0..=runs {
        let rate = loading.block_on(load(server.address, clients, tokens, Duration::from_secs(seconds)));
        if run > 0 {
            println!("run {run}: {rate:.0} requests/s");
            rates.push(rate);
        }
    }
    rates.sort_by(f64::total_cmp);
    println!("median of {runs}: {:.0} requests/s ({clients} clients, {tokens} tokens each)", rates[rates.len() / 2]);
}

/// Requests per second of clients that each send their next request when the last one is answered.
async fn load(address: std::net::SocketAddr, clients: u64, tokens: u64, time: Duration) -> f64 {
    let body = json!({
        "model": "story", "temperature": 0, "max_tokens": tokens,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. Answer in one sentence."},
            {"role": "user", "content": "What is the capital of France, and how many people live there?"},
        ],
    })
    .to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer a-key-that-is-long-enough\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (request, answered, over) = (Arc::new(request), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let begun = Instant::now();
    let client = || {
        let (request, answered, over) = (Arc::clone(&request), Arc::clone(&answered), Arc::clone(&over));
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut answer = Vec::new();
            while !over.load(Relaxed) {
                stream.write_all(request.as_bytes()).await.unwrap();
                read_answer(&mut stream, &mut answer).await;
                answered.fetch_add(1, Relaxed);
            }
        })
    };
    let clients: Vec<_> = (0..clients).map(|_| client()).collect();
    tokio::time::sleep(time).await;
    let rate = answered.load(Relaxed) as f64 / begun.elapsed().as_secs_f64();
    over.store(true, Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    rate
}

/// Reads one answer, which must be a success with a length.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) {
    answer.clear();
    loop {
        assert!(stream.read_buf(answer).await.unwrap() > 0, "the connection is closed");
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&answer[..end]).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if answer.len() >= end + 4 + length.parse::<usize>().unwrap() {
            return;
        }
    }
}
