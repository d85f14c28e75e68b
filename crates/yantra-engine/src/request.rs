//! A request, its sampling parameters, and the limits both are held to before the engine sees them.

use std::sync::Arc;

use yantra_model::Adapter;

use crate::{Grammar, SubmitError};

/// The limits of a request's fields.
pub mod limits {
    /// Choices per request.
    pub const MAX_CHOICES: usize = 128;
    /// Stop strings per request.
    pub const MAX_STOP_STRINGS: usize = 16;
    /// Bytes per stop string.
    pub const MAX_STOP_BYTES: usize = 1024;
    /// Stop tokens per request.
    pub const MAX_STOP_TOKENS: usize = 64;
    /// Alternatives per token.
    pub const MAX_LOGPROBS: usize = 64;
    /// Entries of the logit bias.
    pub const MAX_LOGIT_BIAS: usize = 4096;
    /// The largest weight of a tenant.
    pub const MAX_WEIGHT: u32 = 1000;
    /// Bytes of the cache salt.
    pub const MAX_SALT_BYTES: usize = 256;
    /// The highest temperature.
    pub const MAX_TEMPERATURE: f32 = 100.0;
    /// The largest repetition penalty.
    pub const MAX_REPETITION_PENALTY: f32 = 100.0;
    /// The largest magnitude of presence and frequency penalty, as in OpenAI's interface.
    pub const MAX_PENALTY: f32 = 2.0;
}

/// Names a request for cancelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(crate) u64);

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What to generate from what.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt's tokens; at least one.
    pub prompt: Vec<u32>,
    /// Choices to generate.
    pub n: usize,
    /// Most tokens per choice; `None`: to the end of the context. 0 computes (and scores, and caches) the prompt only.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Texts that end a choice and are not part of it.
    pub stop: Vec<String>,
    /// Whether the text ends with the stop string instead of before it.
    pub include_stop: bool,
    /// Tokens that end a choice and are not part of it.
    pub stop_tokens: Vec<u32>,
    /// Whether the model's end-of-sequence tokens are treated like any other; with a grammar its end is the end.
    pub ignore_eos: bool,
    /// What every choice must be, compiled by this engine.
    pub grammar: Option<Grammar>,
    /// Log-probabilities of the tokens chosen, with this many alternatives (0: none).
    pub logprobs: Option<usize>,
    /// Log-probabilities of the prompt's tokens, with as many alternatives as `logprobs` says.
    pub prompt_logprobs: bool,
    /// Whether special tokens have no text.
    pub skip_special_tokens: bool,
    /// Higher runs first, and may displace lower.
    pub priority: i32,
    /// Whose it is: tenants share the engine by their weights, within a priority.
    pub tenant: Option<Arc<str>>,
    /// How much of the engine its tenant gets beside others.
    pub weight: u32,
    /// The adapter it is computed with, which must be of the engine's own model. It stays as long as requests have it.
    pub adapter: Option<Arc<Adapter>>,
    /// Requests share cached prompts only with requests of the same salt, and of the same adapter.
    pub cache_salt: Option<String>,
    /// Most tokens drafted per step, if the engine speculates; `None`: as many as it likes, 0: none. The answer is the
    /// same.
    pub max_draft: Option<usize>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: Vec::new(),
            n: 1,
            max_tokens: None,
            sampling: SamplingParams::default(),
            stop: Vec::new(),
            include_stop: false,
            stop_tokens: Vec::new(),
            ignore_eos: false,
            grammar: None,
            logprobs: None,
            prompt_logprobs: false,
            skip_special_tokens: true,
            priority: 0,
            tenant: None,
            weight: 1,
            adapter: None,
            cache_salt: None,
            max_draft: None,
        }
    }
}

/// How the next token is chosen; the default is the model's own distribution, unchanged.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 always takes the most likely token.
    pub temperature: f32,
    /// Keeps the k most likely tokens; 0: all.
    pub top_k: usize,
    /// Keeps the fewest tokens whose probabilities sum to at least this; 1: all.
    pub top_p: f32,
    /// Drops tokens less likely than this fraction of the most likely one's probability; 0: none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in the prompt or the answer; 1: off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens in the answer.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens in the answer, once per occurrence.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Makes the choice repeatable; `None`: different each time.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// What requests are checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModelLimits {
    pub(crate) vocab_size: usize,
    /// Most tokens a sequence may have: the model's context, or the KV cache if that is smaller.
    pub(crate) context: usize,
    /// Whether there is a tokenizer (stop strings need one).
    pub(crate) has_text: bool,
}

