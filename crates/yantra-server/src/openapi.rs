//! `/openapi.json`: every endpoint and type, generated from the handlers and the wire types.

use axum::Json;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::{
    chat, completions, embeddings, health, messages, metrics, models, requests, rerank, responses, stats, tokenize,
    usage,
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
        models::list,
        models::retrieve,
        tokenize::tokenize,
        tokenize::detokenize,
        usage::usage,
        requests::list,
        requests::retrieve,
        stats::engine_stats,
        stats::engine_events,
        health::health,
        health::ready,
        metrics::metrics,
        openapi,
    ),
    security(("api_key" = [])),
    modifiers(&ApiKey)
)]
struct ApiDoc;

/// The key is needed only where keys are configured; the document can not tell.
struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("api_key", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

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
