//! The grammar of answers in each dialect, in Lark.

use serde_json::{Value, json};

use super::{
    Dialect, Tool,
    values::{Rules, quoted},
    xml_grammar::{self, Style},
};

/// What an answer may be.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) tools: &'a [Tool],
    /// Text without calls will do.
    pub(super) is_free: bool,
    /// There may be several calls.
    pub(super) parallel: bool,
    /// Whether a marker is a control token of the model, which no text can hold.
    pub(super) is_control: &'a dyn Fn(&str) -> bool,
    /// The prompt has begun the reasoning.
    pub(super) is_thinking: bool,
}

impl Wanted<'_> {
    /// Further calls, each after a separator.
    fn more(&self, separator: &str) -> String {
        if self.parallel { format!(" ({separator}call)*") } else { String::new() }
    }

    /// The rule `call` of a call as a JSON object.
    fn json_calls(&self, key: &str) -> String {
        let mut rules = Rules::default();
        let calls: Vec<String> = self
            .tools
            .iter()
            .map(|tool| {
                let head = format!("{{\"name\": {}, \"{key}\": ", Value::from(tool.name.as_str()));
                let arguments = rules.value(&tool.parameters);
                rules.add(&format!("{} {arguments} \"}}\"", quoted(&head)))
            })
            .collect();
        format!("call: {}\n{}", calls.join(" | "), rules.text())
    }

    /// The rule `call` of calls that are begun by the tool's name, between two texts, with arguments in JSON.
    fn named_calls(&self, write: impl Fn(&str) -> String) -> String {
        let mut rules = Rules::default();
        let call = |tool: &Tool| {
            let arguments = rules.value(&tool.parameters);
            rules.add(&format!("{} {arguments}", write(&tool.name)))
        };
        let calls: Vec<String> = self.tools.iter().map(call).collect();
        format!("call: {}\n{}", calls.join(" | "), rules.text())
    }

    /// A marker in Lark.
    pub(super) fn marker(&self, text: &str) -> String {
        if !(self.is_control)(text) {
            return quoted(text);
        }
        match text.starts_with('<') {
            true => text.to_owned(),
            false => format!("<|{}|>", text.trim_start_matches('[').trim_end_matches(']')),
        }
    }

    /// Calls that a marker begins: free text may come before it, and is then all there is.
    pub(super) fn opened(&self, marker: &str, body: &str, rules: &str) -> String {
        let begin = self.marker(marker);
        if !self.is_free {
            return format!("start: {begin} {body}\n{rules}");
        }
        if (self.is_control)(marker) {
            return format!("start: /(?s:.*)/ ({begin} {body})?\n{rules}");
        }
        let marker = escaped(marker);
        format!(
            "start: TEXT | head {body}\nTEXT: /(?s:.*)/ & ~/(?s:.*){marker}(?s:.*)/\nhead[lazy]: \
             /(?s:.*){marker}/\n{rules}"
        )
    }

    /// Calls that are the whole answer, or text that begins otherwise.
    fn free_or(&self, body: &str, first: &str, rules: &str) -> String {
        if !self.is_free {
            return format!("start: {body}\n{rules}");
        }
        format!("start: TEXT | calls\ncalls: {body}\nTEXT: /([^\\s{}](?s:.*))?/\n{rules}", escaped(first))
    }
}

