//! The HTTP server: OpenAI-compatible API, metrics, console.
//!
//! A request's way through this crate: `listen` accepts the connection and bounds it in number and time; the layers of
//! `app` give it an id, check its key and log it; `body` reads and parses the JSON; the endpoint's module turns it into
//! tokens and an engine request; `generation` carries the engine's events back, and cancels the request when nobody
//! waits for them any more. Every refusal is a [`yantra_api::ApiError`], which `failure` turns into a response: the one
//! place where an error becomes a status.
//!
//! ```no_run
//! # async fn f(model: yantra_server::ServedModel) -> Result<(), Box<dyn std::error::Error>> {
//! use yantra_server::{Server, ServerConfig, Shutdown};
//!
//! let server = Server::builder(ServerConfig::default()).model(model).build()?;
//! let listener = server.bind().await?;
//! server.serve(listener, Shutdown::on_signals()).await?;
//! # Ok(()) }
//! ```

mod adapters;
mod app;
mod auth;
mod batches;
mod body;
mod chat;
mod completions;
mod config;
mod console;
mod document;
mod embeddings;
mod failure;
mod files;
mod followed;
mod generation;
mod health;
mod hooks;
mod keys;
mod listen;
mod loading;
mod logprobs;
mod messages;
mod metrics;
mod models;
mod moderations;
mod observe;
mod openapi;
mod quota;
mod registry;
mod requests;
mod rerank;
mod responses;
mod server;
mod shutdown;
mod sse;
mod stats;
mod storage;
mod telemetry;
mod tenant;
mod timed_io;
mod tls;
mod tokenize;
mod traces;
mod turn;
mod usage;
mod watchdog;
mod watched;
mod work;

pub use yantra_api::{ApiError, ModerationPart, ModerationResult, SamplingDefaults};

pub use config::{ConfigError, RawServerConfig, ServerConfig};
pub use keys::{KeyFile, KeyFileError, KeyRecord, Terms};
pub use loading::ModelLoader;
pub use moderations::{Moderated, Moderator, RawModerationConfig};
pub use openapi::openapi_json;
pub use registry::{Embedder, Generator, ModelFacts, ModelKind, Registry, RegistryError, ServedModel};
pub use server::{Reload, ServeError, Server, ServerBuilder};
pub use shutdown::Shutdown;
pub use telemetry::{RawTelemetryConfig, TelemetryError};
pub use tls::TlsError;
pub use traces::{RawPattern, RawRedaction, RawTracesConfig, Redactor, TraceMode, trace_record, trace_summary};
