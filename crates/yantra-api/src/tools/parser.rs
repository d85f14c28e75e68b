//! From an answer's characters to its pieces.
//!
//! Each character is looked at once, in order, and nothing depends on where the text was cut. What may be the beginning
//! of a marker is held back until it is known to be one or not. What looks like a call and is none comes out as content,
//! whole; what goes wrong within a call's arguments, after the call has been told, leaves them as they came and the rest
//! as content.

use std::sync::Arc;

use super::{
    Dialect, Piece, Tool,
    dialect::Form,
    harmony::Harmony,
    json_call::JsonCall,
    named_call::NamedCall,
    python_call::PythonCall,
    react::React,
    reader::{Flow, Out},
    xml_call::{Tags, XmlCall},
};

/// How a model marks its reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reasoning {
    /// What begins it.
    pub begin: &'static str,
    /// What ends it.
    pub end: &'static str,
    /// Whether the prompt has begun it already.
    pub is_begun: bool,
    /// Whether the prompt has ended it already, as templates do that are told not to have the model think.
    pub is_over: bool,
}

/// Reasoning of gpt-oss, whose answers are messages of their own format.
const HARMONY: [&str; 2] = ["<|channel|>analysis<|message|>", "<|end|>"];

impl Reasoning {
    /// The markers that a chat template speaks of; `prompt_end` is how a prompt of it ends.
    #[must_use]
    pub fn of_template(template: &str, prompt_end: &str) -> Option<Self> {
        const MARKERS: [(&str, &str); 4] = [
            ("<think>", "</think>"),
            ("[THINK]", "[/THINK]"),
            ("<seed:think>", "</seed:think>"),
            ("<|START_THINKING|>", "<|END_THINKING|>"),
        ];
        let prompt_end = prompt_end.trim_end();
        let [begin, end] = HARMONY;
        if template.contains(begin) {
            return Some(Self { begin, end, is_begun: prompt_end.ends_with(begin), is_over: false });
        }
        let (begin, end) =
            MARKERS.into_iter().find(|(begin, end)| template.contains(begin) || template.contains(end))?;
        Some(Self { begin, end, is_begun: prompt_end.ends_with(begin), is_over: prompt_end.ends_with(end) })
    }

    /// What stands before an answer in the Harmony format: after its reasoning, and without any.
    pub const HARMONY_ANSWER: (&'static str, &'static str) =
        ("<|start|>assistant<|channel|>final<|message|>", "<|channel|>final<|message|>");

    /// Whether answers are messages in OpenAI's Harmony format.
    #[must_use]
    pub fn is_harmony(&self) -> bool {
        self.begin == HARMONY[0]
    }
}

/// Which call is being read.
#[derive(Debug, Clone)]
enum Reader {
    Json(JsonCall),
    Named(NamedCall),
    Python(PythonCall),
    Xml(XmlCall),
}

impl Reader {
    fn is_named(&self) -> bool {
        match self {
            Self::Json(call) => call.named,
            Self::Named(call) => call.is_named(),
            Self::Python(call) => call.named,
            Self::Xml(call) => call.named,
        }
    }

    /// What is content again when `c` can not stand in a call that has been told.
    fn rest(&self, c: char) -> String {
        match self {
            Self::Xml(call) => call.held.clone(),
            Self::Json(_) | Self::Named(_) | Self::Python(_) => c.to_string(),
        }
    }

    fn push(&mut self, c: char, out: &mut Out) -> Flow {
        match self {
            Self::Json(call) => call.push(c, out),
            Self::Named(call) => call.push(c, out),
            Self::Python(call) => call.push(c, out),
            Self::Xml(call) => call.push(c, out),
        }
    }
}

#[derive(Debug, Clone)]
enum State {
    Reasoning,
    /// After the reasoning, or at the start: white space here is nobody's.
    Start,
    Content,
    /// Before a call.
    Lead,
    Call(Reader),
    /// After a call, with what may follow held in `held`.
    After,
    /// In the text of an answer in JSON, within the escape that is held.
    Saying,
}

/// Takes one answer apart.
#[derive(Debug, Clone)]
pub struct AnswerParser {
    form: Option<Form>,
    /// Takes the messages of an answer apart; content is what the rest sees.
    harmony: Option<Harmony>,
    /// Takes content apart.
    react: Option<React>,
    reasoning: Option<Reasoning>,
    state: State,
    /// What may become a marker.
    held: String,
    /// White space of the content that a call may follow.
    blank: String,
    /// What is content again if the call turns out to be none.
    raw: String,
    /// Whether anything but white space has been said.
    said: bool,
    has_calls: bool,
    out: Out,
}

impl AnswerParser {
    /// For answers without tools, with reasoning that is marked so, or none.
    #[must_use]
    pub fn new(reasoning: Option<Reasoning>) -> Self {
        Self::with_calls(None, Arc::new([]), reasoning)
    }

