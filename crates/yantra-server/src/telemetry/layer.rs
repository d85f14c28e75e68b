//! A request's way past its record: noted at the beginning, within reach of everything that works on the request, let go
//! with the last byte of the answer.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;

use super::names::{CHAT, EMBEDDINGS, TEXT_COMPLETION};
use super::record::Record;
use crate::app::App;
use crate::followed::{Companion, follow};

tokio::task_local! {
    /// The request that this task works on. Not passed on as an argument, because it is nobody's business on the way.
    static CURRENT: Arc<Record>;
}

/// Tells the record of the request at hand, if there is one.
pub(crate) fn note(tell: impl FnOnce(&Record)) {
    // Without a record nobody wants to know.
    let _ = CURRENT.try_with(|record| tell(record));
}

/// Keeps a record of requests that generate or embed.
pub(crate) async fn trace(State(app): State<App>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let (Some(telemetry), Some(operation), &Method::POST) = (app.telemetry(), operation(route), request.method())
    else {
        return next.run(request).await;
    };
    let record = Arc::new(Record::begin(telemetry, operation, route, request.headers()));
    let response = CURRENT.scope(Arc::clone(&record), next.run(request)).await;
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let is_stream = content_type.is_some_and(|given| given.as_bytes().starts_with(b"text/event-stream"));
    record.responded(response.status().as_u16(), is_stream);
    follow(response, Carried { record, is_whole: false })
}

/// What an endpoint does, in the conventions' words.
fn operation(route: &str) -> Option<&'static str> {
    match route.strip_prefix("/v1").unwrap_or(route) {
        "/chat/completions" | "/messages" | "/responses" => Some(CHAT),
        "/completions" => Some(TEXT_COMPLETION),
        "/embeddings" | "/rerank" | "/score" => Some(EMBEDDINGS),
        _ => None,
    }
}

/// A record on its way with the answer.
struct Carried {
    record: Arc<Record>,
    is_whole: bool,
}

impl Companion for Carried {
    fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(Arc::clone(&self.record), work)
    }

    fn whole(&mut self) {
        self.is_whole = true;
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if !self.is_whole {
            self.record.cancelled();
        }
    }
}
