#![allow(clippy::unwrap_used)]
use std::path::Path;

use serde_json::json;

use super::*;

fn trace(owner: Option<&str>, number: u64, asked: &str, answered: &str) -> NewTrace {
    let facts = TraceFacts {
        request_id: format!("request-{number}"),
        answer_id: Some(format!("chatcmpl-{number}")),
        owner: owner.map(str::to_owned),
        tenant: owner.map(str::to_owned),
        endpoint: "/v1/chat/completions".to_owned(),
        model: "m".to_owned(),
        state: "done".to_owned(),
        status: Some(200),
        finish_reasons: vec!["stop".to_owned(), "length".to_owned()],
        created_ms: number * 1000,
        time_to_first_token_ms: Some(1.5),
        total_ms: 7.25,
        prompt_tokens: 3,
        completion_tokens: 5,
        ..TraceFacts::default()
    };
    let input = json!({"messages": [{"role": "user", "content": asked}]});
    let output = Some(json!({"choices": [{"message": {"role": "assistant", "content": answered}}]}));
    NewTrace { facts, input, output }
}

fn open(directory: &tempfile::TempDir) -> Store {
    Store::open(directory.path()).unwrap()
}

fn list(store: &Store, of: TracesOf) -> Option<Vec<String>> {
    let of = TracesOf { limit: if of.limit == 0 { 100 } else { of.limit }, ..of };
    let page = store.traces(&of).unwrap()?;
    Some(page.items.into_iter().map(|trace| trace.facts.request_id.replace("request-", "")).collect())
}

fn found(store: &Store, query: &str) -> String {
    list(store, TracesOf { query: Some(query.to_owned()), ..TracesOf::default() }).unwrap().join(" ")
}

fn everything_in(directory: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).flat_map(|path| std::fs::read(path).unwrap()).collect()
}

fn has(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

#[test]
fn traces_are_kept_listed_and_deleted_by_their_owner() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let new: Vec<_> =
        (1..=4).map(|n| trace([None, Some("a"), Some("b")][n as usize % 3], n, "Hello?", "Hi.")).collect();
    store.add_traces(&new).unwrap();
    drop(store);
    let store = open(&directory);
    let whole = store.trace(Some("a"), "request-1").unwrap().unwrap();
    assert_eq!(whole.summary.facts, new[0].facts);
    assert_eq!(
        (whole.input, whole.output.unwrap()),
        (new[0].input.to_string(), new[0].output.clone().unwrap().to_string())
    );
    assert_eq!(whole.summary.snippet, "Hello?");
    let id = whole.summary.id;
    for name in [&id, "chatcmpl-1"] {
        assert_eq!(store.trace(Some("a"), name).unwrap().unwrap().summary.id, id);
        assert_eq!(store.trace(None, name).unwrap().unwrap().summary.id, id, "without tenants all are seen");
        assert_eq!(store.trace(Some("b"), name).unwrap(), None);
    }
    let of = |owner: Option<&str>| TracesOf { owner: owner.map(str::to_owned), ..TracesOf::default() };
    assert_eq!(list(&store, of(Some("a"))).unwrap(), ["4", "1"]);
    assert_eq!(list(&store, of(None)).unwrap(), ["4", "3", "2", "1"]);
    assert_eq!(list(&store, TracesOf { after: Some(id.clone()), ..of(Some("b")) }), None, "another's trace is none");
    assert!(!store.delete_trace(Some("b"), &id).unwrap());
    assert!(store.delete_trace(Some("a"), &id).unwrap() && !store.delete_trace(Some("a"), &id).unwrap());
    assert_eq!(found(&store, "hello"), "4 3 2");
}

