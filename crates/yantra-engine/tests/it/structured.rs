//! Sampled answers of SmolLM2 under more than a hundred constraints, judged by programs that are not ours: the
//! `jsonschema` and `regex` crates.

use std::{sync::mpsc, time::Instant};

use regex::Regex;
use serde_json::{Value, json};
use yantra_engine::{
    Constraint, EngineConfig, EngineHandle, Event, FinishReason, Grammar, Request, SamplingParams,
    load::{LoadOptions, ModelKind, load},
};
use yantra_kernels::Compute;
use yantra_text::{EncodeOptions, Tokenizer};

use crate::real_model::model;

/// A constraint and who says whether a text keeps it.
struct Case {
    name: String,
    constraint: Constraint,
    judge: Box<dyn Fn(&str) -> bool>,
}

impl Case {
    fn schema(name: impl Into<String>, schema: Value) -> Self {
        let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
        let judge = move |text: &str| serde_json::from_str(text).is_ok_and(|value: Value| validator.is_valid(&value));
        Self { name: name.into(), constraint: Constraint::JsonSchema(schema), judge: Box::new(judge) }
    }

    fn regex(pattern: &str) -> Self {
        let whole = Regex::new(&format!("^(?s:{pattern})$")).unwrap();
        let judge = move |text: &str| whole.is_match(text);
        Self { name: format!("/{pattern}/"), constraint: Constraint::Regex(pattern.to_owned()), judge: Box::new(judge) }
    }

    fn lark(name: &str, grammar: &str, language: &str) -> Self {
        let whole = Regex::new(&format!("^(?s:{language})$")).unwrap();
        let balanced = |text: &str| {
            text.chars().try_fold(0i32, |depth, c| match c {
                '(' => Some(depth + 1),
                ')' => (depth > 0).then(|| depth - 1),
                _ => Some(depth),
            }) == Some(0)
        };
        let judge = move |text: &str| whole.is_match(text) && balanced(text);
        Self { name: name.to_owned(), constraint: Constraint::Lark(grammar.to_owned()), judge: Box::new(judge) }
    }

    fn choice(choices: &[&str]) -> Self {
        let choices: Vec<String> = choices.iter().map(|&choice| choice.to_owned()).collect();
        let name = choices.join("|");
        let constraint = Constraint::Choice(choices.clone());
        Self { name, constraint, judge: Box::new(move |text| choices.iter().any(|choice| choice == text)) }
    }
}

