//! A call as Python writes it: `name(a=1, b='x', c=[True, None])`. Its arguments go out as JSON.

use super::reader::{Flow, Out};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Name,
    /// Before an argument, or the end.
    Argument,
    ArgumentName,
    Value,
}

/// Reads such a call.
#[derive(Debug, Clone, Default)]
pub(super) struct PythonCall {
    state: State,
    name: String,
    pub(super) named: bool,
    count: usize,
    /// Brackets that are open in the value.
    open: Vec<char>,
    /// A name, word or number that is being read.
    word: String,
    /// The quote of the string being read.
    quote: Option<char>,
    escaped: bool,
    /// Whether the value has begun.
    begun: bool,
}

impl PythonCall {
    pub(super) fn push(&mut self, c: char, out: &mut Out) -> Flow {
        match self.state {
            State::Name => match c {
                '(' if out.knows(&self.name) => {
                    self.named = true;
                    out.call(&self.name);
                    out.arguments("{");
                    self.state = State::Argument;
                    Flow::More
                }
                c if self.name.is_empty() && c.is_whitespace() => Flow::More,
                c if (c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
                    && self.name.len() < super::MAX_NAME =>
                {
                    self.name.push(c);
                    Flow::More
                }
                _ => Flow::Reject,
            },
            State::Argument => match c {
                ')' => {
                    out.arguments("}");
                    Flow::End
                }
                ',' if self.count > 0 => Flow::More,
                c if c.is_whitespace() => Flow::More,
                c if c.is_alphabetic() || c == '_' => {
                    self.word = c.to_string();
                    self.state = State::ArgumentName;
                    Flow::More
                }
                _ => Flow::Reject,
            },
            State::ArgumentName => match c {
                '=' => {
                    let comma = if self.count > 0 { ", " } else { "" };
                    let name = serde_json::Value::from(std::mem::take(&mut self.word).trim());
                    out.arguments(&format!("{comma}{name}: "));
                    self.count += 1;
                    self.begun = false;
                    self.state = State::Value;
                    Flow::More
                }
                c if c.is_alphanumeric() || matches!(c, '_' | ' ') => {
                    self.word.push(c);
                    Flow::More
                }
                _ => Flow::Reject,
            },
            State::Value => self.value(c, out),
        }
    }

    fn value(&mut self, c: char, out: &mut Out) -> Flow {
        if let Some(quote) = self.quote {
            self.string(quote, c, out);
            return Flow::More;
        }
        let is_of_word = c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
        if is_of_word {
            self.begun = true;
            self.word.push(c);
            return Flow::More;
        }
        self.end_word(out);
        match c {
            '\'' | '"' => {
                self.begun = true;
                self.quote = Some(c);
                out.arguments("\"");
            }
            '[' | '(' | '{' => {
                self.begun = true;
                self.open.push(c);
                out.arguments(if c == '{' { "{" } else { "[" });
            }
            ']' | '}' | ')' if !self.open.is_empty() => {
                let closed = self.open.pop();
                out.arguments(if closed == Some('{') { "}" } else { "]" });
            }
            ')' if self.begun => {
                out.arguments("}");
                return Flow::End;
            }
            ',' if self.open.is_empty() && self.begun => self.state = State::Argument,
            ',' if self.begun => out.arguments(", "),
            ':' if self.open.last() == Some(&'{') => out.arguments(": "),
            c if c.is_whitespace() => {}
            _ => return Flow::Reject,
        }
        Flow::More
    }

    /// A word or number is over.
    fn end_word(&mut self, out: &mut Out) {
        let word = std::mem::take(&mut self.word);
        match word.as_str() {
            "" => {}
            "True" | "true" => out.arguments("true"),
            "False" | "false" => out.arguments("false"),
            "None" | "null" => out.arguments("null"),
            word if serde_json::from_str::<serde_json::Number>(word).is_ok() => out.arguments(word),
            // `.5`, `5.`, `1_000`, a bare word.
            word => match word.replace('_', "").parse::<f64>() {
                Ok(number) if number.is_finite() => out.arguments(&serde_json::Value::from(number).to_string()),
                _ => out.arguments(&serde_json::Value::from(word).to_string()),
            },
        }
    }

    fn string(&mut self, quote: char, c: char, out: &mut Out) {
        if std::mem::take(&mut self.escaped) {
            match c {
                'n' | 't' | 'r' | '\\' | '"' | 'u' | 'b' | 'f' => out.arguments(&format!("\\{c}")),
                '\'' => out.arguments("'"),
                '\n' => {}
                c => out.arguments(&format!("\\\\{}", json_char(c))),
            }
        } else if c == '\\' {
            self.escaped = true;
        } else if c == quote {
            self.quote = None;
            out.arguments("\"");
        } else {
            out.arguments(&json_char(c));
        }
    }
}

/// A character within a JSON string.
pub(super) fn json_char(c: char) -> String {
    let quoted = serde_json::Value::from(c.to_string()).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}
