//! `POST /v1/chat/completions`: <https://platform.openai.com/docs/api-reference/chat/create>, with the additions that
//! vLLM's users expect (`top_k`, `min_p`, `repetition_penalty`, `stop_token_ids`, `chat_template_kwargs`, …).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::generation::{GenerationFields, check_metadata};
use crate::neutral::{self, Unsupported};
use crate::{
    ApiError, Constrained, Dialect, FinishReason, GenerationParams, MessageContent, ResponseFormat, SamplingDefaults,
    StringOrList, StructuredOutputs, ToolCall, ToolCallDelta, ToolPlan, Usage, WordOrObject, check, constraint, parse,
    tools::OfferedTools,
};

/// Most messages in a conversation.
const MAX_MESSAGES: usize = 16_384;

/// A conversation to continue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello!"}]}))]
pub struct ChatRequest {
    /// Name or alias of the model; may be left out when only one model does this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The conversation so far.
    #[schema(min_items = 1)]
    pub messages: Vec<ChatMessage>,
    /// Most tokens to generate (older name of `max_completion_tokens`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// Most tokens to generate; to the end of the context when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<i64>,
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
    /// Answers to generate. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 128)]
    pub n: Option<i64>,
    /// Whether to return the tokens' log-probabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// How many alternatives to return per token; needs `logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
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
    /// The caller's end user. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The caller's end user, hashed. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_identifier: Option<String>,
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
    /// A hint for routing between servers; one server needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_key: Option<String>,
    /// Tool definitions; shown to the model through its chat template.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, or the name of a tool: `{"type": "function", "function": {"name": …}}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WordOrObject>)]
    pub tool_choice: Option<Value>,
    /// Further variables of the chat template (`enable_thinking`, …).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether the prompt ends with the header of an assistant's turn. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_generation_prompt: Option<bool>,
    /// Whether an answer may hold several calls. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// How calls are written: `auto` (as the chat template teaches, else `json`), `native`, `json`, `react`, or the name of
    /// a dialect: `hermes`, `llama`, `pythonic`, `mistral`, `deepseek`, `gemma`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_format: Option<String>,
    /// Not supported; older name of `tools`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub functions: Option<Value>,
    /// Not supported; older name of `tool_choice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<Value>,
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
    /// Not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub audio: Option<Value>,
    /// Only `["text"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub modalities: Option<Value>,
    /// Only false.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub store: Option<Value>,
    /// Only `auto` or `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub service_tier: Option<Value>,
    /// Only `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reasoning_effort: Option<Value>,
    /// Not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Value>,
    /// Not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub verbosity: Option<Value>,
    /// Not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_search_options: Option<Value>,
    /// Only false.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub echo: Option<Value>,
    /// Only false.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub continue_final_message: Option<Value>,
    /// Only 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub min_tokens: Option<Value>,
}

/// Options of a streamed answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Whether a last chunk tells the usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_usage: Option<bool>,
    /// Whether random padding hides the chunks' lengths. Only false.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub include_obfuscation: Option<Value>,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant`, `tool`.
    pub role: String,
    /// What is said.
    #[serde(default)]
    pub content: Option<MessageContent>,
    /// `name`, `tool_calls`, `tool_call_id`, `reasoning_content` and their like, given to the template as they are.
    #[serde(flatten)]
    #[schema(value_type = Object, additional_properties)]
    pub other: Map<String, Value>,
}

impl ChatRequest {
    /// Checks everything that the server does not need in a checked form.
    ///
    /// # Errors
    /// 400 naming the first parameter that is out of range or asks for what is not supported.
    pub fn validate(&self) -> Result<(), ApiError> {
        neutral::check(&self.unsupported())?;
        check_stream_options(self.stream, self.stream_options.as_ref())?;
        check_metadata(self.metadata.as_ref())?;
        self.offered_tools()?;
        if self.top_logprobs.is_some_and(|top| top > 0) && self.logprobs != Some(true) {
            return Err(ApiError::invalid_param("top_logprobs", "given without 'logprobs': true"));
        }
        Ok(())
    }