fn invalid<T>(field: &'static str, message: String) -> Result<T, SubmitError> {
    Err(SubmitError::Invalid { field, message })
}

fn check_count(field: &'static str, given: usize, least: usize, most: usize) -> Result<(), SubmitError> {
    if (least..=most).contains(&given) {
        return Ok(());
    }
    invalid(field, format!("{given} given, {least} to {most} expected"))
}

fn check_range(field: &'static str, given: f32, least: f32, most: f32) -> Result<(), SubmitError> {
    if (least..=most).contains(&given) {
        return Ok(());
    }
    invalid(field, format!("{given} given, {least} to {most} expected"))
}

fn check_tokens(field: &'static str, mut ids: impl Iterator<Item = u32>, vocab_size: usize) -> Result<(), SubmitError> {
    match ids.find(|&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => invalid(field, format!("token {id} given, the vocabulary has {vocab_size}")),
    }
}

impl Request {
    /// Holds the request to the limits.
    pub(crate) fn validate(&self, model: ModelLimits) -> Result<(), SubmitError> {
        if self.prompt.is_empty() {
            return invalid("prompt", "no tokens given, at least 1 expected".to_owned());
        }
        let room = usize::from(self.max_tokens != Some(0));
        let limit = model.context.saturating_sub(room);
        if self.prompt.len() > limit {
            return Err(SubmitError::PromptTooLong { tokens: self.prompt.len(), limit });
        }
        check_tokens("prompt", self.prompt.iter().copied(), model.vocab_size)?;
        check_count("n", self.n, 1, limits::MAX_CHOICES)?;
        check_count("logprobs", self.logprobs.unwrap_or(0), 0, limits::MAX_LOGPROBS.min(model.vocab_size))?;
        check_count("stop_tokens", self.stop_tokens.len(), 0, limits::MAX_STOP_TOKENS)?;
        check_count("weight", self.weight as usize, 1, limits::MAX_WEIGHT as usize)?;
        check_count("cache_salt", self.cache_salt.as_ref().map_or(0, String::len), 0, limits::MAX_SALT_BYTES)?;
        check_count("stop", self.stop.len(), 0, limits::MAX_STOP_STRINGS)?;
        if !self.stop.is_empty() && !model.has_text {
            return invalid("stop", "stop strings given, but the model has no tokenizer".to_owned());
        }
        for stop in &self.stop {
            check_count("stop", stop.len(), 1, limits::MAX_STOP_BYTES)?;
        }
        self.sampling.validate(model.vocab_size)
    }
}

impl SamplingParams {
    fn validate(&self, vocab_size: usize) -> Result<(), SubmitError> {
        use limits::{MAX_LOGIT_BIAS, MAX_PENALTY, MAX_REPETITION_PENALTY, MAX_TEMPERATURE};
        check_range("temperature", self.temperature, 0.0, MAX_TEMPERATURE)?;
        check_range("top_p", self.top_p, f32::MIN_POSITIVE, 1.0)?;
        check_range("min_p", self.min_p, 0.0, 1.0)?;
        check_range("repetition_penalty", self.repetition_penalty, 0.01, MAX_REPETITION_PENALTY)?;
        check_range("presence_penalty", self.presence_penalty, -MAX_PENALTY, MAX_PENALTY)?;
        check_range("frequency_penalty", self.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)?;
        check_count("logit_bias", self.logit_bias.len(), 0, MAX_LOGIT_BIAS)?;
        check_tokens("logit_bias", self.logit_bias.iter().map(|&(id, _)| id), vocab_size)?;
        match self.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            None => Ok(()),
            Some((id, bias)) => invalid("logit_bias", format!("{bias} given for token {id}, a finite number expected")),
        }
    }
}
