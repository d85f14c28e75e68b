//! Servers that are gone, slow, busy or broken: each gives an error that says so.

use crate::fake_server::{chat, fixed, refusing, spawn, talkative};
use axum::{Router, routing::post};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use yantra_client::{ChatModel, ChatRequest, ClientError, Endpoint, EndpointConfig, OpenAiChat};

async fn error_of(router: Router) -> ClientError {
    chat(&spawn(router).await).complete(ChatRequest::user("hi")).await.unwrap_err()
}

#[tokio::test]
async fn nobody_there() {
    let error = chat("http://127.0.0.1:1").complete(ChatRequest::user("hi")).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn refusals_carry_the_servers_words() {
    let error = error_of(refusing(404, r#"{"error":{"message":"no model `fake`","type":"not_found"}}"#)).await;
    assert!(error.to_string().contains("404: no model `fake`"), "{error}");
    assert_eq!(error.retry_after(), None);
    let error = error_of(refusing(429, "slow down")).await;
    assert!(error.to_string().contains("slow down"), "{error}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    let error = error_of(refusing(500, "")).await;
    assert!(error.to_string().contains("Internal Server Error"), "{error}");
}

#[tokio::test]
async fn broken_streams() {
    const TEXT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";
    const CUT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\ndata: [DONE]\n\n";
    const FAILED: &str = "data: {\"error\":{\"message\":\"out of pages\"}}\n\n";
    assert!(matches!(error_of(fixed(TEXT)).await, ClientError::Interrupted { .. }));
    assert!(matches!(error_of(fixed(CUT)).await, ClientError::Interrupted { .. }));
    assert!(matches!(error_of(fixed("data: {broken\n\n")).await, ClientError::Protocol { .. }));
    let error = error_of(fixed(FAILED)).await;
    assert!(error.to_string().contains("out of pages"), "{error}");
    let error = error_of(refusing(200, "<html>")).await;
    assert!(error.to_string().contains("text/event-stream"), "{error}");
}

#[tokio::test]
async fn a_slow_server_times_out() {
    let router = Router::new().route("/v1/chat/completions", post(async || std::future::pending::<()>().await));
    let mut config = EndpointConfig::new(spawn(router).await);
    config.timeouts.first_byte = Duration::from_millis(50);
    let model = OpenAiChat::new(Endpoint::new(&config).unwrap(), "fake");
    let error = model.complete(ChatRequest::user("hi")).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { what: "answer", .. }), "{error:?}");
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&calls);
    let busy = axum::middleware::from_fn(move |request: axum::extract::Request, next: axum::middleware::Next| {
        let first = seen.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if first {
                let builder = axum::response::Response::builder().status(503).header("retry-after", "0");
                return builder.body(axum::body::Body::empty()).unwrap();
            }
            next.run(request).await
        }
    });
    let url = spawn(talkative().layer(busy)).await;
    let model = OpenAiChat::new(Endpoint::new(&EndpointConfig::new(&url)).unwrap(), "fake");
    model.complete(ChatRequest::user("hi")).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn the_key_is_sent_and_never_shown() {
    let router = Router::new().route(
        "/v1/models",
        axum::routing::get(async |headers: axum::http::HeaderMap| {
            let key = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
            axum::Json(serde_json::json!({"data": [{"id": key}]}))
        }),
    );
    let config = EndpointConfig::new(spawn(router).await).with_api_key(Some("sk-secret".into()));
    let endpoint = Endpoint::new(&config).unwrap();
    assert_eq!(endpoint.models().await.unwrap()[0].id, "Bearer sk-secret");
    assert!(!format!("{endpoint:?}").contains("sk-secret"));
}
