//! One item: a request like any other, but that nobody waits for it.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use tower::ServiceExt;
use yantra_api::{ApiError, BatchItemResponse, BatchOutputLine};
use yantra_store::Item;

use super::finish::new_line_id;
use crate::app::App;
use crate::failure::Failure;
use crate::observe::REQUEST_ID;

/// Largest answer that is kept.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// How long an item waits whose owner's key has been taken away.
const WITHOUT_OWNER: Duration = Duration::from_secs(30);

/// How an item went.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It was answered: the line of the output, and whether it went well.
    Line(String, bool),
    /// It has to be tried again after this time.
    Again(Duration),
    /// The answer took too long, with the line that says so.
    TooLate(String),
}

/// Has an item answered.
pub(crate) async fn answer(app: &App, router: Router, owner: Option<&str>, endpoint: &str, item: &Item) -> Answer {
    let Some(tenant) = app.keys().tenant_of(owner) else { return Answer::Again(WITHOUT_OWNER) };
    if let Some(Err(error)) = tenant.quotas().map(|quotas| quotas.check_tokens()) {
        return Answer::Again(Duration::from_secs(error.retry_after_s.unwrap_or(1)));
    }
    let response = match request(endpoint, item) {
        Err(error) => Failure(error).into_response(),
        Ok(mut request) => {
            request.extensions_mut().insert(tenant.in_bulk());
            match AssertUnwindSafe(router.oneshot(request)).catch_unwind().await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => Failure(ApiError::internal("the request's work ended in a panic")).into_response(),
            }
        }
    };
    let (status, wait) = (response.status().as_u16(), retry_after(response.headers()));
    if matches!(status, 429 | 503) {
        return Answer::Again(wait);
    }
    let line = line(response, item).await;
    match status {
        408 => Answer::TooLate(line),
        status => Answer::Line(line, status < 400),
    }
}

fn request(endpoint: &str, item: &Item) -> Result<Request<Body>, ApiError> {
    /// What does not go together with a line of output.
    #[derive(Deserialize)]
    struct Flags {
        stream: Option<serde_json::Value>,
    }
    // What else is wrong with it the endpoint will say.
    let flags: Option<Flags> = serde_json::from_str(&item.request).ok();
    if flags.and_then(|flags| flags.stream) == Some(true.into()) {
        return Err(ApiError::unsupported("stream", "a stream in a batch"));
    }
    Request::post(endpoint)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(item.request.clone()))
        .map_err(|error| ApiError::internal(error.to_string()))
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1))
}

async fn line(response: Response, item: &Item) -> String {
    let (parts, body) = response.into_parts();
    let request_id = parts.headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let read = to_bytes(body, MAX_ANSWER_BYTES).await.map_err(|error| error.to_string());
    let parsed = read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
    let (status_code, body): (u16, Box<RawValue>) = match parsed {
        Ok(body) => (parts.status.as_u16(), body),
        Err(error) => {
            let error = ApiError::internal(format!("the answer is not JSON: {error}"));
            (500, to_raw_value(&error.body()).unwrap_or_default())
        }
    };
    let response = Some(BatchItemResponse { status_code, request_id, body: &body });
    let line = BatchOutputLine { id: new_line_id(), custom_id: &item.custom_id, response, error: None };
    serde_json::to_string(&line).unwrap_or_default()
}
