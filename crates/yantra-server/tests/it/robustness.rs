//! Certificates that are renewed, clients that vanish, steps that do not end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use yantra_server::{Server, ServerConfig, Shutdown};

use crate::support::{Harness, Setup, chat};

/// Longer than the server waits before it looks at files again.
const RENEWAL: Duration = Duration::from_millis(1100);

/// Writes a new pair for this machine; returns the certificate.
fn renew(directory: &Path) -> String {
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(directory.join("cert.pem"), pair.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    pair.cert.pem()
}

fn encrypted(directory: &Path) -> Setup {
    let mut setup = Setup::default();
    setup.server.tls_cert = Some(directory.join("cert.pem"));
    setup.server.tls_key = Some(directory.join("key.pem"));
    setup
}

/// A client that trusts this certificate and no other.
fn trusting(certificate: &str) -> Client {
    let certificate = Certificate::from_pem(certificate.as_bytes()).unwrap();
    Client::builder().no_proxy().tls_certs_only([certificate]).build().unwrap()
}

/// Waits until a path is answered with this status; returns the body.
async fn until(server: &Harness, path: &str, expected: u16) -> Value {
    for _ in 0..400 {
        let (status, body) = server.get(path).await;
        if status == expected {
            return serde_json::from_str(&body).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} is never answered with {expected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let first = renew(directory.path());
    let (server, engine) = encrypted(directory.path()).server();
    let reload = server.reload();
    let server = Harness::serve(server, engine).await;
    let url = format!("https://{}/v1/chat/completions", server.address);
    let ask = async |client: &Client| client.post(&url).json(&chat("Hello")).send().await.map(|sent| sent.status());

    let old = trusting(&first);
    assert_eq!(ask(&old).await.unwrap(), 200);
    let plain = server.client.get(format!("http://{}/health", server.address)).send().await;
    assert!(plain.is_err(), "a client without TLS is not served");

    let second = renew(directory.path());
    tokio::time::sleep(RENEWAL).await;
    assert_eq!(ask(&trusting(&second)).await.unwrap(), 200);
    assert!(ask(&trusting(&first)).await.is_err(), "new connections have the new certificate");
    assert_eq!(ask(&old).await.unwrap(), 200, "those that are open go on");

    // What can not be used changes nothing.
    std::fs::write(directory.path().join("key.pem"), "broken").unwrap();
    tokio::time::sleep(RENEWAL).await;
    assert_eq!(ask(&trusting(&second)).await.unwrap(), 200);

    let third = renew(directory.path());
    reload.read_files_again();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(ask(&trusting(&third)).await.unwrap(), 200, "told so, it does not wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_usable_certificate_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    renew(directory.path());
    std::fs::write(directory.path().join("key.pem"), "").unwrap();
    let config = ServerConfig::try_from(encrypted(directory.path()).server).unwrap();
    assert_eq!(config.scheme(), "https");
    let server = Server::builder(config).build().unwrap();
    let listener = server.bind().await.unwrap();
    let error = server.serve(listener, Shutdown::new()).await.unwrap_err().to_string();
    assert!(error.contains("key.pem") && error.contains("a private key in PEM"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_silent_in_the_handshake_is_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = renew(directory.path());
    let mut setup = encrypted(directory.path());
    setup.server.header_timeout_s = 0.3;
    setup.server.max_connections = 1;
    let server = setup.start().await;
    // Nothing at all, and the start of a record that never comes.
    for sent in [&b""[..], &[0x16, 3, 1, 2, 0]] {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(begun.elapsed() > Duration::from_millis(250) && begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let health = format!("https://{}/health", server.address);
        let answer = trusting(&certificate).get(health).send().await.unwrap();
        assert_eq!(answer.status(), 200, "its place is free");
        drop(answer);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_client_that_reads_nothing_is_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = renew(directory.path());
    let mut setup = encrypted(directory.path());
    setup.context = 16_000;
    setup.server.write_timeout_s = 0.3;
    let server = setup.start().await;
    let mut request = chat("Hello");
    for (name, value) in [("max_tokens", json!(15_000)), ("top_logprobs", json!(20))] {
        request[name] = value;
    }
    (request["stream"], request["logprobs"]) = (json!(true), json!(true));
    let url = format!("https://{}/v1/chat/completions", server.address);
    let unread = trusting(&certificate).post(url).json(&request).send().await.unwrap();
    let (begun, client) = (Instant::now(), trusting(&certificate));
    loop {
        let metrics = client.get(format!("https://{}/metrics", server.address)).send().await.unwrap();
        // The one connection left is that of this client.
        if metrics.text().await.unwrap().contains("\nyantra_http_connections 1\n") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "the connection is still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.idle().await;
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_vanish_hold_no_place_beyond_their_time() {
    let mut setup = Setup::default();
    setup.server.header_timeout_s = 0.3;
    setup.server.body_timeout_s = 0.3;
    setup.server.max_connections = 1;
    let server = setup.start().await;
    // Refused, it is answered before it asks.
    let newcomer = async || {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let _ = stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    // In the middle of the headers, in the middle of the body, and after an answer.
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\n";
    let half_body = format!("{head}content-type: application/json\r\ncontent-length: 99\r\n\r\n{{");
    for sent in [head, &half_body, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n"] {
        // It stays open on this side, as one that nobody could close.
        let mut vanished = TcpStream::connect(server.address).await.unwrap();
        vanished.write_all(sent.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(newcomer().await, "HTTP/1.1 503", "it has the only place");
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(newcomer().await, "HTTP/1.1 200", "after {sent}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_step_is_seen_until_it_ends() {
    let mut setup = Setup::default();
    setup.server.stuck_step_s = 0.2;
    let stuck = Arc::clone(&setup.stuck);
    let server = setup.start().await;
    assert_eq!((server.get("/ready").await.0, server.get("/health").await.0), (200, 200));
    stuck.store(true, SeqCst);
    let request = server.client.post(format!("{}/v1/chat/completions", server.url)).json(&chat("Hello")).send();
    let request = tokio::spawn(request);

    let ready = until(&server, "/ready", 503).await;
    let model = &ready["models"][0];
    assert_eq!((&ready["ready"], &model["state"]), (&json!(false), &json!("failed")));
    assert!(model["message"].as_str().unwrap().contains("at most 0.2 s expected"), "{ready}");
    assert_eq!(ready["models"][1]["state"], "ready", "the other model is none the worse");
    let health = until(&server, "/health", 503).await;
    assert_eq!(health["status"], "stuck");
    assert!(health["message"].as_str().unwrap().starts_with("'story': a step of the model has been running"));
    let (_, metrics) = server.get("/metrics").await;
    let name = "yantra_engine_step_running_seconds{model_name=\"story\"} ";
    let seconds: f64 = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap();
    assert!(seconds > 0.2 && metrics.contains("yantra_model_ready{model_name=\"story\"} 0\n"), "{seconds}");

    stuck.store(false, SeqCst);
    until(&server, "/ready", 200).await;
    assert_eq!(until(&server, "/health", 200).await["status"], "ok");
    assert_eq!(request.await.unwrap().unwrap().status(), 200, "nothing was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_embedder_is_seen_too() {
    let mut setup = Setup { embed_delay: Duration::from_secs(1), ..Setup::default() };
    setup.server.stuck_step_s = 0.2;
    let server = setup.start().await;
    let body = json!({"model": "counter", "input": "text"});
    let request = server.client.post(format!("{}/v1/embeddings", server.url)).json(&body).send();
    let request = tokio::spawn(request);
    assert_eq!(until(&server, "/ready", 503).await["models"][1]["state"], "failed");
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    until(&server, "/ready", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_step_does_not_keep_the_server_from_stopping() {
    let mut setup = Setup::default();
    setup.server.drain_timeout_s = 0.1;
    let stuck = Arc::clone(&setup.stuck);
    stuck.store(true, SeqCst);
    let server = setup.start().await;
    let request = server.client.post(format!("{}/v1/chat/completions", server.url)).json(&chat("Hello")).send();
    let request = tokio::spawn(request);
    for _ in 0..400 {
        if server.engine.stats().step_running_seconds > 0.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = Instant::now();
    server.shutdown.drain();
    assert!(!server.task.await.unwrap().unwrap(), "not everything could end by itself");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(request.await.unwrap().is_err());
    // Lets the engine's thread, and the one that asked it to drain, end with the test.
    stuck.store(false, SeqCst);
}
