//! `/v1/models/load`, `/v1/models/unload` and `DELETE /v1/models/{id}`: models that come and go while the server runs.
//!
//! The server does not load models itself: a [`ModelLoader`] does, on a thread of its own. A model that goes is drained
//! first: it takes nothing new, and what runs may finish within the drain deadline.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use tokio::time::{Instant, sleep, timeout};
use yantra_api::{ApiError, ErrorBody, LoadModelRequest, ModelDeletion, ModelLoad, UnloadModelRequest};

use crate::app::App;
use crate::body::JsonBody;
use crate::failure::Failure;
use crate::registry::{ModelKind, RegistryError, ServedModel};
use crate::tenant::Visit;

/// Seconds after which a client should try again while another model is loading.
const RETRY_S: u64 = 2;
/// How long an engine may take to stop after its deadline; a step that is stuck is not waited for.
const LAST_STEP: Duration = Duration::from_secs(5);
/// How often an embedding model is asked whether it still works.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Loads models for a running server.
pub trait ModelLoader: Debug + Send + Sync {
    /// Whether this may be loaded, and the name it has by itself. Quick: reads no model.
    ///
    /// # Errors
    /// What the client is to be told.
    fn check(&self, model: &str) -> Result<String, ApiError>;

    /// Loads it, to be served under these names. May take long; called on a thread for such work.
    ///
    /// # Errors
    /// Why it could not be loaded; shown in `/ready`.
    fn load(&self, model: &str, id: &str, aliases: &[String]) -> Result<ServedModel, String>;

    /// Where the adapter lies that a client names so, if clients may have it. Quick: reads nothing of it.
    ///
    /// # Errors
    /// What the client is to be told.
    fn adapter_path(&self, path: &str) -> Result<PathBuf, ApiError>;

    /// A model has been unloaded; its memory is free.
    fn unloaded(&self, id: &str);
}

/// Loads a model, in the background: `/ready` tells how far it is.
#[utoipa::path(
    post, path = "/v1/models/load", operation_id = "load_model", tag = "Models", request_body = LoadModelRequest,
    responses((status = 202, body = ModelLoad), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, description = "There is a model of this name", body = ErrorBody),
        (status = 501, description = "This server can not load models", body = ErrorBody))
)]
pub(crate) async fn load(
    visit: Visit,
    JsonBody(request, _share): JsonBody<LoadModelRequest>,
) -> Result<(StatusCode, Json<ModelLoad>), Failure> {
    let app = visit.app.clone();
    let loader = allowed(&visit)?;
    request.validate()?;
    let LoadModelRequest { model, name, aliases } = request;
    let checked = {
        let (loader, model) = (Arc::clone(&loader), model.clone());
        tokio::task::spawn_blocking(move || loader.check(&model)).await
    };
    let own_name = checked.map_err(|error| ApiError::internal(error.to_string()))??;
    let (id, aliases) = (name.unwrap_or(own_name), aliases.unwrap_or_default());
    let turn = Arc::clone(&app.hooks().loading).try_acquire_owned();
    let turn = turn.map_err(|_| ApiError::overloaded("another model is being loaded", RETRY_S))?;
    app.registry().announce_new(&id, &aliases).map_err(refused)?;
    app.registry().progress(&id, 0.0, "loading");
    let state = app.registry().states().into_iter().find(|state| state.model == id);
    tracing::info!(request_id = &*visit.request_id, model, id, "loading a model");
    tokio::task::spawn_blocking(move || {
        let loaded = loader.load(&model, &id, &aliases);
        let served = loaded.and_then(|served| app.registry().ready(served).map_err(|error| error.to_string()));
        match served {
            Ok(()) => tracing::info!(id, "a model is loaded"),
            Err(message) => {
                tracing::error!(id, message, "a model could not be loaded");
                app.registry().failed(&id, message);
            }
        }
        drop(turn);
    });
    let state = state.ok_or_else(|| ApiError::internal("a model that was announced is not there"))?;
    Ok((StatusCode::ACCEPTED, Json(state)))
}

