//! Reading a request's body: within a size, within a time, declared as JSON, and parsed strictly.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use yantra_api::{ApiError, parse};

use crate::app::App;
use crate::failure::Failure;

/// A JSON body. Unlike axum's own, its refusals are OpenAI errors that name the parameter.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        check_content_type(request.headers())?;
        let config = app.config();
        let limit = config.max_body_bytes;
        // A body that announces its size is refused before it is read.
        let announced = request.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|announced| announced > limit as u64) {
            return Err(ApiError::body_too_large(limit).into());
        }
        let bytes = tokio::time::timeout(config.body_timeout, read(request.into_body(), limit))
            .await
            .map_err(|_| ApiError::timeout("the body did not arrive in time"))??;
        Ok(Self(parse::from_slice(&bytes)?))
    }
}

async fn read(body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::body_too_large(limit)),
        Err(error) => Err(ApiError::invalid_request(format!("the body could not be read: {error}"))),
    }
}

/// `application/json` and its relatives. A missing type is refused too: a form posted from a foreign page has none of
/// these, which keeps browsers from being used against a server without keys.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = given.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json { Ok(()) } else { Err(ApiError::unsupported_media_type(given)) }
}