#[test]
fn lists_are_filtered_and_come_in_pages() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let mut new: Vec<_> = (1..=6).map(|n| trace(None, n, "word", "")).collect();
    new[1].facts.model = "other".to_owned();
    new[3].facts.endpoint = "/v1/embeddings".to_owned();
    store.add_traces(&new).unwrap();
    let some = |text: &str| Some(text.to_owned());
    let all = TracesOf::default;
    assert_eq!(list(&store, TracesOf { model: some("other"), ..all() }).unwrap(), ["2"]);
    assert_eq!(list(&store, TracesOf { endpoint: some("/v1/embeddings"), ..all() }).unwrap(), ["4"]);
    let times = TracesOf { since_ms: Some(2000), until_ms: Some(5000), ..all() };
    assert_eq!(list(&store, times).unwrap(), ["4", "3", "2"]);
    assert_eq!(list(&store, TracesOf { until_ms: Some(u64::MAX), limit: 1, ..all() }).unwrap(), ["6"]);
    for query in [None, some("word")] {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let of = TracesOf { query: query.clone(), after: after.clone(), limit: 4, ..all() };
            let page = store.traces(&of).unwrap().unwrap();
            after = page.items.last().map(|trace| trace.id.clone());
            seen.extend(page.items.into_iter().map(|trace| trace.facts.created_ms / 1000));
            if !page.has_more {
                break;
            }
        }
        assert_eq!(seen, [6, 5, 4, 3, 2, 1], "{query:?}");
    }
    let oldest = store.whole_traces(&TracesOf { limit: 2, ascending: true, ..all() }).unwrap().unwrap();
    let ids: Vec<_> = oldest.items.iter().map(|trace| trace.summary.facts.created_ms).collect();
    assert_eq!((ids, oldest.has_more), (vec![1000, 2000], true));
}

#[test]
fn words_of_all_scripts_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store
        .add_traces(&[
            trace(None, 1, "नमस्ते दुनिया, मंत्र क्या है?", "यन्त्र"),
            trace(None, 2, "東京大学はどこですか", "文京区です"),
            trace(None, 3, "Où est le café?", "The quick brown fox"),
            trace(None, 4, "กรุงเทพมหานคร", "Привет, мир"),
        ])
        .unwrap();
    let check = |query: &str, expected: &str| assert_eq!(found(&store, query), expected, "{query}");
    check("नमस्ते", "1");
    check("दुनिया", "1");
    check("यन्त्र", "1");
    // Split at the virama these would be found.
    check("नमस", "");
    check("ते", "");
    check("नमस*", "1");
    check("大学", "2");
    check("大京", "");
    check("文京区", "2");
    check("CAFE", "3");
    check("café", "3");
    check("เทพ", "4");
    check("мир ПРИВЕТ", "4");
    check("\"quick brown\"", "3");
    check("\"brown quick\"", "");
    check("brown quick", "3");
    check("bro*", "3");
    check("bro", "");
    check("role assistant", "");
    let of = TracesOf { query: Some("大学".to_owned()), limit: 1, ..TracesOf::default() };
    assert_eq!(store.traces(&of).unwrap().unwrap().items[0].snippet, "東京大学はどこですか");
    let of = TracesOf { query: Some("fox".to_owned()), limit: 1, ..TracesOf::default() };
    assert_eq!(store.traces(&of).unwrap().unwrap().items[0].snippet, "The quick brown fox");
}

#[test]
fn no_question_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.add_traces(&[trace(None, 1, "'; DROP TABLE traces; --", "a NEAR b OR NOT c")]).unwrap();
    assert_eq!(found(&store, "'; DROP TABLE traces; --"), "1");
    assert_eq!(found(&store, "NOT c OR"), "1");
    let nasty = [
        "\"",
        "\"\"",
        "*",
        "a*b*",
        "^a",
        "input:a",
        "{input output}:a",
        "-a",
        "(",
        ")",
        "NEAR(a b, 2)",
        "a AND",
        "AND",
        "\0",
        "a\0b",
        "\u{200b}",
        "़",
        "%_",
        "\\",
        "' OR 1=1 --",
        "\"a\" + \"b\"",
        "🦊",
        "a^2",
        "rank MATCH 'x'",
        "\"*\"*",
    ];
    for query in nasty {
        found(&store, query);
    }
    found(&store, &"word ".repeat(10_000));
    found(&store, &"東".repeat(10_000));
    assert_eq!((found(&store, "?!"), found(&store, "  ")), (String::new(), "1".to_owned()));
}

