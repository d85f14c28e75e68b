//! `/v1/batches`: many requests in a file, worked on when nobody else wants the models, answered in a file.
//!
//! A batch is a row of the store, and so is each of its items while it is open; whatever has to survive is there, and the
//! tasks below only read what is left to do. [`validate`] turns the input into items, [`worker`] has them answered,
//! [`finish`] writes the files.

mod finish;
mod item;
mod validate;
mod worker;

use axum::extract::Path;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
use yantra_api::{ApiError, BATCH_WINDOW_S, BatchCounts, BatchErrors, BatchList, BatchObject, BatchRequest, ErrorBody};
use yantra_store::{Batch, BatchStatus, NewBatch, PageOf};

use crate::app::App;
use crate::body::{JsonBody, QueryFields};
use crate::failure::Failure;
use crate::files;
use crate::storage::now;
use crate::tenant::Visit;

pub(crate) use worker::start;

const PAGE: usize = 20;
const MAX_PAGE: usize = 100;
/// Batches of one owner that may be open at the same time.
const MAX_OPEN: usize = 100;

/// Their routes.
pub(crate) fn routes(router: Router<App>, prefix: &str) -> Router<App> {
    router
        .route(&format!("{prefix}/batches"), get(list).post(create))
        .route(&format!("{prefix}/batches/{{id}}"), get(retrieve))
        .route(&format!("{prefix}/batches/{{id}}/cancel"), post(cancel))
}

/// Begins a batch.
#[utoipa::path(
    post, path = "/v1/batches", operation_id = "create_batch", tag = "Batches", request_body = BatchRequest,
    responses(
        (status = 200, body = BatchObject), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 501, body = ErrorBody),
        (status = 507, body = ErrorBody),
    )
)]
pub(crate) async fn create(
    visit: Visit,
    JsonBody(request, _share): JsonBody<BatchRequest>,
) -> Result<Json<BatchObject>, Failure> {
    let storage = visit.app.needed_storage()?;
    request.validate()?;
    let BatchRequest { input_file_id, endpoint, completion_window, metadata } = request;
    let owner = visit.tenant.owner().map(str::to_owned);
    let created_at = now();
    let new = NewBatch {
        owner,
        endpoint,
        input_file: input_file_id,
        completion_window,
        metadata: metadata.map(|metadata| Value::Object(metadata).to_string()),
        created_at,
        expires_at: created_at + BATCH_WINDOW_S,
    };
    let made = storage.run(move |store| {
        let file = store.file(new.owner.as_deref(), &new.input_file)?;
        let open = store.open_batches()?.into_iter().filter(|(_, owner)| *owner == new.owner).count();
        Ok(match file {
            None => Err(ApiError::invalid_param("input_file_id", format!("there is no file '{}'", new.input_file))),
            Some(file) if file.facts.purpose != "batch" => {
                let message = format!("a file for '{}' given, one for 'batch' expected", file.facts.purpose);
                Err(ApiError::invalid_param("input_file_id", message))
            }
            Some(_) if open >= MAX_OPEN => {
                Err(ApiError::overloaded(format!("{MAX_OPEN} batches are open already, which is the limit"), 60))
            }
            Some(_) => Ok(store.add_batch(&new)?),
        })
    });
    let batch = made.await??;
    tracing::info!(batch = batch.id, request_id = &*visit.request_id, "batch begun");
    storage.batches_changed();
    Ok(Json(object(batch)))
}

/// Which batches.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BatchesQuery {
    /// How many; 20 if not given.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// Only those behind this one.
    after: Option<String>,
}

