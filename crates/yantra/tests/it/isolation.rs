//! Nobody learns from the time an answer takes what others have asked.

use crate::{serving::Serving, yantra::run};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn prompts_of_others_are_not_found_in_the_prefix_cache_by_timing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.toml");
    let file = file.to_str().unwrap();
    let key = |name: &str| String::from_utf8(run(&["keys", "create", name, "--file", file], "").stdout).unwrap();
    let (alice, bob) = (key("alice").trim().to_owned(), key("bob").trim().to_owned());
    let Some(mut serving) = Serving::start(&["--keys-file", file, "--context", "2048"]) else { return };
    serving.key.clone_from(&alice);
    while serving.get("/v1/models")["data"].as_array().is_none_or(Vec::is_empty) {
        std::thread::sleep(Duration::from_millis(50));
    }
    // Some 1,500 tokens: computing them takes far longer than everything else about the request.
    let secret = "the merger will be announced on the fourteenth of June, ".repeat(110);
    let mut ask = |key: &str, prompt: &str| {
        serving.key = key.to_owned();
        let body = json!({"model": "m", "prompt": prompt, "max_tokens": 1, "temperature": 0}).to_string();
        let begun = Instant::now();
        let answer: Value =
            serde_json::from_str(&serving.ask("POST", "/v1/completions", "application/json", &body)).unwrap();
        (begun.elapsed(), answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap())
    };
    let (unknown, _) = ask(&alice, &secret);
    let (known, cached) = ask(&alice, &secret);
    assert!(cached > 1000 && known < unknown / 3, "alice's own: {unknown:?}, then {known:?} with {cached} cached");
    let (guessed, cached) = ask(&bob, &secret);
    assert!(cached == 0 && guessed > known * 3, "bob's guess took {guessed:?}, alice's {known:?}; {cached} cached");
    let (other, _) = ask(&bob, &secret.replace("June", "July"));
    assert!(guessed > other / 3, "a right guess took {guessed:?}, a wrong one {other:?}");
}
