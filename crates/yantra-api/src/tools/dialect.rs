//! How families of models write calls.

use serde_json::{Value, json};

use super::{Tool, parser::ReaderKind};

/// A way of writing calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5 and 3, and many after them.
    Hermes,
    /// `{"name": …, "parameters": {…}}` as the whole answer: Llama 3.x.
    Llama,
    /// `[f(a=1), g(b="x")]` as the whole answer: Llama 3.2 and 4, and what is trained on such data.
    Pythonic,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]`, later `[TOOL_CALLS]name[ARGS]{…}`: Mistral.
    Mistral,
    /// `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>…`: DeepSeek V3 and R1.
    DeepSeek,
    /// Python in a fence marked `tool_code`: Gemma.
    Gemma,
    /// A JSON object for any model: `{"tool_calls": […]}` or `{"content": …}`.
    Json,
    /// Thought, Action, Action Input, Observation (Yao et al. 2022, <https://arxiv.org/abs/2210.03629>), for any model.
    React,
}

/// The markers of a dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// What begins calls anywhere.
    pub(super) opens: &'static [&'static str],
    /// What begins calls as an answer's first character, and is a part of them.
    pub(super) starts: &'static [char],
    /// What may stand before a call, besides white space.
    pub(super) leads: &'static [&'static str],
    /// What begins a text in JSON instead of a call.
    pub(super) says: &'static [&'static str],
    /// What may stand after a call.
    pub(super) fillers: &'static [&'static str],
    /// What another call follows.
    pub(super) nexts: &'static [&'static str],
    /// What ends the calls.
    pub(super) closes: &'static [&'static str],
    pub(super) reader: ReaderKind,
}

impl Form {
    /// Everything that may follow a call.
    pub(super) fn after(&self) -> impl Iterator<Item = &'static str> {
        self.fillers.iter().chain(self.nexts).chain(self.closes).copied()
    }
}

const PLAIN: Form = Form {
    opens: &[],
    starts: &[],
    leads: &[],
    says: &[],
    fillers: &[],
    nexts: &[],
    closes: &[],
    reader: ReaderKind::Json,
};

impl Dialect {
    /// All of them, by the names that requests use.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Hermes, "hermes"),
        (Self::Llama, "llama"),
        (Self::Pythonic, "pythonic"),
        (Self::Mistral, "mistral"),
        (Self::DeepSeek, "deepseek"),
        (Self::Gemma, "gemma"),
        (Self::Json, "json"),
        (Self::React, "react"),
    ];

    /// The dialect that a chat template teaches; [`Dialect::Json`] where it shows no tools or teaches none that is known.
    #[must_use]
    pub fn of_template(template: &str, shows_tools: bool) -> Self {
        const SIGNS: [(&str, Dialect); 8] = [
            ("<｜tool▁calls▁begin｜>", Dialect::DeepSeek),
            ("[TOOL_CALLS]", Dialect::Mistral),
            ("<tool_call>", Dialect::Hermes),
            ("tool_code", Dialect::Gemma),
            ("[func_name1(", Dialect::Pythonic),
            ("<|python_tag|>", Dialect::Llama),
            ("\"parameters\": dictionary", Dialect::Llama),
            ("{\"name\": function name", Dialect::Llama),
        ];
        // Their calls look like Hermes' from afar and are not JSON.
        let is_other =
            template.contains("<arg_key>") || template.contains("<function=") || template.contains("<parameter=");
        if !shows_tools || is_other {
            return Self::Json;
        }
        SIGNS.into_iter().find(|(sign, _)| template.contains(sign)).map_or(Self::Json, |(_, dialect)| dialect)
    }

    /// The dialect of a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(dialect, _)| *dialect)
    }

    pub(super) fn form(self) -> Option<Form> {
        Some(match self {
            // Also what models of this family write when they forget the marker.
            Self::Hermes => Form {
                opens: &["<tool_call>", "```json", "<tools>", "<function_call>"],
                starts: &['{', '['],
                leads: &["["],
                fillers: &["]"],
                nexts: &[","],
                closes: &["</tool_call>", "```", "</tools>", "</function_call>"],
                ..PLAIN
            },
            Self::Llama => Form { opens: &["<|python_tag|>"], starts: &['{'], nexts: &[";", ","], ..PLAIN },
            Self::Pythonic => Form {
                opens: &["<|python_start|>"],
                starts: &['['],
                leads: &["["],
                nexts: &[","],
                closes: &["]"],
                reader: ReaderKind::Python,
                ..PLAIN
            },
            Self::Mistral => Form {
                opens: &["[TOOL_CALLS]"],
                leads: &["["],
                nexts: &[",", "[TOOL_CALLS]"],
                closes: &["]"],
                reader: ReaderKind::Either,
                ..PLAIN
            },
            Self::DeepSeek => Form {
                opens: &["<｜tool▁calls▁begin｜>"],
                leads: &["<｜tool▁call▁begin｜>", "function<｜tool▁sep｜>"],
                fillers: &["```", "<｜tool▁call▁end｜>"],
                nexts: &["<｜tool▁call▁begin｜>"],
                closes: &["<｜tool▁calls▁end｜>"],
                reader: ReaderKind::Named,
                ..PLAIN
            },
            Self::Gemma => Form {
                opens: &["```tool_code"],
                leads: &["["],
                fillers: &["]"],
                nexts: &[",", ";"],
                closes: &["```"],
                reader: ReaderKind::Python,
                ..PLAIN
            },
            Self::Json => Form {
                starts: &['{'],
                leads: &["{\"tool_calls\": [", "{\"tool_calls\":["],
                says: &["{\"content\": \"", "{\"content\":\""],
                nexts: &[","],
                closes: &["]}", "}"],
                ..PLAIN
            },
            Self::React => return None,
        })
    }

    /// The grammar of answers. `is_free`: they may be text without calls; `parallel`: they may hold several calls.
    pub(super) fn grammar(self, tools: &[Tool], is_free: bool, parallel: bool) -> String {
        let more = |separator: &str| if parallel { format!(" ({separator}call)*") } else { String::new() };
        let calls = |key: &str| {
            let schemas: Vec<Value> = tools.iter().map(|tool| tool.call_schema(key)).collect();
            format!("call: %json {}\n", with_white_space(json!({"anyOf": schemas})))
        };
        match self {
            Self::Hermes => {
                let each = format!(
                    "first: \"\\n\" call \"\\n</tool_call>\"\nnext: \"\\n<tool_call>\\n\" call \"\\n</tool_call>\"\n{}",
                    calls("arguments")
                );
                let rest = if parallel { " next*" } else { "" };
                opened(is_free, "<tool_call>", &format!("first{rest}"), &each)
            }
            Self::Mistral => {
                let rest = more("\", \" ");
                let each = format!("list: \"[\" call{rest} \"]\"\n{}", calls("arguments"));
                // A control token, which text can not hold.
                let start =
                    if is_free { "start: /(?s:.*)/ (<|TOOL_CALLS|> list)?" } else { "start: <|TOOL_CALLS|> list" };
                format!("{start}\n{each}")
            }
            Self::Llama => {
                let start = format!("start: call{}", more("\"; \" "));
                free_or(is_free, &start, "{<", &calls("parameters"))
            }
            Self::Json => {
                let call = json!({"anyOf": tools.iter().map(|tool| tool.call_schema("arguments")).collect::<Vec<_>>()});
                let rest = more("\", \" ");
                let content = json!({"type": "string"});
                let said =
                    if is_free { format!(" | \"{{\\\"content\\\": \" %json {content} \"}}\"") } else { String::new() };
                format!(
                    "start: \"{{\\\"tool_calls\\\": [\" call{rest} \"]}}\"{said}\ncall: %json {}\n",
                    with_white_space(call)
                )
            }
            Self::React => react_grammar(tools, is_free),
            Self::Pythonic => {
                let start = format!("start: \"[\" call{} \"]\"", more("\", \" "));
                free_or(is_free, &start, "[", &python_calls(tools))
            }
            Self::Gemma => {
                let body = format!("\"\\n\" call{} \"\\n```\"", more("\"\\n\" "));
                opened(is_free, "```tool_code", &body, &python_calls(tools))
            }
            Self::DeepSeek => {
                let one = "<｜tool▁call▁begin｜> call <｜tool▁call▁end｜>";
                let rest = if parallel { format!(" ({one})*") } else { String::new() };
                let list = format!("<｜tool▁calls▁begin｜> {one}{rest} <｜tool▁calls▁end｜>");
                let start = if is_free { format!("start: /(?s:.*)/ ({list})?") } else { format!("start: {list}") };
                let call = |(number, tool): (usize, &Tool)| {
                    format!(
                        "call{number}: {} <｜tool▁sep｜> %json {}\n",
                        quoted(&tool.name),
                        with_white_space(tool.parameters.clone())
                    )
                };
                let all: Vec<String> = (0..tools.len()).map(|number| format!("call{number}")).collect();
                let each: String = tools.iter().enumerate().map(call).collect();
                format!("{start}\ncall: {}\n{each}", all.join(" | "))
            }
        }
    }
}

