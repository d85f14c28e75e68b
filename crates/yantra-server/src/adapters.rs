//! `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`, as vLLM has them: adapters that come and go while the server runs.
//!
//! An adapter is a model of its own name that shares the engine of another. It takes requests as soon as it is loaded, which
//! no step waits for; once it is unloaded, those that run keep it to their end.

use std::sync::Arc;

use axum::Json;
use yantra_api::{ApiError, ErrorBody, LoadAdapterRequest, ModelCard, ModelDeletion, UnloadAdapterRequest};

use crate::body::JsonBody;
use crate::failure::Failure;
use crate::loading::{allowed, refused};
use crate::models;
use crate::registry::{Generator, ModelFacts, ModelKind, RegistryError, ServedModel, Task};
use crate::storage::now;
use crate::tenant::Visit;

/// Loads a LoRA adapter; answered when it takes requests.
#[utoipa::path(
    post, path = "/v1/load_lora_adapter", operation_id = "load_lora_adapter", tag = "Models",
    request_body = LoadAdapterRequest,
    responses((status = 200, body = ModelCard), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, description = "There is a model of this name", body = ErrorBody),
        (status = 501, description = "This server can not load adapters", body = ErrorBody))
)]
pub(crate) async fn load(
    visit: Visit,
    JsonBody(request, _share): JsonBody<LoadAdapterRequest>,
) -> Result<Json<ModelCard>, Failure> {
    let loader = allowed(&visit)?;
    let LoadAdapterRequest { lora_name, lora_path, base_model } = request;
    let app = visit.app.clone();
    let base = app.registry().find_for(base_model.as_deref(), Task::Generate);
    let base = base.map_err(|error| ApiError { param: error.param.map(|_| "base_model".to_owned()), ..error })?;
    if app.registry().with_adapters().iter().any(|model| model.id == lora_name) {
        return Err(name_taken(&lora_name).into());
    }
    let loaded = tokio::task::spawn_blocking(move || {
        let path = loader.adapter_path(&lora_path)?;
        let served = ServedModel::adapter(&base, &lora_name, &path).map_err(|message| {
            ApiError::invalid_param("lora_path", format_args!("'{lora_path}' given: {message}"))
                .with_code("bad_adapter")
        })?;
        let card = models::card(&served);
        app.registry().ready_adapter(served).map_err(|error| match error {
            RegistryError::NameTaken { name } => name_taken(&name),
            other => refused(other).at("lora_name"),
        })?;
        Ok::<_, ApiError>(card)
    });
    let card = loaded.await.map_err(|error| ApiError::internal(error.to_string()))??;
    tracing::info!(request_id = &*visit.request_id, id = card.id, "an adapter is loaded");
    Ok(Json(card))
}

/// Unloads a LoRA adapter: it takes no new requests, those that run go on.
#[utoipa::path(
    post, path = "/v1/unload_lora_adapter", operation_id = "unload_lora_adapter", tag = "Models",
    request_body = UnloadAdapterRequest,
    responses((status = 200, body = ModelDeletion), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 501, description = "This server can not load adapters", body = ErrorBody))
)]
pub(crate) async fn unload(
    visit: Visit,
    JsonBody(request, _share): JsonBody<UnloadAdapterRequest>,
) -> Result<Json<ModelDeletion>, Failure> {
    allowed(&visit)?;
    visit.app.registry().remove_adapter(&request.lora_name)?;
    tracing::info!(request_id = &*visit.request_id, id = request.lora_name, "an adapter is unloaded");
    Ok(Json(ModelDeletion { id: request.lora_name, object: "model".to_owned(), deleted: true }))
}

fn name_taken(name: &str) -> ApiError {
    ApiError::conflict("model_exists", format!("there is a model of the name '{name}'")).at("lora_name")
}

impl ServedModel {
    /// An adapter of a model, read from a path.
    ///
    /// # Errors
    /// Why it could not be loaded.
    pub fn adapter(base: &Self, name: &str, path: &std::path::Path) -> Result<Self, String> {
        let ModelKind::Generate(generator) = &base.kind else {
            return Err(format!("'{}' does not generate text and has no adapters", base.id));
        };
        let loader = generator.adapters.as_ref().ok_or_else(|| format!("'{}' has no adapters", base.id))?;
        let adapter = loader.load(path).map_err(|error| error.to_string())?;
        let facts = ModelFacts {
            parameters: Some(adapter.parameters() as u64),
            size_bytes: Some(adapter.bytes() as u64),
            ..base.facts.clone()
        };
        Ok(Self {
            id: name.to_owned(),
            aliases: Vec::new(),
            created: now(),
            owned_by: base.owned_by.clone(),
            parent: Some(base.parent.clone().unwrap_or_else(|| base.id.clone())),
            facts,
            kind: ModelKind::Generate(Generator { adapter: Some(Arc::clone(&adapter)), ..generator.clone() }),
        })
    }
}
