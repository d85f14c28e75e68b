//! `POST /v1/rerank`, as Jina and Cohere have it (<https://docs.cohere.com/reference/rerank>), and `POST /v1/score`, as vLLM
//! has it.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ApiError, EmbeddingUsage, StringOrList, TextOrDocument, check};

/// Most texts in a request.
const MAX_TEXTS: usize = 2048;

/// Documents to put in order by how well they answer a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "minilm-l6", "query": "What is the capital of Italy?", "documents": ["Rome is.", "Fish swim."]}))]
pub struct RerankRequest {
    /// Name or alias of the model; may be left out when only one model does this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What is asked.
    pub query: String,
    /// What is to be put in order.
    #[schema(value_type = Vec<TextOrDocument>, min_items = 1)]
    pub documents: Vec<RerankDocument>,
    /// How many of the best to return. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub top_n: Option<i64>,
    /// Whether the documents' texts are returned. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_documents: Option<bool>,
    /// The caller's end user. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// A document: a text, also as `{"text": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RerankDocument {
    /// The text.
    pub text: String,
}

impl<'de> Deserialize<'de> for RerankDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = RerankDocument;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an object with a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(RerankDocument { text: text.to_owned() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Fields {
                    text: String,
                }
                let Fields { text } = Fields::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(RerankDocument { text })
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

impl RerankRequest {
    /// Checks the numbers.
    ///
    /// # Errors
    /// 400 when there are no documents or too many.
    pub fn validate(&self) -> Result<(), ApiError> {
        check::length("documents", self.documents.len(), 1..=MAX_TEXTS - 1)
    }

    /// How many of the best are wanted.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn top_n(&self) -> Result<usize, ApiError> {
        let wanted = check::count("top_n", self.top_n, 1..=i64::MAX)?.unwrap_or(usize::MAX);
        Ok(wanted.min(self.documents.len()))
    }
}

/// Documents in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RerankResponse {
    /// Its name, `rerank-…`.
    pub id: String,
    /// The model's name.
    pub model: String,
    /// Tokens used.
    pub usage: EmbeddingUsage,
    /// The documents, the best first.
    pub results: Vec<RerankResult>,
}

/// A document's place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RerankResult {
    /// Which of the request's documents it is.
    pub index: usize,
    /// How well it answers: a reranker's score, or the cosine of the two embeddings, −1 to 1.
    pub relevance_score: f32,
    /// The document, when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<RerankDocument>,
}

/// Texts to compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "minilm-l6", "text_1": "a cat", "text_2": ["a kitten", "a car"]}))]
pub struct ScoreRequest {
    /// Name or alias of the model; may be left out when only one model does this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// One text, or as many as `text_2` has.
    pub text_1: StringOrList,
    /// What it, or each of them, is compared with.
    pub text_2: StringOrList,
    /// The caller's end user. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl ScoreRequest {
    /// Checks the numbers.
    ///
    /// # Errors
    /// 400 when the texts can not be paired.
    pub fn validate(&self) -> Result<(), ApiError> {
        let (first, second) = (self.text_1.as_slice().len(), self.text_2.as_slice().len());
        check::length("text_2", second, 1..=MAX_TEXTS / 2)?;
        if first != 1 && first != second {
            return Err(ApiError::invalid_param(
                "text_1",
                format_args!("{first} entries given, 1 or {second} expected"),
            ));
        }
        Ok(())
    }
}

/// How near pairs of texts are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScoreResponse {
    /// Its name, `score-…`.
    pub id: String,
    /// `list`.
    pub object: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// One entry per pair.
    pub data: Vec<Score>,
    /// Tokens used.
    pub usage: EmbeddingUsage,
}

/// How near two texts are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Score {
    /// The pair's number.
    pub index: usize,
    /// `score`.
    pub object: String,
    /// A reranker's score, or the cosine of the two embeddings, −1 to 1.
    pub score: f32,
}
