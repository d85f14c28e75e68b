//! `POST /v1/moderations`: <https://platform.openai.com/docs/api-reference/moderations>.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{ApiError, check};

/// Most texts in a request.
const MAX_TEXTS: usize = 2048;

/// What to look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"input": "I like trains."}))]
pub struct ModerationRequest {
    /// Name of the moderator's model; its default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A text, several texts (a verdict for each), or the parts of one message (a verdict for all together).
    #[schema(value_type = ModerationInput)]
    pub input: Value,
}

/// The forms of what to look at.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ModerationInput {
    /// A text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The parts of one message.
    Parts(Vec<ModerationPart>),
}

/// A part of what gets one verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ModerationPart {
    /// A text.
    Text {
        /// The text.
        text: String,
    },
    /// An image.
    ImageUrl {
        /// Where it is.
        image_url: ImageUrl,
    },
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageUrl {
    /// An address, or the image itself as `data:image/…;base64,…`.
    pub url: String,
}

impl ModerationRequest {
    /// What is to get a verdict: one list of parts for each. Images only where they are taken.
    ///
    /// # Errors
    /// 400 naming what has no known form, or the image that is not taken.
    pub fn items(&self, takes_images: bool) -> Result<Vec<Vec<ModerationPart>>, ApiError> {
        let text = |text: &str| ModerationPart::Text { text: text.to_owned() };
        let list = match &self.input {
            Value::String(given) => return Ok(vec![vec![text(given)]]),
            Value::Array(list) => list,
            _ => return Err(invalid("input", "a string, an array of strings or an array of parts expected")),
        };
        check::length("input", list.len(), 1..=MAX_TEXTS)?;
        if list[0].is_string() {
            let one = |(index, given): (usize, &Value)| match given.as_str() {
                Some(given) => Ok(vec![text(given)]),
                None => Err(invalid(&format!("input[{index}]"), "a string expected, as the first one is")),
            };
            return list.iter().enumerate().map(one).collect();
        }
        let parts = list.iter().enumerate().map(|(index, given)| part(index, given, takes_images));
        Ok(vec![parts.collect::<Result<_, _>>()?])
    }
}

fn part(index: usize, given: &Value, takes_images: bool) -> Result<ModerationPart, ApiError> {
    let at = format!("input[{index}]");
    let part = ModerationPart::deserialize(given)
        .map_err(|error| invalid(&at, format_args!("{error}; a part of type 'text' or 'image_url' expected")))?;
    match part {
        ModerationPart::ImageUrl { .. } if !takes_images => Err(ApiError::unsupported(at, "an image")),
        part => Ok(part),
    }
}

fn invalid(param: &str, message: impl std::fmt::Display) -> ApiError {
    ApiError::invalid_param(param, message).with_code("invalid_type")
}

/// Verdicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModerationResponse {
    /// Its name, `modr-…`.
    pub id: String,
    /// The moderator's model.
    pub model: String,
    /// A verdict for each text, in order.
    pub results: Vec<ModerationResult>,
}

/// A verdict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModerationResult {
    /// Whether any category applies.
    pub flagged: bool,
    /// Which categories apply.
    pub categories: BTreeMap<String, Option<bool>>,
    /// How sure that is, 0 to 1.
    pub category_scores: BTreeMap<String, f64>,
    /// Which kinds of parts each score is of, where the moderator tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category_applied_input_types: Option<BTreeMap<String, Vec<String>>>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn items(input: Value, takes_images: bool) -> Result<Vec<Vec<ModerationPart>>, ApiError> {
        ModerationRequest { model: None, input }.items(takes_images)
    }

    #[test]
    fn all_forms_are_read() {
        let text = |text: &str| ModerationPart::Text { text: text.to_owned() };
        assert_eq!(items(json!("a"), false).unwrap(), [[text("a")]]);
        assert_eq!(items(json!(["a", "b"]), false).unwrap(), [[text("a")], [text("b")]]);
        let parts = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:x"}}]);
        assert_eq!(items(parts, true).unwrap()[0].len(), 2);
    }

    #[test]
    fn what_has_no_form_is_named() {
        let image = json!({"type": "image_url", "image_url": {"url": "data:x"}});
        for (input, param) in [
            (json!(7), "input"),
            (json!([]), "input"),
            (json!(["a", 7]), "input[1]"),
            (json!([{"type": "text", "text": "a"}, image]), "input[1]"),
            (json!([{"type": "text"}]), "input[0]"),
            (json!([{"type": "audio"}]), "input[0]"),
            (json!([{"type": "text", "text": "a"}, "b"]), "input[1]"),
        ] {
            let error = items(input.clone(), false).unwrap_err();
            assert_eq!((error.status, error.param.as_deref()), (400, Some(param)), "{input}: {}", error.message);
        }
    }
}
