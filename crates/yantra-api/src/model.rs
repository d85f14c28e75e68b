//! `GET /v1/models`: which models there are.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The models served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: String,
    /// The models.
    pub data: Vec<ModelCard>,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelCard {
    /// Its name.
    pub id: String,
    /// `model`.
    pub object: String,
    /// When it was made or loaded, in seconds since 1970.
    pub created: u64,
    /// Who owns it.
    pub owned_by: String,
    /// Most tokens (prompt and answer) of a request; named as in vLLM.
    pub max_model_len: usize,
    /// Of an adapter: the model it belongs to; named as in vLLM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// What only Yantra tells.
    pub yantra: ModelDetails,
}

/// What a model is. Null where it is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelDetails {
    /// `generate`, `embed`, or `score` (pairs of texts: a reranker).
    pub kind: String,
    /// Other names it answers to.
    pub aliases: Vec<String>,
    /// Whether it has a chat template.
    pub chat: bool,
    /// Whether its chat template shows tools to the model.
    pub tools: bool,
    /// Most tokens of a request.
    pub context_length: usize,
    /// `llama`, `qwen2`, …
    pub family: Option<String>,
    /// Number of weights.
    pub parameters: Option<u64>,
    /// Format of most weights.
    pub quantisation: Option<String>,
    /// Size of the model's files.
    pub size_bytes: Option<u64>,
    /// Numbers in a vector of an embedding model.
    pub dimensions: Option<usize>,
}