    /// The checked parameters of the generation; `defaults` hold where the request says nothing.
    ///
    /// # Errors
    /// 400 naming the first parameter that is out of range.
    pub fn generation(&self, defaults: &SamplingDefaults) -> Result<GenerationParams, ApiError> {
        let (max_tokens_name, max_tokens) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(new), Some(old)) if new != old => {
                let message = format!("{old} given, but 'max_completion_tokens' is {new}");
                return Err(ApiError::invalid_param("max_tokens", message));
            }
            (Some(new), _) => ("max_completion_tokens", Some(new)),
            (None, old) => ("max_tokens", old),
        };
        let fields = GenerationFields {
            n: self.n,
            max_tokens,
            max_tokens_name,
            least_max_tokens: 1,
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
        let top = check::count("top_logprobs", self.top_logprobs, 0..=20)?.unwrap_or(0);
        Ok((self.logprobs == Some(true)).then_some(top))
    }

    /// The tools to show to the model: none when there are none or `tool_choice` forbids them.
    #[must_use]
    pub fn template_tools(&self) -> Option<Value> {
        let tools = self.tools.as_ref().filter(|tools| !tools.is_empty())?;
        let forbidden = self.tool_choice.as_ref().is_some_and(|choice| choice == "none");
        (!forbidden).then(|| Value::Array(tools.clone()))
    }

    fn offered_tools(&self) -> Result<OfferedTools, ApiError> {
        OfferedTools::read(self.tools.as_deref(), self.tool_choice.as_ref(), self.parallel_tool_calls)
    }

    /// What the answers do with tools, for a model that writes calls in the `native` dialect; `None` when there are no
    /// tools to be called.
    ///
    /// # Errors
    /// 400 when the tools, their choice or their format are not what they should be, or the answer must be something else.
    pub fn tool_plan(&self, native: Dialect) -> Result<Option<ToolPlan>, ApiError> {
        let dialect = match self.tool_format.as_deref() {
            None | Some("auto" | "native") => native,
            Some(name) => Dialect::of_name(name).ok_or_else(|| {
                let known: Vec<&str> = Dialect::ALL.iter().map(|(_, name)| *name).collect();
                let message = format!("'{name}' given, auto, native or one of {} expected", known.join(", "));
                ApiError::invalid_param("tool_format", message)
            })?,
        };
        let plan = self.offered_tools()?.plan(dialect);
        if plan.is_some() && self.constraint()?.is_some() {
            let message =
                "given together with tools that may be called; give \"tool_choice\": \"none\" or one of the two";
            return Err(ApiError::invalid_param("response_format", message).with_code("unsupported_value"));
        }
        Ok(plan)
    }

    fn unsupported(&self) -> [Unsupported<'_>; 13] {
        let entry = |name, given, is_neutral| Unsupported { name, given, is_neutral };
        [
            entry("functions", &self.functions, neutral::is_empty_list),
            entry("function_call", &self.function_call, neutral::is_none_word),
            entry("audio", &self.audio, neutral::nothing),
            entry("modalities", &self.modalities, neutral::is_text_only),
            entry("store", &self.store, neutral::is_false),
            entry("service_tier", &self.service_tier, neutral::is_default_tier),
            entry("reasoning_effort", &self.reasoning_effort, neutral::is_none_word),
            entry("prediction", &self.prediction, neutral::nothing),
            entry("verbosity", &self.verbosity, neutral::nothing),
            entry("web_search_options", &self.web_search_options, neutral::nothing),
            entry("echo", &self.echo, neutral::is_false),
            entry("continue_final_message", &self.continue_final_message, neutral::is_false),
            entry("min_tokens", &self.min_tokens, neutral::is_zero),
        ]
    }
}

/// The conversation as a chat template reads it: contents as plain texts, everything else as it came.
///
/// # Errors
/// 400 when there is no message, a role is unknown, a content is missing or not text.
pub fn template_messages(messages: &[ChatMessage]) -> Result<Value, ApiError> {
    check::length("messages", messages.len(), 1..=MAX_MESSAGES)?;
    let rendered: Result<Vec<Value>, ApiError> =
        messages.iter().enumerate().map(|(index, message)| message.for_template(index)).collect();
    Ok(Value::Array(rendered?))
}

