//! `/openapi.json`: every endpoint and type, generated from the handlers and the wire types.

use axum::Json;
use utoipa::OpenApi;

use crate::document::Common;
use crate::{
    adapters, batches, chat, completions, embeddings, files, health, loading, messages, metrics, models, moderations,
    requests, rerank, responses, stats, tokenize, traces, usage,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Yantra",
        description = "OpenAI-compatible inference. The endpoints of the OpenAI API also answer without the `/v1` prefix."
    ),
    paths(
        chat::chat_completions,
        completions::completions,
        responses::create,
        responses::retrieve,
        responses::delete,
        responses::input_items,
        messages::messages,
        messages::count_tokens,
        embeddings::embeddings,
        rerank::rerank,
        rerank::score,
        files::create,
        files::list,
        files::retrieve,
        files::content,
        files::delete,
        batches::create,
        batches::list,
        batches::retrieve,
        batches::cancel,
        models::list,
        models::retrieve,
        loading::delete,
        loading::load,
        loading::unload,
        adapters::load,
        adapters::unload,
        moderations::moderations,
        tokenize::tokenize,
        tokenize::detokenize,
        usage::usage,
        requests::list,
        requests::retrieve,
        traces::api::list,
        traces::api::retrieve,
        traces::api::delete,
        stats::engine_stats,
        stats::engine_events,
        health::health,
        health::ready,
        metrics::metrics,
        openapi,
    ),
    security(("api_key" = [])),
    modifiers(&Common)
)]
struct ApiDoc;

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "Operation", responses((status = 200, body = Object)))]
pub(crate) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(ApiDoc::openapi())
}

/// The document as text, for writing it to a file.
///
/// # Errors
/// It can not be written as JSON, which would be a bug.
pub fn openapi_json() -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&ApiDoc::openapi())
}
