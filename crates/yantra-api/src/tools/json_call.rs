//! A call as a JSON object: `{"name": "…", "arguments": {…}}`, with `parameters` for `arguments` where models say so.

use super::reader::{Flow, JsonValue, Out};

#[derive(Debug, Clone, Default)]
enum State {
    #[default]
    Start,
    /// Before a key, or the end.
    Key,
    InKey,
    Colon,
    /// Before a value.
    Value,
    Name,
    Arguments(JsonValue),
    Skipped(JsonValue),
    /// After a value.
    Next,
}

/// Reads such an object. The arguments go out as they come once the name is known.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonCall {
    state: State,
    key: String,
    /// A string with its quotes, while it is read.
    text: String,
    escaped: bool,
    pub(super) named: bool,
    /// Arguments that came before the name.
    early: String,
    has_arguments: bool,
}

impl JsonCall {
    pub(super) fn push(&mut self, c: char, out: &mut Out) -> Flow {
        match &mut self.state {
            State::Start => match c {
                '{' => self.go(State::Key),
                c if c.is_whitespace() => Flow::More,
                _ => Flow::Reject,
            },
            State::Key => match c {
                '"' => {
                    self.text = "\"".to_owned();
                    self.go(State::InKey)
                }
                '}' => self.end(out),
                c if c.is_whitespace() => Flow::More,
                _ => Flow::Reject,
            },
            State::InKey => {
                if let Some(key) = self.string(c) {
                    self.key = key;
                    return self.go(State::Colon);
                }
                Flow::More
            }
            State::Colon => match c {
                ':' => self.go(State::Value),
                c if c.is_whitespace() => Flow::More,
                _ => Flow::Reject,
            },
            State::Value => self.value(c, out),
            State::Name => {
                if let Some(name) = self.string(c) {
                    if !out.knows(&name) {
                        return Flow::Reject;
                    }
                    self.named = true;
                    out.call(&name);
                    out.arguments(&std::mem::take(&mut self.early));
                    return self.go(State::Next);
                }
                Flow::More
            }
            State::Arguments(value) => {
                let flow = value.push(c);
                self.after(flow, c, out, true)
            }
            State::Skipped(value) => {
                let flow = value.push(c);
                self.after(flow, c, out, false)
            }
            State::Next => match c {
                ',' => self.go(State::Key),
                '}' => self.end(out),
                c if c.is_whitespace() => Flow::More,
                _ => Flow::Reject,
            },
        }
    }

    fn go(&mut self, state: State) -> Flow {
        self.state = state;
        Flow::More
    }

    fn value(&mut self, c: char, out: &mut Out) -> Flow {
        if c.is_whitespace() {
            return Flow::More;
        }
        let mut value = JsonValue::default();
        match self.key.as_str() {
            "name" if c == '"' && !self.named => {
                self.text = "\"".to_owned();
                self.go(State::Name)
            }
            "arguments" | "parameters" if c == '{' && !self.has_arguments => {
                value.push(c);
                self.has_arguments = true;
                self.argument(c, out);
                self.go(State::Arguments(value))
            }
            "name" | "arguments" | "parameters" => Flow::Reject,
            _ => match value.push(c) {
                Flow::Reject => Flow::Reject,
                _ => self.go(State::Skipped(value)),
            },
        }
    }

    /// What follows from a character of a value.
    fn after(&mut self, flow: Flow, c: char, out: &mut Out, is_argument: bool) -> Flow {
        if is_argument && flow != Flow::Reject {
            self.argument(c, out);
        }
        match flow {
            Flow::More => Flow::More,
            Flow::End => self.go(State::Next),
            // A number or a word is over; the character comes after it.
            Flow::Reject => {
                self.state = State::Next;
                self.push(c, out)
            }
        }
    }

    fn argument(&mut self, c: char, out: &mut Out) {
        let text = c.encode_utf8(&mut [0; 4]).to_owned();
        if self.named { out.arguments(&text) } else { self.early.push_str(&text) }
    }

    /// Takes a character of a string; the string when it is whole.
    fn string(&mut self, c: char) -> Option<String> {
        self.text.push(c);
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' => self.escaped = true,
            '"' => {
                let text = std::mem::take(&mut self.text);
                // Raw control characters are no JSON, but models write them.
                return Some(serde_json::from_str(&text).unwrap_or_else(|_| text.trim_matches('"').to_owned()));
            }
            _ => {}
        }
        None
    }

    fn end(&mut self, out: &mut Out) -> Flow {
        if !self.named {
            return Flow::Reject;
        }
        if !self.has_arguments {
            out.arguments("{}");
        }
        Flow::End
    }
}