/// A text in a regular expression of Lark.
pub(super) fn escaped(text: &str) -> String {
    let one = |c: char| match c {
        '\n' => "\\n".to_owned(),
        // `\<` would be the start of a word.
        c if "\\.+*?()|[]{}^$/".contains(c) => format!("\\{c}"),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}

impl Dialect {
    /// The grammar of answers.
    ///
    /// # Errors
    /// What of a strict tool can not be followed in this dialect.
    pub(super) fn grammar(self, wanted: Wanted<'_>) -> Result<String, String> {
        Ok(match self {
            Self::Qwen3Coder => return xml_grammar::grammar(wanted, &Style::QWEN),
            Self::Glm => return xml_grammar::grammar(wanted, &Style::GLM),
            Self::MiniMax => return xml_grammar::grammar(wanted, &Style::MINIMAX),
            Self::MiniMaxM1 => {
                let body = format!("\"\\n\" call{} \"\\n</tool_calls>\"", wanted.more("\"\\n\" "));
                wanted.opened("<tool_calls>", &body, &wanted.json_calls("arguments"))
            }
            Self::Kimi => kimi_grammar(wanted),
            Self::Harmony => harmony_grammar(wanted),
            Self::Hermes => {
                let each = format!(
                    "first: \"\\n\" call \"\\n</tool_call>\"\nnext: \"\\n<tool_call>\\n\" call \"\\n</tool_call>\"\n{}",
                    wanted.json_calls("arguments")
                );
                let rest = if wanted.parallel { " next*" } else { "" };
                wanted.opened("<tool_call>", &format!("first{rest}"), &each)
            }
            Self::Mistral => {
                let body = format!("\"[\" call{} \"]\"", wanted.more("\", \" "));
                wanted.opened("[TOOL_CALLS]", &body, &wanted.json_calls("arguments"))
            }
            Self::Llama => {
                let body = format!("call{}", wanted.more("\"; \" "));
                wanted.free_or(&body, "{<", &wanted.json_calls("parameters"))
            }
            Self::Json => json_grammar(wanted),
            Self::React => react_grammar(wanted),
            Self::Pythonic => {
                let body = format!("\"[\" call{} \"]\"", wanted.more("\", \" "));
                wanted.free_or(&body, "[", &python_calls(wanted.tools))
            }
            Self::Gemma => {
                let body = format!("\"\\n\" call{} \"\\n```\"", wanted.more("\"\\n\" "));
                wanted.opened("```tool_code", &body, &python_calls(wanted.tools))
            }
            Self::DeepSeek => {
                let [begin, separator, end, last] =
                    ["<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"]
                        .map(|marker| wanted.marker(marker));
                let one = format!("{begin} call {end}");
                let rest = if wanted.parallel { format!(" ({one})*") } else { String::new() };
                let calls = wanted.named_calls(|name| format!("{} {separator}", quoted(name)));
                wanted.opened("<｜tool▁calls▁begin｜>", &format!("{one}{rest} {last}"), &calls)
            }
        })
    }
}

/// Calls are numbered through the whole conversation; which number comes next is left to the model.
fn kimi_grammar(wanted: Wanted<'_>) -> String {
    let [begin, arguments, end, last] =
        ["<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>"]
            .map(|marker| wanted.marker(marker));
    let one = format!("{begin} call {end}");
    let rest = if wanted.parallel { format!(" ({one})*") } else { String::new() };
    let calls =
        wanted.named_calls(|name| format!("{} /[0-9]{{1,4}}/ {arguments}", quoted(&format!("functions.{name}:"))));
    wanted.opened("<|tool_calls_section_begin|>", &format!("{one}{rest} {last}"), &calls)
}

/// Reasoning is a message of its own, so the grammar of calls has a place for it. A call ends the answer.
fn harmony_grammar(wanted: Wanted<'_>) -> String {
    let head = "<|channel|>commentary to=functions.";
    let calls = wanted.named_calls(|name| format!("{} \" <|constrain|>\"? \"json<|message|>\"", quoted(name)));
    let [channel, end] = ["<|channel|>analysis<|message|>", "<|end|>"].map(escaped);
    if wanted.is_free {
        let marker = "<\\|channel\\|>(commentary|analysis) to=functions\\.";
        return format!(
            "start: TEXT | head call\nTEXT: /(?s:.*)/ & ~/(?s:.*){marker}(?s:.*)/\nhead[lazy]: \
             /(?s:.*){marker}/\n{calls}"
        );
    }
    let thought = if wanted.is_thinking { String::new() } else { channel };
    format!(
        "start: (thought \"<|start|>assistant\"){} {} call\nthought[lazy]: /{thought}(?s:.*){end}/\n{calls}",
        if wanted.is_thinking { "" } else { "?" },
        quoted(head)
    )
}

fn json_grammar(wanted: Wanted<'_>) -> String {
    let content = json!({"type": "string"});
    let said =
        if wanted.is_free { format!(" | \"{{\\\"content\\\": \" %json {content} \"}}\"") } else { String::new() };
    let (rest, calls) = (wanted.more("\", \" "), wanted.json_calls("arguments"));
    format!("start: \"{{\\\"tool_calls\\\": [\" call{rest} \"]}}\"{said}\n{calls}")
}

/// Calls in Python: each argument by name, as JSON, which Python reads but for three words.
fn python_calls(tools: &[Tool]) -> String {
    let mut rules = Rules::default();
    let call = |tool: &Tool| {
        let parameters = tool.parameters.as_object().cloned().unwrap_or_default();
        let arguments = rules.properties(&parameters, |name, value| format!("{} {value}", quoted(&format!("{name}="))));
        let listed = rules.listed(&arguments);
        rules.add(&format!("{} {listed} \")\"", quoted(&format!("{}(", tool.name))))
    };
    let calls: Vec<String> = tools.iter().map(call).collect();
    format!("call: {}\n{}", calls.join(" | "), rules.text())
}

/// Thought, then an action with its input, or the answer. A thought is a line, and not endless.
fn react_grammar(wanted: Wanted<'_>) -> String {
    let calls = wanted.named_calls(|name| quoted(&format!("Action: {name}\nAction Input: ")));
    let last = if wanted.is_free { " | \"Final Answer: \" /(?s:.+)/" } else { "" };
    format!("start: \"Thought: \" /[^\\n]{{1,500}}/ \"\\n\" (call{last})\n{calls}")
}
