#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const THINK: Reasoning = Reasoning { begin: "<think>", end: "</think>", is_begun: false, is_over: false };

/// `f` takes `a`, which may be anything, a text `s` and a number `n`.
fn tools() -> Arc<[Tool]> {
    let parameters =
        json!({"type": "object", "properties": {"a": {}, "s": {"type": "string"}, "n": {"type": "integer"}}});
    ["f", "g", "g.h"].map(|name| Tool::read(0, &tool(name, &parameters)).unwrap()).into()
}

/// A parser for answers that may call `f`, `g` and `g.h`.
fn parser_of(dialect: Option<Dialect>) -> AnswerParser {
    AnswerParser::with_calls(dialect, tools(), Some(THINK))
}

/// All pieces of a text given in pieces, neighbours of one kind joined.
fn read<'a>(mut parser: AnswerParser, parts: impl IntoIterator<Item = &'a str>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut all: Vec<Piece> = parts.into_iter().flat_map(|part| parser.push(part)).collect();
    all.extend(parser.finish());
    for piece in all {
        match (pieces.last_mut(), &piece) {
            (Some(Piece::Content(last)), Piece::Content(more)) => last.push_str(more),
            (Some(Piece::Reasoning(last)), Piece::Reasoning(more)) => last.push_str(more),
            (Some(Piece::Arguments(last)), Piece::Arguments(more)) => last.push_str(more),
            _ => pieces.push(piece),
        }
    }
    pieces
}

/// Pieces in short: `content`, `?reasoning`, `!name`, `(arguments`.
fn short(pieces: &[Piece]) -> Vec<String> {
    let one = |piece: &Piece| match piece {
        Piece::Content(text) => text.clone(),
        Piece::Reasoning(text) => format!("?{text}"),
        Piece::Call { name } => format!("!{name}"),
        Piece::Arguments(text) => format!("({text}"),
    };
    pieces.iter().map(one).collect()
}

fn check(dialect: Dialect, text: &str, expected: &[&str]) {
    let parser = || parser_of(Some(dialect));
    assert_eq!(short(&read(parser(), [text])), expected, "{text:?}");
    let letters: Vec<String> = text.chars().map(String::from).collect();
    assert_eq!(short(&read(parser(), letters.iter().map(String::as_str))), expected, "{text:?} letter by letter");
    for (cut, _) in text.char_indices().skip(1) {
        let (head, tail) = text.split_at(cut);
        assert_eq!(short(&read(parser(), [head, tail])), expected, "{head:?} and {tail:?}");
    }
}

