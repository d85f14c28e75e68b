//! `/v1/moderations`: by a program's own moderator, and by a server behind this one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use yantra_server::{
    ApiError, Moderated, ModerationPart, ModerationResult, Moderator, RawModerationConfig, Server, ServerConfig,
};

use crate::support::{Harness, Setup};

async fn refusal(server: &Harness, body: Value) -> (u16, Value) {
    let response = server.post("/v1/moderations", &body).await;
    (response.status().as_u16(), response.json::<Value>().await.unwrap()["error"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_moderator_the_setting_is_named() {
    let server = Harness::start().await;
    let (status, error) = refusal(&server, json!({"input": "a"})).await;
    assert_eq!((status, &error["code"]), (501, &json!("not_configured")));
    assert!(error["message"].as_str().unwrap().contains("[server.moderation] url"), "{error}");
}

/// Flags what says "bad".
#[derive(Debug)]
struct Strict;

#[async_trait::async_trait]
impl Moderator for Strict {
    async fn moderate(&self, model: Option<&str>, items: Vec<Vec<ModerationPart>>) -> Result<Moderated, ApiError> {
        let is_bad = |part: &ModerationPart| matches!(part, ModerationPart::Text { text } if text.contains("bad"));
        let verdict = |parts: &Vec<ModerationPart>| ModerationResult {
            flagged: parts.iter().any(is_bad),
            ..ModerationResult::default()
        };
        Ok(Moderated { model: model.unwrap_or("strict").to_owned(), results: items.iter().map(verdict).collect() })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_may_bring_its_own_moderator() {
    let setup = Setup::default();
    let engine = setup.generator().engine;
    let config = ServerConfig::try_from(setup.server).unwrap();
    let server = Server::builder(config).moderator(Arc::new(Strict)).build().unwrap();
    let server = Harness::serve(server, engine).await;
    for (input, expected) in [
        (json!("bad"), json!([true])),
        (json!(["good", "bad"]), json!([false, true])),
        (json!([{"type": "text", "text": "good"}, {"type": "text", "text": "bad"}]), json!([true])),
    ] {
        let answer = server.ok("/v1/moderations", &json!({"input": input})).await;
        let flagged: Vec<Value> =
            answer["results"].as_array().unwrap().iter().map(|result| result["flagged"].clone()).collect();
        assert_eq!(json!(flagged), expected, "{input}");
        assert_eq!(answer["model"], "strict");
        assert!(answer["id"].as_str().unwrap().starts_with("modr-"));
    }
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}});
    let (status, error) = refusal(&server, json!({"input": [{"type": "text", "text": "a"}, image]})).await;
    assert_eq!((status, &error["param"]), (400, &json!("input[1]")));
}

/// Keys and bodies of requests.
type Asked = Arc<Mutex<Vec<(Option<String>, Value)>>>;

/// A moderating server, and what it was asked.
struct Upstream {
    url: String,
    asked: Asked,
}

async fn upstream(status: u16, answer: Value, delay: Duration) -> Upstream {
    let asked = Asked::default();
    let kept = Arc::clone(&asked);
    let handler = move |headers: HeaderMap, Json(body): Json<Value>| async move {
        let key = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        kept.lock().unwrap().push((key, body));
        tokio::time::sleep(delay).await;
        (StatusCode::from_u16(status).unwrap(), [("retry-after", "7")], Json(answer))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/moderations", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/v1/moderations", post(handler));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Upstream { url, asked }
}

async fn behind(url: &str, change: impl FnOnce(&mut RawModerationConfig)) -> Harness {
    let mut setup = Setup::default();
    setup.server.moderation.url = Some(url.to_owned());
    change(&mut setup.server.moderation);
    setup.start().await
}

fn verdicts(count: usize) -> Value {
    let one = json!({"flagged": true, "categories": {"violence": true, "illicit": null}, "category_scores": {"violence": 0.9},
        "category_applied_input_types": {"violence": ["text"]}});
    json!({"id": "modr-upstream", "model": "omni", "results": vec![one; count], "more": 1})
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_asked() {
    let judge = upstream(200, verdicts(2), Duration::ZERO).await;
    let server = behind(&judge.url, |config| {
        config.api_key = Some("judge-key".to_owned());
        config.model = Some("omni".to_owned());
    })
    .await;
    let answer = server.ok("/moderations", &json!({"input": ["a", "b"]})).await;
    assert_eq!((&answer["model"], &answer["results"]), (&json!("omni"), &verdicts(2)["results"]));
    let (key, body) = judge.asked.lock().unwrap()[0].clone();
    assert_eq!(key.as_deref(), Some("Bearer judge-key"));
    assert_eq!(body, json!({"model": "omni", "input": ["a", "b"]}));
    server.ok("/v1/moderations", &json!({"input": ["a", "b"], "model": "other"})).await;
    assert_eq!(judge.asked.lock().unwrap()[1].1["model"], "other", "the request's own model wins");

    // One verdict too many for what was asked.
    let (status, error) = refusal(&server, json!({"input": "a"})).await;
    assert_eq!((status, &error["code"]), (502, &json!("upstream_error")));
    assert!(error["message"].as_str().unwrap().contains("2 verdicts, 1 expected"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_go_where_they_are_taken() {
    let judge = upstream(200, verdicts(1), Duration::ZERO).await;
    let parts = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]);
    let server = behind(&judge.url, |config| config.images = true).await;
    server.ok("/v1/moderations", &json!({"input": parts})).await;
    assert_eq!(judge.asked.lock().unwrap()[0].1, json!({"input": parts}));
    let server = behind(&judge.url, |_| {}).await;
    assert_eq!(refusal(&server, json!({"input": parts})).await.1["param"], "input[1]");
    assert_eq!(judge.asked.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_with_it_is_said() {
    let says = |message: &str| json!({"error": {"message": message, "type": "t", "param": null, "code": null}});
    for (status, answer, expected, part) in [
        (400, says("no such model"), 400, "no such model"),
        (401, says("the key is secret-123"), 502, "status 401"),
        (429, says("slow down"), 429, "too many requests"),
        (500, json!("out of order"), 502, "status 500"),
        (200, json!({"verdict": "guilty"}), 502, "form"),
    ] {
        let judge = upstream(status, answer, Duration::ZERO).await;
        let server = behind(&judge.url, |_| {}).await;
        let response = server.post("/v1/moderations", &json!({"input": "a"})).await;
        assert_eq!(response.status().as_u16(), expected, "{status}");
        assert_eq!(response.headers().get("retry-after").is_some(), expected == 429);
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part) && !message.contains("secret"), "{message}");
    }
    let judge = upstream(200, verdicts(1), Duration::from_secs(5)).await;
    let server = behind(&judge.url, |config| config.timeout_s = 0.1).await;
    let (status, error) = refusal(&server, json!({"input": "a"})).await;
    assert_eq!((status, &error["message"]), (502, &json!("the moderator took too long")));
    let server = behind("http://127.0.0.1:9/v1/moderations", |_| {}).await;
    let (status, error) = refusal(&server, json!({"input": "a"})).await;
    assert_eq!(status, 502);
    assert!(!error["message"].as_str().unwrap().contains("127.0.0.1"), "{error}");
}
