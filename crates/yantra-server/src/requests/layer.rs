//! What a request is kept as goes with it, within reach of all that works on it, until the last byte of its answer.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;

use super::kept::Kept;
use crate::app::App;
use crate::followed::{Companion, follow};
use crate::observe::REQUEST_ID;
use crate::tenant::Tenant;

tokio::task_local! {
    static CURRENT: Arc<Kept>;
}

/// What the request at hand is kept as, if it is.
pub(crate) fn current() -> Option<Arc<Kept>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Tells it something.
pub(crate) fn note(tell: impl FnOnce(&Kept)) {
    // Where nothing is kept nobody wants to know.
    let _ = CURRENT.try_with(|kept| tell(kept));
}

/// Puts it into the list, once: a model has taken its work.
pub(crate) fn note_submitted(app: &App, model: &str, priority: i32) {
    if let Some(kept) = current() {
        kept.submitted(app, model, priority);
    }
}

/// Keeps what becomes known of a request, should a model be given its work.
pub(crate) async fn keep(State(app): State<App>, request: Request, next: Next) -> Response {
    let tenant = request.extensions().get::<Tenant>();
    let (false, &Method::POST, Some(tenant)) = (app.requests().is_off(), request.method(), tenant) else {
        return next.run(request).await;
    };
    let id = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or("-");
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let endpoint = format!("/v1{}", route.strip_prefix("/v1").unwrap_or(route));
    let kept = Arc::new(Kept::new(id, tenant.clone(), endpoint));
    let mut end = End { kept: Arc::clone(&kept), is_whole: false };
    let response = CURRENT.scope(Arc::clone(&kept), next.run(request)).await;
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let is_stream = content_type.is_some_and(|given| given.as_bytes().starts_with(b"text/event-stream"));
    if !kept.responded(response.status().as_u16(), is_stream) {
        end.is_whole = true;
        return response;
    }
    follow(response, end)
}

/// Tells when a request is over, however that comes about.
struct End {
    kept: Arc<Kept>,
    is_whole: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        self.kept.end(self.is_whole);
    }
}

impl Companion for End {
    fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(Arc::clone(&self.kept), work)
    }

    fn whole(&mut self) {
        self.is_whole = true;
    }
}
