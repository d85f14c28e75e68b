//! What models that were trained for a dialect write is what its grammar allows and its parser reads.

use serde_json::{Value, json};
use yantra_api::{ChatRequest, Constraint, Dialect, Piece, Reasoning, ToolPlan};
use yantra_engine::{EngineHandle, Grammar, Preface};

use crate::support::{Setup, chat};

fn plan(dialect: &str, extra: &Value) -> ToolPlan {
    let parameters = json!({"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}, "unit": {"type": "string", "enum": ["C", "F"]},
        "rate": {"type": "number"}, "near": {"type": "array", "items": {"type": "string"}}, "code": {"type": "string", "maxLength": 3}}});
    let tools = json!([
        {"type": "function", "function": {"name": "weather", "parameters": parameters}},
        {"type": "function", "function": {"name": "now"}},
    ]);
    let mut request = chat("Hello");
    request["tools"] = tools;
    request["tool_choice"] = json!("required");
    for (key, value) in extra.as_object().unwrap() {
        request[key] = value.clone();
    }
    let request: ChatRequest = serde_json::from_value(request).unwrap();
    request.tool_plan(Dialect::of_name(dialect).unwrap()).unwrap().unwrap()
}

fn compile(engine: &EngineHandle, plan: &ToolPlan, reasoning: Option<Reasoning>) -> Grammar {
    let constrained = plan.grammar(reasoning, |_| false).unwrap();
    let Constraint::Lark(lark) = constrained.constraint else { panic!("{constrained:?}") };
    engine.compile(&yantra_engine::Constraint::Lark(lark.clone())).unwrap_or_else(|error| panic!("{error}\n{lark}"))
}

/// The calls of an answer: their names, and their arguments, which must be JSON.
fn calls(plan: &ToolPlan, text: &str) -> Value {
    let mut parser = plan.parser(None);
    let mut pieces = parser.push(text);
    pieces.extend(parser.finish());
    let mut calls: Vec<(String, String)> = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Call { name } => calls.push((name, String::new())),
            Piece::Arguments(text) => calls.last_mut().unwrap().1.push_str(&text),
            Piece::Reasoning(_) | Piece::Content(_) => {}
        }
    }
    let read = |(name, arguments): (String, String)| json!([name, serde_json::from_str::<Value>(&arguments).unwrap()]);
    calls.into_iter().map(read).collect()
}

const QWEN: &str = "<tool_call>\n<function=weather>\n<parameter=city>\nKöln \"x\"\n</parameter>\n<parameter=days>\n3\n</parameter>\n\
                    <parameter=unit>\nC\n</parameter>\n<parameter=near>\n[\"a\", \"b\"]\n</parameter>\n</function>\n</tool_call>";
const GLM: &str = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Köln \"x\"</arg_value>\n<arg_key>days</arg_key>\n\
                   <arg_value>3</arg_value>\n<arg_key>unit</arg_key>\n<arg_value>C</arg_value>\n<arg_key>near</arg_key>\n\
                   <arg_value>[\"a\", \"b\"]</arg_value>\n</tool_call>";
const MINIMAX: &str = "<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">Köln \"x\"</parameter>\n\
                       <parameter name=\"days\">3</parameter>\n<parameter name=\"unit\">C</parameter>\n\
                       <parameter name=\"near\">[\"a\", \"b\"]</parameter>\n</invoke>\n</minimax:tool_call>";
const M1: &str = "<tool_calls>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln \\\"x\\\"\", \"days\": 3, \"unit\": \"C\", \
                  \"near\": [\"a\", \"b\"]}}\n</tool_calls>";
const KIMI: &str = "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>\
                    {\"city\": \"Köln \\\"x\\\"\", \"days\": 3, \"unit\": \"C\", \"near\": [\"a\", \"b\"]}<|tool_call_end|>\
                    <|tool_calls_section_end|>";