/// What a message may have besides `role` and `content`: OpenAI's fields, and those in which others carry reasoning.
const MESSAGE_FIELDS: [&str; 10] = [
    "name",
    "tool_calls",
    "tool_call_id",
    "function_call",
    "refusal",
    "audio",
    "annotations",
    "reasoning",
    "reasoning_content",
    "thinking",
];

impl ChatMessage {
    fn check_fields(&self, index: usize) -> Result<(), ApiError> {
        let known = || ["role", "content"].into_iter().chain(MESSAGE_FIELDS);
        match self.other.keys().find(|&key| !MESSAGE_FIELDS.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(parse::unknown_parameter(&format!("messages[{index}].{key}"), key, known())),
        }
    }

    fn for_template(&self, index: usize) -> Result<Value, ApiError> {
        self.check_fields(index)?;
        const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];
        let path = |field: &str| format!("messages[{index}].{field}");
        if !ROLES.contains(&self.role.as_str()) {
            let message = format!("'{}' given, one of {} expected", self.role, ROLES.join(", "));
            return Err(ApiError::invalid_param(path("role"), message));
        }
        let content = match &self.content {
            Some(content) => Value::String(content.text(&path("content"))?),
            None if self.role == "assistant" && self.other.get("tool_calls").is_some_and(|calls| !calls.is_null()) => {
                Value::Null
            }
            None => return Err(ApiError::invalid_param(path("content"), "missing, a string expected")),
        };
        if self.other.get("audio").is_some_and(|audio| !audio.is_null()) {
            return Err(ApiError::unsupported(path("audio"), "audio"));
        }
        if self.other.get("tool_calls").is_some_and(|calls| !calls.is_null() && !calls.is_array()) {
            return Err(ApiError::invalid_param(path("tool_calls"), "an array expected"));
        }
        let mut object = Map::new();
        object.insert("role".to_owned(), json!(self.role));
        object.insert("content".to_owned(), content);
        let says = |value: &Value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
        let given = self.other.iter().filter(|(_, value)| says(value));
        object.extend(given.map(|(key, value)| (key.clone(), value.clone())));
        Ok(Value::Object(object))
    }
}

/// `stream_options` need `stream`; obfuscation is not supported.
pub(crate) fn check_stream_options(stream: Option<bool>, options: Option<&StreamOptions>) -> Result<(), ApiError> {
    let Some(options) = options else { return Ok(()) };
    if stream != Some(true) {
        return Err(ApiError::invalid_param("stream_options", "given without 'stream': true"));
    }
    neutral::check(&[Unsupported {
        name: "stream_options.include_obfuscation",
        given: &options.include_obfuscation,
        is_neutral: neutral::is_false,
    }])
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletion {
    /// Its name, `chatcmpl-…`.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The answers.
    pub choices: Vec<ChatChoice>,
    /// Tokens used.
    pub usage: Usage,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChoice {
    /// `0..n`.
    pub index: usize,
    /// What the model says.
    pub message: AssistantMessage,
    /// Log-probabilities, when asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// The assistant's turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssistantMessage {
    /// `assistant`.
    pub role: String,
    /// What it says.
    pub content: Option<String>,
    /// Always null.
    pub refusal: Option<String>,
    /// What it thought before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The tools it wants called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// Log-probabilities of an answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<ChatTokenLogprob>,
}

/// How likely a token was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatTokenLogprob {
    /// The token's text; U+FFFD where it is a part of a character.
    pub token: String,
    /// Its natural-log probability.
    pub logprob: f32,
    /// The token's bytes.
    pub bytes: Option<Vec<u8>>,
    /// The most likely tokens, best first.
    pub top_logprobs: Vec<ChatTopLogprob>,
}

/// An alternative.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatTopLogprob {
    /// The token's text.
    pub token: String,
    /// Its natural-log probability.
    pub logprob: f32,
    /// The token's bytes.
    pub bytes: Option<Vec<u8>>,
}

