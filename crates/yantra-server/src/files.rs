//! `/v1/files`: what clients send to be worked on later, and what was made of it.

use std::io::{self, Read};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, Multipart, MultipartError, MultipartRejection};
use axum::extract::{DefaultBodyLimit, Path};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::time::{timeout, timeout_at};
use yantra_api::{ApiError, ErrorBody, FileDeleted, FileList, FileObject, FileUpload};
use yantra_store::{FileFacts, FileRecord, NewFile, PageOf};

use crate::app::App;
use crate::body::QueryFields;
use crate::config::CorsOrigins;
use crate::failure::Failure;
use crate::storage::{Storage, now};
use crate::tenant::Visit;

/// Most files on a page.
const MAX_PAGE: usize = 10_000;
const MAX_FILENAME_CHARS: usize = 255;
/// Longest text in a form beside the file.
const MAX_TEXT_BYTES: usize = 1024;
/// How long more of a refused form is read, so that its sender gets to read the refusal.
const DISCARD_TIME: Duration = Duration::from_secs(1);
/// What is read of a file at once.
const READ_BYTES: usize = 256 << 10;

/// Their routes.
pub(crate) fn routes(router: Router<App>, prefix: &str) -> Router<App> {
    // A form is read within limits of its own.
    let forms = get(list).post(create).layer(DefaultBodyLimit::disable());
    router
        .route(&format!("{prefix}/files"), forms)
        .route(&format!("{prefix}/files/{{id}}"), get(retrieve).delete(delete))
        .route(&format!("{prefix}/files/{{id}}/content"), get(content))
}

/// Keeps a file.
#[utoipa::path(
    post, path = "/v1/files", operation_id = "create_file", tag = "Batches",
    request_body(content = FileUpload, content_type = "multipart/form-data"),
    responses(
        (status = 200, body = FileObject), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 408, body = ErrorBody), (status = 413, body = ErrorBody), (status = 501, body = ErrorBody),
        (status = 507, body = ErrorBody),
    )
)]
pub(crate) async fn create(
    visit: Visit,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Json<FileObject>, Failure> {
    let storage = visit.app.needed_storage()?;
    refuse_foreign_pages(&visit.app, &headers)?;
    let mut form =
        form.map_err(|error| ApiError::invalid_request(format!("a form expected: {}", error.body_text())))?;
    let read = timeout_at(visit.app.deadline(), read_form(&visit.app, storage, &mut form)).await;
    let read = read.unwrap_or_else(|_| Err(ApiError::timeout("the form did not arrive in time")));
    let form = match read {
        Ok(form) => form,
        Err(error) => {
            // Closing a connection on a client that still sends would reset it, and the refusal with it.
            let _ = timeout(DISCARD_TIME, discard(form)).await;
            return Err(error.into());
        }
    };
    let (owner, created_at) = (visit.tenant.owner().map(str::to_owned), now());
    let facts = FileFacts { owner, filename: form.filename, purpose: form.purpose, created_at };
    let record = storage.run(move |store| store.keep_file(form.file, facts)).await?;
    Ok(Json(object(record)))
}

/// A form that has come.
struct Form {
    file: NewFile,
    filename: String,
    purpose: String,
}

async fn read_form(app: &App, storage: &Storage, form: &mut Multipart) -> Result<Form, ApiError> {
    let patience = app.config().body_timeout;
    let (mut file, mut purpose) = (None, None);
    while let Some(field) = within(patience, form.next_field()).await? {
        match field.name().unwrap_or_default() {
            "file" if file.is_none() => {
                let filename = field.file_name().unwrap_or("file").to_owned();
                if filename.is_empty() || filename.chars().count() > MAX_FILENAME_CHARS {
                    let message = format!("a file name of 1 to {MAX_FILENAME_CHARS} characters expected");
                    return Err(ApiError::invalid_param("file", message));
                }
                file = Some((read_file(app, storage, field).await?, filename));
            }
            "purpose" if purpose.is_none() => {
                let text = read_text(patience, field).await?;
                FileUpload::check_purpose(&text)?;
                purpose = Some(text);
            }
            name @ ("file" | "purpose") => return Err(ApiError::invalid_param(name, "given twice")),
            name => {
                let message = format!("the form has a field '{name}'; known fields are 'file' and 'purpose'");
                return Err(ApiError::invalid_request(message).with_code("unknown_parameter").at(name));
            }
        }
    }
    let missing = |name: &str| ApiError::invalid_param(name, "nothing given, but needed");
    let (file, filename) = file.ok_or_else(|| missing("file"))?;
    Ok(Form { file, filename, purpose: purpose.ok_or_else(|| missing("purpose"))? })
}

/// Writes a file down as it comes.
async fn read_file(app: &App, storage: &Storage, mut field: Field<'_>) -> Result<NewFile, ApiError> {
    let (patience, most) = (app.config().body_timeout, app.config().max_file_bytes);
    let mut file = storage.run(|store| store.new_file()).await?;
    while let Some(chunk) = within(patience, field.chunk()).await? {
        if file.bytes() + chunk.len() as u64 > most as u64 {
            return Err(ApiError::body_too_large(most).at("file"));
        }
        file = storage.run(move |_| file.write(&chunk).map(|()| file)).await?;
    }
    Ok(file)
}

async fn read_text(patience: Duration, mut field: Field<'_>) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = within(patience, field.chunk()).await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_TEXT_BYTES {
            return Err(ApiError::invalid_request(format!("a text of the form has more than {MAX_TEXT_BYTES} bytes")));
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid_request("a text of the form is not UTF-8"))
}

