//! Reranking and scoring by embeddings. The vector of a text of n tokens points in the direction of (n, 3, 4).

use serde_json::{Value, json};

use crate::support::Harness;

fn expected(a: f32, b: f32) -> f64 {
    let length = |n: f32| (n * n + 25.0).sqrt();
    f64::from((a * b + 25.0) / (length(a) * length(b)))
}

fn near(value: &Value, expected: f64) {
    let found = value.as_f64().unwrap();
    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
}

#[tokio::test]
async fn documents_are_put_in_order() {
    let server = Harness::start().await;
    let request = json!({"model": "counter", "query": "abcdefgh", "documents": ["a", {"text": "abcdefg"}, "abcd"], "return_documents": true});
    for path in ["/v1/rerank", "/rerank"] {
        let body = server.ok(path, &request).await;
        let results = body["results"].as_array().unwrap();
        let order: Vec<u64> = results.iter().map(|result| result["index"].as_u64().unwrap()).collect();
        assert_eq!(order, [1, 2, 0]);
        near(&results[0]["relevance_score"], expected(8.0, 7.0));
        assert_eq!(results[0]["document"], json!({"text": "abcdefg"}));
        assert_eq!(body["usage"], json!({"prompt_tokens": 20, "total_tokens": 20}));
    }
    let mut best = request.clone();
    best["top_n"] = json!(1);
    best["return_documents"] = json!(false);
    let body = server.ok("/v1/rerank", &best).await;
    assert_eq!(body["results"].as_array().unwrap().len(), 1);
    assert!(body["results"][0].get("document").is_none());
}

#[tokio::test]
async fn pairs_are_scored() {
    let server = Harness::start().await;
    let one = server.ok("/v1/score", &json!({"model": "counter", "text_1": "abc", "text_2": ["abc", "a"]})).await;
    near(&one["data"][0]["score"], 1.0);
    near(&one["data"][1]["score"], expected(3.0, 1.0));
    let pairs =
        server.ok("/v1/score", &json!({"model": "counter", "text_1": ["a", "ab"], "text_2": ["abc", "ab"]})).await;
    near(&pairs["data"][0]["score"], expected(1.0, 3.0));
    near(&pairs["data"][1]["score"], 1.0);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let server = Harness::start().await;
    for (path, request, param) in [
        ("/v1/rerank", json!({"query": "x", "documents": []}), "documents"),
        ("/v1/rerank", json!({"query": "x", "documents": ["a"], "top_n": 0}), "top_n"),
        ("/v1/rerank", json!({"query": "x", "documents": [7]}), "documents[0]"),
        ("/v1/rerank", json!({"query": "x", "documents": ["a", "long ".repeat(100)]}), "documents[1]"),
        ("/v1/rerank", json!({"query": "x", "documents": ["a"], "model": "story"}), "model"),
        ("/v1/score", json!({"text_1": ["a", "b", "c"], "text_2": ["a", "b"]}), "text_1"),
    ] {
        let response = server.post(path, &request).await;
        assert_eq!(response.status(), 400, "{request}");
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
    }
}
