//! Loading, disconnecting, draining, stopping.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use yantra_server::{ModelKind, RawServerConfig, RegistryError, Server, ServerConfig};

use crate::support::{Harness, Setup, chat, chunks, data_lines, served};

fn slow() -> Setup {
    Setup { delay: Duration::from_millis(10), ..Setup::default() }
}

fn long(tokens: usize) -> Value {
    let mut request = chat("Hello");
    request["max_tokens"] = json!(tokens);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_its_request() {
    let server = slow().start().await;
    for streamed in [true, false] {
        let cancelled = server.engine.stats().requests_cancelled;
        let mut request = long(450);
        request["stream"] = json!(streamed);
        let body = request.to_string();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
        stream.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
        server.running(1).await;
        drop(stream);
        let stats = server.idle().await;
        assert_eq!(stats.requests_cancelled, cancelled + 1, "streamed: {streamed}");
        assert_eq!(stats.pages_used, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_let_go() {
    let mut setup = Setup { context: 16_000, ..Setup::default() };
    setup.server.write_timeout_s = 0.3;
    let server = setup.start().await;
    let mut request = long(15_000);
    request["stream"] = json!(true);
    request["logprobs"] = json!(true);
    request["top_logprobs"] = json!(20);
    let body = request.to_string();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
    stream.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let begun = Instant::now();
    loop {
        let (_, metrics) = server.get("/metrics").await;
        // The one connection left is that of this request for metrics.
        if metrics.contains("\nyantra_http_connections 1\n") && begun.elapsed() > Duration::from_millis(300) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "the connection is still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_lets_running_requests_finish_and_takes_no_new_ones() {
    let server = slow().start().await;
    let mut request = long(100);
    request["stream"] = json!(true);
    let response = server.post("/v1/chat/completions", &request).await;
    let events = server.client.get(format!("{}/v1/engine/events", server.url)).send().await.unwrap();
    server.running(1).await;
    server.shutdown.drain();
    let streamed = chunks(&data_lines(&response.text().await.unwrap()));
    assert_eq!(streamed[streamed.len() - 2]["choices"][0]["finish_reason"], "length");
    events.text().await.unwrap();
    assert!(server.task.await.unwrap().unwrap());
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_cancelled_at_the_drain_deadline() {
    let mut setup = slow();
    setup.server.drain_timeout_s = 0.2;
    let server = setup.start().await;
    let mut request = long(450);
    request["stream"] = json!(true);
    let response = server.post("/v1/chat/completions", &request).await;
    server.running(1).await;
    let begun = Instant::now();
    server.shutdown.drain();
    let streamed = chunks(&data_lines(&response.text().await.unwrap()));
    assert_eq!(streamed[streamed.len() - 2]["error"]["code"], "shutting_down", "{streamed:?}");
    assert!(!server.task.await.unwrap().unwrap());
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once() {
    let server = slow().start().await;
    let mut request = long(450);
    request["stream"] = json!(true);
    let response = server.post("/v1/chat/completions", &request).await;
    server.running(1).await;
    let begun = Instant::now();
    server.shutdown.drain();
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.shutdown.stop_now();
    assert!(!server.task.await.unwrap().unwrap());
    assert!(begun.elapsed() < Duration::from_secs(2));
    drop(response);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_served_once_it_is_loaded() {
    let setup = Setup::default();
    let generator = setup.generator();
    let engine = generator.engine.clone();
    let config = ServerConfig::try_from(setup.server).unwrap();
    let server = Server::builder(config).announce("story", &[]).build().unwrap();
    let registry = server.registry();
    let server = Harness::serve(server, engine).await;

    registry.progress("story", 0.25, "packing weights");
    let (status, body) = server.get("/ready").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    let state = json!({"model": "story", "state": "loading", "progress": 0.25, "message": "packing weights"});
    assert_eq!((status, &body["models"][0]), (503, &state));
    let response = server.post("/v1/chat/completions", &chat("Hello")).await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "2"));
    assert_eq!(server.get("/health").await.0, 200);

    registry.ready(served("story", ModelKind::Generate(generator))).unwrap();
    assert_eq!(server.get("/ready").await.0, 200);
    server.ok("/v1/chat/completions", &chat("Hello")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_served_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = ServerConfig::try_from(RawServerConfig { port, ..RawServerConfig::default() }).unwrap();
    let server = Server::builder(config).build().unwrap();
    let error = server.bind().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("127.0.0.1:{port} is in use by another program; choose another port, or 0 to let the system choose")
    );

    let twice = Server::builder(ServerConfig::default()).announce("a", &[]).announce("b", &["a".to_owned()]);
    assert_eq!(twice.build().unwrap_err(), RegistryError::NameTaken { name: "a".to_owned() });
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_turn() {
    let server = Harness::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let last = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(format!("{request}{request}{last}").as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3);
}