/// What comes next of a form, if it comes soon.
async fn within<T>(
    patience: Duration,
    next: impl Future<Output = Result<Option<T>, MultipartError>>,
) -> Result<Option<T>, ApiError> {
    let next = timeout(patience, next).await.map_err(|_| ApiError::timeout("the form did not arrive in time"))?;
    next.map_err(|error| ApiError::invalid_request(format!("the form could not be read: {}", error.body_text())))
}

async fn discard(mut form: Multipart) {
    while let Ok(Some(mut field)) = form.next_field().await {
        while let Ok(Some(_)) = field.chunk().await {}
    }
}

/// Browsers send forms of any page to any server without asking it first; they only say whose page it is.
fn refuse_foreign_pages(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let is_own = host.is_some_and(|host| {
        origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(_, origin)| origin == host)
    });
    let is_allowed = match &app.config().cors_origins {
        CorsOrigins::None => false,
        CorsOrigins::Any => true,
        CorsOrigins::List(origins) => origins.contains(origin),
    };
    match is_own || is_allowed {
        true => Ok(()),
        false => Err(ApiError::invalid_request("this form comes from a page that is not in cors_origins")),
    }
}

/// Which files.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FilesQuery {
    /// Only those for this.
    purpose: Option<String>,
    /// How many; 10000 if not given.
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<usize>,
    /// Only those behind this one.
    after: Option<String>,
    /// By their age: `asc`, oldest first, or `desc`.
    order: Option<String>,
}

/// Lists files.
#[utoipa::path(
    get, path = "/v1/files", operation_id = "list_files", tag = "Batches", params(FilesQuery),
    responses((status = 200, body = FileList), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 501, body = ErrorBody))
)]
pub(crate) async fn list(visit: Visit, QueryFields(query): QueryFields<FilesQuery>) -> Result<Json<FileList>, Failure> {
    let storage = visit.app.needed_storage()?;
    let ascending = match query.order.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(other) => {
            return Err(ApiError::invalid_param("order", format!("'{other}' given, 'asc' or 'desc' expected")).into());
        }
    };
    let of = PageOf {
        owner: visit.tenant.owner().map(str::to_owned),
        limit: page_limit(query.limit, MAX_PAGE, MAX_PAGE)?,
        after: query.after.clone(),
        ascending,
        kind: query.purpose,
    };
    let page = storage.run(move |store| store.files(&of)).await?;
    let page = page.ok_or_else(|| no_file(query.after.as_deref().unwrap_or_default()).at("after"))?;
    let data: Vec<FileObject> = page.items.into_iter().map(object).collect();
    let id = |file: Option<&FileObject>| file.map(|file| file.id.clone());
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    Ok(Json(FileList { object: "list".to_owned(), data, first_id, last_id, has_more: page.has_more }))
}

