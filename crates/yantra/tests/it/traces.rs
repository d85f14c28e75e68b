//! Traces of a server with a real model, exported, searched and pruned while it runs and after it was killed.

use crate::serving::Serving;
use crate::yantra::{run, shown};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn lines(text: &[u8]) -> Vec<Value> {
    String::from_utf8(text.to_vec()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_a_server_has_kept_is_exported_searched_and_pruned() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let place = ["--state-dir", state.to_str().unwrap()];
    let Some(server) = Serving::start(&["--context", "256", place[0], place[1], "--traces", "full"]) else { return };
    server.wait_until_ready();
    let ask = |path: &str, body: Value| server.ask("POST", path, "application/json", &body.to_string());
    // Up to the first space, so that it ends by itself; or cut off.
    let chat = |text: &str, stop: &str, max_tokens: usize| {
        let messages = json!([{"role": "user", "content": text}]);
        let body = json!({"messages": messages, "max_tokens": max_tokens, "temperature": 0, "stop": stop});
        ask("/v1/chat/completions", body)
    };
    let answer: Value = serde_json::from_str(&chat("Which marmalade is best?", " ", 60)).unwrap();
    chat("Count from one to a hundred", "never", 2);
    ask("/v1/completions", json!({"prompt": "Once upon a time", "max_tokens": 4}));
    let begun = Instant::now();
    while server.get("/v1/traces")["data"].as_array().unwrap().len() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(20));
    }
    let traces = |args: &[&str]| run(&[&["traces"], args].concat(), "");

    let exported = traces(&["export", place[0], place[1]]);
    let all = lines(&exported.stdout);
    assert_eq!((all.len(), &all[0]["output"]), (3, &answer));
    assert_eq!(all[2]["endpoint"], "/v1/completions");
    let file = directory.path().join("train.jsonl");
    let told = shown(&["traces", "export", place[0], place[1], "--format", "chat", "--output", file.to_str().unwrap()]);
    assert!(told.contains("exported 1; skipped 1 that are no conversations, 1 that failed or were cut off"), "{told}");
    let chats = lines(&std::fs::read(file).unwrap());
    assert_eq!(chats[0]["messages"][0], json!({"role": "user", "content": "Which marmalade is best?"}));
    let said = &answer["choices"][0]["message"]["content"];
    assert_eq!(chats[0]["messages"][1], json!({"role": "assistant", "content": said}));
    assert_eq!(lines(&traces(&["export", place[0], place[1], "--model", "m", "--since", "1h"]).stdout).len(), 3);
    assert_eq!(lines(&traces(&["export", place[0], place[1], "--until", "2000-01-01"]).stdout).len(), 0);
    let found = shown(&["traces", "search", place[0], place[1], "MARMALADE"]);
    assert!(found.contains("Which marmalade is best?") && !found.contains("Count from"), "{found}");

    // SIGKILL.
    drop(server);
    let found = traces(&["search", place[0], place[1], "\"upon a\"", "--json"]);
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!((found.as_array().unwrap().len(), &found[0]["snippet"]), (1, &json!("Once upon a time")));
    assert!(shown(&["traces", "prune", place[0], place[1], "--older-than", "1d"]).contains("deleted 0 traces"));
    let pruned = shown(&["traces", "prune", place[0], place[1], "--older-than", "0s"]);
    assert!(pruned.contains("deleted 3 traces; 0 B are left") && !pruned.contains("stderr"), "{pruned}");
    assert!(shown(&["traces", "search", place[0], place[1], "once"]).contains("nothing found"));
}

#[test]
fn a_directory_that_is_none_is_told() {
    let told = shown(&["traces", "export", "--state-dir", "/no/such/directory"]);
    assert!(told.starts_with("exit code: 1\n") && told.contains("cannot open /no/such/directory/yantra.db"), "{told}");
    let told = shown(&["traces", "search", "--state-dir", ".", "x", "--since", "yesterday"]);
    assert!(!told.starts_with("exit code: 0"), "{told}");
}
