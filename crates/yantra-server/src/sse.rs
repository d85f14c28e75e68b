//! Generations as server-sent events, framed as OpenAI frames them where an API has no frames of its own: `data:` lines
//! of JSON, `data: [DONE]` at the end, and an error as `data: {"error": …}` because the status has been sent long before.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::response::sse::{Event as SseEvent, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use futures_util::stream;
use serde::Serialize;
use serde_json::{Value, json};
use yantra_api::ApiError;
use yantra_engine::Event;

use crate::app::App;
use crate::generation::Generation;
use crate::requests;
use crate::telemetry;
use crate::traces::Trace;

/// An answer put together again from its chunks.
pub(crate) trait Whole: Send + 'static {
    /// A chunk.
    type Chunk: Serialize;
    /// Adds one.
    fn add(&mut self, chunk: &Self::Chunk);
    /// The answer's JSON: what would have been answered without a stream, as far as it went.
    fn to_json(self) -> serde_json::Result<Value>;
}

/// Turns engine events into chunks.
pub(crate) trait Chunks: Send + 'static {
    /// A chunk.
    type Chunk: Serialize;
    /// All of them.
    type Whole: Whole<Chunk = Self::Chunk>;
    /// An answer that has said nothing yet.
    fn whole(&self) -> Self::Whole;
    /// Adds to an answer what its chunks did not tell.
    fn complete(&mut self, whole: &mut Self::Whole);
    /// The chunks that an event of request `number` brings.
    fn chunks(&mut self, number: usize, event: Event) -> Vec<Self::Chunk>;
    /// The chunks after the last event.
    fn last(&mut self) -> Vec<Self::Chunk>;
    /// The name of a chunk's event, where events have names.
    fn name(_: &Self::Chunk) -> Option<String> {
        None
    }
    /// An error, and its event's name.
    fn error(error: &ApiError) -> (Option<String>, Value) {
        (None, json!(error.body()))
    }
    /// What ends the stream.
    const END: Option<&'static str> = Some("[DONE]");
}

/// One event: its name and its data.
type Frame = (Option<String>, String);

/// Streams a generation. Dropping the response (the client went away) drops the generation, which cancels it.
pub(crate) fn respond(app: &App, generation: Generation, chunks: impl Chunks) -> Response {
    let traced = requests::trace().map(|trace| (trace, chunks.whole()));
    let frames = Frames { generation, chunks, pending: VecDeque::new(), ended: false, traced };
    let events = stream::unfold(frames, |mut frames| async {
        let (name, data) = frames.next().await?;
        let event = name.map_or_else(SseEvent::default, |name| SseEvent::default().event(name));
        Some((Ok::<_, Infallible>(event.data(data)), frames))
    });
    let keep_alive = KeepAlive::new().interval(app.config().keep_alive);
    // Proxies such as nginx would otherwise hold events back.
    ([("x-accel-buffering", "no")], Sse::new(events).keep_alive(keep_alive)).into_response()
}

struct Frames<C: Chunks> {
    generation: Generation,
    chunks: C,
    pending: VecDeque<Frame>,
    ended: bool,
    /// What was told so far, if it is kept.
    traced: Option<(Arc<Trace>, C::Whole)>,
}

impl<C: Chunks> Frames<C> {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.pending.pop_front() {
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            match self.generation.next().await {
                Some(Ok((number, event))) => {
                    let bytes = text_bytes(&event);
                    let chunks = self.chunks.chunks(number, event);
                    self.keep(&chunks, bytes);
                    self.pending.extend(chunks.iter().filter_map(frame::<C>));
                }
                Some(Err(error)) => {
                    telemetry::note(|record| record.failed(&error));
                    requests::note(|kept| kept.failed(&error));
                    let (name, body) = C::error(&error);
                    self.end_with(vec![(name, body.to_string())]);
                }
                None => {
                    let last = self.chunks.last();
                    self.keep(&last, 0);
                    self.end_with(last.iter().filter_map(frame::<C>).collect());
                }
            }
        }
    }

    /// Keeps what is told, if that is wanted: so many bytes.
    fn keep(&mut self, chunks: &[C::Chunk], bytes: usize) {
        if let Some((trace, whole)) = &mut self.traced {
            trace.holds(bytes);
            chunks.iter().for_each(|chunk| whole.add(chunk));
            if trace.is_too_much() {
                self.traced = None;
            }
        }
    }

    fn end_with(&mut self, frames: Vec<Frame>) {
        self.pending.extend(frames);
        self.pending.extend(C::END.map(|end| (None, end.to_owned())));
        self.ended = true;
    }
}

impl<C: Chunks> Drop for Frames<C> {
    fn drop(&mut self) {
        if let Some((trace, mut whole)) = self.traced.take() {
            self.chunks.complete(&mut whole);
            trace.told(|| whole.to_json());
        }
    }
}

/// An answer's JSON with its numbers as they go over the wire: those of single precision in as few digits as tell them.
pub(crate) fn as_sent(answer: &impl Serialize) -> serde_json::Result<Value> {
    serde_json::from_str(&serde_json::to_string(answer)?)
}

/// What an event's text takes in memory, and about what its log-probabilities do.
fn text_bytes(event: &Event) -> usize {
    match event {
        Event::Token { text, logprob, .. } => text.len() + logprob.as_ref().map_or(0, |it| 64 * (1 + it.top.len())),
        Event::Finished { text, .. } => text.len(),
        _ => 0,
    }
}

fn frame<C: Chunks>(chunk: &C::Chunk) -> Option<Frame> {
    Some((C::name(chunk), to_json(chunk)?))
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
