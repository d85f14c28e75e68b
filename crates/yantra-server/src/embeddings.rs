//! `/v1/embeddings`.

use axum::Json;
use axum::extract::State;
use yantra_api::{
    ApiError, Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage, EmbeddingValue, ErrorBody, Prompt,
};

use crate::app::App;
use crate::body::JsonBody;
use crate::failure::Failure;
use crate::registry::{Embedder, ServedModel};
use crate::tokenize::{blocking, text_tokens};

/// Embeds one or several texts.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "Embeddings", request_body = EmbeddingRequest,
    responses((status = 200, body = EmbeddingResponse), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 408, body = ErrorBody), (status = 503, body = ErrorBody))
)]
pub(crate) async fn embeddings(
    State(app): State<App>,
    JsonBody(request): JsonBody<EmbeddingRequest>,
) -> Result<Json<EmbeddingResponse>, Failure> {
    request.validate()?;
    let model = app.registry().find(&request.model)?;
    let width = model.embedder()?.dimensions;
    let dimensions = request.dimensions(width)?;
    let format = request.encoding_format.unwrap_or_default();
    let work = blocking(move || {
        let embedder = model.embedder()?;
        let inputs = input_tokens(&model, embedder, &request.input)?;
        let tokens = inputs.iter().map(Vec::len).sum();
        let vectors = embedder.embed.embed(inputs).map_err(|error| {
            tracing::error!(error, "embedding failed");
            ApiError::internal(format!("the model failed: {error}"))
        })?;
        let data = vectors.into_iter().enumerate().map(|(index, vector)| Embedding {
            object: "embedding".to_owned(),
            index,
            embedding: EmbeddingValue::new(shorten(vector, dimensions), format),
        });
        Ok(EmbeddingResponse {
            object: "list".to_owned(),
            data: data.collect(),
            model: model.id.clone(),
            usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
        })
    });
    let timeout = app.config().request_timeout;
    let response = tokio::time::timeout(timeout, work).await.map_err(|_| {
        ApiError::timeout(format!("the embeddings were not ready within {} s", timeout.as_secs_f64()))
    })??;
    Ok(Json(response))
}

fn input_tokens(model: &ServedModel, embedder: &Embedder, input: &Prompt) -> Result<Vec<Vec<u32>>, ApiError> {
    let text = |text: &String, param: &str| text_tokens(model, text, true, param);
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
        if tokens.len() > embedder.max_tokens {
            return Err(ApiError::context_length_exceeded(tokens.len(), embedder.max_tokens).at(param));
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(ApiError::invalid_param(
                param,
                format!("token {token} given, the vocabulary has {vocab_size}"),
            ));
        }
    }
    Ok(inputs)
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
