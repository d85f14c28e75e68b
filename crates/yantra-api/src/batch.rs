//! `/v1/batches`, as OpenAI has it (<https://platform.openai.com/docs/api-reference/batch>): the batch itself, the lines of
//! its input, and the lines of its output.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::ApiError;

/// Where the items of a batch may go.
pub const BATCH_ENDPOINTS: [&str; 4] = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"];
/// Most items in a batch.
pub const MAX_BATCH_ITEMS: u64 = 50_000;
/// Most things that are wrong with a batch's input and are told.
pub const MAX_BATCH_ERRORS: usize = 100;
/// Seconds in the one completion window there is.
pub const BATCH_WINDOW_S: u64 = 86_400;

const MAX_CUSTOM_ID_CHARS: usize = 512;
const MAX_METADATA: usize = 16;
const MAX_METADATA_KEY_CHARS: usize = 64;
const MAX_METADATA_VALUE_CHARS: usize = 512;

/// Makes a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"input_file_id": "file-abc", "endpoint": "/v1/chat/completions", "completion_window": "24h"}))]
pub struct BatchRequest {
    /// The file with the items, of purpose `batch`.
    pub input_file_id: String,
    /// The path that all items go to.
    pub endpoint: String,
    /// How long it may take: `24h`.
    pub completion_window: String,
    /// Up to 16 texts that are told again with the batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
}

impl BatchRequest {
    /// Checks the values.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn validate(&self) -> Result<(), ApiError> {
        if !BATCH_ENDPOINTS.contains(&self.endpoint.as_str()) {
            let message = format!("'{}' given, one of {} expected", self.endpoint, BATCH_ENDPOINTS.join(", "));
            return Err(ApiError::invalid_param("endpoint", message));
        }
        if self.completion_window != "24h" {
            let message = format!("'{}' given, '24h' expected", self.completion_window);
            return Err(ApiError::invalid_param("completion_window", message));
        }
        let metadata = self.metadata.iter().flatten();
        if metadata.clone().count() > MAX_METADATA {
            let message = format!("{} pairs given, at most {MAX_METADATA} expected", metadata.count());
            return Err(ApiError::invalid_param("metadata", message));
        }
        for (key, value) in metadata {
            let fits = key.chars().count() <= MAX_METADATA_KEY_CHARS
                && value.as_str().is_some_and(|value| value.chars().count() <= MAX_METADATA_VALUE_CHARS);
            if !fits {
                let message = format!(
                    "a text of at most {MAX_METADATA_VALUE_CHARS} characters expected, under a key of at most \
                     {MAX_METADATA_KEY_CHARS}"
                );
                return Err(ApiError::invalid_param(format!("metadata.{key}"), message));
            }
        }
        Ok(())
    }
}

/// A batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchObject {
    /// `batch_…`.
    pub id: String,
    /// `batch`.
    pub object: String,
    /// The path that all items go to.
    pub endpoint: String,
    /// What is wrong with the input, where something is.
    pub errors: Option<BatchErrors>,
    /// The file with the items.
    pub input_file_id: String,
    /// `24h`.
    pub completion_window: String,
    /// `validating`, `failed`, `in_progress`, `finalizing`, `completed`, `expired`, `cancelling` or `cancelled`.
    pub status: String,
    /// The file with the answers.
    pub output_file_id: Option<String>,
    /// The file with what went wrong.
    pub error_file_id: Option<String>,
    /// When it came, in seconds since 1970.
    pub created_at: u64,
    /// When its items began.
    pub in_progress_at: Option<u64>,
    /// When its time is over.
    pub expires_at: Option<u64>,
    /// When its items had ended.
    pub finalizing_at: Option<u64>,
    /// When its files were there.
    pub completed_at: Option<u64>,
    /// When its input was found wrong.
    pub failed_at: Option<u64>,
    /// When its time was over before its items were done.
    pub expired_at: Option<u64>,
    /// When it was told to end.
    pub cancelling_at: Option<u64>,
    /// When it had ended after that.
    pub cancelled_at: Option<u64>,
    /// How many items are how far.
    pub request_counts: BatchCounts,
    /// As it was given.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
}

/// How many items are how far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchCounts {
    /// All.
    pub total: u64,
    /// Answered.
    pub completed: u64,
    /// Gone wrong, or never done.
    pub failed: u64,
}

