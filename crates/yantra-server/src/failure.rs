//! The one place where errors become HTTP responses.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use yantra_api::ApiError;
use yantra_engine::{ConstraintError, EmbedError, EngineError, SubmitError};
use yantra_store::StoreError;
use yantra_text::TextError;

use crate::{requests, telemetry};

/// An [`ApiError`] as a response.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        telemetry::note(|record| record.failed(&self.0));
        requests::note(|kept| kept.failed(&self.0));
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0.body())).into_response();
        if let Some(seconds) = self.0.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.0.status == 401 {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Why an engine did not take a request; `prompt` is what the API calls its prompt.
pub(crate) fn of_submit(error: SubmitError, prompt: &str) -> ApiError {
    match error {
        SubmitError::QueueFull { retry_after, .. } => {
            ApiError::overloaded(error.to_string(), retry_after.as_secs().max(1))
        }
        SubmitError::PromptTooLong { tokens, limit } => ApiError::context_length_exceeded(tokens, limit).at(prompt),
        SubmitError::Invalid { field: "prompt", message } => ApiError::invalid_param(prompt, message),
        SubmitError::Invalid { field, message } => ApiError::invalid_param(wire_name(field), message),
        SubmitError::ShuttingDown => ApiError::shutting_down(),
    }
}

/// Why answers can not be constrained as the request wants it.
pub(crate) fn of_constraint(error: &ConstraintError, param: &str) -> ApiError {
    match error {
        ConstraintError::Invalid { message } => ApiError::invalid_param(param, message),
        ConstraintError::NoVocabulary => ApiError::invalid_param(param, error).with_code("unsupported_value"),
    }
}

/// Why an engine did not finish a request. What went wrong inside is logged, and told without its inner workings.
pub(crate) fn of_engine(error: &EngineError) -> ApiError {
    match error {
        EngineError::ShutDown => ApiError::shutting_down(),
        // What an answer must be comes from the request.
        EngineError::Grammar { message } => {
            let reason = message.lines().next().unwrap_or_default();
            let message = format!("no answer can go on as the request demands: {reason}");
            ApiError::invalid_request(message).with_code("constraint_failed")
        }
        error => {
            tracing::error!(%error, "the engine failed a request");
            ApiError::internal(format!("the model failed: {error}"))
        }
    }
}

/// Why texts were not embedded.
pub(crate) fn of_embed(error: EmbedError) -> ApiError {
    match error {
        EmbedError::Overloaded { retry_after, .. } => {
            ApiError::overloaded(error.to_string(), retry_after.as_secs().max(1))
        }
        EmbedError::Stopped => ApiError::shutting_down(),
        error => {
            tracing::error!(%error, "embedding failed");
            ApiError::internal(format!("the model failed: {error}"))
        }
    }
}

/// A text or conversation that could not be turned into tokens.
pub(crate) fn of_text(error: &TextError, param: &str) -> ApiError {
    match error {
        TextError::Template(_) | TextError::Encode { .. } | TextError::TokenOutOfRange { .. } => {
            ApiError::invalid_param(param, error)
        }
        error => {
            tracing::error!(%error, "the tokeniser failed");
            ApiError::internal(error.to_string())
        }
    }
}

/// Why something could not be kept or found.
pub(crate) fn of_store(error: &StoreError) -> ApiError {
    tracing::error!(%error, "the state directory failed");
    match error {
        StoreError::Full => ApiError::storage_full(error.to_string()),
        error => ApiError::internal(error.to_string()),
    }
}

/// What the API calls the engine's fields.
fn wire_name(field: &'static str) -> &'static str {
    match field {
        "stop_tokens" => "stop_token_ids",
        field => field,
    }
}
