//! Request ids, counts and the access log. Never what a prompt says: paths, statuses and times only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use crate::app::App;
use crate::tenant::Tenant;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What one kind of request is counted under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteKey {
    pub(crate) route: String,
    pub(crate) method: String,
    pub(crate) status: u16,
}

/// Counts of what came over HTTP.
#[derive(Debug, Default)]
pub(crate) struct HttpCounters {
    requests: Mutex<BTreeMap<RouteKey, u64>>,
    pub(crate) connections: AtomicUsize,
    pub(crate) connections_refused: AtomicUsize,
}

impl HttpCounters {
    fn count(&self, key: RouteKey) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry(key).or_insert(0) += 1;
    }

    pub(crate) fn requests(&self) -> BTreeMap<RouteKey, u64> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a connection for as long as the guard lives.
    pub(crate) fn open(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn close(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }
}

/// Gives every request an id: the client's, if it sent a reasonable one, or a new one. It is in the response and the log.
pub(crate) async fn request_id(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID).filter(|value| is_reasonable(value)).cloned();
    let id = given.unwrap_or_else(|| {
        // A UUID is always a valid header value.
        HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("-"))
    });
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

fn is_reasonable(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    !bytes.is_empty() && bytes.len() <= 128 && bytes.iter().all(u8::is_ascii_graphic)
}

/// Counts the request by route and status and logs one line. The time is that to the response's head: a stream goes on.
pub(crate) async fn count_and_log(State(app): State<App>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    // Paths that match no route share one label: clients must not be able to make new ones.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let id = request.headers().get(&REQUEST_ID).cloned();
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.to_string());
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let known = matches!(method.as_str(), "GET" | "POST" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "PATCH");
    let label = if known { method.as_str() } else { "other" };
    app.counters().count(RouteKey { route, method: label.to_owned(), status });
    tracing::info!(
        target: "yantra_server::access",
        %method,
        path,
        status,
        ms = begun.elapsed().as_secs_f64() * 1e3,
        client = client.as_deref().unwrap_or("-"),
        tenant = response.extensions().get::<Tenant>().and_then(Tenant::name).unwrap_or("-"),
        request_id = id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("-"),
        "request"
    );
    response
}
