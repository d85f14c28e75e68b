//! Generations as server-sent events, framed as OpenAI frames them: `data:` lines of JSON, `data: [DONE]` at the end, and
//! an error as `data: {"error": …}` because the status has been sent long before.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::sse::{Event as SseEvent, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use futures_util::stream;
use serde::Serialize;
use yantra_api::ApiError;
use yantra_engine::Event;

use crate::app::App;
use crate::generation::Generation;

/// Turns engine events into chunks.
pub(crate) trait Chunks: Send + 'static {
    /// A chunk.
    type Chunk: Serialize;
    /// The chunks that an event of request `number` brings.
    fn chunks(&mut self, number: usize, event: Event) -> Vec<Self::Chunk>;
    /// The chunk after the last event, if one was asked for.
    fn last(&mut self) -> Option<Self::Chunk>;
}

/// Streams a generation. Dropping the response (the client went away) drops the generation, which cancels it.
pub(crate) fn respond(app: &App, generation: Generation, chunks: impl Chunks) -> Response {
    let frames = Frames { generation, chunks, pending: VecDeque::new(), ended: false };
    let events = stream::unfold(frames, |mut frames| async {
        let frame = frames.next().await?;
        Some((Ok::<_, Infallible>(SseEvent::default().data(frame)), frames))
    });
    let keep_alive = KeepAlive::new().interval(app.config().keep_alive);
    // Proxies such as nginx would otherwise hold events back.
    ([("x-accel-buffering", "no")], Sse::new(events).keep_alive(keep_alive)).into_response()
}

struct Frames<C> {
    generation: Generation,
    chunks: C,
    pending: VecDeque<String>,
    ended: bool,
}

impl<C: Chunks> Frames<C> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(frame) = self.pending.pop_front() {
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            match self.generation.next().await {
                Some(Ok((number, event))) => {
                    let chunks = self.chunks.chunks(number, event);
                    self.pending.extend(chunks.iter().filter_map(to_json));
                }
                Some(Err(error)) => self.end_with(to_json(&error.body())),
                None => {
                    let last = self.chunks.last();
                    self.end_with(last.as_ref().and_then(to_json));
                }
            }
        }
    }

    fn end_with(&mut self, frame: Option<String>) {
        self.pending.extend(frame);
        self.pending.push_back("[DONE]".to_owned());
        self.ended = true;
    }
}

fn to_json(value: &impl Serialize) -> Option<String> {
    match serde_json::to_string(value) {
        Ok(json) => Some(json),
        Err(error) => {
            // None of our types can fail; a client must still not wait in vain.
            tracing::error!(%error, "a chunk could not be written");
            serde_json::to_string(&ApiError::internal("a chunk could not be written").body()).ok()
        }
    }
}
