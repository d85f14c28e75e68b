//! What goes along with an answer until its last byte, or until nobody wants it any more.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// Goes along with an answer. Dropped without [`Companion::whole`] it was left in the middle.
pub(crate) trait Companion: Send + Unpin + 'static {
    /// Does some of the work on the answer within reach of the companion.
    fn within<T>(&self, work: impl FnOnce() -> T) -> T;

    /// A part of the answer goes out.
    fn passes(&mut self, _: &Bytes) {}

    /// The answer is out, all of it.
    fn whole(&mut self);
}

/// Has a companion go along with a response's body.
pub(crate) fn follow(response: Response, mut companion: impl Companion) -> Response {
    response.map(|body| {
        if body.is_end_stream() {
            companion.whole();
        }
        Body::new(Followed { body, companion })
    })
}

struct Followed<C> {
    body: Body,
    companion: C,
}

impl<C: Companion> HttpBody for Followed<C> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, companion } = &mut *self;
        let polled = companion.within(|| Pin::new(&mut *body).poll_frame(context));
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(bytes) = frame.data_ref()
        {
            companion.passes(bytes);
        }
        if matches!(polled, Poll::Ready(None)) || body.is_end_stream() {
            companion.whole();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
