//! `/v1/rerank` and `/v1/score`: how near texts are, by a model that reads both together (a cross-encoder) or by their
//! embeddings.

use std::sync::Arc;

use axum::Json;
use yantra_api::{
    ApiError, EmbeddingUsage, ErrorBody, RerankRequest, RerankResponse, RerankResult, Score, ScoreRequest,
    ScoreResponse,
};

use crate::body::JsonBody;
use crate::embeddings::{self, Named};
use crate::failure::Failure;
use crate::generation::Head;
use crate::registry::{ServedModel, Task};
use crate::tenant::Visit;

/// Puts documents in order by how well they answer a query.
#[utoipa::path(
    post, path = "/v1/rerank", tag = "Embeddings", request_body = RerankRequest,
    responses((status = 200, body = RerankResponse), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 408, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody))
)]
pub(crate) async fn rerank(
    visit: Visit,
    JsonBody(request, _share): JsonBody<RerankRequest>,
) -> Result<Json<RerankResponse>, Failure> {
    request.validate()?;
    let wanted = request.top_n()?;
    let model = visit.app.registry().find_for(request.model.as_deref(), Task::Rank)?;
    let query = Named { name: "query".to_owned(), text: request.query.clone() };
    let documents = request.documents.iter().enumerate();
    let documents = documents.map(|(index, it)| Named { name: format!("documents[{index}]"), text: it.text.clone() });
    let (scores, tokens) = nearness(&visit, &model, vec![query], documents.collect()).await?;
    let mut scores: Vec<(usize, f32)> = scores.into_iter().enumerate().collect();
    // Equal ones stay in the request's order.
    scores.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    scores.truncate(wanted);
    let returned = request.return_documents == Some(true);
    let result = |(index, relevance_score): (usize, f32)| RerankResult {
        index,
        relevance_score,
        document: returned.then(|| request.documents[index].clone()),
    };
    let head = Head::new("rerank", &model.id);
    let usage = EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens };
    let results = scores.into_iter().map(result).collect();
    Ok(Json(RerankResponse { id: head.id, model: head.model, usage, results }))
}

/// Tells how near pairs of texts are.
#[utoipa::path(
    post, path = "/v1/score", tag = "Embeddings", request_body = ScoreRequest,
    responses((status = 200, body = ScoreResponse), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 408, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 500, body = ErrorBody),
        (status = 503, body = ErrorBody))
)]
pub(crate) async fn score(
    visit: Visit,
    JsonBody(request, _share): JsonBody<ScoreRequest>,
) -> Result<Json<ScoreResponse>, Failure> {
    request.validate()?;
    let model = visit.app.registry().find_for(request.model.as_deref(), Task::Rank)?;
    let named = |name: &'static str, texts: &[String]| {
        let one = |(index, text): (usize, &String)| Named { name: format!("{name}[{index}]"), text: text.clone() };
        texts.iter().enumerate().map(one).collect::<Vec<_>>()
    };
    let (first, second) = (named("text_1", request.text_1.as_slice()), named("text_2", request.text_2.as_slice()));
    let (scores, tokens) = nearness(&visit, &model, first, second).await?;
    let score = |(index, score)| Score { index, object: "score".to_owned(), score };
    let data = scores.into_iter().enumerate().map(score).collect();
    let Head { id, created, model } = Head::new("score", &model.id);
    let usage = EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens };
    Ok(Json(ScoreResponse { id, object: "list".to_owned(), created, model, data, usage }))
}

/// How near each of the `second` texts is to its first, the only one or that of the same number; and the tokens read.
async fn nearness(
    visit: &Visit,
    model: &Arc<ServedModel>,
    first: Vec<Named>,
    second: Vec<Named>,
) -> Result<(Vec<f32>, usize), ApiError> {
    if model.ranker()?.handle.scores_pairs() {
        let pairs = first.iter().cycle().cloned().zip(second).collect();
        return embeddings::of_pairs(visit, model, pairs).await;
    }
    let count = first.len();
    let (vectors, tokens) = embeddings::of_texts(visit, model, [first, second].concat()).await?;
    let (left, right) = vectors.split_at(count.min(vectors.len()));
    Ok((left.iter().cycle().zip(right).map(|(a, b)| cosine(a, b)).collect(), tokens))
}

/// Cosine of two vectors of length 1.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