/// Lists batches, newest first.
#[utoipa::path(
    get, path = "/v1/batches", operation_id = "list_batches", tag = "Batches", params(BatchesQuery),
    responses((status = 200, body = BatchList), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 501, body = ErrorBody))
)]
pub(crate) async fn list(
    visit: Visit,
    QueryFields(query): QueryFields<BatchesQuery>,
) -> Result<Json<BatchList>, Failure> {
    let storage = visit.app.needed_storage()?;
    let of = PageOf {
        owner: visit.tenant.owner().map(str::to_owned),
        limit: files::page_limit(query.limit, PAGE, MAX_PAGE)?,
        after: query.after.clone(),
        ascending: false,
        kind: None,
    };
    let page = storage.run(move |store| store.batches(&of)).await?;
    let page = page.ok_or_else(|| no_batch(query.after.as_deref().unwrap_or_default()).at("after"))?;
    let data: Vec<BatchObject> = page.items.into_iter().map(object).collect();
    let id = |batch: Option<&BatchObject>| batch.map(|batch| batch.id.clone());
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    Ok(Json(BatchList { object: "list".to_owned(), data, first_id, last_id, has_more: page.has_more }))
}

/// One batch.
#[utoipa::path(
    get, path = "/v1/batches/{id}", operation_id = "retrieve_batch", tag = "Batches", params(("id" = String, Path, description = "The batch's name")),
    responses((status = 200, body = BatchObject), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 501, body = ErrorBody))
)]
pub(crate) async fn retrieve(visit: Visit, Path(id): Path<String>) -> Result<Json<BatchObject>, Failure> {
    Ok(Json(object(find(&visit, &id).await?)))
}

/// Ends a batch early: items that have begun may finish, and what was answered can be fetched.
#[utoipa::path(
    post, path = "/v1/batches/{id}/cancel", operation_id = "cancel_batch", tag = "Batches", params(("id" = String, Path, description = "The batch's name")),
    responses((status = 200, body = BatchObject), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 501, body = ErrorBody))
)]
pub(crate) async fn cancel(visit: Visit, Path(id): Path<String>) -> Result<Json<BatchObject>, Failure> {
    let storage = visit.app.needed_storage()?;
    find(&visit, &id).await?;
    let name = id.clone();
    let (batch, is_cancelling) =
        storage.run(move |store| store.cancel_batch(&name, now())).await?.ok_or_else(|| no_batch(&id))?;
    if !is_cancelling {
        let status = batch.status.name();
        let message =
            format!("the batch '{id}' is {status}; only one that is validating or in_progress can be cancelled");
        return Err(ApiError::invalid_request(message).with_code("invalid_batch_status").into());
    }
    storage.batches_changed();
    Ok(Json(object(batch)))
}

async fn find(visit: &Visit, id: &str) -> Result<Batch, ApiError> {
    let (owner, name) = (visit.tenant.owner().map(str::to_owned), id.to_owned());
    let found = visit.app.needed_storage()?.run(move |store| store.batch(owner.as_deref(), &name)).await?;
    found.ok_or_else(|| no_batch(id))
}

fn no_batch(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no batch '{id}'")).at("id")
}

fn object(batch: Batch) -> BatchObject {
    let errors = batch.errors.as_deref().and_then(|errors| serde_json::from_str(errors).ok());
    let errors = errors.map(|data| BatchErrors { object: "list".to_owned(), data });
    let metadata = batch.task.metadata.as_deref().and_then(|metadata| serde_json::from_str(metadata).ok());
    BatchObject {
        id: batch.id,
        object: "batch".to_owned(),
        endpoint: batch.task.endpoint,
        errors: errors.filter(|_| batch.status == BatchStatus::Failed),
        input_file_id: batch.task.input_file,
        completion_window: batch.task.completion_window,
        status: batch.status.name().to_owned(),
        output_file_id: batch.output_file,
        error_file_id: batch.error_file,
        created_at: batch.task.created_at,
        in_progress_at: batch.in_progress_at,
        expires_at: Some(batch.task.expires_at),
        finalizing_at: batch.finalizing_at,
        completed_at: batch.completed_at,
        failed_at: batch.failed_at,
        expired_at: batch.expired_at,
        cancelling_at: batch.cancelling_at,
        cancelled_at: batch.cancelled_at,
        request_counts: BatchCounts { total: batch.total, completed: batch.completed, failed: batch.failed },
        metadata,
    }
}
