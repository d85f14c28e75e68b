//! A request's sink, with the promise that exactly one last event reaches it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{EngineError, Event, EventSink};

/// Wraps a sink. Dropped without a last event, it sends [`EngineError::ShutDown`], so that a request can not be lost
/// wherever it is: in the submission channel, in the queue or in the batch.
pub(crate) struct RequestSink {
    sink: Option<Box<dyn EventSink>>,
}

impl RequestSink {
    pub(crate) fn new(sink: Box<dyn EventSink>) -> Self {
        Self { sink: Some(sink) }
    }

    /// Sends an event that is not the last; `false` when nobody listens any more. A sink that panics counts as gone.
    pub(crate) fn send(&mut self, event: Event) -> bool {
        let Some(sink) = &mut self.sink else { return false };
        let listens = catch_unwind(AssertUnwindSafe(|| sink.send(event))).unwrap_or(false);
        if !listens {
            self.sink = None;
        }
        listens
    }

    /// Sends the last event.
    pub(crate) fn close(mut self, event: Event) {
        self.send(event);
        self.sink = None;
    }

    /// Forgets the sink without a last event (its request was refused).
    pub(crate) fn forget(&mut self) {
        self.sink = None;
    }
}

impl Drop for RequestSink {
    fn drop(&mut self) {
        self.send(Event::Error(EngineError::ShutDown));
    }
}
