//! `yantra bench load` against servers whose behaviour is known.

use crate::{fake_server::spawn, yantra::run};
use serde_json::Value;
use std::sync::atomic::Ordering;

fn bench(args: &[&str]) -> Value {
    let output = run(&[&["bench", "load", "--json"], args].concat(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn closed_loop_sends_what_was_asked_for_and_no_more() {
    let (url, seen) = spawn(0);
    let report = bench(&["--url", &url, "--clients", "4", "--requests", "20", "--warmup", "1", "--output-tokens", "5"]);
    let server = &report["servers"][0];
    assert_eq!((server["requests"].as_u64(), server["succeeded"].as_u64()), (Some(20), Some(20)));
    assert_eq!(server["output_tokens"], 100);
    assert!(server["prefix_hit_rate"].is_null() && server["cached_prompt_tokens"].is_null(), "the server does not say");
    assert_eq!(seen.requests.load(Ordering::SeqCst), 21);
    assert_eq!(seen.most_in_flight.load(Ordering::SeqCst), 4);
    // The server waits 20 ms before its first piece.
    let ttft = server["ttft_ms"]["p50"].as_f64().unwrap();
    assert!((20.0..2000.0).contains(&ttft), "{ttft}");
    assert!(report["prompts"].as_str().unwrap().contains("counted by the server's tokeniser"), "{report}");
}

#[test]
fn failures_are_counted_with_their_reason() {
    let (url, _) = spawn(5);
    let report =
        bench(&["--url", &url, "--clients", "2", "--requests", "20", "--warmup", "0", "--goodput", "ttft:60000"]);
    let server = &report["servers"][0];
    assert_eq!(server["failed"]["HTTP 429"]["count"], 4, "{server}");
    assert!(server["failed"]["HTTP 429"]["example"].as_str().unwrap().contains("the queue is full"));
    assert_eq!(server["good_fraction"].as_f64(), Some(0.8));
}

#[test]
fn open_loop_and_two_servers_in_turns() {
    let ((first, seen_first), (second, seen_second)) = (spawn(0), spawn(0));
    let urls = ["--url", &first, "--url", &second];
    let load = ["--rate", "200", "--requests", "12", "--rounds", "3", "--warmup", "0"];
    let report = bench(&[&urls[..], &load].concat());
    assert_eq!(seen_first.requests.load(Ordering::SeqCst), 12);
    assert_eq!(seen_second.requests.load(Ordering::SeqCst), 12);
    assert!(report["servers"][1]["ratio_to_first"].as_f64().unwrap() > 0.0);
    assert!(report["servers"][0]["ratio_to_first"].is_null());
}

#[test]
fn a_duration_ends_it() {
    let (url, _) = spawn(0);
    let report = bench(&["--url", &url, "--clients", "2", "--duration", "0.5", "--warmup", "0"]);
    let server = &report["servers"][0];
    let seconds = server["seconds"].as_f64().unwrap();
    assert!((0.5..5.0).contains(&seconds), "{seconds}");
    assert!(server["succeeded"].as_u64().unwrap() > 2);
}

#[test]
fn a_file_of_prompts_is_used_in_turn() {
    let (url, _) = spawn(0);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("prompts.jsonl");
    std::fs::write(&path, "{\"prompt\": \"a\", \"max_tokens\": 2}\n{\"prompt\": \"b\", \"max_tokens\": 4}\n").unwrap();
    let report = bench(&["--url", &url, "--prompts", path.to_str().unwrap(), "--requests", "4", "--warmup", "0"]);
    assert_eq!(report["servers"][0]["output_tokens"], 12);
}

#[test]
fn the_table_has_every_figure() {
    let (url, _) = spawn(0);
    let output = run(&["bench", "load", "--url", &url, "--requests", "4", "--clients", "2"], "");
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["requests/s", "output tok/s", "p50", "p99", "time to first token", "end to end", "4/4"] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn a_server_that_is_not_there_fails_at_once() {
    let output = run(&["bench", "load", "--url", "http://127.0.0.1:1", "--requests", "4"], "");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("cannot reach http://127.0.0.1:1"), "{error}");
}
