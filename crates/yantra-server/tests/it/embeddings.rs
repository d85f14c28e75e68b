//! Embeddings under load: bounded, cancelled when nobody waits, and no burden to chats.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use yantra_engine::EngineConfig;

use crate::support::{Harness, Setup, chat};

fn body(texts: usize) -> Value {
    json!({"model": "counter", "input": vec!["some text"; texts]})
}

async fn stats(server: &Harness) -> Value {
    let (_, stats) = server.get("/v1/engine/stats").await;
    serde_json::from_str::<Value>(&stats).unwrap()["embedders"][0].clone()
}

/// Waits until what the embedder says of itself is so.
async fn until(server: &Harness, what: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..400 {
        let stats = stats(server).await;
        if what(&stats) {
            return stats;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{}", stats(server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_embeddings_do_not_stop_a_chat() {
    let engine = EngineConfig { max_queue: 2000, ..EngineConfig::default() };
    let setup = Setup { embed_delay: Duration::from_secs(3), engine, ..Setup::default() };
    let server = Arc::new(setup.start().await);
    // More than there are blocking threads.
    let senders: Vec<_> = (0..700)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.post("/v1/embeddings", &body(1)).await.status().as_u16() })
        })
        .collect();
    until(&server, |stats| stats["requests_accepted_total"].as_u64().unwrap() >= 600).await;
    let begun = Instant::now();
    server.ok("/v1/chat/completions", &chat("Hello")).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "the chat took {:?}", begun.elapsed());
    for sender in senders {
        assert_eq!(sender.await.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_is_not_computed() {
    let texts = Arc::<AtomicUsize>::default();
    let setup =
        Setup { embed_delay: Duration::from_millis(300), embedded_texts: Arc::clone(&texts), ..Setup::default() };
    let server = Arc::new(setup.start().await);
    let post = |count: usize| {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.post("/v1/embeddings", &body(count)).await.status().as_u16() })
    };
    let first = post(1);
    until(&server, |stats| stats["running"] == 1).await;
    let (dropped, kept) = (post(1000), post(2));
    until(&server, |stats| stats["requests_accepted_total"] == 3).await;
    dropped.abort();
    assert_eq!((first.await.unwrap(), kept.await.unwrap()), (200, 200));
    let stats = until(&server, |stats| stats["requests_cancelled_total"] == 1).await;
    assert_eq!((texts.load(SeqCst), &stats["requests_completed_total"]), (3, &json!(2)));
    assert_eq!((&stats["queued_requests"], &stats["running"]), (&json!(0), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_back() {
    let engine = EngineConfig { max_queue: 2, ..EngineConfig::default() };
    let server = Setup { embed_delay: Duration::from_millis(300), engine, ..Setup::default() }.start().await;
    let request = body(1);
    let responses = futures_util::future::join_all((0..20).map(|_| server.post("/v1/embeddings", &request))).await;
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
    let stats = stats(&server).await;
    assert_eq!((&stats["requests_refused_total"], &stats["requests_failed_total"]), (&json!(refused), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_are_measured() {
    let server = Harness::start().await;
    server.ok("/v1/embeddings", &json!({"input": ["ab", "cde"]})).await;
    let stats = stats(&server).await;
    assert_eq!((&stats["id"], &stats["tokens_total"]), (&json!("counter"), &json!(5)));
    assert!(stats["end_to_end_ms"]["p50"].as_f64().unwrap() > 0.0);
    let (_, metrics) = server.get("/metrics").await;
    for line in [
        "yantra_embedding_tokens_total{model_name=\"counter\"} 5",
        "yantra_embedding_requests_queued{model_name=\"counter\"} 0",
        "yantra_embedding_requests_running{model_name=\"counter\"} 0",
        "yantra_embedding_request_latency_seconds_count{model_name=\"counter\"} 1",
        "yantra_embedding_request_latency_seconds_bucket{model_name=\"counter\",le=\"+Inf\"} 1",
    ] {
        assert!(metrics.lines().any(|given| given == line), "{line} is missing in\n{metrics}");
    }
}
