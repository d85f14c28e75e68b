//! API keys: `Authorization: Bearer KEY` or `x-api-key: KEY`, compared in constant time.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use yantra_api::ApiError;

use crate::app::App;
use crate::failure::Failure;

/// The keys' digests: equally long, so that comparing them tells nothing of the keys' lengths.
#[derive(Debug)]
pub(crate) struct Keys {
    digests: Vec<[u8; 32]>,
}

impl Keys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Self { digests: keys.iter().map(|key| digest(key.as_bytes())).collect() }
    }

    fn accept(&self, headers: &HeaderMap) -> bool {
        if self.digests.is_empty() {
            return true;
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        // Anthropic's clients send keys so.
        let Some(key) = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes())) else {
            return false;
        };
        let given = digest(key);
        // Every key is looked at, whichever fits.
        let found = self.digests.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&given));
        found.into()
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// The key of a `Bearer` header; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// Refuses requests without a key, but for the paths that need none.
pub(crate) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let config = app.config();
    let public = request.method() == Method::OPTIONS
        || match path {
            "/health" | "/ready" | "/v1/health" => config.public_health,
            "/metrics" => config.public_metrics,
            "/openapi.json" => true,
            path => crate::console::is_page(path),
        };
    if public || app.keys().accept(request.headers()) {
        return next.run(request).await;
    }
    Failure(ApiError::invalid_api_key()).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(keys: &[&str], header: Option<&str>, accepted: bool) {
        let keys = Keys::new(&keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>());
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(header::AUTHORIZATION, header.parse().unwrap());
        }
        assert_eq!(keys.accept(&headers), accepted, "{header:?}");
    }

    #[test]
    fn only_whole_keys_are_accepted() {
        check(&[], None, true);
        check(&["ab", "cd"], Some("Bearer cd"), true);
        check(&["ab", "cd"], Some("bearer ab"), true);
        for wrong in ["Bearer a", "Bearer abc", "Bearer ", "Basic ab", "ab", "Bearer", "Bearer ab cd"] {
            check(&["ab", "cd"], Some(wrong), false);
        }
        check(&["ab"], None, false);
    }
}
