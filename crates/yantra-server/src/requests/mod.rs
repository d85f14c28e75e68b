//! The latest requests and where their time went: `/v1/requests`. In memory only, and as many as the configuration says;
//! of prompts and answers nothing.
//!
//! A [`Kept`] goes with each request that may reach a model, and is put into the list when an engine has taken its work:
//! who is refused pushes nobody out.

mod kept;
mod layer;
mod why;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::Path;
use serde::Deserialize;
use yantra_api::{ApiError, ErrorBody, RequestList, RequestRecord};

use crate::body::QueryFields;
use crate::failure::Failure;
use crate::tenant::{Tenant, Visit};

pub(crate) use kept::Kept;
pub(crate) use layer::{current, keep, note, note_submitted, trace};

/// Requests told at once if the client does not say.
const DEFAULT_LIMIT: usize = 50;
const MOST: usize = 1000;

/// The latest requests, oldest first.
#[derive(Debug)]
pub(crate) struct Requests {
    most: usize,
    kept: Mutex<VecDeque<Arc<Kept>>>,
}

impl Requests {
    /// A list of at most so many.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.most == 0
    }

    /// Adds a request and forgets the oldest.
    pub(crate) fn add(&self, request: Arc<Kept>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(request);
        while kept.len() > self.most {
            kept.pop_front();
        }
    }

    /// Whether a request of this id is kept that a tenant may see.
    pub(crate) fn has(&self, tenant: &Tenant, id: &str) -> bool {
        self.of(tenant).iter().any(|request| request.is_called(id))
    }

    /// The requests that a tenant may see, latest first.
    fn of(&self, tenant: &Tenant) -> Vec<Arc<Kept>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().filter(|request| request.is_of(tenant)).cloned().collect()
    }
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// How many; 50 if not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `latest` first, if not given, or `slow` ones.
    #[param(inline)]
    order: Option<Order>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Order {
    Latest,
    Slow,
}

/// The latest requests that came with the key's owner's keys; without keys, all.
#[utoipa::path(
    get, path = "/v1/requests", operation_id = "list_requests", tag = "Operation", params(ListQuery),
    responses((status = 200, body = RequestList), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody))
)]
pub(crate) async fn list(
    visit: Visit,
    QueryFields(query): QueryFields<ListQuery>,
) -> Result<Json<RequestList>, Failure> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::invalid_param("limit", format!("{limit} given, 1 to {MOST} expected")).into());
    }
    let found = visit.app.requests().of(&visit.tenant);
    let is_slow = query.order == Some(Order::Slow);
    let wanted = if is_slow { found.len() } else { limit };
    let mut data: Vec<_> = found.iter().take(wanted).map(|request| request.summary()).collect();
    if is_slow {
        data.sort_by(|a, b| b.total_ms.total_cmp(&a.total_ms));
        data.truncate(limit);
    }
    Ok(Json(RequestList { object: "list".to_owned(), data }))
}

/// One of the latest requests, and why it took as long as it did.
#[utoipa::path(
    get, path = "/v1/requests/{id}", operation_id = "retrieve_request", tag = "Operation",
    params(("id" = String, Path, description = "`x-request-id` of the answer, or the answer's own id")),
    responses((status = 200, body = RequestRecord), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(crate) async fn retrieve(visit: Visit, Path(id): Path<String>) -> Result<Json<RequestRecord>, Failure> {
    let found = visit.app.requests().of(&visit.tenant).into_iter().find(|request| request.is_called(&id));
    match found {
        Some(request) => Ok(Json(request.record())),
        None => Err(ApiError::not_found(format!("no request '{id}' is kept")).into()),
    }
}
