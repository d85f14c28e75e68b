//! Keys, sizes, times and numbers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use yantra_engine::EngineConfig;
use yantra_server::RawServerConfig;

use crate::support::{Harness, Setup, chat, chunks, prompt};

fn server(config: impl FnOnce(&mut RawServerConfig)) -> Setup {
    let mut setup = Setup::default();
    config(&mut setup.server);
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_asked_for() {
    let server = server(|config| {
        config.api_keys = vec!["secret-1".to_owned(), "secret-2".to_owned()];
        config.public_metrics = false;
    });
    let server = server.start().await;
    let get = async |path: &str, key: Option<&str>| {
        let mut request = server.client.get(format!("{}{path}", server.url));
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        request.send().await.unwrap()
    };
    let refused = get("/v1/models", None).await;
    assert_eq!((refused.status().as_u16(), refused.headers()["www-authenticate"].to_str().unwrap()), (401, "Bearer"));
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], "invalid_api_key");
    assert_eq!(get("/v1/models", Some("secret-3")).await.status(), 401);
    assert_eq!(get("/v1/models", Some("secret-2")).await.status(), 200);
    assert_eq!(get("/metrics", None).await.status(), 401);
    for public in ["/health", "/ready", "/openapi.json", "/"] {
        assert_eq!(get(public, None).await.status(), 200, "{public}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_refused_announced_or_not() {
    let server = Harness::start().await;
    let body = prompt(&"x".repeat(11 << 20)).to_string();
    let response = server.send("POST", "/v1/completions", body.clone()).await;
    assert_eq!(response.status(), 413);
    let error = response.json::<Value>().await.unwrap();
    assert_eq!(error["error"]["message"], "the body is larger than the 10485760 bytes accepted");
    // Just under the limit it is read, and too long for the model only.
    let response = server.post("/v1/completions", &prompt(&"x".repeat(10_000_000))).await;
    assert_eq!(response.status(), 400);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "context_length_exceeded");

    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    for _ in 0..11 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_all_requests_have_a_limit_together() {
    let setup = server(|config| {
        config.max_body_bytes = 100_000;
        config.max_body_bytes_total = 150_000;
    });
    let server = setup.start().await;
    // One that is sent slowly holds most of it.
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let head =
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99000\r\n\r\n";
    slow.write_all(format!("{head}{}", " ".repeat(90_000)).as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut request = prompt("Hello");
    request["user"] = json!("u".repeat(80_000));
    let response = server.post("/v1/completions", &request).await;
    assert_eq!((response.status().as_u16(), response.headers().contains_key("retry-after")), (429, true));
    drop(slow);
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.ok("/v1/completions", &request).await;
    server.ok("/v1/completions", &request).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_dawdle_are_let_go() {
    let server = server(|config| {
        config.header_timeout_s = 0.2;
        config.body_timeout_s = 0.2;
    });
    let server = server.start().await;
    let begun = Instant::now();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(begun.elapsed() < Duration::from_secs(5));

    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{")
        .await
        .unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_answers_are_cancelled() {
    let mut setup = server(|config| config.request_timeout_s = 0.2);
    setup.delay = Duration::from_millis(20);
    let server = setup.start().await;
    let mut request = chat("Hello");
    request["max_tokens"] = json!(400);
    let response = server.post("/v1/chat/completions", &request).await;
    assert_eq!(response.status(), 408);
    let streamed = chunks(&server.stream("/v1/chat/completions", &request).await);
    assert_eq!(streamed[streamed.len() - 2]["error"]["code"], "request_timeout");
    assert!(streamed.len() > 4);
    let stats = server.idle().await;
    assert_eq!((stats.requests_cancelled, stats.pages_used), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_back() {
    let engine = EngineConfig { max_sequences: 1, max_queue: 1, ..EngineConfig::default() };
    let server = Setup { delay: Duration::from_millis(10), engine, ..Setup::default() }.start().await;
    let mut request = chat("Hello");
    request["max_tokens"] = json!(100);
    let send = || server.post("/v1/chat/completions", &request);
    let responses = futures_util::future::join_all((0..6).map(|_| send())).await;
    let (mut served, mut refused) = (0, 0);
    for response in responses {
        match response.status().as_u16() {
            200 => served += 1,
            429 => {
                refused += 1;
                assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
                assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "rate_limit_exceeded");
            }
            status => panic!("{status}"),
        }
    }
    assert!(served >= 1 && refused >= 1, "{served} served, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_refused_politely() {
    let server = server(|config| config.max_connections = 2).start().await;
    let _first = TcpStream::connect(server.address).await.unwrap();
    let _second = TcpStream::connect(server.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut third = TcpStream::connect(server.address).await.unwrap();
    let mut answer = vec![0; 12];
    third.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 503");
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_of_configured_origins_may_call() {
    let server = server(|config| config.cors_origins = vec!["https://example.org".to_owned()]).start().await;
    let preflight = async |origin: &str| {
        let request = server.client.request(reqwest::Method::OPTIONS, format!("{}/v1/chat/completions", server.url));
        let request = request.header("origin", origin).header("access-control-request-method", "POST");
        request.send().await.unwrap()
    };
    let allowed = preflight("https://example.org").await;
    assert_eq!(allowed.status(), 200);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://example.org");
    assert!(!preflight("https://evil.example").await.headers().contains_key("access-control-allow-origin"));
}
