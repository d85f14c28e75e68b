//! Values that the API allows in more than one form. Their deserialisers are written by hand because serde's untagged
//! enums say only that nothing matched, not where and why.

use std::fmt;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{ApiError, parse};

/// One string, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum StringOrList {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl StringOrList {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl<'de> Deserialize<'de> for StringOrList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = StringOrList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(StringOrList::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = items.next_element()? {
                    texts.push(text);
                }
                Ok(StringOrList::Many(texts))
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

/// A prompt of the completions and embeddings APIs: text or tokens, one or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The tokens of one prompt.
    Tokens(Vec<u32>),
    /// The tokens of several prompts.
    TokenLists(Vec<Vec<u32>>),
}

impl Prompt {
    /// How many prompts there are.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
        }
    }
}

/// An element of a prompt that is an array.
enum PromptItem {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for PromptItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = PromptItem;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token or an array of tokens")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(PromptItem::Text(text.to_owned()))
            }

            fn visit_u64<E: serde::de::Error>(self, token: u64) -> Result<Self::Value, E> {
                let token = u32::try_from(token).map_err(|_| E::custom(format!("{token} is no token id")))?;
                Ok(PromptItem::Token(token))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = items.next_element()? {
                    tokens.push(token);
                }
                Ok(PromptItem::Tokens(tokens))
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings, an array of tokens or an array of arrays of tokens")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Prompt::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let Some(first) = items.next_element()? else {
                    return Err(A::Error::custom("an empty array given, at least one entry expected"));
                };
                let mut prompt = match first {
                    PromptItem::Text(text) => Prompt::Texts(vec![text]),
                    PromptItem::Token(token) => Prompt::Tokens(vec![token]),
                    PromptItem::Tokens(tokens) => Prompt::TokenLists(vec![tokens]),
                };
                while let Some(item) = items.next_element()? {
                    match (&mut prompt, item) {
                        (Prompt::Texts(texts), PromptItem::Text(text)) => texts.push(text),
                        (Prompt::Tokens(tokens), PromptItem::Token(token)) => tokens.push(token),
                        (Prompt::TokenLists(lists), PromptItem::Tokens(tokens)) => lists.push(tokens),
                        _ => return Err(A::Error::custom("entries of different kinds given, one kind expected")),
                    }
                }
                Ok(prompt)
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

/// What a chat message says: a text, or parts.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum MessageContent {
    /// A text.
    Text(String),
    /// Parts, in order.
    Parts(Vec<ContentPart>),
}

/// One part of a message. Only `{"type": "text", "text": …}` is supported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ContentPart {
    /// The part's kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a text part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What parts of other kinds hold.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Map<String, Value>,
}

impl MessageContent {
    /// The text; parts are joined with a line break, as vLLM and llama.cpp do.
    ///
    /// # Errors
    /// 400 when a part is not text; `path` is where the content stands in the request.
    pub fn text(&self, path: &str) -> Result<String, ApiError> {
        let parts = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::Parts(parts) => parts,
        };
        let mut texts = Vec::with_capacity(parts.len());
        for (index, part) in parts.iter().enumerate() {
            let path = format!("{path}[{index}]");
            if part.kind != "text" {
                return Err(ApiError::unsupported(format!("{path}.type"), format_args!("a '{}' part", part.kind)));
            }
            if let Some(key) = part.other.keys().next() {
                let known = ["type", "text"].into_iter();
                return Err(parse::unknown_parameter(&format!("{path}.{key}"), key, known));
            }
            let Some(text) = &part.text else {
                return Err(ApiError::invalid_param(format!("{path}.text"), "missing, a string expected"));
            };
            texts.push(text.as_str());
        }
        Ok(texts.join("\n"))
    }
}

impl<'de> Deserialize<'de> for MessageContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = MessageContent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of text parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(MessageContent::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = items.next_element()? {
                    parts.push(part);
                }
                Ok(MessageContent::Parts(parts))
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(json: &str, expected: Result<Prompt, &str>) {
        let given = serde_json::from_str::<Prompt>(json).map_err(|error| error.to_string());
        match (given, expected) {
            (Ok(given), Ok(expected)) => assert_eq!(given, expected),
            (Err(given), Err(expected)) => assert!(given.contains(expected), "{given}"),
            (given, expected) => assert_eq!(format!("{given:?}"), format!("{expected:?}")),
        }
    }

    #[test]
    fn prompts_come_in_four_forms_and_no_other() {
        check(r#""a""#, Ok(Prompt::Text("a".into())));
        check(r#"["a","b"]"#, Ok(Prompt::Texts(vec!["a".into(), "b".into()])));
        check("[1,2]", Ok(Prompt::Tokens(vec![1, 2])));
        check("[[1],[2,3]]", Ok(Prompt::TokenLists(vec![vec![1], vec![2, 3]])));
        check("[]", Err("an empty array given"));
        check(r#"[1,"a"]"#, Err("entries of different kinds"));
        check("[-1]", Err("integer `-1`"));
        check("[4294967296]", Err("no token id"));
        check("[1.5]", Err("floating point `1.5`"));
        check("{}", Err("invalid type: map"));
        check("true", Err("invalid type: boolean"));
    }

    #[test]
    fn parts_are_joined_and_other_kinds_refused() {
        let content: MessageContent =
            serde_json::from_str(r#"[{"type":"text","text":"a"},{"type":"text","text":"b"}]"#).unwrap();
        assert_eq!(content.text("c").unwrap(), "a\nb");
        let content: MessageContent =
            serde_json::from_str(r#"[{"type":"image_url","image_url":{"url":"u"}}]"#).unwrap();
        let error = content.text("messages[0].content").unwrap_err();
        assert_eq!(error.param.as_deref(), Some("messages[0].content[0].type"));
        assert_eq!(error.message, "'messages[0].content[0].type': a 'image_url' part is not supported yet");
    }
}
