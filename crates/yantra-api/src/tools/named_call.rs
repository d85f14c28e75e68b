//! A call as a name and a JSON object, with something between: `name[ARGS]{…}` (Mistral), `name<｜tool▁sep｜>{…}` and
//! `name\n```json\n{…}` (DeepSeek), `functions.name:0<|tool_call_argument_begin|>{…}` (Kimi).

use super::reader::{Flow, JsonValue, Out};

/// Longest text between name and arguments.
const MAX_BETWEEN: usize = 64;
/// What some models put before the names of all tools.
const NAMESPACE: &str = "functions.";

/// Reads such a call.
#[derive(Debug, Clone, Default)]
pub(super) struct NamedCall {
    name: String,
    between: usize,
    arguments: Option<JsonValue>,
}

impl NamedCall {
    pub(super) fn is_named(&self) -> bool {
        self.arguments.is_some()
    }

    /// The tool that is meant.
    fn known(&self, out: &Out) -> Option<&str> {
        let name = self.name.as_str();
        [Some(name), name.strip_prefix(NAMESPACE)].into_iter().flatten().find(|name| out.knows(name))
    }

    pub(super) fn push(&mut self, c: char, out: &mut Out) -> Flow {
        if let Some(arguments) = &mut self.arguments {
            let flow = arguments.push(c);
            if flow != Flow::Reject {
                out.arguments(c.encode_utf8(&mut [0; 4]));
            }
            return flow;
        }
        if let (Some(name), '{') = (self.known(out), c) {
            out.call(name);
            out.arguments("{");
            self.arguments.insert(JsonValue::default()).push(c);
            return Flow::More;
        }
        let is_of_name = c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        match c {
            _ if is_of_name && self.between == 0 && self.name.len() < NAMESPACE.len() + super::MAX_NAME => {
                self.name.push(c);
                Flow::More
            }
            c if self.name.is_empty() && c.is_whitespace() => Flow::More,
            _ if self.between < MAX_BETWEEN && self.known(out).is_some() => {
                self.between += 1;
                Flow::More
            }
            _ => Flow::Reject,
        }
    }
}
