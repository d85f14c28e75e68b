//! What chat and text completions have in common: how tokens are chosen and when generation ends.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{ApiError, StringOrList, check};

/// Checked parameters of a generation, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationParams {
    /// Choices per prompt, 1–128.
    pub n: usize,
    /// Most tokens per choice; `None`: to the end of the context.
    pub max_tokens: Option<usize>,
    /// 0–2; 0 always takes the most likely token.
    pub temperature: f32,
    /// Above 0, at most 1.
    pub top_p: f32,
    /// 0: all tokens.
    pub top_k: usize,
    /// 0–1.
    pub min_p: f32,
    /// 0.01–100; 1: off.
    pub repetition_penalty: f32,
    /// −2–2.
    pub presence_penalty: f32,
    /// −2–2.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens, −100–100.
    pub logit_bias: Vec<(u32, f32)>,
    /// Makes the answer repeatable.
    pub seed: Option<u64>,
    /// Texts that end a choice, at most 16.
    pub stop: Vec<String>,
    /// Tokens that end a choice.
    pub stop_tokens: Vec<u32>,
    /// Whether a stop text is part of the answer.
    pub include_stop: bool,
    /// Whether the model's end-of-sequence tokens are treated like any other.
    pub ignore_eos: bool,
    /// Whether special tokens have no text.
    pub skip_special_tokens: bool,
    /// Higher runs first.
    pub priority: Option<i32>,
    /// Requests share cached prompts only with requests of the same salt.
    pub cache_salt: Option<String>,
}

/// What holds where a request says nothing; OpenAI's defaults unless the model suggests others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingDefaults {
    /// As in [`GenerationParams`].
    pub temperature: f32,
    /// As in [`GenerationParams`].
    pub top_p: f32,
    /// As in [`GenerationParams`].
    pub top_k: usize,
    /// As in [`GenerationParams`].
    pub min_p: f32,
    /// As in [`GenerationParams`].
    pub repetition_penalty: f32,
}

impl Default for SamplingDefaults {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

/// Parameters as they stand in a request.
pub(crate) struct GenerationFields<'a> {
    pub(crate) n: Option<i64>,
    pub(crate) max_tokens: Option<i64>,
    pub(crate) max_tokens_name: &'static str,
    pub(crate) least_max_tokens: i64,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) repetition_penalty: Option<f64>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) frequency_penalty: Option<f64>,
    pub(crate) logit_bias: Option<&'a BTreeMap<String, f64>>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<&'a StringOrList>,
    pub(crate) stop_token_ids: Option<&'a [u32]>,
    pub(crate) include_stop_str_in_output: Option<bool>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) skip_special_tokens: Option<bool>,
    pub(crate) priority: Option<i64>,
    pub(crate) cache_salt: Option<&'a str>,
}

impl GenerationFields<'_> {
    pub(crate) fn validate(&self, defaults: &SamplingDefaults) -> Result<GenerationParams, ApiError> {
        let u32_max = i64::from(u32::MAX);
        let max_tokens = check::count(self.max_tokens_name, self.max_tokens, self.least_max_tokens..=u32_max)?;
        let top_k = check::integer("top_k", self.top_k, -1..=u32_max)?;
        let priority = check::integer("priority", self.priority, i64::from(i32::MIN)..=i64::from(i32::MAX))?;
        Ok(GenerationParams {
            n: check::count("n", self.n, 1..=128)?.unwrap_or(1),
            max_tokens,
            temperature: check::number("temperature", self.temperature, 0.0..=2.0, defaults.temperature)?,
            top_p: check::positive("top_p", self.top_p, 1.0, defaults.top_p)?,
            top_k: top_k.map_or(defaults.top_k, |k| usize::try_from(k).unwrap_or(0)),
            min_p: check::number("min_p", self.min_p, 0.0..=1.0, defaults.min_p)?,
            repetition_penalty: check::number(
                "repetition_penalty",
                self.repetition_penalty,
                0.01..=100.0,
                defaults.repetition_penalty,
            )?,
            presence_penalty: check::number("presence_penalty", self.presence_penalty, -2.0..=2.0, 0.0)?,
            frequency_penalty: check::number("frequency_penalty", self.frequency_penalty, -2.0..=2.0, 0.0)?,
            logit_bias: self.logit_bias()?,
            seed: self.seed.map(|seed| seed as u64),
            stop: self.stop()?,
            stop_tokens: self.stop_tokens()?,
            include_stop: self.include_stop_str_in_output.unwrap_or(false),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            skip_special_tokens: self.skip_special_tokens.unwrap_or(true),
            priority: priority.and_then(|priority| i32::try_from(priority).ok()),
            cache_salt: self.cache_salt()?,
        })
    }

    fn logit_bias(&self) -> Result<Vec<(u32, f32)>, ApiError> {
        let Some(entries) = self.logit_bias else { return Ok(Vec::new()) };
        check::length("logit_bias", entries.len(), 0..=4096)?;
        let entry = |(key, &bias): (&String, &f64)| {
            let token = key.parse::<u32>().map_err(|_| {
                ApiError::invalid_param("logit_bias", format_args!("key '{key}' given, a token id expected"))
            })?;
            Ok((token, check::number(&format!("logit_bias.{key}"), Some(bias), -100.0..=100.0, 0.0)?))
        };
        entries.iter().map(entry).collect()
    }

    fn stop(&self) -> Result<Vec<String>, ApiError> {
        let Some(stop) = self.stop else { return Ok(Vec::new()) };
        check::length("stop", stop.as_slice().len(), 0..=16)?;
        for (index, text) in stop.as_slice().iter().enumerate() {
            let path = match stop {
                StringOrList::One(_) => "stop".to_owned(),
                StringOrList::Many(_) => format!("stop[{index}]"),
            };
            if text.is_empty() || text.len() > 1024 {
                let given = text.len();
                return Err(ApiError::invalid_param(path, format_args!("{given} bytes given, 1 to 1024 expected")));
            }
        }
        Ok(stop.as_slice().to_vec())
    }

    fn stop_tokens(&self) -> Result<Vec<u32>, ApiError> {
        let tokens = self.stop_token_ids.unwrap_or_default();
        check::length("stop_token_ids", tokens.len(), 0..=64)?;
        Ok(tokens.to_vec())
    }

    fn cache_salt(&self) -> Result<Option<String>, ApiError> {
        let Some(salt) = self.cache_salt else { return Ok(None) };
        if salt.is_empty() || salt.len() > 256 {
            let given = salt.len();
            return Err(ApiError::invalid_param("cache_salt", format_args!("{given} bytes given, 1 to 256 expected")));
        }
        Ok(Some(salt.to_owned()))
    }
}

/// OpenAI's limits of `metadata`: 16 pairs, keys to 64 and values to 512 characters.
pub(crate) fn check_metadata(metadata: Option<&Map<String, Value>>) -> Result<(), ApiError> {
    let Some(metadata) = metadata else { return Ok(()) };
    check::length("metadata", metadata.len(), 0..=16)?;
    for (key, value) in metadata {
        let path = format!("metadata.{key}");
        let Some(text) = value.as_str() else {
            return Err(ApiError::invalid_param(path, format_args!("{value} given, a string expected")));
        };
        if key.chars().count() > 64 || text.chars().count() > 512 {
            return Err(ApiError::invalid_param(path, "at most 64 characters in a key and 512 in a value expected"));
        }
    }
    Ok(())
}
