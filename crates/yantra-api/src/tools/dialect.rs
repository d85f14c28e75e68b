//! How families of models write calls.

use super::{parser::ReaderKind, xml_call};

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
    /// `<tool_call><function=name><parameter=a>1</parameter></function></tool_call>`: Qwen3-Coder and Qwen 3.5.
    Qwen3Coder,
    /// `<tool_call>name<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>`: GLM 4.5 and later.
    Glm,
    /// `<minimax:tool_call><invoke name="name"><parameter name="a">1</parameter></invoke></minimax:tool_call>`: MiniMax-M2.
    MiniMax,
    /// `<tool_calls>{"name": …, "arguments": {…}}</tool_calls>`: MiniMax-M1.
    MiniMaxM1,
    /// `<|tool_calls_section_begin|><|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>…`:
    /// Kimi-K2.
    Kimi,
    /// `<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>`: gpt-oss.
    Harmony,
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
    /// What begins calls anywhere, and is a part of them.
    pub(super) begins: &'static [&'static str],
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
    /// Whether what begins calls is a part of the first one.
    pub(super) fn is_part_of_call(&self, text: &str) -> bool {
        self.begins.contains(&text) || text.chars().all(|c| self.starts.contains(&c))
    }

    /// Everything that may follow a call.
    pub(super) fn after(&self) -> impl Iterator<Item = &'static str> {
        self.fillers.iter().chain(self.nexts).chain(self.closes).copied()
    }
}

const PLAIN: Form = Form {
    opens: &[],
    starts: &[],
    begins: &[],
    leads: &[],
    says: &[],
    fillers: &[],
    nexts: &[],
    closes: &[],
    reader: ReaderKind::Json,
};

impl Dialect {
    /// All of them, by the names that requests use.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::Hermes, "hermes"),
        (Self::Llama, "llama"),
        (Self::Pythonic, "pythonic"),
        (Self::Mistral, "mistral"),
        (Self::DeepSeek, "deepseek"),
        (Self::Gemma, "gemma"),
        (Self::Qwen3Coder, "qwen3_coder"),
        (Self::Glm, "glm"),
        (Self::MiniMax, "minimax"),
        (Self::MiniMaxM1, "minimax_m1"),
        (Self::Kimi, "kimi"),
        (Self::Harmony, "harmony"),
        (Self::Json, "json"),
        (Self::React, "react"),
    ];

    /// The dialect that a chat template teaches; [`Dialect::Json`] where it shows no tools or teaches none that is known.
    #[must_use]
    pub fn of_template(template: &str, shows_tools: bool) -> Self {
        // In the order in which they are looked for: some are a part of others' templates.
        const SIGNS: [(&[&str], Dialect); 13] = [
            (&["<|channel|>", "to=functions."], Dialect::Harmony),
            (&["<|tool_calls_section_begin|>"], Dialect::Kimi),
            (&["<minimax:tool_call>", "<invoke name="], Dialect::MiniMax),
            (&["<tool_call>", "<arg_key>"], Dialect::Glm),
            (&["<tool_call>", "<function=", "<parameter="], Dialect::Qwen3Coder),
            (&["<｜tool▁calls▁begin｜>"], Dialect::DeepSeek),
            (&["[TOOL_CALLS]"], Dialect::Mistral),
            (&["<tool_call>"], Dialect::Hermes),
            (&["<tool_calls>"], Dialect::MiniMaxM1),
            (&["tool_code"], Dialect::Gemma),
            (&["[func_name1("], Dialect::Pythonic),
            (&["<|python_tag|>"], Dialect::Llama),
            (&["\"parameters\": dictionary"], Dialect::Llama),
        ];
        const LLAMA: &str = "{\"name\": function name";
        // Their calls look like those above from afar and are not.
        let is_other = |dialect: Dialect| {
            let has = |sign: &str| template.contains(sign);
            matches!(dialect, Self::Hermes | Self::MiniMaxM1)
                && (has("<function=") || has("<parameter=") || has("<arg_key>"))
        };
        if !shows_tools {
            return Self::Json;
        }
        let is_taught = |signs: &[&str]| signs.iter().all(|sign| template.contains(sign));
        let taught = SIGNS.into_iter().find(|(signs, _)| is_taught(signs)).map(|(_, dialect)| dialect);
        let taught = taught.or_else(|| template.contains(LLAMA).then_some(Self::Llama));
        taught.filter(|dialect| !is_other(*dialect)).unwrap_or(Self::Json)
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
            Self::Qwen3Coder => Form {
                opens: &["<tool_call>"],
                // The marker before it is sometimes forgotten.
                begins: &["<function="],
                closes: &["</tool_call>"],
                reader: ReaderKind::Xml(&xml_call::QWEN),
                ..PLAIN
            },
            Self::Glm => Form { opens: &["<tool_call>"], reader: ReaderKind::Xml(&xml_call::GLM), ..PLAIN },
            Self::MiniMax => Form {
                opens: &["<minimax:tool_call>"],
                closes: &["</minimax:tool_call>"],
                reader: ReaderKind::Xml(&xml_call::MINIMAX),
                ..PLAIN
            },
            Self::MiniMaxM1 => Form {
                opens: &["<tool_calls>"],
                leads: &["["],
                fillers: &["]"],
                nexts: &[","],
                closes: &["</tool_calls>"],
                ..PLAIN
            },
            Self::Kimi => Form {
                opens: &["<|tool_calls_section_begin|>"],
                leads: &["<|tool_call_begin|>"],
                fillers: &["<|tool_call_end|>"],
                nexts: &["<|tool_call_begin|>"],
                closes: &["<|tool_calls_section_end|>"],
                reader: ReaderKind::Named,
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
            // Messages and sections, not markers, tell where their calls are.
            Self::Harmony | Self::React => return None,
        })
    }
}