const HARMONY: &str = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather \
                       <|constrain|>json<|message|>{\"city\": \"Köln \\\"x\\\"\", \"days\": 3, \"unit\": \"C\", \"near\": [\"a\", \"b\"]}";

#[tokio::test]
async fn what_models_write_is_allowed_and_read() {
    let engine = Setup::default().generator().engine;
    let all = [
        ("qwen3_coder", QWEN),
        ("glm", GLM),
        ("minimax", MINIMAX),
        ("minimax_m1", M1),
        ("kimi", KIMI),
        ("harmony", HARMONY),
    ];
    for (dialect, text) in all {
        let arguments = json!({"city": "Köln \"x\"", "days": 3, "unit": "C", "near": ["a", "b"]});
        for choice in ["required", "auto"] {
            let plan = plan(dialect, &json!({"tool_choice": choice}));
            let grammar = compile(&engine, &plan, None);
            assert!(grammar.accepts(text), "{dialect} {choice}: {text}");
            assert_eq!(grammar.accepts("It is sunny <b>there</b>."), choice == "auto", "{dialect} {choice}");
            assert_eq!(calls(&plan, text), json!([["weather", arguments]]), "{dialect}");
            for (right, wrong) in
                [("weather", "whether"), ("3", "0"), ("3", "x"), ("C", "K"), ("[", "{"), ("city", "town")]
            {
                let (head, tail) = text.split_at(text.find("weather").unwrap());
                let changed = format!("{head}{}", tail.replacen(right, wrong, 1));
                assert!(!grammar.accepts(&changed), "{dialect} {choice}: {changed}");
            }
        }
        let named = plan(dialect, &json!({"tool_choice": {"type": "function", "function": {"name": "now"}}}));
        assert!(!compile(&engine, &named, None).accepts(text), "{dialect}");
    }
}

#[tokio::test]
async fn several_calls_and_calls_without_arguments() {
    let engine = Setup::default().generator().engine;
    let qwen = "<tool_call>\n<function=now>\n</function>\n</tool_call>";
    let now = "\n<invoke name=\"now\">\n</invoke>\n";
    for (dialect, one, two) in [
        ("qwen3_coder", qwen.to_owned(), format!("{qwen}\n{qwen}")),
        (
            "glm",
            "<tool_call>now\n</tool_call>".to_owned(),
            "<tool_call>now\n</tool_call>\n<tool_call>now\n</tool_call>".to_owned(),
        ),
        (
            "minimax",
            format!("<minimax:tool_call>{now}</minimax:tool_call>"),
            format!("<minimax:tool_call>{now}{}</minimax:tool_call>", now.trim_start()),
        ),
    ] {
        let (many, single) = (plan(dialect, &json!({})), plan(dialect, &json!({"parallel_tool_calls": false})));
        assert_eq!(calls(&many, &one), json!([["now", {}]]), "{dialect}");
        assert_eq!(calls(&many, &two), json!([["now", {}], ["now", {}]]), "{dialect}");
        for text in [&one, &two] {
            assert!(compile(&engine, &many, None).accepts(text), "{dialect}: {text}");
        }
        assert!(
            compile(&engine, &single, None).accepts(&one) && !compile(&engine, &single, None).accepts(&two),
            "{dialect}"
        );
    }
}

#[tokio::test]
async fn no_number_and_no_text_runs_away() {
    let engine = Setup::default().generator().engine;
    let digits = "1".repeat(40);
    for (dialect, head, end) in [
        ("react", "Thought: x\nAction: weather\nAction Input: {\"city\": \"x\", \"$\": ", "}"),
        ("json", "{\"tool_calls\": [{\"name\": \"weather\", \"arguments\": {\"city\": \"x\", \"$\": ", "}}]}"),
        ("pythonic", "[weather(city=\"x\", $=", ")]"),
        (
            "qwen3_coder",
            "<tool_call>\n<function=weather>\n<parameter=city>\nx\n</parameter>\n<parameter=$>\n",
            "\n</parameter>\n</function>\n</tool_call>",
        ),
    ] {
        let grammar = compile(&engine, &plan(dialect, &json!({})), None);
        for (name, value) in [("days", "12345"), ("rate", "-0.5"), ("rate", "6.674e-11"), ("rate", "12")] {
            let text = format!("{}{value}{end}", head.replace('$', name));
            assert!(grammar.accepts(&text), "{text}");
        }
        for (name, value) in [
            ("days", digits.clone()),
            ("rate", digits.clone()),
            ("rate", format!("0.{digits}")),
            ("rate", format!("1e{digits}")),
        ] {
            let text = format!("{}{value}", head.replace('$', name));
            assert!(!grammar.accepts_start(&text), "{text}");
        }
    }
    let grammar = compile(&engine, &plan("qwen3_coder", &json!({})), None);
    let code = "<tool_call>\n<function=weather>\n<parameter=city>\nx\n</parameter>\n<parameter=code>\n";
    assert!(grammar.accepts(&format!("{code}abc\n</parameter>\n</function>\n</tool_call>")));
    assert!(!grammar.accepts_start(&format!("{code}abcd")));
}

#[tokio::test]
async fn what_a_strict_tool_asks_for_is_followed_or_refused() {
    let engine = Setup::default().generator().engine;
    let tool = |schema: Value| {
        let parameters = json!({"type": "object", "properties": {"a": schema}, "required": ["a"]});
        json!({"tools": [{"type": "function", "function": {"name": "f", "strict": true, "parameters": parameters}}]})
    };
    let strict = plan("glm", &tool(json!({"type": "string", "pattern": "^[A-Z]{2}$"})));
    let grammar = compile(&engine, &strict, None);
    let call =
        |value: &str| format!("<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>");
    assert!(grammar.accepts(&call("AB")) && !grammar.accepts(&call("ab")));
    for schema in [
        json!({"type": "string", "format": "date"}),
        json!({"type": ["string", "array"]}),
        json!({"type": "string", "pattern": "^a|b$"}),
    ] {
        let error = plan("glm", &tool(schema)).grammar(None, |_| false).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("tools"));
        assert!(error.message.contains("'a' of the strict tool 'f'"), "{}", error.message);
    }
}