/// A piece of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChunk {
    /// The answer's name, the same in all chunks.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: String,
    /// When the answer was begun, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// What is new; empty in the usage chunk.
    pub choices: Vec<ChatChunkChoice>,
    /// Absent unless asked for; then null in all chunks but the last.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// What is new in one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChunkChoice {
    /// `0..n`.
    pub index: usize,
    /// What is new.
    pub delta: ChatDelta,
    /// Log-probabilities of the new tokens, when asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended, in its last chunk.
    pub finish_reason: Option<FinishReason>,
}

/// A piece of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChatDelta {
    /// `assistant`, in the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More of the calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// A field that may be absent, null, or there.
pub(crate) mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parse;

    fn request(extra: &str) -> ChatRequest {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}]{extra}}}"#);
        parse::from_slice(body.as_bytes()).unwrap()
    }

    /// The whole way of a request; the error's parameter and message.
    fn refusal(extra: &str) -> (String, String) {
        let request = request(extra);
        let error = request
            .validate()
            .and_then(|()| request.generation(&SamplingDefaults::default()).map(drop))
            .and_then(|()| request.logprobs().map(drop))
            .unwrap_err();
        assert_eq!(error.status, 400);
        (error.param.unwrap(), error.message)
    }

    #[test]
    fn values_out_of_range_are_named_with_what_is_allowed() {
        for (extra, param, message) in [
            (r#","temperature":2.5"#, "temperature", "'temperature': 2.5 given, 0 to 2 expected"),
            (r#","temperature":-1"#, "temperature", "'temperature': -1 given, 0 to 2 expected"),
            (r#","top_p":0"#, "top_p", "'top_p': 0 given, more than 0 and at most 1 expected"),
            (r#","top_k":-2"#, "top_k", "'top_k': -2 given, -1 to 4294967295 expected"),
            (r#","max_tokens":-5"#, "max_tokens", "'max_tokens': -5 given, 1 to 4294967295 expected"),
            (
                r#","max_completion_tokens":0"#,
                "max_completion_tokens",
                "'max_completion_tokens': 0 given, 1 to 4294967295 expected",
            ),
            (
                r#","max_tokens":1,"max_completion_tokens":2"#,
                "max_tokens",
                "'max_tokens': 1 given, but 'max_completion_tokens' is 2",
            ),
            (r#","n":129"#, "n", "'n': 129 given, 1 to 128 expected"),
            (r#","logprobs":true,"top_logprobs":21"#, "top_logprobs", "'top_logprobs': 21 given, 0 to 20 expected"),
            (r#","top_logprobs":2"#, "top_logprobs", "'top_logprobs': given without 'logprobs': true"),
            (r#","logit_bias":{"x":1}"#, "logit_bias", "'logit_bias': key 'x' given, a token id expected"),
            (r#","logit_bias":{"7":101}"#, "logit_bias.7", "'logit_bias.7': 101 given, -100 to 100 expected"),
            (r#","stop":["a",""]"#, "stop[1]", "'stop[1]': 0 bytes given, 1 to 1024 expected"),
            (r#","stream_options":{}"#, "stream_options", "'stream_options': given without 'stream': true"),
            (r#","metadata":{"a":1}"#, "metadata.a", "'metadata.a': 1 given, a string expected"),
        ] {
            assert_eq!(refusal(extra), (param.to_owned(), message.to_owned()), "{extra}");
        }
        let stops = vec!["x"; 17];
        let (param, _) = refusal(&format!(r#","stop":{}"#, serde_json::to_string(&stops).unwrap()));
        assert_eq!(param, "stop");
    }

    #[test]
    fn unsupported_parameters_are_accepted_only_when_they_change_nothing() {
        for (extra, param) in [
            (r#","store":true"#, "store"),
            (r#","audio":{"voice":"x"}"#, "audio"),
            (r#","modalities":["text","audio"]"#, "modalities"),
            (r#","service_tier":"flex""#, "service_tier"),
            (r#","reasoning_effort":"high""#, "reasoning_effort"),
        ] {
            let (given, message) = refusal(extra);
            assert_eq!(given, param);
            assert!(message.ends_with("is not supported yet"), "{message}");
        }
        let neutral = r#","response_format":{"type":"text"},"store":false,"audio":null,"modalities":["text"],
            "service_tier":"auto","tools":null,"tool_choice":"auto","parallel_tool_calls":false,"functions":[],"min_tokens":0"#;
        request(neutral).validate().unwrap();
    }

    #[test]
    fn defaults_are_those_of_openai() {
        let params = request("").generation(&SamplingDefaults::default()).unwrap();
        assert_eq!((params.temperature, params.top_p, params.top_k, params.n), (1.0, 1.0, 0, 1));
        assert_eq!((params.max_tokens, params.seed), (None, None));
        let defaults = SamplingDefaults { temperature: 0.2, top_k: 20, ..SamplingDefaults::default() };
        let params = request("").generation(&defaults).unwrap();
        assert_eq!((params.temperature, params.top_p, params.top_k), (0.2, 1.0, 20), "what the model suggests");
        let params = request(r#","temperature":1,"top_k":-1"#).generation(&defaults).unwrap();
        assert_eq!((params.temperature, params.top_k), (1.0, 0), "what the request says wins");
        assert_eq!(request(r#","seed":-1"#).generation(&SamplingDefaults::default()).unwrap().seed, Some(u64::MAX));
    }

    #[test]
    fn messages_reach_the_template_as_they_are() {
        let body = r#"{"model":"m","messages":[
            {"role":"system","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
            {"role":"assistant","content":null,"refusal":null,
             "tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},
            {"role":"tool","tool_call_id":"c1","content":"42"}]}"#;
        let request: ChatRequest = parse::from_slice(body.as_bytes()).unwrap();
        let messages = template_messages(&request.messages).unwrap();
        let expected = json!([
            {"role": "system", "content": "a\nb"},
            {"role": "assistant", "content": null,
             "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
        ]);
        assert_eq!(messages, expected);
    }

    #[test]
    fn messages_that_say_nothing_are_refused() {
        let check = |messages: &str, param: &str| {
            let body = format!(r#"{{"model":"m","messages":{messages}}}"#);
            let request: ChatRequest = parse::from_slice(body.as_bytes()).unwrap();
            assert_eq!(template_messages(&request.messages).unwrap_err().param.as_deref(), Some(param));
        };
        check("[]", "messages");
        check(r#"[{"role":"user"}]"#, "messages[0].content");
        check(r#"[{"role":"king","content":"x"}]"#, "messages[0].role");
        check(r#"[{"role":"user","content":[{"type":"text"}]}]"#, "messages[0].content[0].text");
        check(r#"[{"role":"assistant","tool_calls":{},"content":"x"}]"#, "messages[0].tool_calls");
        check(r#"[{"role":"user","contnt":"x"}]"#, "messages[0].contnt");
        check(r#"[{"role":"user","content":"x","zzz":null}]"#, "messages[0].zzz");
        check(r#"[{"role":"user","content":[{"type":"text","text":"x","txt":"y"}]}]"#, "messages[0].content[0].txt");
    }

    #[test]
    fn unknown_fields_of_messages_name_the_nearest() {
        let body = r#"{"messages":[{"role":"user","content":"x"},{"role":"user","contnt":"x"}]}"#;
        let request: ChatRequest = parse::from_slice(body.as_bytes()).unwrap();
        let error = template_messages(&request.messages).unwrap_err();
        assert_eq!(error.code, Some("unknown_parameter"));
        assert_eq!(error.message, "unknown parameter 'messages[1].contnt'; did you mean 'content'?");
    }

    #[test]
    fn an_answer_can_be_sent_back_as_it_came() {
        let body = r#"{"messages":[{"role":"assistant","content":"x","refusal":null,"annotations":[],"audio":null,
            "function_call":null,"tool_calls":null}]}"#;
        let request: ChatRequest = parse::from_slice(body.as_bytes()).unwrap();
        let messages = template_messages(&request.messages).unwrap();
        assert_eq!(messages, json!([{"role": "assistant", "content": "x"}]));
    }
}
