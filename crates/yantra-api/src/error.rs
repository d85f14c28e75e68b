//! OpenAI's error body, and which status and code each refusal has.
//!
//! See <https://platform.openai.com/docs/guides/error-codes>. Clients branch on the status and on `code`, people read
//! `message`; so a message says what was given, what was expected, and where.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A refusal or failure on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// OpenAI's `type`.
    pub kind: &'static str,
    /// What happened, for people.
    pub message: String,
    /// The parameter it is about, as a path (`messages[0].content`).
    pub param: Option<String>,
    /// What happened, for programs.
    pub code: Option<&'static str>,
    /// Seconds after which trying again makes sense; becomes the `Retry-After` header.
    pub retry_after_s: Option<u64>,
}

/// `{"error": {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What is inside `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// What happened, for people.
    pub message: String,
    /// The class of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// The parameter it is about.
    pub param: Option<String>,
    /// What happened, for programs.
    pub code: Option<String>,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

impl ApiError {
    fn new(status: u16, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), param: None, code, retry_after_s: None }
    }

    /// 400: the request is wrong as a whole.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(400, INVALID, None, message)
    }

    /// 400: a parameter's value is wrong. `message` says what was given and what was expected.
    pub fn invalid_param(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let param = param.into();
        Self::new(400, INVALID, Some("invalid_value"), format!("'{param}': {message}")).at(param)
    }

    /// 400: a parameter is known, but only its neutral value is supported.
    pub fn unsupported(param: impl Into<String>, what: impl std::fmt::Display) -> Self {
        let param = param.into();
        Self::new(400, INVALID, Some("unsupported_value"), format!("'{param}': {what} is not supported yet")).at(param)
    }

    /// 400: the prompt does not fit.
    pub fn context_length_exceeded(tokens: usize, limit: usize) -> Self {
        let message = format!("the prompt has {tokens} tokens, at most {limit} fit into this model's context");
        Self::new(400, INVALID, Some("context_length_exceeded"), message)
    }

    /// 400: the prompt has so many bytes that it can not fit, however it is cut into tokens.
    pub fn context_length_certainly_exceeded(least_tokens: usize, limit: usize) -> Self {
        let message =
            format!("the prompt has at least {least_tokens} tokens, at most {limit} fit into this model's context");
        Self::new(400, INVALID, Some("context_length_exceeded"), message)
    }

    /// 401: no key, or not one of ours.
    pub fn invalid_api_key() -> Self {
        let message = "a valid API key is needed in the header `Authorization: Bearer KEY`";
        Self::new(401, INVALID, Some("invalid_api_key"), message)
    }

    /// 404: nothing lives at this path.
    pub fn unknown_path(method: &str, path: &str) -> Self {
        let message = format!("there is nothing at {method} {path}; /openapi.json lists what there is");
        Self::new(404, INVALID, Some("unknown_url"), message)
    }

    /// 404: no model of this name.
    pub fn model_not_found(given: &str, available: &[String]) -> Self {
        let message = match available {
            [] => format!("the model '{given}' does not exist; no model is served"),
            names => format!("the model '{given}' does not exist; available: {}", names.join(", ")),
        };
        Self::new(404, INVALID, Some("model_not_found"), message).at("model")
    }

    /// 404: no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, INVALID, Some("not_found"), message)
    }

    /// 403: the key is known, but what it asks for is not allowed.
    pub fn forbidden(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(403, "permission_error", Some(code), message)
    }

    /// 409: it contradicts what there is.
    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(409, INVALID, Some(code), message)
    }

    /// 405: the path exists, for other methods.
    pub fn method_not_allowed(method: &str, path: &str) -> Self {
        Self::new(405, INVALID, Some("method_not_allowed"), format!("{path} does not accept {method}"))
    }

    /// 408: the client, or the answer, took too long.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(408, "timeout_error", Some("request_timeout"), message)
    }

    /// 413: the body is larger than accepted.
    pub fn body_too_large(limit: usize) -> Self {
        let message = format!("the body is larger than the {limit} bytes accepted");
        Self::new(413, INVALID, Some("request_too_large"), message)
    }

    /// 415: the body is not declared to be JSON.
    pub fn unsupported_media_type(given: Option<&str>) -> Self {
        let given = given.map_or_else(|| "none".to_owned(), |given| format!("'{given}'"));
        let message = format!("content type {given} given, 'application/json' expected");
        Self::new(415, INVALID, Some("unsupported_media_type"), message)
    }

    /// 429: too much waits already.
    pub fn overloaded(message: impl Into<String>, retry_after_s: u64) -> Self {
        let error = Self::new(429, "rate_limit_error", Some("rate_limit_exceeded"), message);
        Self { retry_after_s: Some(retry_after_s), ..error }
    }

    /// 500: our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, SERVER, Some("internal_error"), message)
    }

    /// 501: it needs a setting that is not there.
    pub fn not_configured(what: &str, setting: &str) -> Self {
        let message = format!("{what}: not configured on this server; it needs the setting {setting}");
        Self::new(501, SERVER, Some("not_configured"), message)
    }

    /// 502: a server behind this one failed.
    pub fn upstream(message: impl Into<String>) -> Self {
        Self::new(502, SERVER, Some("upstream_error"), message)
    }

    /// 507: the disk is full.
    pub fn storage_full(message: impl Into<String>) -> Self {
        Self::new(507, SERVER, Some("storage_full"), message)
    }

    /// 503: the model is being loaded.
    pub fn model_loading(model: &str, retry_after_s: u64) -> Self {
        let error = Self::new(503, SERVER, Some("model_loading"), format!("the model '{model}' is still loading"));
        Self { retry_after_s: Some(retry_after_s), ..error }.at("model")
    }

    /// 503: the model could not be loaded or has stopped.
    pub fn model_unavailable(model: &str, reason: impl std::fmt::Display) -> Self {
        let message = format!("the model '{model}' is not available: {reason}");
        Self::new(503, SERVER, Some("model_unavailable"), message).at("model")
    }

    /// 503: the model finishes what it has, and goes.
    pub fn model_unloading(model: &str) -> Self {
        let message = format!("the model '{model}' is being unloaded and takes no new requests");
        Self::new(503, SERVER, Some("model_unloading"), message).at("model")
    }

    /// 503: the server is stopping.
    pub fn shutting_down() -> Self {
        Self::new(503, SERVER, Some("shutting_down"), "the server is shutting down and takes no new requests")
    }

    /// 503: every connection slot is taken.
    pub fn too_many_connections(limit: usize) -> Self {
        let message = format!("all {limit} connections are in use");
        Self { retry_after_s: Some(1), ..Self::new(503, SERVER, Some("too_many_connections"), message) }
    }

    /// Says which parameter it is about.
    #[must_use]
    pub fn at(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    /// Says what it is, for programs.
    #[must_use]
    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The JSON body.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                message: self.message.clone(),
                kind: self.kind.to_owned(),
                param: self.param.clone(),
                code: self.code.map(str::to_owned),
            },
        }
    }
}
