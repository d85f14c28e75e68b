//! A request's sink, with the promise that exactly one last event reaches it, even where nobody listens for others.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{EngineError, Event, EventSink};

/// Wraps a sink. Dropped without a last event, it sends [`EngineError::ShutDown`], so that a request can not be lost
/// wherever it is: in the submission channel, in the queue or in the batch.
pub(crate) struct RequestSink {
    sink: Option<Box<dyn EventSink>>,
    is_gone: bool,
}

impl RequestSink {
    pub(crate) fn new(sink: Box<dyn EventSink>) -> Self {
        Self { sink: Some(sink), is_gone: false }
    }

    /// Sends an event that is not the last; `false` when nobody listens any more. A sink that panics counts as gone.
    pub(crate) fn send(&mut self, event: Event) -> bool {
        if !self.is_gone {
            self.is_gone = !self.deliver(event);
        }
        !self.is_gone
    }

    fn deliver(&mut self, event: Event) -> bool {
        let Some(sink) = &mut self.sink else { return false };
        catch_unwind(AssertUnwindSafe(|| sink.send(event))).unwrap_or_else(|_| {
            self.sink = None;
            false
        })
    }

    /// Sends the last event.
    pub(crate) fn close(mut self, event: Event) {
        self.deliver(event);
        self.sink = None;
    }

    /// Forgets the sink without a last event (its request was refused).
    pub(crate) fn forget(&mut self) {
        self.sink = None;
    }
}

impl Drop for RequestSink {
    fn drop(&mut self) {
        self.deliver(Event::Error(EngineError::ShutDown));
    }
}
