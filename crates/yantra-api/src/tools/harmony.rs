//! OpenAI's Harmony format, of gpt-oss (<https://github.com/openai/harmony/blob/main/docs/format.md>): an answer is
//! messages, each of a channel and perhaps with a recipient, `<|channel|>analysis<|message|>…<|end|>`. The channel says
//! what a message is: reasoning (`analysis`), what is said (`final`), or a call, where it has a tool for its recipient.

use super::reader::Out;

/// Longest header of a message.
const MAX_HEADER: usize = 256;

/// What ends a message; the last one where a model forgets the others.
const ENDS: [&str; 4] = ["<|end|>", "<|call|>", "<|return|>", "<|start|>"];
/// What may begin a header.
const BEGINS: [&str; 4] = ["<|channel|>", "<|start|>", "<|message|>", "to="];
/// What ends a header.
const MESSAGE: &str = "<|message|>";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// In a header, or what may be one.
    #[default]
    Header,
    Reasoning,
    Content,
    Call,
}

/// Takes such an answer apart, after `<|start|>assistant`.
#[derive(Debug, Clone, Default)]
pub(super) struct Harmony {
    state: State,
    /// A header so far, or what may become the end of a message.
    held: String,
    /// White space that something may follow.
    blank: String,
    /// Whether the message has said something.
    said: bool,
    pub(super) has_calls: bool,
}

impl Harmony {
    /// `is_begun`: the prompt has begun the reasoning.
    pub(super) fn new(is_begun: bool) -> Self {
        Self { state: if is_begun { State::Reasoning } else { State::Header }, ..Self::default() }
    }

    /// Takes a character. Content is left to whoever reads that, and returned.
    pub(super) fn push(&mut self, c: char, out: &mut Out) -> String {
        let mut content = String::new();
        self.take(c, out, &mut content);
        content
    }

    /// The answer is over; the rest of its content.
    pub(super) fn finish(&mut self, out: &mut Out) -> String {
        let held = std::mem::take(&mut self.held);
        let mut content = String::new();
        match self.state {
            // A header that was cut off is nobody's.
            State::Header if BEGINS.iter().any(|begin| held.trim_start().starts_with(begin)) => {}
            State::Header => content += &held,
            _ => held.chars().for_each(|c| self.say(c, out, &mut content)),
        }
        self.end(out, &mut content);
        content
    }

    fn take(&mut self, c: char, out: &mut Out, content: &mut String) {
        self.held.push(c);
        if self.state == State::Header {
            return self.header(out, content);
        }
        while !self.held.is_empty() {
            if let Some(end) = ENDS.iter().find(|end| **end == self.held) {
                self.end(out, content);
                // What begins the next message is a part of its header.
                if *end != "<|start|>" {
                    self.held.clear();
                }
                self.state = State::Header;
                return;
            }
            if ENDS.iter().any(|end| end.starts_with(self.held.as_str())) {
                return;
            }
            let first = self.held.remove(0);
            self.say(first, out, content);
        }
    }

    /// More of a header; what can not be one is content.
    fn header(&mut self, out: &mut Out, content: &mut String) {
        if let Some(header) = self.held.strip_suffix(MESSAGE) {
            let header = header.to_owned();
            self.held.clear();
            return self.begin(&header, out, content);
        }
        if self.held.len() > MAX_HEADER || !is_header(&self.held) {
            let held = std::mem::take(&mut self.held);
            self.state = State::Content;
            held.chars().for_each(|c| self.take(c, out, content));
        }
    }

    fn begin(&mut self, header: &str, out: &mut Out, content: &mut String) {
        self.said = false;
        self.blank.clear();
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let recipient = header.split_once("to=").map(|(_, rest)| rest.split(|c| !is_of_name(c)).next().unwrap_or(rest));
        let channel = header.split_once("<|channel|>").map_or("", |(_, rest)| rest.trim_start());
        self.state = match recipient.map(|name| name.strip_prefix("functions.").unwrap_or(name)) {
            Some(name) if out.knows(name) => {
                out.call(name);
                self.has_calls = true;
                State::Call
            }
            // No tool: what the model says of it is all there is.
            Some(_) => {
                content.push_str(header);
                content.push_str(MESSAGE);
                self.said = true;
                State::Content
            }
            None if channel.starts_with("analysis") => State::Reasoning,
            None => State::Content,
        };
    }

    /// A message is over.
    fn end(&mut self, out: &mut Out, content: &mut String) {
        match self.state {
            State::Call if !self.said => out.arguments("{}"),
            State::Content => content.push_str(&std::mem::take(&mut self.blank)),
            _ => {}
        }
        self.blank.clear();
    }

    /// White space around messages is nobody's, but that of the content is for its reader to judge.
    fn say(&mut self, c: char, out: &mut Out, content: &mut String) {
        if c.is_whitespace() {
            if self.said || self.state == State::Content {
                self.blank.push(c);
            }
            return;
        }
        self.said = true;
        let mut text = std::mem::take(&mut self.blank);
        text.push(c);
        match self.state {
            State::Reasoning => out.reasoning(&text),
            State::Call => out.arguments(&text),
            State::Header | State::Content => content.push_str(&text),
        }
    }
}

/// Whether a text is a header's beginning.
fn is_header(text: &str) -> bool {
    let text = text.trim_start();
    BEGINS.iter().any(|begin| begin.starts_with(text) || text.starts_with(begin))
}