#[tokio::test]
async fn control_tokens_are_called_by_their_names() {
    let plan = plan("kimi", &json!({}));
    let Constraint::Lark(lark) = plan.grammar(None, |text| text.starts_with("<|")).unwrap().constraint else {
        panic!()
    };
    assert!(
        lark.starts_with("start: <|tool_calls_section_begin|> <|tool_call_begin|> call <|tool_call_end|>"),
        "{lark}"
    );
    assert!(plan.has_control_tokens(|text| text == "<|tool_call_begin|>") && !plan.has_control_tokens(|_| false));
}

#[tokio::test]
async fn reasoning_is_free_before_every_kind_of_constraint() {
    use yantra_engine::Constraint;
    let engine = Setup::default().generator().engine;
    let preface = |begin: Option<&str>| Preface {
        begin: begin.map(str::to_owned),
        end: "</think>".to_owned(),
        between: String::new(),
        without: String::new(),
    };
    for (constraint, answer) in [
        (
            Constraint::JsonSchema(
                json!({"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": false}),
            ),
            "{\"a\": 1}",
        ),
        (Constraint::Regex("[0-9]{3}".to_owned()), "123"),
        (Constraint::Choice(vec!["yes".to_owned(), "no".to_owned()]), "no"),
        (Constraint::Lark("start: \"(\" start \")\" | \"x\"".to_owned()), "((x))"),
    ] {
        let optional =
            engine.compile(&Constraint::After(preface(Some("<think>")), Box::new(constraint.clone()))).unwrap();
        let begun = engine.compile(&Constraint::After(preface(None), Box::new(constraint.clone()))).unwrap();
        for (text, is_optional, is_begun) in [
            (answer.to_owned(), true, false),
            (format!("<think>\nAh: {{\"b\" <3\n</think>\n\n{answer}"), true, true),
            (format!("Ah: {{\"b\" <3\n</think>\n\n{answer}"), false, true),
            (format!("</think>{answer}"), false, true),
            (format!("<think></think>{answer}"), true, true),
            (format!("Ah</think>?{answer}"), false, false),
            (format!("Ah</think>{answer}."), false, false),
        ] {
            assert_eq!((optional.accepts(&text), begun.accepts(&text)), (is_optional, is_begun), "{text:?}");
        }
    }
    let invalid = Constraint::After(
        preface(None),
        Box::new(Constraint::JsonSchema(json!({"properties": {"a": {"uniqueItems": true}}}))),
    );
    assert!(engine.compile(&invalid).unwrap_err().to_string().contains("/properties/a/uniqueItems"));
}

const THINKS: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}";

#[tokio::test]
async fn thinking_models_think_first() {
    let server =
        Setup { story: "I wonder. </think>", template: THINKS, context: 2048, ..Setup::default() }.start().await;
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"], "additionalProperties": false});
    let ask = |extra: Value| {
        let mut request = chat("Hello");
        // A thought of ReAct has up to 500 characters.
        request["max_tokens"] = json!(900);
        for (key, value) in extra.as_object().unwrap() {
            request[key] = value.clone();
        }
        request
    };
    // The model begins its story somewhere.
    let has_thought = |text: &str| !text.is_empty() && ("I wonder. ".ends_with(text) || text.contains("I wonder. "));
    let plain = json!({"enable_thinking": false});
    for (extra, thinks) in [(json!({}), true), (json!({"chat_template_kwargs": plain}), false)] {
        let mut request = ask(extra);
        request["response_format"] = json!({"type": "json_object", "schema": schema});
        let message = server.ok("/v1/chat/completions", &request).await["choices"][0]["message"].clone();
        let answer: Value = serde_json::from_str(message["content"].as_str().unwrap()).unwrap();
        assert!(answer["n"].as_u64().is_some_and(|n| n < 10), "{message}");
        assert_eq!(message["reasoning_content"].as_str().is_some_and(has_thought), thinks, "{message}");
    }
    // A demanded call is thought about as well, in any dialect.
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": schema}});
    for format in ["hermes", "qwen3_coder", "react"] {
        let request = ask(
            json!({"tools": [tool], "tool_choice": "required", "tool_format": format, "parallel_tool_calls": false}),
        );
        let message = server.ok("/v1/chat/completions", &request).await["choices"][0]["message"].clone();
        assert_eq!(message["tool_calls"][0]["function"]["name"], "f", "{format}: {message}");
        assert!(message["reasoning_content"].as_str().is_some_and(has_thought), "{format}: {message}");
    }
}
