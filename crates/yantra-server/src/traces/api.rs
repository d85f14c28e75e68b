//! `/v1/traces`: listing, searching, reading and deleting what is kept.

use axum::Json;
use axum::extract::Path;
use serde::Deserialize;
use serde_json::Value;
use yantra_api::{ApiError, ErrorBody, TraceDeleted, TraceList, TraceRecord, TraceSummary, Usage};
use yantra_store::{Trace, TracesOf};

use crate::body::QueryFields;
use crate::failure::Failure;
use crate::files;
use crate::tenant::Visit;

/// Traces on a page if the client does not say, and at most.
const PAGE: usize = 20;
const MAX_PAGE: usize = 100;
/// Longest question, in characters.
const MAX_QUERY_CHARS: usize = 500;
/// The end of the year 9999, in seconds since 1970.
const MAX_SECONDS: u64 = 253_402_300_799;

/// Which traces.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TracesQuery {
    /// Only those that have all these words; `"several in their order"`, `beginnings*`.
    #[param(max_length = 500)]
    query: Option<String>,
    /// Only those of this model.
    model: Option<String>,
    /// Only those of this endpoint, such as `/v1/chat/completions`.
    endpoint: Option<String>,
    /// Only those that came then or later, in seconds since 1970.
    #[param(minimum = 0, maximum = 253_402_300_799i64)]
    since: Option<u64>,
    /// Only those that came before, in seconds since 1970.
    #[param(minimum = 0, maximum = 253_402_300_799i64)]
    until: Option<u64>,
    /// Only those behind this one.
    after: Option<String>,
    /// How many; 20 if not given.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
}

/// The key's owner's requests and answers, those that ended last first; without keys, everybody's.
#[utoipa::path(
    get, path = "/v1/traces", operation_id = "list_traces", tag = "Traces", params(TracesQuery),
    responses((status = 200, body = TraceList), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 501, body = ErrorBody))
)]
pub(crate) async fn list(
    visit: Visit,
    QueryFields(query): QueryFields<TracesQuery>,
) -> Result<Json<TraceList>, Failure> {
    let storage = visit.app.needed_traces()?;
    let chars = query.query.as_deref().map_or(0, |query| query.chars().count());
    if chars > MAX_QUERY_CHARS {
        let message = format!("{chars} characters given, at most {MAX_QUERY_CHARS} expected");
        return Err(ApiError::invalid_param("query", message).into());
    }
    let ms = |param: &str, given: Option<u64>| match given {
        Some(seconds) if seconds > MAX_SECONDS => {
            Err(ApiError::invalid_param(param, format!("{seconds} given, at most {MAX_SECONDS} expected")))
        }
        given => Ok(given.map(|seconds| seconds * 1000)),
    };
    let of = TracesOf {
        owner: visit.tenant.owner().map(str::to_owned),
        query: query.query,
        model: query.model,
        endpoint: query.endpoint,
        since_ms: ms("since", query.since)?,
        until_ms: ms("until", query.until)?,
        after: query.after.clone(),
        limit: files::page_limit(query.limit, PAGE, MAX_PAGE)?,
        ascending: false,
    };
    let page = storage.run(move |store| store.traces(&of)).await?;
    let page = page.ok_or_else(|| no_trace(query.after.as_deref().unwrap_or_default()).at("after"))?;
    let data: Vec<TraceSummary> = page.items.into_iter().map(trace_summary).collect();
    let id = |trace: Option<&TraceSummary>| trace.map(|trace| trace.id.clone());
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    Ok(Json(TraceList { object: "list".to_owned(), data, first_id, last_id, has_more: page.has_more }))
}

/// One request and its answer.
#[utoipa::path(
    get, path = "/v1/traces/{id}", operation_id = "retrieve_trace", tag = "Traces",
    params(("id" = String, Path, description = "Its id, the answer's, or `x-request-id` of the answer: of several the latest")),
    responses((status = 200, body = TraceRecord), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 501, body = ErrorBody))
)]
pub(crate) async fn retrieve(visit: Visit, Path(id): Path<String>) -> Result<Json<TraceRecord>, Failure> {
    let storage = visit.app.needed_traces()?;
    let (owner, name) = (visit.tenant.owner().map(str::to_owned), id.clone());
    let found = storage.run(move |store| store.trace(owner.as_deref(), &name)).await?;
    let trace = found.ok_or_else(|| no_trace(&id))?;
    let mut record = trace_record(trace);
    record.timeline = Some(visit.app.requests().has(&visit.tenant, &record.summary.request_id));
    Ok(Json(record))
}

/// Deletes a request and its answer.
#[utoipa::path(
    delete, path = "/v1/traces/{id}", operation_id = "delete_trace", tag = "Traces",
    params(("id" = String, Path, description = "Its id, `trace-…`")),
    responses((status = 200, body = TraceDeleted), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 501, body = ErrorBody), (status = 507, body = ErrorBody))
)]
pub(crate) async fn delete(visit: Visit, Path(id): Path<String>) -> Result<Json<TraceDeleted>, Failure> {
    let storage = visit.app.needed_traces()?;
    let (owner, name) = (visit.tenant.owner().map(str::to_owned), id.clone());
    match storage.run(move |store| store.delete_trace(owner.as_deref(), &name)).await? {
        true => Ok(Json(TraceDeleted { id, object: "trace".to_owned(), deleted: true })),
        false => Err(no_trace(&id).into()),
    }
}

fn no_trace(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no trace '{id}'")).at("id")
}

/// A kept trace as the API tells it.
#[must_use]
pub fn trace_record(trace: Trace) -> TraceRecord {
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let (input, output) = (read(&trace.input), trace.output.as_deref().map(read));
    TraceRecord { summary: trace_summary(trace.summary), input, output, timeline: None }
}

/// The same without what it says.
#[must_use]
pub fn trace_summary(trace: yantra_store::TraceSummary) -> TraceSummary {
    let facts = trace.facts;
    let count = |tokens: u64| usize::try_from(tokens).unwrap_or(usize::MAX);
    TraceSummary {
        id: trace.id,
        object: "trace".to_owned(),
        request_id: facts.request_id,
        answer_id: facts.answer_id,
        tenant: facts.tenant,
        endpoint: facts.endpoint,
        model: facts.model,
        stream: facts.stream,
        state: facts.state,
        status: facts.status,
        error: facts.error,
        finish_reasons: facts.finish_reasons,
        created: facts.created_ms as f64 / 1e3,
        queue_ms: facts.queue_ms,
        time_to_first_token_ms: facts.time_to_first_token_ms,
        total_ms: facts.total_ms,
        usage: Usage::new(
            count(facts.prompt_tokens),
            count(facts.cached_prompt_tokens),
            count(facts.completion_tokens),
        ),
        bytes: trace.bytes,
        snippet: trace.snippet,
    }
}
