//! A call as a name and a JSON object, with something between: `name[ARGS]{…}` (Mistral), `name<｜tool▁sep｜>{…}` and
//! `name\n```json\n{…}` (DeepSeek).

use super::reader::{Flow, JsonValue, Out};

/// Longest text between name and arguments.
const MAX_BETWEEN: usize = 64;

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

    pub(super) fn push(&mut self, c: char, out: &mut Out) -> Flow {
        if let Some(arguments) = &mut self.arguments {
            let flow = arguments.push(c);
            if flow != Flow::Reject {
                out.arguments(c.encode_utf8(&mut [0; 4]));
            }
            return flow;
        }
        let is_of_name = c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        match c {
            '{' if out.knows(&self.name) => {
                let mut arguments = JsonValue::default();
                arguments.push(c);
                self.arguments = Some(arguments);
                out.call(&self.name);
                out.arguments("{");
                Flow::More
            }
            _ if is_of_name && self.between == 0 && self.name.len() < super::MAX_NAME => {
                self.name.push(c);
                Flow::More
            }
            c if self.name.is_empty() && c.is_whitespace() => Flow::More,
            _ if out.knows(&self.name) && self.between < MAX_BETWEEN => {
                self.between += 1;
                Flow::More
            }
            _ => Flow::Reject,
        }
    }
}
