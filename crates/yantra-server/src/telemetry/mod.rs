//! Traces: one span per request that generates or embeds, with the engine's work below it, sent to an OpenTelemetry
//! collector by OTLP over HTTP. The client's `traceparent` (<https://www.w3.org/TR/trace-context/>) is the parent.
//!
//! A [`Record`] collects what becomes known of a request; [`note`] reaches it from wherever that is. Spans are made at
//! the request's end and put into a queue of the exporter's thread, which drops them when it is full: a collector that is
//! slow or away holds up nothing. Of prompts and answers a trace says nothing unless it is asked to.
//!
//! The exporter itself heeds OpenTelemetry's variables besides the endpoint (`OTEL_EXPORTER_OTLP_HEADERS`,
//! `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_SCHEDULE_DELAY`, …).

mod collector;
mod config;
mod content;
mod layer;
mod names;
mod record;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use collector::Collector;

pub use config::RawTelemetryConfig;
pub(crate) use config::TelemetryConfig;
pub(crate) use layer::{note, trace};

/// How long the last spans may take when the server stops.
const FLUSH_TIME: Duration = Duration::from_secs(3);

/// Traces can not be made.
#[derive(Debug, thiserror::Error)]
#[error("traces can not be sent: {0}")]
pub struct TelemetryError(String);

/// Where traces go; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Telemetry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    /// Where the server listens.
    host: String,
    port: u16,
    /// Whether prompts and answers are told.
    content: bool,
}

impl Telemetry {
    /// Starts the exporter's thread; connects to nothing yet. To be called on the server's runtime.
    pub(crate) fn start(
        config: &TelemetryConfig,
        host: &str,
        address: Option<SocketAddr>,
    ) -> Result<Self, TelemetryError> {
        let collector = Collector::new().map_err(|error| TelemetryError(error.to_string()))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&config.traces_url)
            .build()
            .map_err(|error| TelemetryError(error.to_string()))?;
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
        let tracer = provider.tracer(names::SCOPE);
        let port = address.map_or(0, |address| address.port());
        let (host, content) = (host.to_owned(), config.content);
        Ok(Self { inner: Arc::new(Inner { provider, tracer, host, port, content }) })
    }

    /// Sends what is left, within a time.
    pub(crate) async fn finish(self) {
        // Waits for the exporter's thread, which waits for this runtime.
        let finish = move || self.inner.provider.shutdown_with_timeout(FLUSH_TIME);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(finish).await {
            tracing::debug!(%error, "the last traces could not be sent");
        }
    }
}

/// What the spans are of: this program, unless the environment says otherwise.
fn resource() -> Resource {
    let found = Resource::builder().build();
    let name = found.get(&Key::new(names::SERVICE_NAME)).map(|name| name.to_string());
    let is_named = name.is_some_and(|name| !name.starts_with("unknown_service"));
    let version = KeyValue::new(names::SERVICE_VERSION, env!("CARGO_PKG_VERSION"));
    let builder = Resource::builder().with_attribute(version);
    if is_named { builder.build() } else { builder.with_service_name(names::SERVICE).build() }
}
