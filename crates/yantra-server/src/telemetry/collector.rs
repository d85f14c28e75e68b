//! Sending spans. The exporter's thread has no async runtime, so its requests are made on the server's.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;

/// How long a collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Answers are a few bytes; of longer ones the rest is not wanted.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// A client for the collector.
#[derive(Debug)]
pub(super) struct Collector {
    client: reqwest::Client,
    runtime: Handle,
    /// Whether the last attempt failed; told once, not with every batch.
    is_failing: AtomicBool,
}

impl Collector {
    /// Prepares connections that are made on the runtime this is called in.
    pub(super) fn new() -> Result<Self, reqwest::Error> {
        // The provider is process-wide; when an embedding program chose one already, theirs stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("yantra/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, runtime: Handle::current(), is_failing: AtomicBool::new(false) })
    }

    fn failed(&self, error: &dyn std::fmt::Display) {
        if !self.is_failing.swap(true, Relaxed) {
            tracing::warn!(%error, "traces can not be sent; spans are lost until the collector takes them");
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move { send(&client, request).await }).await;
        // A task that was dropped: the runtime is shutting down.
        let sent = sent.map_err(HttpError::from).and_then(|sent| sent);
        match &sent {
            Err(error) => self.failed(&causes(error.as_ref())),
            Ok(response) if !response.status().is_success() => {
                self.failed(&format_args!("the collector answers {}", response.status()));
            }
            Ok(_) => {
                if self.is_failing.swap(false, Relaxed) {
                    tracing::info!("traces are sent again");
                }
            }
        }
        sent
    }
}

async fn send(client: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let mut answer = client.execute(request.try_into()?).await?;
    let mut body = Vec::new();
    while let Some(bytes) = answer.chunk().await? {
        body.extend_from_slice(&bytes);
        if body.len() > MAX_ANSWER_BYTES {
            return Err(format!("an answer of more than {MAX_ANSWER_BYTES} bytes").into());
        }
    }
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = answer.status();
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    Ok(response)
}

/// An error and its causes on one line: `reqwest` hides the useful part in the last one.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;

    /// Counts what is logged as a warning.
    struct Warnings(Arc<AtomicUsize>);

    impl Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == Level::WARN && metadata.target().starts_with("yantra")
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Relaxed);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[tokio::test]
    async fn a_collector_that_is_away_is_told_once() {
        let warnings = Arc::new(AtomicUsize::new(0));
        let _guard = tracing::subscriber::set_default(Warnings(Arc::clone(&warnings)));
        // A port that was free a moment ago.
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let collector = Collector::new().unwrap();
        for _ in 0..3 {
            let request = Request::post(format!("http://{free}/v1/traces")).body(Bytes::new()).unwrap();
            collector.send_bytes(request).await.unwrap_err();
        }
        assert_eq!(warnings.load(Relaxed), 1);
    }
}
