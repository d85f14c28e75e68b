//! JSON Schema's own test suite (draft 2020-12, required tests) against our grammars.
//!
//! A schema is refused, naming the keyword that is not followed, or it is followed exactly: every valid instance can be
//! written and no invalid one. Grammars write an object's properties in one order, so an instance counts as one that can
//! be written if it can in some order of its properties.

use std::path::PathBuf;

use serde_json::{Map, Value};
use yantra_engine::{Constraint, EngineConfig};

use crate::fake::FakeModel;

/// Every order of the properties of every object in `value`, as texts; at most a few thousand.
fn orders(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => {
            let start = vec![String::new()];
            let joined = items.iter().fold(start, |texts, item| {
                let separator = |text: &String| if text.is_empty() { "" } else { "," };
                texts.iter().flat_map(|text| orders(item).into_iter().map(move |item| format!("{text}{}{item}", separator(text)))).collect()
            });
            joined.into_iter().map(|text| format!("[{text}]")).collect()
        }
        Value::Object(object) => {
            let mut texts = Vec::new();
            permute(object, &mut Vec::new(), &mut texts);
            texts.into_iter().map(|text| format!("{{{text}}}")).collect()
        }
        other => vec![other.to_string()],
    }
}

fn permute<'a>(object: &'a Map<String, Value>, chosen: &mut Vec<&'a str>, texts: &mut Vec<String>) {
    if texts.len() > 2000 {
        return;
    }
    if chosen.len() == object.len() {
        let mut pairs = vec![String::new()];
        for key in chosen.iter() {
            let values = orders(&object[*key]);
            let name = Value::from(*key).to_string();
            pairs = pairs
                .iter()
                .flat_map(|text| values.iter().map(move |value| (text.clone(), value)))
                .map(|(text, value)| format!("{text}{}{name}:{value}", if text.is_empty() { "" } else { "," }))
                .collect();
        }
        texts.extend(pairs);
        return;
    }
    for key in object.keys() {
        if !chosen.contains(&key.as_str()) {
            chosen.push(key);
            permute(object, chosen, texts);
            chosen.pop();
        }
    }
}

fn suite() -> Option<PathBuf> {
    let root = std::env::var_os("YANTRA_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    let path = root.join("data/structured/json_schema_test_suite/tests/draft2020-12");
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var("YANTRA_REQUIRE_DATA").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == "shared" || word == "1"), "{} is not there", path.display());
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

#[test]
fn schemas_are_followed_exactly_or_refused() {
    let Some(suite) = suite() else { return };
    // Its tokens are bytes: only the grammar matters, and not how tokens cut a text.
    let engine = FakeModel::new(16, 64).spawn(EngineConfig::default());
    let mut files: Vec<PathBuf> = std::fs::read_dir(suite).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let (mut schemas, mut accepted, mut instances, mut wrong) = (0, 0, 0, Vec::new());
    for path in files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let groups: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for group in groups.as_array().unwrap() {
            schemas += 1;
            let title = format!("{name}: {}", group["description"].as_str().unwrap());
            let grammar = match engine.compile(&Constraint::JsonSchema(group["schema"].clone())) {
                Ok(grammar) => grammar,
                Err(error) => {
                    eprintln!("refused {title}: {error}");
                    continue;
                }
            };
            accepted += 1;
            for test in group["tests"].as_array().unwrap() {
                instances += 1;
                let valid = test["valid"].as_bool().unwrap();
                let found = orders(&test["data"]).iter().any(|text| grammar.accepts(text));
                if found != valid {
                    wrong.push(format!("{title}: {}: valid {valid}, {}", test["description"], test["data"]));
                }
            }
        }
    }
    eprintln!("{accepted} of {schemas} schemas followed, {instances} instances, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
