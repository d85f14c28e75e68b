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
    /// Other names it answers to.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Most tokens (prompt and answer) of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<usize>,
    /// `chat`, `completion`, `embedding`.
    #[serde(default)]
    pub capabilities: Vec<String>,
}
