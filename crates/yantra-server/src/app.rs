//! What all endpoints share, and which endpoint answers which path.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::watch;
use tower_http::cors::{Any, CorsLayer};
use yantra_api::ApiError;

use crate::auth::{self, Keys};
use crate::config::{CorsOrigins, ServerConfig};
use crate::failure::Failure;
use crate::hooks::Hooks;
use crate::observe::{self, HttpCounters, REQUEST_ID};
use crate::registry::Registry;
use crate::requests::{self, Requests};
use crate::responses::Responses;
use crate::server::ServeError;
use crate::shutdown::{Shutdown, Stage};
use crate::storage::Storage;
use crate::telemetry::{self, Telemetry};
use crate::tls::TlsFiles;
use crate::traces::{self, Traces};
use crate::usage::Ledger;
use crate::watched::Watched;
use crate::work::{BodyBudget, Lanes};
use crate::{
    adapters, batches, chat, completions, console, embeddings, files, health, loading, messages, metrics, models,
    moderations, openapi, quota, rerank, responses, stats, tokenize, usage,
};

/// What all endpoints share; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ServerConfig,
    keys: Keys,
    tls: Option<Watched<TlsFiles>>,
    registry: Arc<Registry>,
    hooks: Hooks,
    counters: HttpCounters,
    lanes: Lanes,
    bodies: Arc<BodyBudget>,
    responses: Responses,
    requests: Requests,
    usage: Ledger,
    storage: Option<Storage>,
    telemetry: Option<Telemetry>,
    traces: Option<Traces>,
    started: Instant,
    stage: watch::Receiver<Stage>,
}