/// Unloads a model: it takes no new requests, those that run may finish. Answered when its memory is free.
#[utoipa::path(
    post, path = "/v1/models/unload", operation_id = "unload_model", tag = "Models", request_body = UnloadModelRequest,
    responses((status = 200, body = ModelDeletion), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, description = "It is being loaded or unloaded", body = ErrorBody),
        (status = 501, description = "This server can not load models", body = ErrorBody))
)]
pub(crate) async fn unload(
    visit: Visit,
    JsonBody(request, _share): JsonBody<UnloadModelRequest>,
) -> Result<Json<ModelDeletion>, Failure> {
    unload_named(&visit, &request.model).await
}

/// Unloads a model.
#[utoipa::path(
    delete, path = "/v1/models/{id}", operation_id = "delete_model", tag = "Models",
    params(("id" = String, Path, description = "Name or alias of the model; may hold slashes")),
    responses((status = 200, body = ModelDeletion), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, description = "It is being loaded or unloaded", body = ErrorBody),
        (status = 501, description = "This server can not load models", body = ErrorBody))
)]
pub(crate) async fn delete(visit: Visit, Path(id): Path<String>) -> Result<Json<ModelDeletion>, Failure> {
    unload_named(&visit, &id).await
}

/// What loads models here, if whoever asks may have models loaded and unloaded.
pub(crate) fn allowed(visit: &Visit) -> Result<Arc<dyn ModelLoader>, ApiError> {
    if !visit.app.config().allow_model_changes {
        let message = "models can not be changed here: it needs the setting [server] allow_model_changes = true";
        return Err(ApiError::forbidden("model_changes_disabled", message));
    }
    if !visit.tenant.is_admin() {
        let message =
            "this key may not change models: it needs `admin = true`, as `yantra keys create NAME --admin` gives it";
        return Err(ApiError::forbidden("admin_key_needed", message));
    }
    let loader = visit.app.hooks().loader.clone();
    loader.ok_or_else(|| ApiError::not_configured("loading models", "ServerBuilder::model_loader"))
}

pub(crate) fn refused(error: RegistryError) -> ApiError {
    match error {
        RegistryError::NameTaken { .. } => ApiError::conflict("model_exists", error.to_string()).at("name"),
        RegistryError::BadName { .. } => ApiError::invalid_param("name", error),
    }
}

async fn unload_named(visit: &Visit, name: &str) -> Result<Json<ModelDeletion>, Failure> {
    let loader = allowed(visit)?;
    let app = visit.app.clone();
    let (id, model) = app.registry().begin_unloading(name)?;
    tracing::info!(request_id = &*visit.request_id, id, "unloading a model");
    let gone = ModelDeletion { id: id.clone(), object: "model".to_owned(), deleted: true };
    // It goes on when the client goes away.
    let unloading = tokio::spawn(async move {
        if let Some(model) = model {
            drain(&app, model).await;
        }
        app.registry().remove(&id);
        loader.unloaded(&id);
        tracing::info!(id, "a model is unloaded");
    });
    unloading.await.map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(Json(gone))
}

/// Waits until a model has nothing to do, or the deadline is over, and stops it.
async fn drain(app: &App, model: Arc<ServedModel>) {
    let deadline = app.config().drain_timeout;
    match &model.kind {
        ModelKind::Generate(generator) => {
            let engine = generator.engine.clone();
            let stopping = tokio::task::spawn_blocking(move || {
                engine.drain(deadline);
                engine.shutdown();
            });
            if timeout(deadline + LAST_STEP, stopping).await.is_err() {
                tracing::error!(model = model.id, "a step does not end; the model's memory stays until it does");
            }
        }
        ModelKind::Embed(embedder) => {
            let until = Instant::now() + deadline;
            let is_busy = || {
                let stats = embedder.handle.stats();
                stats.running_requests + stats.queued_requests > 0
            };
            while is_busy() && Instant::now() < until {
                sleep(LOOK_INTERVAL).await;
            }
            // Its thread ends with the last handle.
        }
    }
}