#[test]
fn the_oldest_go_first_by_age_and_by_size() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let long = "x".repeat(1000);
    store.add_traces(&(1..=500).map(|n| trace(None, n, &format!("{long} word{n}"), "")).collect::<Vec<_>>()).unwrap();
    let all = store.trace_bytes().unwrap();
    let real: u64 = store
        .read(|connection| {
            Ok(connection.query_row("SELECT sum(length(input) + length(output)) FROM traces", [], |row| row.get(0))?)
        })
        .unwrap();
    assert_eq!(all, real);
    let count = || list(&store, TracesOf { limit: 1000, ..TracesOf::default() }).unwrap();
    let prune = |before_ms, max_bytes| {
        let (mut deleted, mut times) = (0, 0);
        loop {
            match store.prune_traces(before_ms, max_bytes).unwrap() {
                0 => return (deleted, times),
                some => (deleted, times) = (deleted + some, times + 1),
            }
        }
    };
    assert_eq!(prune(201_000, u64::MAX), (200, 2), "in small steps");
    assert_eq!(count().last().unwrap(), "201");
    let limit = store.trace_bytes().unwrap() - 1;
    assert_eq!(prune(0, limit), (1, 1), "no more than is needed");
    assert_eq!(count().last().unwrap(), "202");
    assert_eq!((found(&store, "word202"), found(&store, "word201")), ("202".to_owned(), String::new()));
    assert_eq!(prune(0, 0).0, 299);
    assert_eq!((count().len(), store.trace_bytes().unwrap()), (0, 0));
    let pages = |store: &Store| -> u64 {
        store.read(|connection| Ok(connection.pragma_query_value(None, "page_count", |row| row.get(0))?)).unwrap()
    };
    let before = pages(&store);
    store.add_traces(&(1..=200).map(|n| trace(None, n, &long, "")).collect::<Vec<_>>()).unwrap();
    assert!(pages(&store) <= before, "the space is used again");
    prune(u64::MAX, 0);
    store.compact().unwrap();
    assert!(pages(&store) < before / 2);
}

#[test]
fn what_is_deleted_is_gone_from_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.add_traces(&[trace(None, 1, "the password is xyzzyplugh", ""), trace(None, 2, "nothing", "")]).unwrap();
    assert!(has(&everything_in(directory.path()), "xyzzyplugh"));
    let id = store.trace(None, "request-1").unwrap().unwrap().summary.id;
    assert!(store.delete_trace(None, &id).unwrap());
    // The index forgets with its next merge, the log with its next beginning.
    store
        .read(|connection| Ok(connection.execute_batch("INSERT INTO traces_words (traces_words) VALUES ('optimize')")?))
        .unwrap();
    drop(store);
    assert!(!has(&everything_in(directory.path()), "xyzzyplugh"));
}

#[test]
fn others_may_look_while_a_server_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let error = Store::open_beside(directory.path()).unwrap_err();
    assert!(error.to_string().contains("cannot open"), "{error}");
    let store = open(&directory);
    store.add_traces(&[trace(None, 1, "one", ""), trace(None, 2, "two", "")]).unwrap();
    let beside = Store::open_beside(directory.path()).unwrap();
    assert_eq!(found(&beside, "two"), "2");
    assert_eq!(beside.prune_traces(2000, u64::MAX).unwrap(), 1);
    store.add_traces(&[trace(None, 3, "three", "")]).unwrap();
    assert_eq!((found(&store, "one"), found(&beside, "three")), (String::new(), "3".to_owned()));
    drop((store, beside));
    let alone = Store::open_beside(directory.path()).unwrap();
    assert_eq!(list(&alone, TracesOf::default()).unwrap(), ["3", "2"]);
    alone.read(|connection| Ok(connection.pragma_update(None, "user_version", 1)?)).unwrap();
    let error = Store::open_beside(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::TooOld { found: 1, .. }), "{error}");
}
