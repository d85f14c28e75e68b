//! A server on a free port of the loopback, so that the client meets real sockets.

use axum::{Json, Router, body::Body, http::StatusCode, response::Response, routing::post};
use serde_json::{Value, json};
use yantra_client::{Endpoint, EndpointConfig, OpenAiChat};

/// Serves `router` until the test ends; returns its address.
pub(crate) async fn spawn(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

/// A client of the model `fake` that never tries again.
pub(crate) fn chat(url: &str) -> OpenAiChat {
    OpenAiChat::new(Endpoint::new(&EndpointConfig::new(url)).unwrap(), "fake").with_max_retries(0)
}

/// Answers each request with as many words of a sentence as it allows.
pub(crate) fn talkative() -> Router {
    Router::new().route("/v1/chat/completions", post(async |Json(body): Json<Value>| sse(&words(&body))))
}

/// Always answers with these bytes as an event stream.
pub(crate) fn fixed(body: &'static str) -> Router {
    Router::new().route("/v1/chat/completions", post(async move || sse(body)))
}

/// Always answers with this status and body.
pub(crate) fn refusing(status: u16, body: &'static str) -> Router {
    let handler = post(async move || {
        let builder = Response::builder().status(StatusCode::from_u16(status).unwrap());
        builder.header("retry-after", "2").body(Body::from(body)).unwrap()
    });
    Router::new().route("/v1/chat/completions", handler)
}

fn sse(body: &str) -> Response {
    Response::builder().header("content-type", "text/event-stream").body(Body::from(body.to_owned())).unwrap()
}

fn words(body: &Value) -> String {
    assert_eq!(body["model"], "fake");
    assert_eq!(body["stream"], true);
    let limit = body["max_tokens"].as_u64().unwrap_or(4) as usize;
    let all = ["Hello", " there", ",", " friend", "."];
    let mut text = String::new();
    let mut chunk = |delta: Value, reason: Option<&str>| {
        let chunk = json!({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
        text.push_str(&format!("data: {chunk}\n\n"));
    };
    chunk(json!({"role": "assistant", "content": ""}), None);
    for word in all.iter().take(limit) {
        chunk(json!({"content": word}), None);
    }
    chunk(json!({}), Some(if limit < all.len() { "length" } else { "stop" }));
    let usage = json!({"prompt_tokens": 5, "completion_tokens": limit.min(all.len())});
    text.push_str(&format!("data: {}\n\ndata: [DONE]\n\n", json!({"choices": [], "usage": usage})));
    text
}
