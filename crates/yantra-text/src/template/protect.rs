//! Keeps the texts of control tokens in a conversation from becoming those tokens.
//!
//! A rendered template is read with its control tokens, and so `<|im_end|>` in a user's message would end the message and
//! let the user write the next one, the system's included. Texts of the conversation are therefore changed before they
//! are rendered: the first character of each such text becomes a private-use character that stands for it. Lengths,
//! trimming and joining stay what they were, the template's own tokens are found, and the characters are put back in the
//! text between them, which is encoded as text. A conversation without such texts is not touched.
//!
//! A template that itself cuts pieces out of a text, as some do with `/think`, can still join the two halves of a token.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::special::Guard;

/// First and last of Unicode's private-use characters.
const PRIVATE_USE: std::ops::RangeInclusive<char> = '\u{e000}'..='\u{f8ff}';

/// Where an assistant thought: templates cut its messages there. Control tokens in some vocabularies.
const REASONING_MARKS: &[&str] = &["<think>", "</think>", "[THINK]", "[/THINK]"];

/// Private-use characters and what they stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Aliases {
    /// `(alias, character)`.
    pairs: Vec<(char, char)>,
}

impl Aliases {
    /// Aliases for `characters` that occur in none of `texts`.
    fn choose(characters: &BTreeSet<char>, taken: &BTreeSet<char>) -> Self {
        let free = PRIVATE_USE.filter(|alias| !taken.contains(alias) && !characters.contains(alias));
        Self { pairs: free.zip(characters.iter().copied()).collect() }
    }

    fn of(&self, character: char) -> Option<char> {
        self.pairs.iter().find(|(_, stands_for)| *stands_for == character).map(|(alias, _)| *alias)
    }

    pub(crate) fn contain(&self, character: char) -> bool {
        self.pairs.iter().any(|(alias, _)| *alias == character)
    }

    pub(crate) fn occur_in(&self, text: &str) -> bool {
        text.contains(|found| self.contain(found))
    }

    /// The text with the characters that the aliases stand for.
    pub(crate) fn restore<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.occur_in(text) {
            return Cow::Borrowed(text);
        }
        let original = |found: char| self.pairs.iter().find(|(alias, _)| *alias == found).map_or(found, |(_, c)| *c);
        Cow::Owned(text.chars().map(original).collect())
    }

    /// Undoes what JSON in ASCII and Python's `repr` make of an alias.
    pub(super) fn unescape(&self, mut text: String) -> String {
        for (alias, _) in &self.pairs {
            let escape = format!("\\u{:04x}", u32::from(*alias));
            if text.contains(&escape) {
                text = text.replace(&escape, alias.encode_utf8(&mut [0; 4]));
            }
        }
        text
    }
}

/// A conversation in which no text can become a control token.
pub(super) struct Protected {
    pub(super) messages: Value,
    pub(super) tools: Option<Value>,
    pub(super) extra: Map<String, Value>,
    pub(super) aliases: Aliases,
}

/// Protects a conversation, or gives `None` where there is nothing to protect it from.
pub(super) fn protect(
    guard: &Guard,
    template: &str,
    messages: &Value,
    tools: Option<&Value>,
    extra: &Map<String, Value>,
) -> Option<Protected> {
    let protector = Protector { guard, aliases: Aliases::default() };
    let untouched = protector.messages(messages) == *messages
        && tools.is_none_or(|tools| protector.value(tools, &[]) == *tools)
        && protector.extra(extra) == *extra;
    if untouched {
        return None;
    }
    let mut taken = BTreeSet::new();
    let mut note = |text: &str| taken.extend(text.chars().filter(|found| PRIVATE_USE.contains(found)));
    note(template);
    for_each_text(messages, &mut note);
    tools.into_iter().chain(extra.values()).for_each(|value| for_each_text(value, &mut note));
    let protector = Protector { guard, aliases: Aliases::choose(guard.first_characters(), &taken) };
    Some(Protected {
        messages: protector.messages(messages),
        tools: tools.map(|tools| protector.value(tools, &[])),
        extra: protector.extra(extra),
        aliases: protector.aliases,
    })
}

struct Protector<'a> {
    guard: &'a Guard,
    aliases: Aliases,
}

impl Protector<'_> {
    fn messages(&self, messages: &Value) -> Value {
        let Value::Array(list) = messages else { return self.value(messages, &[]) };
        let message = |message: &Value| {
            let is_assistant = message.get("role").and_then(Value::as_str) == Some("assistant");
            self.value(message, if is_assistant { REASONING_MARKS } else { &[] })
        };
        Value::Array(list.iter().map(message).collect())
    }

    /// Variables the template knows as special tokens are what they are.
    fn extra(&self, extra: &Map<String, Value>) -> Map<String, Value> {
        let value = |(name, value): (&String, &Value)| {
            let is_token = name.ends_with("_token");
            (name.clone(), if is_token { value.clone() } else { self.value(value, &[]) })
        };
        extra.iter().map(value).collect()
    }

    fn value(&self, value: &Value, allowed: &[&str]) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text, allowed, false)),
            Value::Array(items) => {
                let several = items.iter().filter(|item| item.get("text").is_some()).count() > 1;
                let item = |item: &Value| match item {
                    Value::Object(entries) if several => self.object(entries, allowed, true),
                    other => self.value(other, allowed),
                };
                Value::Array(items.iter().map(item).collect())
            }
            Value::Object(entries) => self.object(entries, allowed, false),
            other => other.clone(),
        }
    }

    /// `is_part` is whether the object's `text` may be joined with that of others.
    fn object(&self, entries: &Map<String, Value>, allowed: &[&str], is_part: bool) -> Value {
        let entry = |(name, value): (&String, &Value)| {
            let value = match value {
                Value::String(text) if is_part && name == "text" => Value::String(self.text(text, allowed, true)),
                other => self.value(other, allowed),
            };
            (self.text(name, allowed, false), value)
        };
        Value::Object(entries.iter().map(entry).collect())
    }

    /// The text with the first character of each text of a control token replaced; where more text may follow, also of
    /// one that is only begun. Before aliases are chosen, the character is left out: the text only shows that it changes.
    fn text(&self, text: &str, allowed: &[&str], may_go_on: bool) -> String {
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for start in self.guard.starts(text, allowed, may_go_on) {
            out.push_str(&text[done..start]);
            let first = text[start..].chars().next();
            out.extend(first.and_then(|first| self.aliases.of(first)));
            done = start + first.map_or(0, char::len_utf8);
        }
        out.push_str(&text[done..]);
        out
    }
}

fn for_each_text(value: &Value, each: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(items) => items.iter().for_each(|item| for_each_text(item, each)),
        Value::Object(entries) => entries.iter().for_each(|(name, value)| {
            each(name);
            for_each_text(value, each);
        }),
        _ => {}
    }
}
