//! Reranking and scoring by real cross-encoders: the tiny ones of `yantra-model`'s tests with their tokenisers, from their
//! files to answers over HTTP. Tokens and scores are transformers' (`hf_tiny.py`); the last document is longer than the
//! context and cut.

use std::{path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use yantra_engine::load::{self, LoadOptions};
use yantra_kernels::Compute;
use yantra_model::EncoderDtype;
use yantra_server::{Embedder, ModelKind, Server, ServerConfig};

use crate::support::{Harness, Setup, served};

fn directory(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../yantra-model/tests/data/hf_tiny")).join(name)
}

fn expected(name: &str) -> Vec<Value> {
    let expected = std::fs::read(directory(name).join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    expected["pairs"].as_array().unwrap().clone()
}

fn cross_encoder(name: &str) -> ModelKind {
    let options = LoadOptions { encoder_dtype: EncoderDtype::F32, ..LoadOptions::default() };
    let loaded = load::load(&directory(name), &Arc::new(Compute::new(2)), &options, |_| {}).unwrap();
    let load::ModelKind::Embed(handle) = loaded.kind else { panic!("{name} scores pairs") };
    ModelKind::Embed(Embedder { handle, tokenizer: loaded.tokenizer })
}

/// A server of these cross-encoders beside a model that generates.
async fn serve(names: &[&str]) -> Harness {
    let setup = Setup::default();
    let generator = setup.generator();
    let engine = generator.engine.clone();
    let mut server = Server::builder(ServerConfig::try_from(setup.server).unwrap())
        .model(served("story", ModelKind::Generate(generator)));
    for name in names {
        server = server.model(served(name, cross_encoder(name)));
    }
    Harness::serve(server.build().unwrap(), engine).await
}

fn texts(pairs: &[Value]) -> Vec<Value> {
    pairs.iter().map(|pair| pair["document"].clone()).collect()
}

fn tokens(pairs: &[Value]) -> usize {
    pairs.iter().map(|pair| pair["tokens"].as_array().unwrap().len()).sum()
}

fn near(found: &Value, expected: &Value) {
    let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
    assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
}

#[tokio::test]
async fn scores_are_those_of_transformers() {
    let names = ["bert_rerank", "xlm_roberta_rerank"];
    let server = serve(&names).await;
    for name in names {
        let pairs = expected(name);
        let query = &pairs[0]["query"];
        let one = server.ok("/v1/score", &json!({"model": name, "text_1": query, "text_2": texts(&pairs)})).await;
        for (found, pair) in one["data"].as_array().unwrap().iter().zip(&pairs) {
            near(&found["score"], &pair["score"]);
        }
        assert_eq!(one["usage"]["prompt_tokens"], tokens(&pairs));
        let queries = vec![query; pairs.len()];
        let several = server.ok("/v1/score", &json!({"model": name, "text_1": queries, "text_2": texts(&pairs)})).await;
        assert_eq!(several["data"], one["data"]);

        let request = json!({"model": name, "query": query, "documents": texts(&pairs)});
        let ranked = server.ok("/v1/rerank", &request).await;
        let results = ranked["results"].as_array().unwrap();
        assert_eq!(results.len(), pairs.len());
        for result in results {
            near(&result["relevance_score"], &pairs[result["index"].as_u64().unwrap() as usize]["score"]);
        }
        assert!(results.is_sorted_by_key(|result| -result["relevance_score"].as_f64().unwrap()));
        let card = server.get(&format!("/v1/models/{name}")).await.1;
        assert!(card.contains("\"kind\":\"score\""), "{card}");
    }
}

#[tokio::test]
async fn the_model_that_reads_both_is_meant_and_embeds_nothing() {
    let server = serve(&["bert_rerank"]).await;
    let request = json!({"query": "cats", "documents": ["a car", "cats sleep"]});
    assert_eq!(server.ok("/v1/rerank", &request).await["model"], "bert_rerank");
    for (path, request, expected) in [
        (
            "/v1/embeddings",
            json!({"model": "bert_rerank", "input": "cats"}),
            "scores pairs of texts and does not embed",
        ),
        ("/v1/embeddings", json!({"input": "cats"}), "no model that is served does this"),
        ("/v1/completions", json!({"model": "bert_rerank", "prompt": "cats"}), "scores pairs of texts and does not"),
    ] {
        let response = server.post(path, &request).await;
        assert_eq!(response.status(), 400, "{request}");
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        assert!(error["message"].as_str().unwrap().contains(expected), "{error}");
    }
}