#[test]
fn hermes() {
    let one = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>";
    check(Dialect::Hermes, one, &["!f", "({\"a\": [1, \"}\"]}"]);
    check(
        Dialect::Hermes,
        &format!("Let me see.\n{one}\n{one}"),
        &["Let me see.", "!f", "({\"a\": [1, \"}\"]}", "!f", "({\"a\": [1, \"}\"]}"],
    );
    check(
        Dialect::Hermes,
        &format!("<think>\nhm</think>\n\n{one} Done."),
        &["?\nhm", "!f", "({\"a\": [1, \"}\"]}", "Done."],
    );
    check(Dialect::Hermes, "<tool_call>{\"arguments\": {}, \"name\": \"f\"}</tool_call>", &["!f", "({}"]);
    check(Dialect::Hermes, "<tool_call>{\"name\": \"f\"}</tool_call>", &["!f", "({}"]);
    check(Dialect::Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1", &["!f", "({\"a\": 1"]);
    check(Dialect::Hermes, "<tool_call>no JSON</tool_call>", &["<tool_call>no JSON</tool_call>"]);
    check(Dialect::Hermes, "<tool_call>{\"name\": 7}", &["<tool_call>{\"name\": 7}"]);
    check(Dialect::Hermes, "a <tool_ b", &["a <tool_ b"]);
    check(Dialect::Hermes, "```json\n{\n  \"name\": \"f\",\n  \"arguments\": {}\n}\n```", &["!f", "({}"]);
    let list = "[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {}}]";
    check(Dialect::Hermes, list, &["!f", "({}", "!g", "({}"]);
    check(Dialect::Hermes, &format!("Both:\n```json\n{list}\n```\n"), &["Both:", "!f", "({}", "!g", "({}"]);
    let person = "```json\n{\"name\": \"Anna\", \"age\": 7}\n```";
    check(Dialect::Hermes, person, &[person]);
    check(Dialect::Hermes, "{\"a\": 1}\n", &["{\"a\": 1}\n"]);
    check(Dialect::Hermes, "  ", &["  "]);
}

#[test]
fn llama() {
    check(Dialect::Llama, "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", &["!f", "({\"a\": 1}"]);
    let two = "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}";
    check(Dialect::Llama, two, &["!f", "({}", "!g", "({}"]);
    check(
        Dialect::Llama,
        "{\"name\": \"f\", \"parameters\": {}}\n{\"name\": \"g\", \"parameters\": {}}",
        &["!f", "({}", "!g", "({}"],
    );
    check(Dialect::Llama, "{\"city\": \"Rome\"}", &["{\"city\": \"Rome\"}"]);
    check(Dialect::Llama, "It is {x}.", &["It is {x}."]);
}

#[test]
fn pythonic() {
    let text = "[f(a=1, b='it\\'s \"x\"', c=[True, None, 2.5], d={'k': (1, 2)}), g.h()]";
    check(
        Dialect::Pythonic,
        text,
        &[
            "!f",
            "({\"a\": 1, \"b\": \"it's \\\"x\\\"\", \"c\": [true, null, 2.5], \"d\": {\"k\": [1, 2]}}",
            "!g.h",
            "({}",
        ],
    );
    check(Dialect::Pythonic, "[1, 2]", &["[1, 2]"]);
    check(Dialect::Gemma, "Sure:\n```tool_code\nf(a=\"x\")\n```", &["Sure:", "!f", "({\"a\": \"x\"}"]);
    check(Dialect::Gemma, "```tool_code\n[f(), g()]\n```", &["!f", "({}", "!g", "({}"]);
}

#[test]
fn mistral() {
    check(
        Dialect::Mistral,
        "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
        &["!f", "({\"a\": 1}", "!g", "({}"],
    );
    check(Dialect::Mistral, "[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{}", &["!f", "({\"a\": 1}", "!g", "({}"]);
    check(Dialect::Mistral, "[TOOL_CALLS]f{\"a\": 1}", &["!f", "({\"a\": 1}"]);
    check(Dialect::Mistral, "[TOOL", &["[TOOL"]);
}

#[test]
fn deepseek() {
    let v3 = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n\
              <｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    check(Dialect::DeepSeek, v3, &["!f", "({\"a\": 1}", "!g", "({}"]);
    let v31 = "Now.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    check(Dialect::DeepSeek, v31, &["Now.", "!f", "({\"a\": 1}"]);
}

#[test]
fn calls_in_tags() {
    let qwen = "<tool_call>\n<function=f>\n<parameter=s>\nHe said \"no\".\n\n</parameter>\n<parameter=n>\n7\n</parameter>\n\
                <parameter=a>\n{\"k\": [1]}\n</parameter>\n</function>\n</tool_call>";
    let arguments = "({\"s\": \"He said \\\"no\\\".\\n\", \"n\": 7, \"a\": {\"k\": [1]}}";
    let two = format!("<think>\nhm\n</think>\n\nNow.\n\n{qwen}\n{qwen}");
    check(Dialect::Qwen3Coder, &two, &["?\nhm\n", "Now.", "!f", arguments, "!f", arguments]);
    check(Dialect::Qwen3Coder, "<tool_call>\n<function=g>\n</function>\n</tool_call>", &["!g", "({}"]);
    // What models forget.
    check(Dialect::Qwen3Coder, "<function=f>\n<parameter=s>7</parameter></tool_call>", &["!f", "({\"s\": \"7\"}"]);
    check(Dialect::Qwen3Coder, "<tool_call><function=f><parameter=s>\na < b\n</par", &["!f", "({\"s\": \"a < b"]);
    check(Dialect::Qwen3Coder, "<tool_call><function=f>so", &["!f", "({}", "so"]);
    check(Dialect::Qwen3Coder, "<tool_call><function=x>\n", &["<tool_call><function=x>\n"]);
    check(Dialect::Qwen3Coder, "a <function b", &["a <function b"]);

    let glm = "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value> 7</arg_value>\n<arg_key>n</arg_key>\n<arg_value>7</arg_value>\n</tool_call>";
    let arguments = "({\"s\": \" 7\", \"n\": 7}";
    check(Dialect::Glm, &format!("Now.\n{glm}\n{glm}\n"), &["Now.", "!f", arguments, "!f", arguments]);
    check(Dialect::Glm, &glm.replace('\n', ""), &["!f", arguments]);
    check(Dialect::Glm, "<tool_call>g</tool_call> Done.", &["!g", "({}", "Done."]);
    check(Dialect::Glm, "<tool_call>f: no", &["<tool_call>f: no"]);

    let minimax = "<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"s\">Köln\n2</parameter>\n<parameter name=\"n\">7</parameter>\n\
                   </invoke>\n<invoke name=\"g.h\">\n</invoke>\n</minimax:tool_call>";
    check(
        Dialect::MiniMax,
        &format!("Now.\n{minimax} So."),
        &["Now.", "!f", "({\"s\": \"Köln\\n2\", \"n\": 7}", "!g.h", "({}", "So."],
    );
}

#[test]
fn minimax_m1_and_kimi() {
    let m1 = "<tool_calls>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n{\"name\": \"g\", \"arguments\": {}}\n</tool_calls>";
    check(Dialect::MiniMaxM1, m1, &["!f", "({\"a\": 1}", "!g", "({}"]);
    let kimi = "Now.<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|>\
                <|tool_call_begin|>functions.g.h:1 <|tool_call_argument_begin|> {}<|tool_call_end|><|tool_calls_section_end|>";
    check(Dialect::Kimi, kimi, &["Now.", "!f", "({\"a\": 1}", "!g.h", "({}"]);
}

#[test]
fn harmony() {
    let answer = "<|channel|>analysis<|message|>The user asks.\n<|end|><|start|>assistant";
    let call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}";
    check(Dialect::Harmony, &format!("{answer}{call}"), &["?The user asks.", "!f", "({\"a\": 1}"]);
    let two = format!("{answer}{call}<|call|><|start|>assistant to=functions.g<|channel|>commentary<|message|>");
    check(Dialect::Harmony, &two, &["?The user asks.", "!f", "({\"a\": 1}", "!g", "({}"]);
    let said = format!(
        "{answer}<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>So: <b>\n"
    );
    check(Dialect::Harmony, &said, &["?The user asks.", "I look.So: <b>\n"]);
    check(Dialect::Harmony, "Rome.", &["Rome."]);
    check(Dialect::Harmony, "<|channel|>analysis<|mess", &[]);
    let unknown = "<|channel|>commentary to=python <|message|>print(1)<|end|>";
    check(Dialect::Harmony, unknown, &["<|channel|>commentary to=python <|message|>print(1)"]);
    // The format is the model's, whatever its calls look like.
    let template = "… <|channel|>analysis<|message|> …";
    let reasoning = Reasoning::of_template(template, "<|start|>assistant").unwrap();
    assert!(reasoning.is_harmony() && !reasoning.is_begun);
    let read_all =
        |dialect, text: &str| short(&read(AnswerParser::with_calls(dialect, tools(), Some(reasoning)), [text]));
    let json =
        format!("{answer}<|channel|>final<|message|>{{\"tool_calls\": [{{\"name\": \"f\", \"arguments\": {{}}}}]}}");
    assert_eq!(read_all(Some(Dialect::Json), &json), ["?The user asks.", "!f", "({}"]);
    assert_eq!(read_all(None, &format!("{answer}<|channel|>final<|message|>Rome.")), ["?The user asks.", "Rome."]);
    let begun = Reasoning::of_template(template, "<|start|>assistant<|channel|>analysis<|message|>");
    assert_eq!(short(&read(AnswerParser::new(begun), ["Hm.<|end|>"])), ["?Hm."]);
}

