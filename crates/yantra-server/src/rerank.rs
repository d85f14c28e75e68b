//! `/v1/rerank` and `/v1/score`: how near texts are, by their embeddings. (Models that read both texts together have a
//! head that classifies, which no architecture here has yet.)

use axum::Json;
use yantra_api::{
    EmbeddingUsage, ErrorBody, RerankRequest, RerankResponse, RerankResult, Score, ScoreRequest, ScoreResponse,
};

use crate::body::JsonBody;
use crate::embeddings::{self, Named};
use crate::failure::Failure;
use crate::generation::Head;
use crate::registry::Task;
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
    let model = visit.app.registry().find_for(request.model.as_deref(), Task::Embed)?;
    let documents = request.documents.iter().enumerate();
    let texts = std::iter::once(Named { name: "query".to_owned(), text: request.query.clone() })
        .chain(documents.map(|(index, it)| Named { name: format!("documents[{index}]"), text: it.text.clone() }));
    let (vectors, tokens) = embeddings::of_texts(&visit, &model, texts.collect()).await?;
    let mut scores: Vec<(usize, f32)> = match vectors.split_first() {
        Some((query, documents)) => documents.iter().map(|document| cosine(query, document)).enumerate().collect(),
        None => Vec::new(),
    };
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
    let model = visit.app.registry().find_for(request.model.as_deref(), Task::Embed)?;
    let named = |name: &'static str, texts: &[String]| {
        let one = |(index, text): (usize, &String)| Named { name: format!("{name}[{index}]"), text: text.clone() };
        texts.iter().enumerate().map(one).collect::<Vec<_>>()
    };
    let first = request.text_1.as_slice().len();
    let texts = [named("text_1", request.text_1.as_slice()), named("text_2", request.text_2.as_slice())].concat();
    let (vectors, tokens) = embeddings::of_texts(&visit, &model, texts).await?;
    let (left, right) = vectors.split_at(first.min(vectors.len()));
    let pairs = left.iter().cycle().zip(right).enumerate();
    let data = pairs.map(|(index, (a, b))| Score { index, object: "score".to_owned(), score: cosine(a, b) }).collect();
    let Head { id, created, model } = Head::new("score", &model.id);
    let usage = EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens };
    Ok(Json(ScoreResponse { id, object: "list".to_owned(), created, model, data, usage }))
}

/// Cosine of two vectors of length 1.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
