//! Many clients at once, some of which go away at random times: nothing leaks, nothing is lost, and every answer is the
//! one the same request gets alone.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use yantra_engine::EngineConfig;

use crate::support::{Harness, Setup, chat, chunks, data_lines};

const REQUESTS: usize = 200;

/// SplitMix64: random numbers, the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

#[derive(Clone)]
struct Case {
    request: Value,
    /// Milliseconds after which the client goes away.
    patience: Option<u64>,
    /// Milliseconds before it comes.
    arrival: u64,
}

fn case(random: &mut Random) -> Case {
    let mut request = chat(&"tell me a story ".repeat(1 + random.below(4) as usize));
    request["max_tokens"] = json!(1 + random.below(60));
    request["n"] = json!(1 + random.below(2));
    request["stream"] = json!(random.below(2) == 0);
    request["priority"] = json!(random.below(3));
    request["ignore_eos"] = json!(true);
    if random.below(2) == 0 {
        request["temperature"] = json!(2);
        request["seed"] = json!(random.below(1000));
    }
    let patience = (random.below(3) == 0).then(|| random.below(400));
    Case { request, patience, arrival: random.below(1500) }
}

/// The texts of the choices.
async fn answer(server: &Harness, request: &Value) -> Vec<String> {
    let response = server.post("/v1/chat/completions", request).await;
    assert_eq!(response.status(), 200);
    let body = response.text().await.unwrap();
    let mut texts = vec![String::new(); request["n"].as_u64().unwrap() as usize];
    if request["stream"] == false {
        let whole: Value = serde_json::from_str(&body).unwrap();
        for (text, choice) in texts.iter_mut().zip(whole["choices"].as_array().unwrap()) {
            text.push_str(choice["message"]["content"].as_str().unwrap());
        }
        return texts;
    }
    let streamed = chunks(&data_lines(&body));
    assert_eq!(streamed.last().unwrap(), "[DONE]");
    for choice in streamed.iter().filter_map(|chunk| chunk["choices"].get(0)) {
        let index = choice["index"].as_u64().unwrap() as usize;
        texts[index].push_str(choice["delta"]["content"].as_str().unwrap_or_default());
    }
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_and_go_leak_nothing_and_change_no_answer() {
    let engine = EngineConfig { max_sequences: 8, max_queue: REQUESTS, ..EngineConfig::default() };
    let setup = Setup { delay: Duration::from_millis(1), pages: 40, engine, ..Setup::default() };
    let server = Arc::new(setup.start().await);
    let mut random = Random(11);
    let cases: Vec<Case> = (0..REQUESTS).map(|_| case(&mut random)).collect();
    let clients: Vec<_> = cases
        .iter()
        .cloned()
        .map(|case| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(case.arrival)).await;
                let answer = answer(&server, &case.request);
                match case.patience {
                    None => Some(answer.await),
                    // Dropping the request closes its connection.
                    Some(patience) => tokio::time::timeout(Duration::from_millis(patience), answer).await.ok(),
                }
            })
        })
        .collect();
    let mut answers = Vec::new();
    for client in clients {
        answers.push(client.await.unwrap());
    }
    let stats = server.idle().await;
    assert_eq!(stats.pages_used, 0, "pages leaked: {stats:?}");
    assert_eq!(stats.requests_accepted, stats.requests_completed + stats.requests_cancelled, "{stats:?}");
    assert!(stats.requests_cancelled > 10 && stats.preemptions > 0, "{stats:?}");
    assert_eq!((stats.requests_failed, stats.requests_refused), (0, 0));
    let mut compared = 0;
    for (case, together) in cases.iter().zip(answers) {
        let Some(together) = together else {
            assert!(case.patience.is_some(), "an answer was lost: {}", case.request);
            continue;
        };
        assert_eq!(answer(&server, &case.request).await, together, "{}", case.request);
        compared += 1;
    }
    assert!(compared > REQUESTS / 2, "only {compared} answers were left to compare");
}
