//! What the readers of calls have in common.

use std::sync::Arc;

use super::{Piece, Tool, kinds::Kinds};

/// Collects pieces; neighbours of one kind are one piece.
#[derive(Debug, Clone)]
pub(super) struct Out {
    pieces: Vec<Piece>,
    /// The tools there are: JSON with a name is not yet a call.
    tools: Arc<[Tool]>,
}

impl Out {
    pub(super) fn new(tools: Arc<[Tool]>) -> Self {
        Self { pieces: Vec::new(), tools }
    }

    /// Whether there is a tool of this name.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.tools.iter().any(|known| known.name == name)
    }

    /// What a tool's argument may be.
    pub(super) fn kinds(&self, name: &str, argument: &str) -> Kinds {
        let parameters = self.tools.iter().find(|known| known.name == name).map(|tool| &tool.parameters);
        let schema = parameters.and_then(|parameters| Some((parameters.get("properties")?.get(argument)?, parameters)));
        schema.map_or(Kinds::ANY, |(schema, root)| Kinds::of_schema(schema, root))
    }

    pub(super) fn content(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Content(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Content(text.to_owned())),
        }
    }

    pub(super) fn reasoning(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Reasoning(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Reasoning(text.to_owned())),
        }
    }

    pub(super) fn call(&mut self, name: &str) {
        self.pieces.push(Piece::Call { name: name.to_owned() });
    }

    pub(super) fn arguments(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Arguments(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Arguments(text.to_owned())),
        }
    }

    pub(super) fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }
}

/// What a reader made of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// It belongs to the call, which goes on.
    More,
    /// It is the call's last.
    End,
    /// It can not stand here.
    Reject,
}

/// Follows one JSON value to its end.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonValue {
    depth: usize,
    in_string: bool,
    escaped: bool,
    begun: bool,
}

impl JsonValue {
    /// Whether the value is over with this character; only objects, arrays and strings tell that by themselves.
    pub(super) fn push(&mut self, c: char) -> Flow {
        if self.in_string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.in_string = false;
                    return if self.depth == 0 { Flow::End } else { Flow::More };
                }
                _ => {}
            }
            return Flow::More;
        }
        match c {
            '"' if !self.begun || self.depth > 0 => self.in_string = true,
            '{' | '[' if !self.begun || self.depth > 0 => self.depth += 1,
            '}' | ']' if self.depth > 0 => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Flow::End;
                }
            }
            // A number or a word ends with what can not belong to it.
            '"' | '{' | '[' | '}' | ']' | ',' | ':' if self.depth == 0 => return Flow::Reject,
            c if c.is_whitespace() && self.depth == 0 => return Flow::Reject,
            _ => {}
        }
        self.begun = true;
        Flow::More
    }
}
