//! `/v1/embeddings`.

use std::sync::Arc;

use axum::Json;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use yantra_api::{
    ApiError, Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage, EmbeddingValue, ErrorBody, Prompt,
};
use yantra_engine::{EmbedError, EmbedSink, EmbedText};
use yantra_store::Used;
use yantra_text::Pair;

use crate::body::JsonBody;
use crate::failure::{self, Failure};
use crate::registry::{Embedder, ServedModel, Task};
use crate::requests;
use crate::telemetry;
use crate::tenant::Visit;
use crate::tokenize::text_tokens;
use crate::work::Lane;

/// Embeds one or several texts.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "Embeddings", request_body = EmbeddingRequest,
    responses((status = 200, body = EmbeddingResponse), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 408, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 429, description = "Too many requests wait; see `Retry-After`", body = ErrorBody),
        (status = 500, body = ErrorBody), (status = 503, body = ErrorBody))
)]
pub(crate) async fn embeddings(
    visit: Visit,
    JsonBody(request, _share): JsonBody<EmbeddingRequest>,
) -> Result<Json<EmbeddingResponse>, Failure> {
    let deadline = visit.app.deadline();
    request.validate()?;
    let model = visit.app.registry().find_for(request.model.as_deref(), Task::Embed)?;
    let embedder = model.embedder()?;
    let dimensions = request.dimensions(embedder.handle.dimensions())?;
    let format = request.encoding_format.unwrap_or_default();
    let (vectors, tokens) =
        embed(&visit, &model, deadline, move |model| input_tokens(model, model.embedder()?, &request.input)).await?;
    let data = vectors.into_iter().enumerate().map(|(index, vector)| Embedding {
        object: "embedding".to_owned(),
        index,
        embedding: EmbeddingValue::new(shorten(vector, dimensions), format),
    });
    Ok(Json(EmbeddingResponse {
        object: "list".to_owned(),
        data: data.collect(),
        model: model.id.clone(),
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
    }))
}

/// A text, and what the request calls it.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// The vectors of texts, and how many tokens they have together.
pub(crate) async fn of_texts(
    visit: &Visit,
    model: &Arc<ServedModel>,
    texts: Vec<Named>,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    embed(visit, model, visit.app.deadline(), move |model| {
        let most = model.embedder()?.handle.context_length();
        let tokens = |Named { name, text }: &Named| {
            let tokens = text_tokens(model, text, true, Some(most), name)?;
            match tokens.len() > most {
                true => Err(ApiError::context_length_exceeded(tokens.len(), most).at(name)),
                false => Ok(tokens.into()),
            }
        };
        texts.iter().map(tokens).collect()
    })
    .await
}

/// The scores of pairs of texts by a model that reads both together, and how many tokens they have together. Texts too long
/// for it are cut.
pub(crate) async fn of_pairs(
    visit: &Visit,
    model: &Arc<ServedModel>,
    pairs: Vec<(Named, Named)>,
) -> Result<(Vec<f32>, usize), ApiError> {
    let (scores, tokens) = embed(visit, model, visit.app.deadline(), move |model| {
        let most = model.ranker()?.handle.context_length();
        let tokens = |(first, second): &(Named, Named)| {
            let pair = model.tokenizer().encode_pair(&first.text, &second.text, most);
            let Pair { tokens, second } = pair.map_err(|error| failure::of_text(&error, &second.name))?;
            Ok::<_, ApiError>(EmbedText { tokens, second })
        };
        pairs.iter().map(tokens).collect()
    })
    .await?;
    Ok((scores.concat(), tokens))
}

/// The vectors of what `read` makes tokens of, and how many tokens those are.
async fn embed(
    visit: &Visit,
    model: &Arc<ServedModel>,
    deadline: Instant,
    read: impl FnOnce(&ServedModel) -> Result<Vec<EmbedText>, ApiError> + Send + 'static,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    telemetry::note(|record| record.model(&model.id, None));
    let handle = &model.ranker()?.handle;
    handle.check_queue().map_err(failure::of_embed)?;
    let inputs = {
        let model = Arc::clone(model);
        visit.app.lanes().run(Lane::Embed, deadline, move || read(&model)).await?
    };
    let tokens = inputs.iter().map(|text| text.tokens.len()).sum();
    let (sender, answer) = oneshot::channel();
    // Dropping `answer`, as when the client goes away, takes the request out of the queue.
    handle.submit(inputs, Box::new(Sink(sender))).map_err(failure::of_embed)?;
    requests::note_submitted(&visit.app, &model.id, 0);
    let vectors = timeout_at(deadline, answer)
        .await
        .map_err(|_| ApiError::timeout("the embeddings were not ready in time and have been cancelled"))?
        .unwrap_or(Err(EmbedError::Stopped))
        .map_err(failure::of_embed)?;
    let used = Used { requests: 1, prompt_tokens: tokens as u64, ..Used::default() };
    visit.app.usage().note(&visit.tenant, &model.id, used);
    telemetry::note(|record| record.embedded(tokens));
    requests::note(|kept| kept.embedded(tokens));
    Ok((vectors, tokens))
}

/// Carries the vectors from the embedding thread to the response, for as long as that waits.
struct Sink(oneshot::Sender<Result<Vec<Vec<f32>>, EmbedError>>);

impl EmbedSink for Sink {
    fn is_wanted(&self) -> bool {
        !self.0.is_closed()
    }

    fn finish(self: Box<Self>, answer: Result<Vec<Vec<f32>>, EmbedError>) {
        // A client that went away meanwhile is no error.
        let _ = self.0.send(answer);
    }
}

fn input_tokens(model: &ServedModel, embedder: &Embedder, input: &Prompt) -> Result<Vec<EmbedText>, ApiError> {
    let most = embedder.handle.context_length();
    let text = |text: &String, param: &str| text_tokens(model, text, true, Some(most), param);
    let inputs = match input {
        Prompt::Text(one) => vec![text(one, "input")?],
        Prompt::Texts(texts) => {
            let tokens = texts.iter().enumerate().map(|(index, one)| text(one, &format!("input[{index}]")));
            tokens.collect::<Result<_, _>>()?
        }
        Prompt::Tokens(tokens) => vec![tokens.clone()],
        Prompt::TokenLists(lists) => lists.clone(),
    };
    let vocab_size = embedder.tokenizer.vocab_size();
    for (index, tokens) in inputs.iter().enumerate() {
        let param = if inputs.len() == 1 { "input".to_owned() } else { format!("input[{index}]") };
        if tokens.is_empty() {
            return Err(ApiError::invalid_param(param, "no tokens given, at least 1 expected"));
        }
        if tokens.len() > most {
            return Err(ApiError::context_length_exceeded(tokens.len(), most).at(param));
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(ApiError::invalid_param(
                param,
                format!("token {token} given, the vocabulary has {vocab_size}"),
            ));
        }
    }
    Ok(inputs.into_iter().map(EmbedText::from).collect())
}

/// The first numbers of a vector, scaled back to length 1.
fn shorten(mut vector: Vec<f32>, dimensions: Option<usize>) -> Vec<f32> {
    let Some(dimensions) = dimensions.filter(|&dimensions| dimensions < vector.len()) else { return vector };
    vector.truncate(dimensions);
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value /= length);
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortened_vectors_have_length_one() {
        assert_eq!(shorten(vec![3.0, 4.0, 12.0], Some(2)), [0.6, 0.8]);
        assert_eq!(shorten(vec![0.0, 0.0, 1.0], Some(2)), [0.0, 0.0]);
        assert_eq!(shorten(vec![1.0, 0.0], None), [1.0, 0.0]);
    }
}
