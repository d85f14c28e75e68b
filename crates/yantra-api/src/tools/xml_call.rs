//! A call in tags: its name, and each argument by itself, texts as they are and all else as JSON.

use serde_json::Value;

use super::{
    kinds::Kinds,
    python_call::json_char,
    reader::{Flow, Out},
};

/// How a family of models writes such calls.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tags {
    /// Before and after the name; nothing after it: what can not belong to a name ends it.
    pub(super) name: [&'static str; 2],
    /// Before and after an argument's name.
    pub(super) key: [&'static str; 2],
    /// Before and after its value.
    pub(super) value: [&'static str; 2],
    /// Whether a new line at the beginning of a value, and one at its end, belong to the tags.
    pub(super) on_lines: bool,
    /// What ends the call, most usual first.
    pub(super) ends: &'static [&'static str],
}

/// `<function=f><parameter=a>1</parameter></function>`
pub(super) const QWEN: Tags = Tags {
    name: ["<function=", ">"],
    key: ["<parameter=", ">"],
    value: ["", "</parameter>"],
    on_lines: true,
    ends: &["</function>", "</tool_call>"],
};

/// `f<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>`
pub(super) const GLM: Tags = Tags {
    name: ["", ""],
    key: ["<arg_key>", "</arg_key>"],
    value: ["<arg_value>", "</arg_value>"],
    on_lines: false,
    ends: &["</tool_call>"],
};

/// `<invoke name="f"><parameter name="a">1</parameter></invoke>`
pub(super) const MINIMAX: Tags = Tags {
    name: ["<invoke name=\"", "\">"],
    key: ["<parameter name=\"", "\">"],
    value: ["", "</parameter>"],
    on_lines: true,
    ends: &["</invoke>", "</minimax:tool_call>"],
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the name.
    Begin,
    Name,
    /// Before an argument, or the end.
    Argument,
    Key,
    /// Before a value.
    Lead,
    Value,
}

/// Reads such a call. Texts go out as they come; what may be something else when it is whole.
#[derive(Debug, Clone)]
pub(super) struct XmlCall {
    tags: &'static Tags,
    state: State,
    name: String,
    pub(super) named: bool,
    count: usize,
    /// What may become a tag, or the name of an argument; what could not, when the call is rejected.
    pub(super) held: String,
    kinds: Kinds,
    /// A value that is no text for sure.
    value: String,
    /// Whether the value has begun.
    begun: bool,
}

impl XmlCall {
    pub(super) fn new(tags: &'static Tags) -> Self {
        Self {
            tags,
            state: if tags.name[0].is_empty() { State::Name } else { State::Begin },
            name: String::new(),
            named: false,
            count: 0,
            held: String::new(),
            kinds: Kinds::ANY,
            value: String::new(),
            begun: false,
        }
    }

    pub(super) fn push(&mut self, c: char, out: &mut Out) -> Flow {
        match self.state {
            State::Begin => self.tag(c, &[self.tags.name[0]]).map_or_else(|flow| flow, |_| self.go(State::Name)),
            State::Name => self.push_name(c, out),
            State::Argument => self.argument(c, out),
            State::Key => self.push_key(c, out),
            State::Lead => self.tag(c, &[self.tags.value[0]]).map_or_else(|flow| flow, |_| self.go(State::Value)),
            State::Value => {
                self.push_value(c, out);
                Flow::More
            }
        }
    }

    fn go(&mut self, state: State) -> Flow {
        self.state = state;
        Flow::More
    }

    /// Takes a character of one of these tags, before which white space may stand; which one, when it is whole.
    fn tag(&mut self, c: char, tags: &[&'static str]) -> Result<&'static str, Flow> {
        if self.held.is_empty() && c.is_whitespace() {
            return Err(Flow::More);
        }
        self.held.push(c);
        if let Some(tag) = tags.iter().find(|tag| **tag == self.held) {
            self.held.clear();
            return Ok(tag);
        }
        let is_begun = tags.iter().any(|tag| tag.starts_with(self.held.as_str()));
        Err(if is_begun { Flow::More } else { Flow::Reject })
    }

    fn push_name(&mut self, c: char, out: &mut Out) -> Flow {
        let end = self.tags.name[1];
        let is_of_name = c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if self.held.is_empty() && is_of_name && self.name.len() < super::MAX_NAME {
            self.name.push(c);
            return Flow::More;
        }
        if self.name.is_empty() && self.held.is_empty() && c.is_whitespace() {
            return Flow::More;
        }
        let is_end = !end.is_empty() || c.is_whitespace() || c == '<';
        if !is_end || !out.knows(&self.name) {
            return Flow::Reject;
        }
        if !end.is_empty() {
            self.held.push(c);
            if self.held != end {
                return if end.starts_with(self.held.as_str()) { Flow::More } else { Flow::Reject };
            }
            self.held.clear();
        }
        self.named = true;
        out.call(&self.name);
        out.arguments("{");
        self.state = State::Argument;
        // What ended the name may begin a tag.
        if end.is_empty() { self.argument(c, out) } else { Flow::More }
    }

    /// Before an argument. Whatever is wrong here, the arguments so far are whole.
    fn argument(&mut self, c: char, out: &mut Out) -> Flow {
        let key = self.tags.key[0];
        let tags: Vec<&str> = self.tags.ends.iter().copied().chain([key]).collect();
        match self.tag(c, &tags) {
            Ok(tag) if tag == key => self.go(State::Key),
            Ok(_) => {
                out.arguments("}");
                Flow::End
            }
            Err(Flow::Reject) => {
                out.arguments("}");
                Flow::Reject
            }
            Err(flow) => flow,
        }
    }

    fn push_key(&mut self, c: char, out: &mut Out) -> Flow {
        self.held.push(c);
        let Some(key) = self.held.strip_suffix(self.tags.key[1]) else { return Flow::More };
        let key = key.trim();
        self.kinds = out.kinds(&self.name, key);
        let comma = if self.count > 0 { ", " } else { "" };
        out.arguments(&format!("{comma}{}: ", Value::from(key)));
        if self.kinds.is_text() {
            out.arguments("\"");
        }
        self.count += 1;
        self.begun = false;
        self.held.clear();
        self.go(if self.tags.value[0].is_empty() { State::Value } else { State::Lead })
    }

    fn push_value(&mut self, c: char, out: &mut Out) {
        if !std::mem::replace(&mut self.begun, true) && self.tags.on_lines && c == '\n' {
            return;
        }
        self.held.push(c);
        let end = self.tags.value[1];
        while !self.held.is_empty() {
            let held = match self.held.strip_prefix('\n') {
                Some(rest) if self.tags.on_lines => rest,
                _ => &self.held,
            };
            if held == end {
                self.held.clear();
                self.end_value(out);
                return;
            }
            if end.starts_with(held) {
                return;
            }
            let first = self.held.remove(0);
            if self.kinds.is_text() { out.arguments(&json_char(first)) } else { self.value.push(first) }
        }
    }

    fn end_value(&mut self, out: &mut Out) {
        let value = std::mem::take(&mut self.value);
        out.arguments(&if self.kinds.is_text() { "\"".to_owned() } else { self.kinds.read(&value) });
        self.state = State::Argument;
    }
}