#[test]
fn dialects_are_known_by_their_templates() {
    for (template, expected) in [
        ("<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>", Dialect::Qwen3Coder),
        ("<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>", Dialect::Glm),
        ("<minimax:tool_call>\n<invoke name=\"tool-name-1\">", Dialect::MiniMax),
        ("<tool_calls>\n{\"name\": <tool-name>", Dialect::MiniMaxM1),
        ("<|tool_calls_section_begin|>", Dialect::Kimi),
        ("<|channel|>commentary to=functions.", Dialect::Harmony),
        ("<tool_call>\n{\"name\": <function-name>", Dialect::Hermes),
        ("<seed:tool_call><function=a><parameter=b>", Dialect::Json),
        ("[TOOL_CALLS]", Dialect::Mistral),
        ("{\"name\": function name", Dialect::Llama),
    ] {
        assert_eq!(Dialect::of_template(template, true), expected, "{template}");
        assert_eq!(Dialect::of_template(template, false), Dialect::Json, "{template}");
    }
}

#[test]
fn kimi_knows_calls_by_their_ids() {
    let mut messages: Vec<ChatMessage> = serde_json::from_value(json!([
        {"role": "assistant", "tool_calls": [{"id": "x", "function": {"name": "f"}}, {"id": "y", "function": {"name": "g"}}]},
        {"role": "tool", "tool_call_id": "y", "content": "1"},
        {"role": "assistant", "tool_calls": [{"id": "z", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "unknown", "content": "1"},
    ]))
    .unwrap();
    name_calls_by_position(&mut messages);
    assert_eq!(messages[0].other["tool_calls"][1]["id"], "functions.g:1");
    assert_eq!(messages[1].other["tool_call_id"], "functions.g:1");
    assert_eq!(messages[2].other["tool_calls"][0]["id"], "functions.f:2");
    assert_eq!(messages[3].other["tool_call_id"], "unknown");
}

#[test]
fn json_and_react() {
    check(
        Dialect::Json,
        "{\"tool_calls\": [{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]}",
        &["!f", "({\"a\": 1}", "!g", "({}"],
    );
    check(Dialect::Json, "{\"content\": \"It is \\\"so\\\".\\n\"}", &["It is \"so\".\n"]);
    check(Dialect::Json, "It is so.", &["It is so."]);
    check(
        Dialect::React,
        "Thought: I look.\nAction: f\nAction Input: {\"a\": 1}\n",
        &["?I look.", "!f", "({\"a\": 1}"],
    );
    check(Dialect::React, "Thought: I know.\nFinal Answer: Rome,\nas ever.", &["?I know.", "Rome,\nas ever."]);
    check(Dialect::React, "Rome.\n", &["Rome.\n"]);
    check(Dialect::React, "<think>hm</think>\n\nThought: x\nFinal Answer: y", &["?hmx", "y"]);
    check(Dialect::React, "Thought: x\nAction: f\n", &["?x", "Action: f"]);
    check(Dialect::React, "Action: none\nAction Input: so", &["Action: none\nAction Input: so"]);
    check(Dialect::React, "Action: f\nAction Input: {}\nObservation: made up\nFinal Answer: y", &["!f", "({}", "y"]);
}

#[test]
fn reasoning_that_the_prompt_has_begun() {
    let begun = Reasoning { is_begun: true, ..THINK };
    assert_eq!(short(&read(AnswerParser::new(Some(begun)), ["hm</thi", "nk>\n\nRome"])), ["?hm", "Rome"]);
    assert_eq!(short(&read(AnswerParser::new(Some(THINK)), ["Rome <think>"])), ["Rome <think>"]);
    assert_eq!(short(&read(AnswerParser::new(None), [" <think> x ", " \n"])), [" <think> x  \n"]);
    assert_eq!(
        Reasoning::of_template("… <think> …", "<|im_start|>assistant\n<think>\n").map(|it| it.is_begun),
        Some(true)
    );
    assert_eq!(Reasoning::of_template("plain", ""), None);
    let over = Reasoning::of_template("… <think> …", "<|im_start|>assistant\n<think>\n\n</think>\n\n").unwrap();
    assert!(over.is_over && !over.is_begun);
}

fn texts() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec![
        "<tool_call>",
        "</tool_call>",
        "<think>",
        "</think>",
        "{\"name\": \"f\"",
        ", \"arguments\": {\"a\": \"}\"}",
        "}",
        "[",
        "]",
        "{",
        "[TOOL_CALLS]",
        "[ARGS]",
        "```tool_code\n",
        "```",
        "f(",
        "a=1",
        ", ",
        ")",
        "'x\\'",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "Thought:",
        "Action:",
        "Action Input:",
        "Observation:",
        "\n",
        " ",
        "é",
        "<",
        "{\"content\": \"",
        "\"",
        "{\"tool_calls\": [",
        "\\u00e9",
        "<|python_tag|>",
        "<function=",
        "f>",
        "<parameter=",
        "s>",
        "a>",
        "</parameter>",
        "</function>",
        "<arg_key>s</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "<minimax:tool_call>",
        "<invoke name=\"f\">",
        "<parameter name=\"n\">",
        "</invoke>",
        "</minimax:tool_call>",
        "<tool_calls>",
        "</tool_calls>",
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>functions.f:0",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|channel|>",
        "analysis",
        "commentary to=functions.f ",
        "<|message|>",
        "<|end|>",
        "<|start|>assistant",
        "7",
    ]);
    prop::collection::vec(parts, 0..14).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn how_a_text_is_cut_makes_no_difference(text in texts(), cuts in prop::collection::vec(0usize..80, 0..8), kind in 0usize..15) {
        let dialect = Dialect::ALL.get(kind).map(|(dialect, _)| *dialect);
        let parser = || parser_of(dialect);
        let chars: Vec<char> = text.chars().collect();
        let mut parts = vec![String::new()];
        for (index, c) in chars.iter().enumerate() {
            if cuts.contains(&index) {
                parts.push(String::new());
            }
            parts.last_mut().unwrap().push(*c);
        }
        let whole = read(parser(), [text.as_str()]);
        prop_assert_eq!(&read(parser(), parts.iter().map(String::as_str)), &whole);
        // Words outside calls are never lost.
        if !matches!(dialect, Some(Dialect::React | Dialect::Harmony)) && !whole.iter().any(|piece| matches!(piece, Piece::Call { .. })) && dialect != Some(Dialect::Json) {
            let told: String = short(&whole).concat().chars().filter(|c| !c.is_whitespace() && *c != '?').collect();
            let given: String = text.replace("<think>", "").replace("</think>", "").chars().filter(|c| !c.is_whitespace()).collect();
            let told = told.replace("<think>", "").replace("</think>", "");
            prop_assert_eq!(told, given);
        }
    }
}

