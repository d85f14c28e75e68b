//! Reading a request's body: within a size, within a time, declared as JSON, and parsed strictly.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use yantra_api::{ApiError, parse};

use crate::app::App;
use crate::failure::Failure;
use crate::requests;
use crate::work::{BodyShare, Lane};

/// How much of a body over the limit is still read, in multiples of the limit.
const MAX_DISCARDED: usize = 4;
/// For how long.
const DISCARD_TIME: Duration = Duration::from_secs(1);
/// Larger bodies are parsed where they hold up no other request.
const PARSED_AT_ONCE: usize = 256 << 10;

/// A JSON body, and its share of the memory for bodies, to be kept for as long as what it holds. Unlike axum's own, its
/// refusals are OpenAI errors that name the parameter.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T, pub(crate) BodyShare);

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        check_content_type(request.headers())?;
        let config = app.config();
        let mut share = app.bodies().share();
        let reading = read(request.into_body(), config.max_body_bytes, &mut share);
        let bytes = tokio::time::timeout(config.body_timeout, reading)
            .await
            .map_err(|_| ApiError::timeout("the body did not arrive in time"))??;
        if bytes.len() <= PARSED_AT_ONCE {
            let value = parse::from_slice(&bytes)?;
            note_asked(bytes);
            return Ok(Self(value, share));
        }
        let parse = move || Ok((parse::from_slice(&bytes)?, bytes));
        let (value, bytes) = app.lanes().run(Lane::Parse, app.deadline(), parse).await?;
        note_asked(bytes);
        Ok(Self(value, share))
    }
}

/// Gives the body to the request's trace, if there is one.
fn note_asked(body: Vec<u8>) {
    if let Some(trace) = requests::trace() {
        trace.asked(body);
    }
}

/// The fields of a request's query. As [`JsonBody`], its refusals are OpenAI errors.
#[derive(Debug)]
pub(crate) struct QueryFields<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for QueryFields<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Failure> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(fields)) => Ok(Self(fields)),
            Err(error) => Err(ApiError::invalid_request(error.body_text()).into()),
        }
    }
}

async fn read(mut body: Body, limit: usize, share: &mut BodyShare) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::invalid_request(format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let refusal = if bytes.len() + data.len() > limit {
            Err(ApiError::body_too_large(limit))
        } else {
            share.grow(data.len())
        };
        if let Err(refusal) = refusal {
            drop(bytes);
            discard(body, limit.saturating_mul(MAX_DISCARDED)).await;
            return Err(refusal);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Reads on for a while: closing a connection on a client that still sends would reset it, and the refusal with it.
async fn discard(mut body: Body, limit: usize) {
    let reading = async {
        let mut total = 0;
        while let Some(Ok(frame)) = body.frame().await {
            total += frame.data_ref().map_or(0, |data| data.len());
            if total > limit {
                break;
            }
        }
    };
    // Whether it came to the end does not matter: the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}

/// `application/json` and its relatives. A missing type is refused too: a form posted from a foreign page has none of
/// these, which keeps browsers from being used against a server without keys.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = given.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json { Ok(()) } else { Err(ApiError::unsupported_media_type(given)) }
}