/// What is wrong with a batch's input.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchErrors {
    /// `list`.
    pub object: String,
    /// The first hundred.
    pub data: Vec<BatchError>,
}

/// Something that is wrong with a batch's input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchError {
    /// What, for programs.
    pub code: String,
    /// In which line, from 1.
    pub line: Option<u64>,
    /// What, for people.
    pub message: String,
    /// The field of the line.
    pub param: Option<String>,
}

impl BatchError {
    /// Something that is wrong with the input as a whole.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), line: None, message: message.into(), param: None }
    }
}

/// A part of a list of batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchList {
    /// `list`.
    pub object: String,
    /// The batches, newest first.
    pub data: Vec<BatchObject>,
    /// The id of the first.
    pub first_id: Option<String>,
    /// The id of the last; `after` with it asks for what follows.
    pub last_id: Option<String>,
    /// Whether anything does.
    pub has_more: bool,
}

/// A line of a batch's input, as it is written. All fields are optional, so that what is missing can be named.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    custom_id: Option<Value>,
    method: Option<Value>,
    url: Option<Value>,
    body: Option<Box<RawValue>>,
}

/// A line of a batch's input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchLine {
    /// What the client calls it; no two lines share one.
    pub custom_id: String,
    /// The request's body: the text of a JSON object.
    pub body: String,
}

/// Reads the lines of a batch's input, one after the other.
#[derive(Debug)]
pub struct BatchLines {
    endpoint: String,
    seen: HashSet<String>,
}

impl BatchLines {
    /// For items that go to this path.
    #[must_use]
    pub fn new(endpoint: &str) -> Self {
        Self { endpoint: endpoint.to_owned(), seen: HashSet::new() }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&mut self, number: u64, line: &[u8]) -> Result<BatchLine, BatchError> {
        let wrong = |code: &str, param: Option<&str>, message: String| BatchError {
            code: code.to_owned(),
            line: Some(number),
            message,
            param: param.map(str::to_owned),
        };
        let no_object = |code, why: &dyn std::fmt::Display| {
            wrong(code, None, format!("this line is no JSON object with custom_id, method, url and body: {why}"))
        };
        // serde would read an array as an object's fields in order.
        if line.trim_ascii_start().starts_with(b"[") {
            return Err(no_object("invalid_line", &"it is an array"));
        }
        let raw: RawLine = serde_json::from_slice(line.trim_ascii()).map_err(|error| {
            // Its line is the first of one.
            let said = error.to_string();
            let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
            let said = format!("{said} at column {}", error.column());
            no_object(if error.is_data() { "invalid_line" } else { "invalid_json_line" }, &said)
        })?;
        let text = |name: &str, value: Option<Value>| match value {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(wrong("invalid_type", Some(name), format!("'{name}': {other} given, a text expected"))),
            None => Err(wrong("missing_required_parameter", Some(name), format!("'{name}' is missing"))),
        };
        let custom_id = text("custom_id", raw.custom_id)?;
        let method = text("method", raw.method)?;
        let url = text("url", raw.url)?;
        let body = raw
            .body
            .ok_or_else(|| wrong("missing_required_parameter", Some("body"), "'body' is missing".to_owned()))?;
        if custom_id.is_empty() || custom_id.chars().count() > MAX_CUSTOM_ID_CHARS {
            let message = format!("'custom_id': a text of 1 to {MAX_CUSTOM_ID_CHARS} characters expected");
            return Err(wrong("invalid_custom_id", Some("custom_id"), message));
        }
        if method != "POST" {
            return Err(wrong(
                "invalid_method",
                Some("method"),
                format!("'method': '{method}' given, 'POST' expected"),
            ));
        }
        if url != self.endpoint {
            let message = format!("'url': '{url}' given, the batch's endpoint '{}' expected", self.endpoint);
            return Err(wrong("invalid_url", Some("url"), message));
        }
        if !body.get().starts_with('{') {
            return Err(wrong("invalid_type", Some("body"), "'body': an object expected".to_owned()));
        }
        if !self.seen.insert(custom_id.clone()) {
            let message = format!("'custom_id': '{custom_id}' is given by a line before");
            return Err(wrong("duplicate_custom_id", Some("custom_id"), message));
        }
        Ok(BatchLine { custom_id, body: String::from(Box::<str>::from(body)) })
    }
}

