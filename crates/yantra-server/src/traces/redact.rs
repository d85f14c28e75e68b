//! Taking out of requests and answers what is not to be kept.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use serde_json::{Map, Value};

/// Takes out of texts what is not to be kept of them. Called on the writer's thread, never while somebody waits for an
/// answer.
pub trait Redactor: Debug + Send + Sync {
    /// The text without it; as it was given where there is nothing of the kind.
    fn redact<'t>(&self, text: &'t str) -> Cow<'t, str>;
}

/// Smaller numbers are nobody's.
const SMALL: f64 = 1e7;
/// What stands for lists of tokens: they are texts, too, but not to those who redact.
const TOKENS: &str = "[redacted:tokens]";

/// Redacts a request: its strings, its keys, its large numbers and its prompts of tokens.
pub(super) fn request(value: &mut Value, redactors: &[Arc<dyn Redactor>]) {
    if redactors.is_empty() {
        return;
    }
    for name in ["prompt", "input"] {
        if let Some(prompt) = value.get_mut(name).filter(|prompt| is_tokens(prompt)) {
            *prompt = TOKENS.into();
        }
    }
    all(value, redactors);
}

/// Redacts an answer: as a request; log-probabilities, which spell it out in pieces that nothing is found in, are left
/// out.
pub(super) fn answer(value: &mut Value, redactors: &[Arc<dyn Redactor>]) {
    if !redactors.is_empty() {
        remove_logprobs(value);
        all(value, redactors);
    }
}

fn is_tokens(value: &Value) -> bool {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    !items.is_empty() && items.iter().all(|item| item.is_number() || is_tokens(item))
}

fn remove_logprobs(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(remove_logprobs),
        Value::Object(map) => map.iter_mut().for_each(|(name, value)| match name.as_str() {
            "logprobs" => *value = Value::Null,
            _ => remove_logprobs(value),
        }),
        _ => {}
    }
}

fn all(value: &mut Value, redactors: &[Arc<dyn Redactor>]) {
    match value {
        Value::String(text) => {
            if let Some(redacted) = changed(text, redactors) {
                *text = redacted;
            }
        }
        Value::Number(number) if number.as_f64().is_none_or(|number| number.abs() >= SMALL) => {
            if let Some(redacted) = changed(&number.to_string(), redactors) {
                *value = redacted.into();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| all(value, redactors)),
        Value::Object(map) => {
            map.values_mut().for_each(|value| all(value, redactors));
            if map.keys().any(|key| changed(key, redactors).is_some()) {
                let renamed = |(key, value): (String, Value)| (changed(&key, redactors).unwrap_or(key), value);
                *map = std::mem::take(map).into_iter().map(renamed).collect::<Map<_, _>>();
            }
        }
        _ => {}
    }
}

/// The text redacted, if that changes it.
fn changed(text: &str, redactors: &[Arc<dyn Redactor>]) -> Option<String> {
    redactors.iter().fold(None, |before: Option<String>, redactor| {
        match redactor.redact(before.as_deref().unwrap_or(text)) {
            Cow::Owned(redacted) => Some(redacted),
            Cow::Borrowed(_) => before,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug)]
    struct Sevens;

    impl Redactor for Sevens {
        fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
            if text.contains('7') { text.replace('7', "[]").into() } else { text.into() }
        }
    }

    #[test]
    fn strings_keys_and_numbers_are_redacted() {
        let redactors: [Arc<dyn Redactor>; 1] = [Arc::new(Sevens)];
        let mut value =
            json!({"a7": [{"b": "x7"}, "y", null, 7, 77_777_777, 1.5], "prompt": [[7, 8], [9]], "input": "7"});
        request(&mut value, &redactors);
        let expected =
            json!({"a[]": [{"b": "x[]"}, "y", null, 7, "[][][][][][][][]", 1.5], "prompt": TOKENS, "input": "[]"});
        assert_eq!(value, expected);
        let told = json!({"choices": [{"text": "7", "logprobs": {"tokens": ["7"]}}]});
        let (mut redacted, mut whole) = (told.clone(), told.clone());
        answer(&mut redacted, &redactors);
        answer(&mut whole, &[]);
        assert_eq!(redacted, json!({"choices": [{"text": "[]", "logprobs": null}]}));
        assert_eq!(whole, told);
    }
}
