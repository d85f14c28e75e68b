//! What every generation ends with: why, and how many tokens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its answer, or a stop sequence came.
    Stop,
    /// `max_tokens` or the end of the context was reached.
    Length,
    /// The model wants tools called.
    ToolCalls,
}

/// Tokens a request used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, over all choices.
    pub completion_tokens: usize,
    /// Both together.
    pub total_tokens: usize,
    /// More about the prompt.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// More about a prompt's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromptTokensDetails {
    /// How many were found in the KV cache.
    pub cached_tokens: usize,
}

impl Usage {
    /// Usage of one prompt.
    #[must_use]
    pub fn new(prompt_tokens: usize, cached_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
        }
    }

    /// Usage of several prompts together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self::new(
            self.prompt_tokens + other.prompt_tokens,
            self.prompt_tokens_details.cached_tokens + other.prompt_tokens_details.cached_tokens,
            self.completion_tokens + other.completion_tokens,
        )
    }
}

/// What was used on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageRecord {
    /// The day, in UTC: `2026-11-28`.
    pub day: String,
    /// By whom: the name of a key; `null` where there are no keys.
    pub tenant: Option<String>,
    /// Of which model.
    pub model: String,
    /// Requests that the model worked on.
    pub requests: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// How many of them were found in the KV cache.
    pub cached_prompt_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
}

/// What was used, day by day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageList {
    /// `list`.
    pub object: String,
    /// The days, oldest first.
    pub data: Vec<UsageRecord>,
}