/// A line of a batch's output or of its errors.
#[derive(Debug, Serialize)]
pub struct BatchOutputLine<'a> {
    /// `batch_req_…`.
    pub id: String,
    /// What the client calls the item.
    pub custom_id: &'a str,
    /// What it was answered.
    pub response: Option<BatchItemResponse<'a>>,
    /// Why it was not.
    pub error: Option<BatchItemError<'a>>,
}

/// What an item was answered.
#[derive(Debug, Serialize)]
pub struct BatchItemResponse<'a> {
    /// HTTP status.
    pub status_code: u16,
    /// As in the server's log.
    pub request_id: &'a str,
    /// JSON.
    pub body: &'a RawValue,
}

/// Why an item has no answer.
#[derive(Debug, Serialize)]
pub struct BatchItemError<'a> {
    /// `batch_expired` or `batch_cancelled`.
    pub code: &'a str,
    /// For people.
    pub message: &'a str,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(line: &str, expected: &str) {
        let mut lines = BatchLines::new("/v1/embeddings");
        lines.read(1, br#"{"custom_id": "taken", "method": "POST", "url": "/v1/embeddings", "body": {}}"#).unwrap();
        let said = match lines.read(2, line.as_bytes()) {
            Ok(line) => format!("{} {}", line.custom_id, line.body),
            Err(error) => format!("{} {:?} {}", error.code, error.param.unwrap_or_default(), error.message),
        };
        assert!(said.contains(expected), "{line}: {said}");
    }

    #[test]
    fn lines_are_checked() {
        let line = |id: &str, method: &str, url: &str, body: &str| {
            format!(r#"{{"custom_id": {id}, "method": "{method}", "url": "{url}", "body": {body}}}"#)
        };
        let url = "/v1/embeddings";
        check(&line(r#""a""#, "POST", url, r#"{"n": 1.50}"#), r#"a {"n": 1.50}"#);
        check("{\n", "EOF while parsing an object at column 1");
        check("{", "invalid_json_line");
        check("[]", "invalid_line");
        check(r#"{"custom": 1}"#, "unknown field `custom`");
        check("{}", r#"missing_required_parameter "custom_id""#);
        check(&format!(r#"{{"custom_id": "a", "method": "POST", "url": "{url}"}}"#), r#"parameter "body""#);
        check(&line("1", "POST", url, "{}"), r#"invalid_type "custom_id""#);
        check(&line(r#""""#, "POST", url, "{}"), "invalid_custom_id");
        check(&line(r#""taken""#, "POST", url, "{}"), "duplicate_custom_id");
        check(&line(r#""a""#, "GET", url, "{}"), r#"invalid_method "method""#);
        check(&line(r#""a""#, "POST", "/v1/completions", "{}"), r#"invalid_url "url""#);
        check(&line(r#""a""#, "POST", url, "[]"), r#"invalid_type "body""#);
    }

    #[test]
    fn requests_are_checked() {
        let request = |change: fn(&mut BatchRequest)| {
            let mut request = BatchRequest {
                input_file_id: "file-1".to_owned(),
                endpoint: "/v1/embeddings".to_owned(),
                completion_window: "24h".to_owned(),
                metadata: None,
            };
            change(&mut request);
            request.validate().err().and_then(|error| error.param)
        };
        assert_eq!(request(|_| {}), None);
        assert_eq!(request(|r| r.endpoint = "/v1/messages".to_owned()).as_deref(), Some("endpoint"));
        assert_eq!(request(|r| r.completion_window = "1h".to_owned()).as_deref(), Some("completion_window"));
        assert_eq!(
            request(|r| r.metadata = Some(Map::from_iter([("k".to_owned(), 1.into())]))).as_deref(),
            Some("metadata.k")
        );
        assert_eq!(request(|r| r.metadata = Some(Map::from_iter([("k".to_owned(), "v".into())]))), None);
        let many = |r: &mut BatchRequest| {
            r.metadata = Some((0..17).map(|n| (n.to_string(), Value::from("v"))).collect());
        };
        assert_eq!(request(many).as_deref(), Some("metadata"));
    }
}