/// How many things are on a page.
pub(crate) fn page_limit(given: Option<usize>, usual: usize, most: usize) -> Result<usize, ApiError> {
    match given.unwrap_or(usual) {
        limit if (1..=most).contains(&limit) => Ok(limit),
        limit => Err(ApiError::invalid_param("limit", format!("{limit} given, 1 to {most} expected"))),
    }
}

/// One file.
#[utoipa::path(
    get, path = "/v1/files/{id}", operation_id = "retrieve_file", tag = "Batches", params(("id" = String, Path, description = "The file's name")),
    responses((status = 200, body = FileObject), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 501, body = ErrorBody))
)]
pub(crate) async fn retrieve(visit: Visit, Path(id): Path<String>) -> Result<Json<FileObject>, Failure> {
    Ok(Json(object(find(&visit, id).await?)))
}

/// What a file holds.
#[utoipa::path(
    get, path = "/v1/files/{id}/content", operation_id = "retrieve_file_content", tag = "Batches", params(("id" = String, Path, description = "The file's name")),
    responses((status = 200, description = "The bytes", content_type = "application/octet-stream"),
        (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 501, body = ErrorBody))
)]
pub(crate) async fn content(visit: Visit, Path(id): Path<String>) -> Result<Response, Failure> {
    let storage = visit.app.needed_storage()?;
    let record = find(&visit, id).await?;
    let file = storage.run(move |store| store.open_content(&record.id)).await?;
    let chunks = futures_util::stream::try_unfold(file, |mut file| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; READ_BYTES];
            let count = file.read(&mut bytes)?;
            bytes.truncate(count);
            io::Result::Ok((bytes, file))
        });
        let (bytes, file) = read.await.map_err(io::Error::other)??;
        io::Result::Ok((!bytes.is_empty()).then(|| (Bytes::from(bytes), file)))
    });
    // What somebody sent must not become a page of this server's.
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, record.bytes.to_string()),
        (header::CONTENT_DISPOSITION, "attachment".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

/// Deletes a file.
#[utoipa::path(
    delete, path = "/v1/files/{id}", operation_id = "delete_file", tag = "Batches", params(("id" = String, Path, description = "The file's name")),
    responses((status = 200, body = FileDeleted), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 501, body = ErrorBody))
)]
pub(crate) async fn delete(visit: Visit, Path(id): Path<String>) -> Result<Json<FileDeleted>, Failure> {
    let storage = visit.app.needed_storage()?;
    let (owner, name) = (visit.tenant.owner().map(str::to_owned), id.clone());
    match storage.run(move |store| store.delete_file(owner.as_deref(), &name)).await? {
        true => Ok(Json(FileDeleted { id, object: "file".to_owned(), deleted: true })),
        false => Err(no_file(&id).at("id").into()),
    }
}

async fn find(visit: &Visit, id: String) -> Result<FileRecord, ApiError> {
    let storage = visit.app.needed_storage()?;
    let (owner, name) = (visit.tenant.owner().map(str::to_owned), id.clone());
    let found = storage.run(move |store| store.file(owner.as_deref(), &name)).await?;
    found.ok_or_else(|| no_file(&id).at("id"))
}

pub(crate) fn no_file(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no file '{id}'"))
}

fn object(record: FileRecord) -> FileObject {
    let FileRecord { id, bytes, facts: FileFacts { filename, purpose, created_at, .. } } = record;
    let (object, status) = ("file".to_owned(), "processed".to_owned());
    FileObject { id, object, bytes, created_at, expires_at: None, filename, purpose, status }
}
