//! From a body's bytes to a request type, with errors that a client's author can act on.
//!
//! `serde_path_to_error` says where; here serde's wording is turned into ours, and an unknown parameter is answered with
//! the known one that looks most like it.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::ApiError;

/// Longest piece of what the client sent that an error message repeats.
const MAX_ECHO: usize = 160;

/// Parses a JSON body.
///
/// # Errors
/// 400: not UTF-8, not JSON (with line and column), an unknown or duplicate parameter, a missing one, a wrong type (with
/// the parameter's path).
pub fn from_slice<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        ApiError::invalid_request(format!("the body is not valid UTF-8: byte {at} begins no character"))
            .with_code("invalid_json")
    })?;
    // serde would read an array as an object's fields in order.
    if text.trim_start().starts_with('[') {
        let error = ApiError::invalid_request("the body: an array given, an object expected");
        return Err(error.with_code("invalid_type"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        describe(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| describe(".", &error))?;
    Ok(value)
}

fn describe(path: &str, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(head, _)| head);
    if error.classify() != Category::Data {
        let (line, column) = (error.line(), error.column());
        let message = format!("the body is not valid JSON: {text} at line {line} column {column}");
        return ApiError::invalid_request(message).with_code("invalid_json");
    }
    if let Some(name) = quoted(text, "unknown field ") {
        return unknown(&join(path, name), name, text);
    }
    if let Some(name) = quoted(text, "missing field ") {
        let param = join(path, name);
        return ApiError::invalid_request(format!("'{param}' is required")).at(param).with_code("missing_parameter");
    }
    if let Some(name) = quoted(text, "duplicate field ") {
        let param = join(path, name);
        return ApiError::invalid_param(param, "given twice");
    }
    let given_and_expected = text
        .strip_prefix("invalid type: ")
        .or_else(|| text.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "));
    let message = match given_and_expected {
        Some((given, expected)) => format!("{} given, {} expected", shorten(given), in_words(expected)),
        None => shorten(text),
    };
    match path {
        "." => ApiError::invalid_request(format!("the body: {message}")).with_code("invalid_type"),
        path => ApiError::invalid_param(path, message).with_code("invalid_type"),
    }
}

fn unknown(param: &str, name: &str, text: &str) -> ApiError {
    let known = text.split_once("expected").map_or("", |(_, known)| known);
    unknown_parameter(param, name, known.split('`').skip(1).step_by(2))
}

/// 400: there is no parameter `name`, which stands at `param`; names the most similar of the known ones.
pub(crate) fn unknown_parameter<'a>(param: &str, name: &str, known: impl Iterator<Item = &'a str>) -> ApiError {
    let nearest = known.min_by_key(|known| distance(name, known));
    let hint = match nearest {
        Some(nearest) if distance(name, nearest) <= 1 + name.len() / 3 => format!("; did you mean '{nearest}'?"),
        _ => String::new(),
    };
    ApiError::invalid_request(format!("unknown parameter '{}'{hint}", shorten(param)))
        .at(param)
        .with_code("unknown_parameter")
}

/// The name between backticks after `prefix`.
fn quoted<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.strip_prefix(prefix)?.strip_prefix('`')?.split('`').next()
}

/// `name` inside the object at `path`. The path may already end with the name, or with the key that failed.
fn join(path: &str, name: &str) -> String {
    let parent = path.strip_suffix(name).or_else(|| path.strip_suffix('?')).unwrap_or(path);
    match parent.trim_end_matches('.') {
        "" => name.to_owned(),
        parent => format!("{parent}.{name}"),
    }
}

fn in_words(expected: &str) -> &str {
    match expected {
        "f32" | "f64" => "a number",
        "i64" | "i32" | "usize" => "an integer",
        "u32" | "u64" => "a non-negative integer",
        "a sequence" => "an array",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_ECHO) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{ChatRequest, CompletionRequest};

    fn refusal<T: DeserializeOwned + std::fmt::Debug>(body: &str) -> (String, Option<String>) {
        let error = from_slice::<T>(body.as_bytes()).unwrap_err();
        assert_eq!(error.status, 400);
        (error.message, error.param)
    }

    fn chat(extra: &str) -> (String, Option<String>) {
        refusal::<ChatRequest>(&format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],{extra}}}"#))
    }

    fn check(given: (String, Option<String>), message: &str, param: Option<&str>) {
        assert_eq!((given.0.as_str(), given.1.as_deref()), (message, param));
    }

    #[test]
    fn wrong_shapes_are_named_with_their_place() {
        check(
            chat(r#""temprature":1"#),
            "unknown parameter 'temprature'; did you mean 'temperature'?",
            Some("temprature"),
        );
        check(chat(r#""zzz":1"#), "unknown parameter 'zzz'", Some("zzz"));
        check(chat(r#""seed":1,"seed":2"#), "'seed': given twice", Some("seed"));
        check(
            chat(r#""temperature":"hot""#),
            "'temperature': string \"hot\" given, a number expected",
            Some("temperature"),
        );
        check(chat(r#""n":1.5"#), "'n': floating point `1.5` given, an integer expected", Some("n"));
        check(chat(r#""stream_options":{"x":1}"#), "unknown parameter 'stream_options.x'", Some("stream_options.x"));
        check(chat(r#""stop":[1]"#), "'stop[0]': integer `1` given, a string expected", Some("stop[0]"));
        check(refusal::<ChatRequest>(r#"{"model":"m"}"#), "'messages' is required", Some("messages"));
        check(
            refusal::<ChatRequest>(r#"{"model":"m","messages":[{"role":"user","content":7}]}"#),
            "'messages[0].content': integer `7` given, a string or an array of text parts expected",
            Some("messages[0].content"),
        );
        check(refusal::<ChatRequest>("[1]"), "the body: an array given, an object expected", None);
    }

    #[test]
    fn what_is_not_json_is_located() {
        let (message, _) = refusal::<CompletionRequest>("{\n  \"model\": \"m\",,\n}");
        assert!(message.ends_with("at line 2 column 16"), "{message}");
        let (message, _) = refusal::<CompletionRequest>("{\"model\":\"m\",\"prompt\":\"p\"} x");
        assert!(message.contains("trailing characters"), "{message}");
        let error = from_slice::<CompletionRequest>(b"{\"model\":\"\xff\"}").unwrap_err();
        assert_eq!(error.message, "the body is not valid UTF-8: byte 10 begins no character");
        let deep = format!("{{\"model\":\"m\",\"prompt\":{}", "[".repeat(100_000));
        assert_eq!(from_slice::<CompletionRequest>(deep.as_bytes()).unwrap_err().status, 400);
    }
}
