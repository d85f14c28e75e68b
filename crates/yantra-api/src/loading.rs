//! `POST /v1/models/load`, `POST /v1/models/unload` and `DELETE /v1/models/{id}`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ApiError, check};

/// Most names of one model.
const MAX_ALIASES: usize = 64;

/// A model to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "gemma3-270m", "name": "small"}))]
pub struct LoadModelRequest {
    /// A name of the catalogue, or a path below one of the server's `model_dirs`.
    pub model: String,
    /// The name that requests will use. Default: the catalogue's, or the file's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Other names it will answer to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aliases: Option<Vec<String>>,
}

impl LoadModelRequest {
    /// Checks the numbers.
    ///
    /// # Errors
    /// 400 when there are too many names.
    pub fn validate(&self) -> Result<(), ApiError> {
        check::length("aliases", self.aliases.as_ref().map_or(0, Vec::len), 0..=MAX_ALIASES)
    }
}

/// A model to unload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "small"}))]
pub struct UnloadModelRequest {
    /// Its name, or an alias.
    pub model: String,
}

/// A LoRA adapter to load, named as in vLLM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"lora_name": "support", "lora_path": "/models/adapters/support"}))]
pub struct LoadAdapterRequest {
    /// The name that requests will give as their model.
    pub lora_name: String,
    /// A PEFT directory or a GGUF adapter below one of the server's `model_dirs`.
    pub lora_path: String,
    /// The model it was made for. Default: the only one that generates text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
}

/// A LoRA adapter to unload, named as in vLLM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"lora_name": "support"}))]
pub struct UnloadAdapterRequest {
    /// Its name.
    pub lora_name: String,
}

/// A model that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelDeletion {
    /// Its name.
    pub id: String,
    /// `model`.
    pub object: String,
    /// True.
    pub deleted: bool,
}