impl App {
    pub(crate) fn new(
        config: ServerConfig,
        registry: Arc<Registry>,
        hooks: Hooks,
        shutdown: &Shutdown,
        telemetry: Option<Telemetry>,
        traces: Option<Traces>,
    ) -> Result<Self, ServeError> {
        let keys = Keys::new(&config)?;
        let tls = config.tls.clone().map(Watched::open).transpose()?;
        let storage = config.state_dir.as_deref().map(Storage::open).transpose()?;
        let counters = HttpCounters::default();
        let stage = shutdown.watch();
        let bodies = BodyBudget::new(config.max_body_bytes_total);
        let requests = Requests::new(config.kept_requests);
        let inner = Inner {
            config,
            keys,
            tls,
            registry,
            hooks,
            counters,
            lanes: Lanes::default(),
            bodies,
            responses: Responses::default(),
            requests,
            usage: Ledger::default(),
            storage,
            telemetry,
            traces,
            started: Instant::now(),
            stage,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn config(&self) -> &ServerConfig {
        &self.inner.config
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// What connections are encrypted with, if they are.
    pub(crate) fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.inner.tls.as_ref().map(Watched::get)
    }

    /// Reads the keys and the certificate again.
    pub(crate) fn read_files_again(&self) {
        self.inner.keys.read_again();
        if let Some(pair) = &self.inner.tls {
            pair.read_again();
        }
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.inner.registry
    }

    /// What the program around the server does for it.
    pub(crate) fn hooks(&self) -> &Hooks {
        &self.inner.hooks
    }

    pub(crate) fn counters(&self) -> &HttpCounters {
        &self.inner.counters
    }

    pub(crate) fn lanes(&self) -> &Lanes {
        &self.inner.lanes
    }

    pub(crate) fn bodies(&self) -> &Arc<BodyBudget> {
        &self.inner.bodies
    }

    pub(crate) fn responses(&self) -> &Responses {
        &self.inner.responses
    }

    /// What is kept of the latest requests.
    pub(crate) fn requests(&self) -> &Requests {
        &self.inner.requests
    }

    pub(crate) fn usage(&self) -> &Ledger {
        &self.inner.usage
    }

    /// What outlives the server, if anything does.
    pub(crate) fn storage(&self) -> Option<&Storage> {
        self.inner.storage.as_ref()
    }

    /// The same, where it is needed.
    pub(crate) fn needed_storage(&self) -> Result<&Storage, ApiError> {
        self.storage()
            .ok_or_else(|| ApiError::not_configured("files and batches", "`state_dir` (`serve --state-dir DIR`)"))
    }

    /// What keeps what is asked and answered, if that is wanted.
    pub(crate) fn traces(&self) -> Option<&Traces> {
        self.inner.traces.as_ref()
    }

    /// Where they are kept.
    pub(crate) fn needed_traces(&self) -> Result<&Storage, ApiError> {
        let storage = self.storage().filter(|_| self.traces().is_some());
        let setting = "`[server.traces] mode` (`serve --state-dir DIR --traces full`)";
        storage.ok_or_else(|| ApiError::not_configured("traces", setting))
    }

    /// Where spans go, if anywhere.
    pub(crate) fn telemetry(&self) -> Option<&Telemetry> {
        self.inner.telemetry.as_ref()
    }

    pub(crate) fn uptime_seconds(&self) -> f64 {
        self.inner.started.elapsed().as_secs_f64()
    }

    /// How far stopping is.
    pub(crate) fn stage(&self) -> watch::Receiver<Stage> {
        self.inner.stage.clone()
    }

    /// When a request that begins now is cancelled.
    pub(crate) fn deadline(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.inner.config.request_timeout
    }
}

/// What uses a model, and so a tenant's quota.
fn working() -> Router<App> {
    let mut working = Router::new();
    for prefix in ["", "/v1"] {
        working = working
            .route(&format!("{prefix}/chat/completions"), post(chat::chat_completions))
            .route(&format!("{prefix}/completions"), post(completions::completions))
            .route(&format!("{prefix}/embeddings"), post(embeddings::embeddings))
            .route(&format!("{prefix}/messages"), post(messages::messages))
            .route(&format!("{prefix}/responses"), post(responses::create))
            .route(&format!("{prefix}/moderations"), post(moderations::moderations))
            .route(&format!("{prefix}/rerank"), post(rerank::rerank))
            .route(&format!("{prefix}/score"), post(rerank::score));
    }
    working
}

/// The same for the items of batches: who sent them has shown a key, and their number is not that of requests.
pub(crate) fn bulk_router(app: &App) -> Router {
    working()
        .layer(from_fn_with_state(app.clone(), requests::keep))
        .layer(from_fn_with_state(app.clone(), telemetry::trace))
        .layer(from_fn(observe::request_id))
        .with_state(app.clone())
}

/// All endpoints behind their layers. The OpenAI ones answer with and without `/v1`, because clients are configured
/// either way.
pub(crate) fn router(app: &App) -> Router {
    let mut router = Router::new();
    for prefix in ["", "/v1"] {
        router = files::routes(router, prefix);
        router = batches::routes(router, prefix);
        router = router
            .route(&format!("{prefix}/messages/count_tokens"), post(messages::count_tokens))
            .route(&format!("{prefix}/responses/{{id}}"), get(responses::retrieve).delete(responses::delete))
            .route(&format!("{prefix}/responses/{{id}}/input_items"), get(responses::input_items))
            .route(&format!("{prefix}/models"), get(models::list))
            .route(&format!("{prefix}/models/load"), post(loading::load))
            .route(&format!("{prefix}/models/unload"), post(loading::unload))
            .route(&format!("{prefix}/load_lora_adapter"), post(adapters::load))
            .route(&format!("{prefix}/unload_lora_adapter"), post(adapters::unload))
            .route(&format!("{prefix}/models/{{*id}}"), get(models::retrieve).delete(loading::delete))
            .route(&format!("{prefix}/tokenize"), post(tokenize::tokenize))
            .route(&format!("{prefix}/detokenize"), post(tokenize::detokenize))
            .route(&format!("{prefix}/health"), get(health::health));
    }
    let router = router
        .merge(working().route_layer(from_fn(quota::check)))
        .route("/v1/usage", get(usage::usage))
        .route("/v1/requests", get(requests::list))
        .route("/v1/requests/{id}", get(requests::retrieve))
        .route("/v1/traces", get(traces::api::list))
        .route("/v1/traces/{id}", get(traces::api::retrieve).delete(traces::api::delete))
        .route("/v1/engine/stats", get(stats::engine_stats))
        .route("/v1/engine/events", get(stats::engine_events))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::openapi))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        // Behind the check: who has no key makes no spans and leaves nothing behind.
        .layer(from_fn_with_state(app.clone(), requests::keep))
        .layer(from_fn_with_state(app.clone(), telemetry::trace))
        .layer(from_fn_with_state(app.clone(), auth::check));
    let router = match cors(&app.config().cors_origins) {
        None => router,
        Some(layer) => router.layer(layer),
    };
    router
        .layer(from_fn_with_state(app.clone(), observe::count_and_log))
        .layer(from_fn(observe::request_id))
        .with_state(app.clone())
}

fn cors(origins: &CorsOrigins) -> Option<CorsLayer> {
    let layer = CorsLayer::new().allow_methods(Any).allow_headers(Any).expose_headers([REQUEST_ID]);
    match origins {
        CorsOrigins::None => None,
        CorsOrigins::Any => Some(layer.allow_origin(Any)),
        CorsOrigins::List(origins) => Some(layer.allow_origin(origins.clone())),
    }
}

/// The console's files, or a 404.
async fn not_found(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    match console::file(method, path) {
        Some(response) => response,
        None => Failure(ApiError::unknown_path(method.as_str(), path)).into_response(),
    }
}

async fn method_not_allowed(request: Request) -> Failure {
    ApiError::method_not_allowed(request.method().as_str(), request.uri().path()).into()
}
