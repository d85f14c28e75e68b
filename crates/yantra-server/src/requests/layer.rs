//! What a request is kept as goes with it, within reach of all that works on it, until the last byte of its answer.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;

use super::kept::Kept;
use crate::app::App;
use crate::followed::{Companion, follow};
use crate::observe::REQUEST_ID;
use crate::tenant::Tenant;
use crate::traces::Trace;

tokio::task_local! {
    static CURRENT: Current;
}

/// What a request is kept as.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) kept: Arc<Kept>,
    /// What it says, if that is kept too.
    trace: Option<Arc<Trace>>,
}

/// What the request at hand is kept as, if it is.
pub(crate) fn current() -> Option<Current> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Where what it says goes, if that is kept.
pub(crate) fn trace() -> Option<Arc<Trace>> {
    CURRENT.try_with(|current| current.trace.clone()).ok().flatten()
}

/// Tells it something.
pub(crate) fn note(tell: impl FnOnce(&Kept)) {
    // Where nothing is kept nobody wants to know.
    let _ = CURRENT.try_with(|current| tell(&current.kept));
}

/// Puts it into the list, once: a model has taken its work.
pub(crate) fn note_submitted(app: &App, model: &str, priority: i32) {
    if let Some(current) = current() {
        current.kept.submitted(app, model, priority);
    }
}

/// Keeps what becomes known of a request, should a model be given its work; and what it says, if that is wanted.
pub(crate) async fn keep(State(app): State<App>, request: Request, next: Next) -> Response {
    let tenant = request.extensions().get::<Tenant>();
    let (&Method::POST, Some(tenant)) = (request.method(), tenant) else {
        return next.run(request).await;
    };
    let id = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or("-");
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let endpoint = format!("/v1{}", route.strip_prefix("/v1").unwrap_or(route));
    // A batch would push out what people have asked.
    let is_listed = !app.requests().is_off() && !tenant.is_in_bulk();
    let traces = app.traces().filter(|traces| traces.wants(&endpoint, id));
    if !is_listed && traces.is_none() {
        return next.run(request).await;
    }
    let kept = Arc::new(Kept::new(id, tenant.clone(), endpoint, is_listed, traces.is_some()));
    let trace = traces.and_then(|traces| traces.begin(&kept, tenant));
    let current = Current { kept, trace };
    let mut end = End { current: current.clone(), takes_answer: false, is_whole: false };
    let response = CURRENT.scope(current, next.run(request)).await;
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let is_stream = content_type.is_some_and(|given| given.as_bytes().starts_with(b"text/event-stream"));
    let status = response.status().as_u16();
    let was_submitted = end.current.kept.responded(status, is_stream);
    // What is streamed is put together where it is made.
    end.takes_answer = !is_stream && end.current.trace.as_ref().is_some_and(|trace| trace.wants_answer(status));
    if !was_submitted && !end.takes_answer {
        end.is_whole = true;
        return response;
    }
    follow(response, end)
}

/// Tells when a request is over, however that comes about.
struct End {
    current: Current,
    /// Whether what goes over the wire is kept.
    takes_answer: bool,
    is_whole: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        self.current.kept.end(self.is_whole);
    }
}

impl Companion for End {
    fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.current.clone(), work)
    }

    fn passes(&mut self, bytes: &Bytes) {
        if let Some(trace) = self.current.trace.as_ref().filter(|_| self.takes_answer) {
            trace.sent(bytes);
        }
    }

    fn whole(&mut self) {
        self.is_whole = true;
    }
}
