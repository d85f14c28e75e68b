//! Parameters that exist in the APIs we speak but that we do not support: accepted with the value that changes nothing,
//! refused otherwise. Ignoring them would drop silently what a client asked for.

use serde_json::Value;

use crate::ApiError;

/// One such parameter: its name, what was given, and whether a non-null value changes nothing.
pub(crate) struct Unsupported<'a> {
    pub(crate) name: &'static str,
    pub(crate) given: &'a Option<Value>,
    pub(crate) is_neutral: fn(&Value) -> bool,
}

/// Refuses the first parameter whose value is not neutral.
pub(crate) fn check(parameters: &[Unsupported<'_>]) -> Result<(), ApiError> {
    for parameter in parameters {
        let Some(value) = parameter.given else { continue };
        if !(parameter.is_neutral)(value) {
            return Err(ApiError::unsupported(parameter.name, shorten(value)));
        }
    }
    Ok(())
}

/// A value for an error message.
fn shorten(value: &Value) -> String {
    const MOST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

pub(crate) fn nothing(_: &Value) -> bool {
    false
}

pub(crate) fn is_false(value: &Value) -> bool {
    value == &Value::Bool(false)
}

pub(crate) fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

pub(crate) fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

pub(crate) fn is_empty_text(value: &Value) -> bool {
    value.as_str() == Some("")
}

pub(crate) fn is_empty_list(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

pub(crate) fn is_default_tier(value: &Value) -> bool {
    matches!(value.as_str(), Some("auto" | "default"))
}

pub(crate) fn is_text_only(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.len() == 1 && list[0] == "text")
}

pub(crate) fn is_none_word(value: &Value) -> bool {
    value.as_str() == Some("none")
}
