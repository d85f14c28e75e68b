//! `POST /v1/embeddings`: <https://platform.openai.com/docs/api-reference/embeddings/create>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ApiError, Prompt, check};

/// Most inputs in a request, as OpenAI has it.
const MAX_INPUTS: usize = 2048;

/// Texts to embed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "minilm-l6", "input": ["first text", "second text"]}))]
pub struct EmbeddingRequest {
    /// Name or alias of the model; may be left out when only one model does this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// One or several texts, or their tokens.
    pub input: Prompt,
    /// How vectors are written. Default `float`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding_format: Option<EncodingFormat>,
    /// Keeps the first so many numbers of each vector and scales it back to length 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub dimensions: Option<i64>,
    /// The caller's end user. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// An array of numbers.
    #[default]
    Float,
    /// Little-endian 32-bit floats in base64.
    Base64,
}

impl EmbeddingRequest {
    /// Checks the number of inputs.
    ///
    /// # Errors
    /// 400 when there are none or too many.
    pub fn validate(&self) -> Result<(), ApiError> {
        check::length("input", self.input.count(), 1..=MAX_INPUTS)
    }

    /// The dimensions to keep of a model's `width`; `None`: all.
    ///
    /// # Errors
    /// 400 when it is out of range.
    pub fn dimensions(&self, width: usize) -> Result<Option<usize>, ApiError> {
        check::count("dimensions", self.dimensions, 1..=i64::try_from(width).unwrap_or(i64::MAX))
    }
}

/// Embeddings, in the order of the inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingResponse {
    /// `list`.
    pub object: String,
    /// One entry per input.
    pub data: Vec<Embedding>,
    /// The model's name.
    pub model: String,
    /// Tokens used.
    pub usage: EmbeddingUsage,
}

/// One input's embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Embedding {
    /// `embedding`.
    pub object: String,
    /// The input's number.
    pub index: usize,
    /// The vector.
    pub embedding: EmbeddingValue,
}

/// A vector as it was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingValue {
    /// Numbers.
    Float(Vec<f32>),
    /// Little-endian 32-bit floats in base64.
    Base64(String),
}

impl EmbeddingValue {
    /// Writes a vector.
    #[must_use]
    pub fn new(vector: Vec<f32>, format: EncodingFormat) -> Self {
        match format {
            EncodingFormat::Float => Self::Float(vector),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

/// Tokens used by an embeddings request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingUsage {
    /// Tokens in all inputs.
    pub prompt_tokens: usize,
    /// The same.
    pub total_tokens: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_holds_little_endian_floats() {
        let value = EmbeddingValue::new(vec![1.0, -2.0], EncodingFormat::Base64);
        assert_eq!(value, EmbeddingValue::Base64("AACAPwAAAMA=".to_owned()));
    }
}
