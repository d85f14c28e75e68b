//! `POST /v1/completions`: <https://platform.openai.com/docs/api-reference/completions/create>, with vLLM's additions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::chat::{check_stream_options, nullable};
use crate::generation::{GenerationFields, check_metadata};
use crate::neutral::{self, Unsupported};
use crate::{
    ApiError, Constrained, FinishReason, GenerationParams, Prompt, ResponseFormat, SamplingDefaults, StreamOptions,
    StringOrList, StructuredOutputs, Usage, check, constraint,
};

/// Most prompts in a request.
const MAX_PROMPTS: usize = 256;

/// One or several prompts to continue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2-135m", "prompt": "Once upon a time", "max_tokens": 32}))]
pub struct CompletionRequest {
    /// Name or alias of the model; may be left out when only one model does this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The prompt or prompts, as text or tokens.
    pub prompt: Prompt,
    /// Most tokens to generate. Default 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub max_tokens: Option<i64>,
    /// 0 always takes the most likely token. Default: what the model suggests, else 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Keeps the fewest tokens whose probabilities sum to at least this. Default: what the model suggests, else 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Keeps the k most likely tokens; 0 or -1: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Drops tokens less likely than this fraction of the most likely one's probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f64>,
    /// Makes tokens of the prompt and the answer less likely; 1: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// Makes tokens of the answer less likely.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f64>,
    /// Makes tokens of the answer less likely, once per occurrence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f64>,
    /// Token id → what is added to its logit, −100 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Makes the answer repeatable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Up to 16 texts that end the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<StringOrList>,
    /// Tokens that end the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Whether the stop text is part of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_stop_str_in_output: Option<bool>,
    /// Continuations to return per prompt. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 128)]
    pub n: Option<i64>,
    /// Continuations to generate per prompt, of which the `n` most likely are returned. Default `n`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 128)]
    pub best_of: Option<i64>,
    /// Whether the returned text begins with the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<bool>,
    /// Returns log-probabilities with this many alternatives per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<i64>,
    /// Whether to send the answer as server-sent events while it is generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Options of a streamed answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Whether to go on after an end-of-sequence token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_eos: Option<bool>,
    /// Whether special tokens are left out of the text. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_special_tokens: Option<bool>,
    /// Whether a text prompt gets the special tokens the model asks for. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_special_tokens: Option<bool>,
    /// The caller's end user. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The caller's notes. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// Higher runs first. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// Prompts are shared in the KV cache only between requests of the same salt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_salt: Option<String>,
    /// Not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub suffix: Option<Value>,
    /// What the answer must be: any text, a JSON object, JSON of a schema, a match of a regular expression, a text of a
    /// grammar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// The same in vLLM's words, with choices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured_outputs: Option<StructuredOutputs>,
    /// A grammar that the answer must be a text of, in GBNF, as llama.cpp has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grammar: Option<String>,
    /// Only 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub min_tokens: Option<Value>,
    /// Only false.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub use_beam_search: Option<Value>,
    /// Only 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub length_penalty: Option<Value>,
}

impl CompletionRequest {
    /// Checks everything that the server does not need in a checked form.
    ///
    /// # Errors
    /// 400 naming the first parameter that is out of range or asks for what is not supported.
    pub fn validate(&self) -> Result<(), ApiError> {
        let entry = |name, given, is_neutral| Unsupported { name, given, is_neutral };
        neutral::check(&[
            entry("suffix", &self.suffix, neutral::is_empty_text),
            entry("min_tokens", &self.min_tokens, neutral::is_zero),
            entry("use_beam_search", &self.use_beam_search, neutral::is_false),
            entry("length_penalty", &self.length_penalty, neutral::is_one),
        ])?;
        check::length("prompt", self.prompt.count(), 1..=MAX_PROMPTS)?;
        check_stream_options(self.stream, self.stream_options.as_ref())?;
        check_metadata(self.metadata.as_ref())
    }