/// Kinds of values that properties of real schemas have.
fn kinds() -> Vec<(&'static str, Value)> {
    vec![
        ("name", json!({"type": "string"})),
        ("title", json!({"type": "string", "maxLength": 12})),
        ("code", json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"})),
        ("age", json!({"type": "integer", "minimum": 0, "maximum": 150})),
        ("price", json!({"type": "number", "minimum": 0, "exclusiveMaximum": 1000})),
        ("even", json!({"type": "integer", "multipleOf": 2, "minimum": -8, "maximum": 8})),
        ("is_open", json!({"type": "boolean"})),
        ("nothing", json!({"type": "null"})),
        ("colour", json!({"enum": ["red", "green", "blue", 7, null]})),
        ("version", json!({"const": "v1.2"})),
        ("day", json!({"type": "string", "format": "date"})),
        ("when", json!({"type": "string", "format": "date-time"})),
        ("id", json!({"type": "string", "format": "uuid"})),
        ("mail", json!({"type": "string", "format": "email"})),
        ("address", json!({"type": "string", "format": "ipv4"})),
        ("tags", json!({"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3})),
        (
            "point",
            json!({"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}], "items": false, "minItems": 2}),
        ),
        ("either", json!({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}]})),
        (
            "nested",
            json!({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": false}),
        ),
        ("map", json!({"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2})),
    ]
}

fn schemas() -> Vec<Case> {
    let kinds = kinds();
    let object = |properties: &[&(&str, Value)], extra: bool| {
        let names: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
        let values: serde_json::Map<String, Value> =
            properties.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone())).collect();
        json!({"type": "object", "properties": values, "required": names, "additionalProperties": extra})
    };
    let mut cases: Vec<Case> = kinds.iter().map(|(name, kind)| Case::schema(*name, kind.clone())).collect();
    for (at, first) in kinds.iter().enumerate() {
        for step in [1, 3, 7] {
            let second = &kinds[(at + step) % kinds.len()];
            cases.push(Case::schema(format!("{}+{}", first.0, second.0), object(&[first, second], false)));
        }
        let three = [first, &kinds[(at + 5) % kinds.len()], &kinds[(at + 11) % kinds.len()]];
        cases.push(Case::schema(format!("three from {}", first.0), object(&three, false)));
    }
    let tree = json!({
        "$defs": {"node": {"type": "object", "properties": {
            "value": {"type": "integer"}, "left": {"$ref": "#/$defs/node"}, "right": {"$ref": "#/$defs/node"},
        }, "required": ["value"], "additionalProperties": false}},
        "$ref": "#/$defs/node",
    });
    cases.push(Case::schema("a tree", tree));
    let shapes = json!({"oneOf": [
        {"type": "object", "properties": {"kind": {"const": "circle"}, "radius": {"type": "number"}}, "required": ["kind", "radius"]},
        {"type": "object", "properties": {"kind": {"const": "square"}, "side": {"type": "number"}}, "required": ["kind", "side"]},
    ]});
    cases.push(Case::schema("shapes", shapes));
    cases.push(Case::schema("open object", object(&[&kinds[0]], true)));
    cases.push(Case::schema("any object", json!({"type": "object"})));
    cases
}

fn cases() -> Vec<Case> {
    let mut cases = schemas();
    let patterns = [
        "[0-9]{3}-[0-9]{4}",
        "(yes|no|maybe)( please)?",
        "[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8})?",
        "#[0-9a-f]{6}",
        "[a-z]+@[a-z]+\\.(com|org)",
        "(0|[1-9][0-9]*)(\\.[0-9]{1,3})?",
        "v[0-9]\\.[0-9]\\.[0-9]",
        "[^\\n]{0,20}\\n",
        "(नमस्ते|धन्यवाद)!",
        "\\{[a-c](,[a-c])*\\}",
    ];
    cases.extend(patterns.iter().map(|pattern| Case::regex(pattern)));
    cases.push(Case::lark("sums", "start: term (\"+\" term)*\nterm: /[0-9]{1,3}/ | \"(\" start \")\"", "[0-9+()]+"));
    cases.push(Case::lark(
        "queries",
        "start: \"SELECT \" NAME (\", \" NAME)* \" FROM \" NAME \";\"\nNAME: /[a-z]{1,8}/",
        "SELECT [a-z]{1,8}(, [a-z]{1,8})* FROM [a-z]{1,8};",
    ));
    cases.push(Case::lark("lists", "start: (\"- \" /[^\\n]{1,20}/ \"\\n\")+", "(- [^\\n]{1,20}\\n)+"));
    cases.push(Case::choice(&["positive", "negative", "neutral"]));
    cases.push(Case::choice(&["a", "ab", "abc", "\"quoted\"", "line\nbreak"]));
    cases.push(Case::choice(&["हाँ", "नहीं"]));
    cases
}

struct Answer {
    case: usize,
    text: String,
    reason: Option<FinishReason>,
    usage: usize,
}

/// Sends `count` requests, each under the next constraint, and waits for their answers.
fn generate(engine: &EngineHandle, tokenizer: &Tokenizer, grammars: &[Grammar], count: usize) -> Vec<Answer> {
    let prompt = tokenizer.encode("Here is an example:\n", EncodeOptions::text()).unwrap();
    let (sender, events) = mpsc::channel();
    for number in 0..count {
        let sender = sender.clone();
        let request = Request {
            prompt: prompt.clone(),
            max_tokens: Some(48),
            sampling: SamplingParams { temperature: 1.0, seed: Some(number as u64), ..SamplingParams::default() },
            grammar: Some(grammars[number % grammars.len()].clone()),
            ..Request::default()
        };
        engine.submit(request, Box::new(move |event| sender.send((number, event)).is_ok())).unwrap();
    }
    let answer = |number: usize| Answer { case: number % grammars.len(), text: String::new(), reason: None, usage: 0 };
    let mut answers: Vec<Answer> = (0..count).map(answer).collect();
    let mut open = count;
    while open > 0 {
        let (number, event) = events.recv().unwrap();
        let answer = &mut answers[number];
        match event {
            Event::Token { text, .. } => answer.text += &text,
            Event::Finished { text, reason, .. } => {
                answer.text += &text;
                answer.reason = Some(reason);
            }
            Event::Done { usage, .. } => {
                answer.usage = usage.completion_tokens;
                open -= 1;
            }
            Event::Error(error) => panic!("{error}"),
            Event::PromptLogprobs(_) => {}
        }
    }
    answers
}

fn check_answers(count: usize) {
    let Some(path) = model() else { return };
    let engine_config = EngineConfig { max_queue: count, ..EngineConfig::default() };
    let options = LoadOptions { context: Some(256), engine: engine_config, ..LoadOptions::default() };
    let loaded = load(&path, &std::sync::Arc::new(Compute::new(2)), &options, |_| {}).unwrap();
    let ModelKind::Generate(engine) = &loaded.kind else { panic!("SmolLM2 generates") };
    let cases = cases();
    assert!(cases.len() >= 100);
    let compile =
        |case: &Case| engine.compile(&case.constraint).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let grammars: Vec<Grammar> = cases.iter().map(compile).collect();
    let started = Instant::now();
    let answers = generate(engine, &loaded.tokenizer, &grammars, count);
    let seconds = started.elapsed().as_secs_f64();
    let (mut whole, mut cut, mut tokens) = (0, 0, 0);
    for answer in &answers {
        let case = &cases[answer.case];
        tokens += answer.usage;
        match answer.reason {
            Some(FinishReason::Stop) => {
                whole += 1;
                assert!((case.judge)(&answer.text), "{}: {:?}", case.name, answer.text);
            }
            Some(FinishReason::Length) => {
                cut += 1;
                // The last character may be half a one.
                let text = answer.text.trim_end_matches('\u{fffd}');
                assert!(grammars[answer.case].accepts_start(text), "{}: {:?}", case.name, answer.text);
            }
            ref other => panic!("{}: {other:?}", case.name),
        }
    }
    let stats = engine.stats();
    let masks = &stats.grammar_mask_seconds;
    eprintln!(
        "{count} answers under {} constraints: {whole} whole, {cut} cut by max_tokens, all valid; {tokens} tokens in {seconds:.1} s; \
         masks: {} of {:.0} µs in the mean, 99 % within {:.0} µs; {} tokens forced",
        cases.len(),
        masks.count,
        masks.mean().unwrap_or(0.0) * 1e6,
        masks.quantile(0.99).unwrap_or(0.0) * 1e6,
        stats.forced_tokens,
    );
    assert!(whole > cut);
}

#[test]
fn answers_keep_their_constraints() {
    check_answers(150);
}

#[test]
#[ignore = "takes minutes without optimisation"]
fn a_thousand_answers_keep_their_constraints() {
    check_answers(1000);
}