fn tool(name: &str, parameters: &Value) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": parameters}})
}

#[test]
fn tools_are_checked() {
    let none = json!({});
    let refused = |tools: Value, choice: Option<Value>, param: &str, part: &str| {
        let error = OfferedTools::read(tools.as_array().map(Vec::as_slice), choice.as_ref(), None).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        assert!(error.message.contains(part), "{}", error.message);
    };
    refused(json!([{"type": "retrieval"}]), None, "tools[0].type", "\"function\" expected");
    refused(json!([tool("a b", &none)]), None, "tools[0].function.name", "\"a b\" given");
    refused(json!([tool("f", &none), tool("f", &none)]), None, "tools[1].function.name", "given twice");
    refused(json!([tool("f", &json!(7))]), None, "tools[0].function.parameters", "7 given");
    refused(json!([tool("f", &none)]), Some(json!("always")), "tool_choice", "\"always\" given");
    refused(json!([]), Some(json!("required")), "tool_choice", "without tools");
    let named = json!({"type": "function", "function": {"name": "g"}});
    refused(json!([tool("f", &none)]), Some(named), "tool_choice", "'g' is none of the tools");
}

#[test]
fn python_types_become_those_of_json() {
    let schema = json!({"type": "dict", "properties": {"a": {"type": "float"}, "b": {"type": "tuple", "items": {"type": "any"}}}});
    let read = Tool::read(0, &tool("f", &schema)).unwrap();
    let expected = json!({"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "array", "items": {}}},
        "additionalProperties": false});
    assert_eq!(read.parameters, expected);
}

#[test]
fn ids_are_nine_letters_and_differ() {
    let ids: BTreeSet<String> = (0..100).map(|index| call_id("chatcmpl-1", index % 2, index)).collect();
    assert_eq!(ids.len(), 100);
    assert!(ids.iter().all(|id| id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())));
}
