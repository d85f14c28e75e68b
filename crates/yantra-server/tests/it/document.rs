//! The OpenAPI document. Whether the server does what it says is for Schemathesis (`clients/schemathesis`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Harness, chat};

#[test]
fn the_document_is_whole() {
    let document: Value = serde_json::from_str(&yantra_server::openapi_json().unwrap()).unwrap();
    let mut names = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name} names two operations");
            let responses = operation["responses"].as_object().unwrap();
            for (status, response) in responses {
                assert!(!response["description"].as_str().unwrap().is_empty(), "{method} {path} {status}");
            }
            let is_public = operation["security"][0] == json!({});
            assert!(is_public || responses.contains_key("401"), "{method} {path}");
            assert!(operation["requestBody"].is_null() || responses.contains_key("415"), "{method} {path}");
        }
    }
    for link in document["paths"]["/v1/responses"]["post"]["responses"]["200"]["links"].as_object().unwrap().values() {
        assert!(names.contains(link["operationId"].as_str().unwrap()), "{link}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_document_does_not_allow_is_refused() {
    let server = Harness::start().await;
    let messages = chat("Hello")["messages"].clone();
    for (path, body, param) in [
        ("/v1/responses", json!({"input": "a", "text": [null]}), "text"),
        ("/v1/messages", json!({"max_tokens": 1, "messages": messages, "output_config": [null]}), "output_config"),
        ("/v1/messages/count_tokens", json!({"messages": messages, "temperature": -1}), "temperature"),
    ] {
        let response = server.post(path, &body).await;
        assert_eq!(response.status(), 400, "{path}");
        let text = response.text().await.unwrap();
        assert!(text.contains(&format!("'{param}'")), "{text}");
    }
}
