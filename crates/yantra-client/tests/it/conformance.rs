//! Each implementation passes the same suite.

use crate::fake_server::{chat, spawn, talkative};
use yantra_client::{ChatEvent, ChatModel, Exchange, FinishReason, Recorder, Replay, Usage, collect, conformance};

#[tokio::test]
async fn over_http() {
    conformance::check(&chat(&spawn(talkative()).await)).await.unwrap();
}

#[tokio::test]
async fn recorded_and_replayed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("talk.jsonl");
    let recorder = Recorder::create(chat(&spawn(talkative()).await), &path).unwrap();
    conformance::check(&recorder).await.unwrap();
    conformance::check(&Replay::open(&path).unwrap()).await.unwrap();

    assert!(Recorder::create(chat("http://127.0.0.1:9"), &path).is_err(), "an existing recording is kept");
}

#[tokio::test]
async fn a_replay_gives_answers_in_the_order_they_were_given() {
    let request = conformance::requests().swap_remove(0);
    let exchange = |text: &str| Exchange {
        request: request.clone(),
        events: vec![ChatEvent::Text(text.into()), ChatEvent::Finished(FinishReason::Stop)],
    };
    let replay = Replay::new("memory", vec![exchange("one"), exchange("two")]);
    for expected in ["one", "two", "two"] {
        let stream = replay.stream(request.clone()).await.unwrap();
        assert_eq!(collect(stream).await.unwrap().message.content, expected);
    }
    let other = conformance::requests().swap_remove(1);
    let error = replay.complete(other).await.unwrap_err().to_string();
    assert!(error.contains("holds no such request") && error.contains("Count from one"), "{error}");
}

/// The suite must be able to fail.
#[tokio::test]
async fn the_suite_sees_broken_models() {
    let broken = |events: Vec<ChatEvent>| {
        let exchanges =
            conformance::requests().into_iter().map(|request| Exchange { request, events: events.clone() }).collect();
        Replay::new("broken", exchanges)
    };
    let text = || ChatEvent::Text("x".into());
    let end = || ChatEvent::Finished(FinishReason::Stop);
    let usage =
        |completion_tokens| ChatEvent::Usage(Usage { prompt_tokens: 1, cached_prompt_tokens: 0, completion_tokens });
    for (why, events) in [
        ("never finished", vec![text()]),
        ("out of place", vec![end(), text()]),
        ("out of place", vec![text(), end(), end()]),
        ("out of place", vec![text(), usage(1), end()]),
        ("out of place", vec![ChatEvent::Text(String::new()), end()]),
        ("at most 8", vec![text(), end(), usage(9)]),
    ] {
        let problem = conformance::check(&broken(events)).await.unwrap_err();
        assert!(problem.contains(why), "expected `{why}`, got `{problem}`");
    }
}