    /// The checked parameters of the generation; `defaults` hold where the request says nothing.
    ///
    /// # Errors
    /// 400 naming the first parameter that is out of range.
    pub fn generation(&self, defaults: &SamplingDefaults) -> Result<GenerationParams, ApiError> {
        let fields = GenerationFields {
            n: self.n,
            max_tokens: Some(self.max_tokens.unwrap_or(16)),
            max_tokens_name: "max_tokens",
            least_max_tokens: i64::from(self.echo != Some(true)),
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.as_ref(),
            seed: self.seed,
            stop: self.stop.as_ref(),
            stop_token_ids: self.stop_token_ids.as_deref(),
            include_stop_str_in_output: self.include_stop_str_in_output,
            ignore_eos: self.ignore_eos,
            skip_special_tokens: self.skip_special_tokens,
            priority: self.priority,
            cache_salt: self.cache_salt.as_deref(),
        };
        fields.validate(defaults)
    }

    /// What the answer must be; `None`: any text.
    ///
    /// # Errors
    /// 400 when that is said twice, or contradicts itself.
    pub fn constraint(&self) -> Result<Option<Constrained>, ApiError> {
        constraint::constraint(self.response_format.as_ref(), self.structured_outputs.as_ref(), self.grammar.as_ref())
    }

    /// How many alternatives per token are wanted; `None`: no log-probabilities.
    ///
    /// # Errors
    /// 400 when it is out of range.
    pub fn logprobs(&self) -> Result<Option<usize>, ApiError> {
        check::count("logprobs", self.logprobs, 0..=20)
    }

    /// Continuations to generate per prompt, at least the `n` that are returned.
    ///
    /// # Errors
    /// 400 when it is out of range, or the answer is streamed and so can not be chosen afterwards.
    pub fn best_of(&self, n: usize) -> Result<usize, ApiError> {
        let best_of = check::count("best_of", self.best_of, 1..=128)?.unwrap_or(n);
        if best_of < n {
            return Err(ApiError::invalid_param(
                "best_of",
                format_args!("{best_of} given, at least 'n' = {n} expected"),
            ));
        }
        if best_of > n && self.stream == Some(true) {
            let message = format!("{best_of} given, 'n' = {n} expected when 'stream' is true");
            return Err(ApiError::invalid_param("best_of", message));
        }
        Ok(best_of)
    }
}

/// Finished continuations. Streamed chunks have the same form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Completion {
    /// Its name, `cmpl-…`.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The continuations; in a chunk what is new.
    pub choices: Vec<CompletionChoice>,
    /// Tokens used; in chunks absent unless asked for, and then null in all but the last.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// One continuation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionChoice {
    /// Prompt number times `n` plus the number among that prompt's continuations.
    pub index: usize,
    /// The text.
    pub text: String,
    /// Log-probabilities, when asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended; null in a chunk that is not its last.
    pub finish_reason: Option<FinishReason>,
}

/// Log-probabilities, one entry per token in each list.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Where each token's text begins, in characters from the beginning of the choice's text.
    pub text_offset: Vec<usize>,
    /// Natural-log probabilities; null for a prompt's first token.
    pub token_logprobs: Vec<Option<f32>>,
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// The most likely tokens' texts and log-probabilities; null for a prompt's first token.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parse;

    fn request(extra: &str) -> CompletionRequest {
        parse::from_slice(format!(r#"{{"model":"m","prompt":"p"{extra}}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn only_an_echo_may_generate_nothing() {
        assert_eq!(request("").generation(&SamplingDefaults::default()).unwrap().max_tokens, Some(16));
        assert_eq!(
            request(r#","max_tokens":0"#).generation(&SamplingDefaults::default()).unwrap_err().param.as_deref(),
            Some("max_tokens")
        );
        assert_eq!(
            request(r#","max_tokens":0,"echo":true"#).generation(&SamplingDefaults::default()).unwrap().max_tokens,
            Some(0)
        );
    }

    #[test]
    fn best_of_is_at_least_n_and_not_streamed() {
        assert_eq!(request(r#","best_of":3"#).best_of(2).unwrap(), 3);
        assert_eq!(request("").best_of(2).unwrap(), 2);
        assert!(request(r#","best_of":1"#).best_of(2).is_err());
        assert!(request(r#","best_of":3,"stream":true"#).best_of(2).is_err());
    }

    #[test]
    fn a_suffix_is_refused() {
        assert_eq!(request(r#","suffix":"x""#).validate().unwrap_err().param.as_deref(), Some("suffix"));
        request(r#","suffix":null"#).validate().unwrap();
    }
}
