//! What a request is kept as goes with it, within reach of all that works on it, until the last byte of its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::kept::Kept;
use crate::app::App;
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
    response.map(|body| Body::new(Followed { body, end }))
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

/// An answer's body, and what its request is kept as.
struct Followed {
    body: Body,
    end: End,
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let poll = || Pin::new(&mut this.body).poll_frame(context);
        let polled = CURRENT.sync_scope(Arc::clone(&this.end.kept), poll);
        this.end.is_whole |= matches!(polled, Poll::Ready(None)) || this.body.is_end_stream();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
