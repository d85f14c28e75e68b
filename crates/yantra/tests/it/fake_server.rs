//! An OpenAI-compatible server that says a fixed number of words, on a thread of its own.

use axum::{
    Json, Router,
    body::Body,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// What a server saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) requests: AtomicUsize,
    in_flight: AtomicUsize,
    pub(crate) most_in_flight: AtomicUsize,
}

/// Starts a server; every `fail_every`-th request (0: none) is refused as overload.
pub(crate) fn spawn(fail_every: usize) -> (String, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let state = Arc::clone(&seen);
    let chat = post(move |Json(body): Json<Value>| answer(body, fail_every, Arc::clone(&state)));
    let models = json!({"object": "list", "data": [
        {"id": "embedder", "capabilities": ["embedding"]}, {"id": "fake", "capabilities": ["chat"]}]});
    let tokenize = async |Json(body): Json<Value>| {
        let words = body["prompt"].as_str().unwrap().split_whitespace().count();
        Json(json!({"tokens": (0..words).collect::<Vec<_>>(), "count": words}))
    };
    let router = Router::new()
        .route("/v1/chat/completions", chat)
        .route("/v1/models", get(async move || Json(models)))
        .route("/tokenize", post(tokenize));
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
    });
    (format!("http://{}", receiver.recv().unwrap()), seen)
}

async fn answer(body: Value, fail_every: usize, seen: Arc<Seen>) -> Response {
    let number = seen.requests.fetch_add(1, Ordering::SeqCst) + 1;
    if fail_every > 0 && number.is_multiple_of(fail_every) {
        let error = json!({"error": {"message": "the queue is full", "type": "overloaded"}});
        return (axum::http::StatusCode::TOO_MANY_REQUESTS, Json(error)).into_response();
    }
    assert_eq!(body["model"], "fake", "the first model that generates text is asked");
    let now = seen.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most_in_flight.fetch_max(now, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(20)).await;
    seen.in_flight.fetch_sub(1, Ordering::SeqCst);
    let words = body["max_tokens"].as_u64().unwrap_or(3);
    let mut text = String::new();
    for number in 0..words {
        let chunk = json!({"choices": [{"index": 0, "delta": {"content": format!("word{number} ")}}]});
        text.push_str(&format!("data: {chunk}\n\n"));
    }
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": words}});
    text.push_str(&format!("data: {end}\n\ndata: {usage}\n\ndata: [DONE]\n\n"));
    Response::builder().header("content-type", "text/event-stream").body(Body::from(text)).unwrap()
}
