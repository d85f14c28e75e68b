//! Every chat template of the shared folder against Python's Jinja2. The expected texts are the output of
//! `tests/data/render_templates.py`, which also records where Python refuses; then we must refuse too.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};
use yantra_text::{ChatInput, ChatTemplate, Clock};

use crate::support::shared;

pub(crate) fn expectations() -> Value {
    serde_json::from_str(include_str!("../data/rendered_templates.json")).unwrap()
}

/// 4 March 2026, 05:06:07, as in the script.
fn clock() -> Clock {
    Arc::new(|| UNIX_EPOCH + Duration::from_secs(1_772_600_767))
}

fn render(template: &ChatTemplate, case: &Value) -> Result<String, String> {
    let input = ChatInput {
        messages: &case["messages"],
        tools: Some(&case["tools"]).filter(|tools| !tools.is_null()),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
        extra: case["extra"].as_object().unwrap(),
    };
    template.render(&input).map_err(|error| error.to_string())
}

/// Where two texts part.
fn difference(got: &str, expected: &str) -> String {
    let at = got.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
    let around = |text: &str| {
        let bytes = &text.as_bytes()[at.saturating_sub(40)..text.len().min(at + 60)];
        format!("{:?}", String::from_utf8_lossy(bytes))
    };
    format!("at byte {at}\n  got      {}\n  expected {}", around(got), around(expected))
}

#[test]
fn templates_render_as_in_python() {
    let Some(folder) = shared("data/models/chat_templates") else { return };
    let expectations = expectations();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (name, cases) in expectations["rendered"].as_object().unwrap() {
        let source = fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::with_clock(&source, "<BOS>", "<EOS>", clock()).unwrap();
        for (case, expected) in cases.as_object().unwrap() {
            checked += 1;
            match (render(&template, &expectations["cases"][case]), expected["text"].as_str()) {
                (Ok(got), Some(expected)) if got == expected => {}
                (Err(_), None) => {}
                (Ok(got), Some(expected)) => wrong.push(format!("{name}/{case} {}", difference(&got, expected))),
                (Ok(got), None) => wrong.push(format!("{name}/{case} rendered {got:?}, Python: {}", expected["error"])),
                (Err(error), Some(_)) => wrong.push(format!("{name}/{case}: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {checked} differ\n{}", wrong.len(), wrong.join("\n"));
    println!("{checked} renderings are Python's");
}

/// A comparison in which Python only refuses would show nothing.
#[test]
fn every_template_renders_four_messages_and_its_tools() {
    let Some(folder) = shared("data/models/chat_templates") else { return };
    let expectations = expectations();
    let cases = expectations["cases"].as_object().unwrap();
    for (name, renderings) in expectations["rendered"].as_object().unwrap() {
        let texts = |wanted: fn(&Value) -> bool| {
            let texts = cases
                .iter()
                .filter(move |(_, case)| wanted(case))
                .filter_map(|(case, _)| renderings.get(case).and_then(|rendering| rendering["text"].as_str()));
            texts.collect::<Vec<&str>>()
        };
        let four = |case: &Value| case["messages"].as_array().unwrap().len() >= 4;
        assert!(!texts(four).is_empty(), "{name} renders no conversation of four messages");
        let source = fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        if ChatTemplate::new(&source, "<BOS>", "<EOS>").unwrap().supports_tools() {
            let tools = texts(|case| !case["tools"].is_null());
            assert!(tools.iter().any(|text| text.contains("get_weather")), "{name} shows no tools");
        }
    }
}

#[test]
fn snippets_render_as_in_python() {
    let expectations = expectations();
    let mut wrong = Vec::new();
    for snippet in expectations["snippets"].as_array().unwrap() {
        let source = snippet["source"].as_str().unwrap();
        let case = &expectations["cases"]["snippet"];
        let got = ChatTemplate::with_clock(source, "<BOS>", "<EOS>", clock())
            .map_err(|error| error.to_string())
            .and_then(|template| render(&template, case));
        match (got, snippet["text"].as_str()) {
            (Ok(got), Some(expected)) if got == expected => {}
            (Err(_), None) => {}
            (got, _) => wrong.push(format!("{source:?}\n  got    {got:?}\n  python {snippet}")),
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn tool_support_is_found_by_trying() {
    let Some(folder) = shared("data/models/chat_templates") else { return };
    let supports = |name: &str| {
        let source = fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        ChatTemplate::new(&source, "<BOS>", "<EOS>").unwrap().supports_tools()
    };
    for name in ["Qwen-Qwen2.5-7B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "mistralai-Mistral-Nemo-Instruct-2407"]
    {
        assert!(supports(name), "{name}");
    }
    for name in ["google-gemma-2-2b-it", "microsoft-Phi-3.5-mini-instruct", "llama-cpp-rwkv-world"] {
        assert!(!supports(name), "{name}");
    }
}

#[test]
fn a_refusal_carries_the_templates_own_words() {
    let template = ChatTemplate::new("\n{{ raise_exception('roles must alternate') }}", "", "").unwrap();
    let messages = serde_json::json!([]);
    let input = ChatInput { messages: &messages, tools: None, add_generation_prompt: false, extra: &Map::new() };
    let error = template.render(&input).unwrap_err().to_string();
    assert_eq!(error, "chat template: roles must alternate (line 2 of the template)");
}

#[test]
fn invalid_templates_are_refused_with_the_line() {
    let error = ChatTemplate::new("ok\n{% if %}", "", "").unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn endless_templates_run_out_of_fuel() {
    let source = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    let template = ChatTemplate::new(source, "", "").unwrap();
    let messages = serde_json::json!([]);
    let input = ChatInput { messages: &messages, tools: None, add_generation_prompt: false, extra: &Map::new() };
    assert!(template.render(&input).is_err());
}
