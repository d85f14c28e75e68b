//! JSON Schema's own test suite (draft 2020-12, required tests) against our grammars.
//!
//! A schema is refused, naming the keyword that is not followed, or it is followed exactly: every valid instance can be
//! written and no invalid one. Grammars write an object's properties in one order and whole numbers without a point, so
//! an instance counts as one that can be written if it can in some order of its properties and some spelling of its
//! numbers. `format` is an assertion, as the draft's format-assertion vocabulary has it; the required tests take it as an
//! annotation, so instead of those of `format.json` the optional ones of the formats that are known are run.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use yantra_engine::{Constraint, EngineConfig, EngineHandle};

use crate::fake::FakeModel;

/// Every order of the properties of every object in `value`, as texts; at most a few thousand.
fn orders(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => {
            let start = vec![String::new()];
            let joined = items.iter().fold(start, |texts, item| {
                let separator = |text: &String| if text.is_empty() { "" } else { "," };
                texts
                    .iter()
                    .flat_map(|text| {
                        orders(item).into_iter().map(move |item| format!("{text}{}{item}", separator(text)))
                    })
                    .collect()
            });
            joined.into_iter().map(|text| format!("[{text}]")).collect()
        }
        Value::Object(object) => {
            let mut texts = Vec::new();
            permute(object, &mut Vec::new(), &mut texts);
            texts.into_iter().map(|text| format!("{{{text}}}")).collect()
        }
        // 1.0 is 1, which is how grammars write it.
        Value::Number(number) => match number.as_f64() {
            Some(real) if real.fract() == 0.0 && real.abs() < 1e17 => vec![number.to_string(), format!("{real:.0}")],
            _ => vec![number.to_string()],
        },
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

/// Formats that grammars know, each with a file of tests. Less is written than they allow (leap seconds, quoted names in
/// mail addresses, IPv4 within IPv6), never more; host names are the exception, whose Punycode is not looked into.
const FORMATS: [&str; 9] = ["date-time", "date", "duration", "email", "ipv4", "ipv6", "time", "uri", "uuid"];

fn files(suite: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(suite).unwrap().map(|entry| entry.unwrap().path()).collect();
    files
        .retain(|path| path.extension().is_some_and(|extension| extension == "json") && !path.ends_with("format.json"));
    files.sort();
    files
}

#[derive(Default)]
struct Count {
    schemas: usize,
    followed: usize,
    instances: usize,
    wrong: Vec<String>,
}

impl Count {
    fn add(&mut self, engine: &EngineHandle, path: &Path) {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let groups: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for group in groups.as_array().unwrap() {
            self.schemas += 1;
            let title = format!("{name}: {}", group["description"].as_str().unwrap());
            let grammar = match engine.compile(&Constraint::JsonSchema(group["schema"].clone())) {
                Ok(grammar) => grammar,
                Err(error) => {
                    let message = error.to_string();
                    let is_named = message.starts_with('\'') || message.starts_with("Unsatisfiable schema");
                    assert!(is_named, "refused without a keyword: {title}: {message}");
                    continue;
                }
            };
            self.followed += 1;
            for test in group["tests"].as_array().unwrap() {
                self.instances += 1;
                let valid = test["valid"].as_bool().unwrap();
                let found = orders(&test["data"]).iter().any(|text| grammar.accepts(text));
                if found != valid {
                    self.wrong.push(format!("{title}: {}: valid {valid}, {}", test["description"], test["data"]));
                }
            }
        }
    }
}

#[test]
fn schemas_are_followed_exactly_or_refused() {
    let Some(suite) = suite() else { return };
    // Its tokens are bytes: only the grammar matters, and not how tokens cut a text.
    let engine = FakeModel::new(16, 64).spawn(EngineConfig::default());
    let mut count = Count::default();
    files(&suite).iter().for_each(|path| count.add(&engine, path));
    let Count { schemas, followed, instances, wrong } = count;
    eprintln!("{followed} of {schemas} schemas followed, {instances} instances, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What llguidance 1.9 takes.
    assert!(followed >= 159, "{followed} of {schemas} schemas");
}

#[test]
fn formats_are_followed() {
    let Some(suite) = suite() else { return };
    let engine = FakeModel::new(16, 64).spawn(EngineConfig::default());
    let mut count = Count::default();
    FORMATS.iter().for_each(|format| count.add(&engine, &suite.join(format!("optional/format/{format}.json"))));
    let Count { followed, instances, wrong, .. } = count;
    let (allowed, missing): (Vec<String>, Vec<String>) =
        wrong.into_iter().partition(|text| text.contains("valid false"));
    eprintln!("{followed} formats, {instances} instances, {} never written", missing.len());
    assert!(allowed.is_empty(), "{}", allowed.join("\n"));
    assert!(missing.len() <= 16, "{}", missing.join("\n"));
}