/// A text in Lark.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A schema with a space where people write one, and no other white space.
fn with_white_space(mut schema: Value) -> Value {
    if let Some(object) = schema.as_object_mut() {
        let guidance = json!({"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": false});
        object.insert("x-guidance".to_owned(), guidance);
    }
    schema
}

/// Calls that a marker begins: free text may come before it, and is then all there is.
fn opened(is_free: bool, marker: &str, body: &str, rules: &str) -> String {
    if !is_free {
        return format!("start: {} {body}\n{rules}", quoted(marker));
    }
    format!(
        "start: TEXT | head {body}\nTEXT: /(?s:.*)/ & ~/(?s:.*){marker}(?s:.*)/\nhead[lazy]: /(?s:.*){marker}/\n{rules}"
    )
}

/// Calls that are the whole answer, or text that begins otherwise.
fn free_or(is_free: bool, start: &str, first: &str, rules: &str) -> String {
    if !is_free {
        return format!("{start}\n{rules}");
    }
    let body = start.trim_start_matches("start: ");
    format!("start: TEXT | calls\ncalls: {body}\nTEXT: /([^\\s{}](?s:.*))?/\n{rules}", first.replace('[', "\\["))
}

/// Calls in Python: each argument by name, as JSON, which Python reads but for three words.
fn python_calls(tools: &[Tool]) -> String {
    let mut rules = String::new();
    let mut names = Vec::new();
    for (number, tool) in tools.iter().enumerate() {
        let required: Vec<&str> =
            tool.parameters["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = tool.parameters["properties"].as_object();
        let argument = |(name, schema): (&String, &Value)| {
            let value = format!("{} %json {}", quoted(&format!("{name}=")), with_white_space(object_of(schema)));
            (required.contains(&name.as_str()), value)
        };
        let mut arguments: Vec<(bool, String)> = properties.into_iter().flatten().map(argument).collect();
        // Required ones first, so that a comma stands before each of the others.
        arguments.sort_by_key(|(is_required, _)| !is_required);
        let mut body = String::new();
        for (index, (is_required, value)) in arguments.iter().enumerate() {
            let comma = if index == 0 { "" } else { "\", \" " };
            body += &if *is_required { format!(" {comma}{value}") } else { format!(" ({comma}{value})?") };
        }
        // With nothing required the first that is there has no comma before it.
        if required.is_empty() && arguments.len() > 1 {
            let ways = (0..arguments.len()).map(|first| {
                let rest: String =
                    arguments[first + 1..].iter().map(|(_, value)| format!(" (\", \" {value})?")).collect();
                format!("{}{rest}", arguments[first].1)
            });
            body = format!(" ({})?", ways.collect::<Vec<_>>().join(" | "));
        }
        rules += &format!("call{number}: {}{body} \")\"\n", quoted(&format!("{}(", tool.name)));
        names.push(format!("call{number}"));
    }
    format!("call: {}\n{rules}", names.join(" | "))
}

/// A schema as an object, to which settings can be added.
fn object_of(schema: &Value) -> Value {
    if schema.is_object() { schema.clone() } else { json!({}) }
}

/// Thought, then an action with its input, or the answer. A thought is a line, and not endless.
fn react_grammar(tools: &[Tool], is_free: bool) -> String {
    let mut rules = String::new();
    let mut names = Vec::new();
    for (number, tool) in tools.iter().enumerate() {
        let head = quoted(&format!("Action: {}\nAction Input: ", tool.name));
        rules += &format!("call{number}: {head} %json {}\n", with_white_space(tool.parameters.clone()));
        names.push(format!("call{number}"));
    }
    let last = if is_free { " | \"Final Answer: \" /(?s:.+)/" } else { "" };
    format!("start: \"Thought: \" /[^\\n]{{1,500}}/ \"\\n\" (call{last})\ncall: {}\n{rules}", names.join(" | "))
}