    /// For answers that may call these tools in a dialect.
    pub(super) fn with_calls(dialect: Option<Dialect>, tools: Arc<[Tool]>, reasoning: Option<Reasoning>) -> Self {
        let is_begun = reasoning.is_some_and(|reasoning| reasoning.is_begun);
        let is_harmony = dialect == Some(Dialect::Harmony) || reasoning.is_some_and(|reasoning| reasoning.is_harmony());
        let reasoning = reasoning.filter(|_| !is_harmony);
        Self {
            form: dialect.and_then(Dialect::form),
            harmony: is_harmony.then(|| Harmony::new(is_begun)),
            react: (dialect == Some(Dialect::React)).then(React::default),
            state: match reasoning {
                None => State::Content,
                Some(_) if is_begun => State::Reasoning,
                Some(_) => State::Start,
            },
            reasoning,
            held: String::new(),
            blank: String::new(),
            raw: String::new(),
            said: false,
            has_calls: false,
            out: Out::new(tools),
        }
    }

    /// Takes more of the answer; what is certain now.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        for c in text.chars() {
            match &mut self.harmony {
                Some(harmony) => {
                    let content = harmony.push(c, &mut self.out);
                    self.has_calls |= harmony.has_calls;
                    content.chars().for_each(|c| self.take(c));
                }
                None => self.take(c),
            }
        }
        self.out.take()
    }

    /// The answer is over; what was held back.
    pub fn finish(&mut self) -> Vec<Piece> {
        if let Some(harmony) = &mut self.harmony {
            let content = harmony.finish(&mut self.out);
            content.chars().for_each(|c| self.take(c));
        }
        let (held, raw) = (std::mem::take(&mut self.held), std::mem::take(&mut self.raw));
        match &self.state {
            State::Reasoning => self.out.reasoning(&held),
            // A call, or what follows it, that was cut off.
            State::Call(reader) if reader.is_named() => {}
            State::After | State::Saying => {}
            State::Lead | State::Call(_) => self.say(&raw),
            State::Start | State::Content => self.say(&held),
        }
        // White space at the end is the answer's, unless it follows calls.
        let blank = std::mem::take(&mut self.blank);
        if !self.has_calls {
            self.tell(&blank);
        }
        if let Some(react) = &mut self.react {
            react.finish(&mut self.out);
        }
        self.out.take()
    }

    /// Content goes out, or to who takes it apart.
    fn tell(&mut self, content: &str) {
        match &mut self.react {
            Some(react) => content.chars().for_each(|c| react.push(c, &mut self.out)),
            None => self.out.content(content),
        }
    }

    fn take(&mut self, c: char) {
        match &mut self.state {
            State::Reasoning => self.reason(c),
            State::Start | State::Content => self.content(c),
            State::Lead => self.lead(c),
            State::Call(_) => self.call(c),
            State::After => self.after(c),
            State::Saying => self.say_json(c),
        }
    }

    fn reason(&mut self, c: char) {
        let end = self.reasoning.map_or("", |reasoning| reasoning.end);
        self.held.push(c);
        loop {
            if self.held == end {
                self.held.clear();
                self.state = State::Start;
                return;
            }
            if end.starts_with(self.held.as_str()) {
                return;
            }
            let first = self.held.remove(0);
            self.out.reasoning(first.encode_utf8(&mut [0; 4]));
        }
    }

    /// Content, up to what begins reasoning or a call.
    fn content(&mut self, c: char) {
        self.held.push(c);
        while !self.held.is_empty() {
            match self.opened() {
                Opened::Reasoning => {
                    self.held.clear();
                    self.blank.clear();
                    self.state = State::Reasoning;
                    return;
                }
                Opened::Call => {
                    let held = std::mem::take(&mut self.held);
                    // White space before a call is structure.
                    self.raw = std::mem::take(&mut self.blank) + &held;
                    self.state = State::Lead;
                    if self.form.is_some_and(|form| form.is_part_of_call(&held)) {
                        self.raw.truncate(self.raw.len() - held.len());
                        held.chars().for_each(|c| self.take(c));
                    }
                    return;
                }
                Opened::Maybe => return,
                Opened::Nothing => {
                    let first = self.held.remove(0);
                    self.say(first.encode_utf8(&mut [0; 4]));
                }
            }
        }
    }

    /// Whether what is held begins something.
    fn opened(&self) -> Opened {
        let held = self.held.as_str();
        if let Some(reasoning) = self.reasoning.filter(|_| !self.said) {
            if reasoning.begin == held {
                return Opened::Reasoning;
            }
            if reasoning.begin.starts_with(held) {
                return Opened::Maybe;
            }
        }
        let Some(form) = self.form else { return Opened::Nothing };
        if form.opens.contains(&held)
            || form.begins.contains(&held)
            || !self.said && held.chars().all(|c| form.starts.contains(&c))
        {
            return Opened::Call;
        }
        if form.opens.iter().chain(form.begins).any(|open| open.starts_with(held)) {
            Opened::Maybe
        } else {
            Opened::Nothing
        }
    }

    /// Content; white space waits until something follows it.
    fn say(&mut self, text: &str) {
        if self.form.is_none() && self.reasoning.is_none() {
            return self.tell(text);
        }
        for c in text.chars() {
            if c.is_whitespace() {
                self.blank.push(c);
                continue;
            }
            let blank = std::mem::take(&mut self.blank);
            // White space after reasoning or calls is nobody's.
            if matches!(self.state, State::Start) {
                self.state = State::Content;
            } else {
                self.tell(&blank);
            }
            self.said = true;
            self.tell(c.encode_utf8(&mut [0; 4]));
        }
    }

    /// The text of `{"content": "…"}`, up to its end.
    fn say_json(&mut self, c: char) {
        if self.held.is_empty() && c == '"' {
            self.state = State::After;
        } else if self.held.is_empty() && c != '\\' {
            self.out.content(c.encode_utf8(&mut [0; 4]));
        } else {
            self.held.push(c);
            let decoded: Result<String, _> = serde_json::from_str(&format!("\"{}\"", self.held));
            // Two escapes of four digits are the longest that make one character.
            if decoded.is_ok() || self.held.len() >= 12 {
                self.out.content(decoded.as_deref().unwrap_or(&self.held));
                self.held.clear();
            }
        }
    }

    /// Before a call: white space, brackets and words of the dialect.
    fn lead(&mut self, c: char) {
        let Some(form) = self.form else { return };
        self.raw.push(c);
        self.held.push(c);
        let held = self.held.trim_start();
        if form.says.contains(&held) {
            self.held.clear();
            self.raw.clear();
            self.said = true;
            self.state = State::Saying;
            return;
        }
        if held.is_empty() || form.leads.contains(&held) {
            self.held.clear();
            return;
        }
        if form.leads.iter().chain(form.says).any(|lead| lead.starts_with(held)) {
            return;
        }
        let held = std::mem::take(&mut self.held);
        let first = held.trim_start().chars().next();
        self.state = State::Call(form.reader.make(first));
        // What was held is in `raw` already.
        let raw_len = self.raw.len() - held.len();
        self.raw.truncate(raw_len);
        held.chars().for_each(|c| self.take(c));
    }

    fn call(&mut self, c: char) {
        self.raw.push(c);
        let State::Call(reader) = &mut self.state else { return };
        let flow = reader.push(c, &mut self.out);
        if reader.is_named() {
            self.has_calls = true;
            self.raw.clear();
        }
        match flow {
            Flow::More => {}
            Flow::End => {
                self.raw.clear();
                self.state = State::After;
            }
            Flow::Reject if self.raw.is_empty() => {
                let rest = reader.rest(c);
                self.state = State::Content;
                self.say(&rest);
            }
            Flow::Reject => {
                let raw = std::mem::take(&mut self.raw);
                self.state = State::Content;
                self.say(&raw);
            }
        }
    }

    /// After a call: another one, the end of the calls, or content.
    fn after(&mut self, c: char) {
        let Some(form) = self.form else { return };
        self.held.push(c);
        let held = self.held.trim_start();
        if held.is_empty() {
            self.held.clear();
            return;
        }
        if form.closes.contains(&held) {
            self.held.clear();
            self.content_after_calls();
        } else if form.nexts.contains(&held) {
            self.held.clear();
            self.state = State::Lead;
        } else if form.fillers.contains(&held) {
            self.held.clear();
        } else if form.reader.begins() == Some(held) {
            let held = std::mem::take(&mut self.held);
            self.state = State::Lead;
            held.trim_start().chars().for_each(|c| self.take(c));
        } else if !form.after().chain(form.reader.begins()).any(|word| word.starts_with(held)) {
            let held = std::mem::take(&mut self.held);
            self.content_after_calls();
            held.chars().for_each(|c| self.take(c));
        }
    }

    fn content_after_calls(&mut self) {
        self.state = State::Start;
        self.said = true;
        self.blank.clear();
        self.raw.clear();
    }
}

/// What held text begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opened {
    Reasoning,
    Call,
    Maybe,
    Nothing,
}

/// Which reader a dialect has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReaderKind {
    /// JSON objects.
    Json,
    /// A name and JSON.
    Named,
    /// JSON objects or names and JSON, told apart by the first character.
    Either,
    /// Python.
    Python,
    /// Tags.
    Xml(&'static Tags),
}

impl ReaderKind {
    fn make(self, first: Option<char>) -> Reader {
        match self {
            Self::Json => Reader::Json(JsonCall::default()),
            Self::Named => Reader::Named(NamedCall::default()),
            Self::Either if first == Some('{') => Reader::Json(JsonCall::default()),
            Self::Either => Reader::Named(NamedCall::default()),
            Self::Python => Reader::Python(PythonCall::default()),
            Self::Xml(tags) => Reader::Xml(XmlCall::new(tags)),
        }
    }

    /// What begins a call that follows another one with nothing between, where that is allowed.
    fn begins(self) -> Option<&'static str> {
        match self {
            Self::Json | Self::Either => Some("{"),
            Self::Xml(tags) => Some(tags.name[0]).filter(|tag| !tag.is_empty()),
            Self::Named | Self::Python => None,
        }
    }
}
