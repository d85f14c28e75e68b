//! `POST /v1/messages`, as Anthropic has it: <https://docs.anthropic.com/en/api/messages>. A request becomes the chat
//! request that asks for the same; answers have a form of their own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{ApiError, ChatMessage, ChatRequest, MessageContent, ResponseFormat, StringOrList, TextOrItems, check};

/// A conversation to continue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2-135m", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello!"}]}))]
pub struct MessagesRequest {
    /// Name or alias of the model; may be left out when only one model does this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Most tokens to generate. Needed, but for counting.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// The conversation so far: turns of `user` and `assistant`, of text or blocks.
    #[schema(min_items = 1)]
    pub messages: Vec<MessageParam>,
    /// What holds for the whole conversation: a text, or blocks of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TextOrItems>)]
    pub system: Option<Value>,
    /// Texts that end the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_sequences: Option<Vec<String>>,
    /// Whether to send the answer as events while it is generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// 0 always takes the most likely token. Default: what the model suggests, else 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Keeps the fewest tokens whose probabilities sum to at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Keeps the k most likely tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<i64>,
    /// What the model may call: `{"name": …, "description": …, "input_schema": {…}}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `{"type": "auto"}`, `any`, `none`, or `tool` with a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    /// How calls are written, as in chat completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_format: Option<String>,
    /// `{"type": "enabled"}` or `disabled`, for models whose template knows the difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub thinking: Option<Value>,
    /// What the answer must be: `{"format": {"type": "json_schema", "schema": {…}}}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub output_config: Option<Map<String, Value>>,
    /// A hint; what prompts have in common is kept without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub cache_control: Option<Map<String, Value>>,
    /// The caller's notes. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// Only `auto` or `standard_only`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageParam {
    /// `user` or `assistant`.
    pub role: String,
    /// A text, or blocks: `text`, `tool_use`, `tool_result`, `thinking`.
    #[schema(value_type = TextOrItems)]
    pub content: Value,
}

impl MessagesRequest {
    /// The chat request that asks for the same.
    ///
    /// # Errors
    /// 400 naming what is wrong or not supported.
    pub fn chat_request(&self) -> Result<ChatRequest, ApiError> {
        if let Some(tier) = self.service_tier.as_deref().filter(|tier| !matches!(*tier, "auto" | "standard_only")) {
            return Err(ApiError::unsupported("service_tier", format_args!("'{tier}'")));
        }
        check::length("messages", self.messages.len(), 1..=16_384)?;
        let mut messages = Vec::new();
        if let Some(system) = &self.system {
            messages.push(said("system", text_of(system, "system")?, Map::new()));
        }
        for (index, message) in self.messages.iter().enumerate() {
            message.read(index, &mut messages)?;
        }
        let (tool_choice, parallel_tool_calls) = self.tool_choice()?;
        let tools = self.tools.as_deref().map(|tools| tools.iter().enumerate().map(tool).collect()).transpose()?;
        Ok(ChatRequest {
            model: self.model.clone(),
            messages,
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            stop: self.stop_sequences.clone().filter(|stops| !stops.is_empty()).map(StringOrList::Many),
            tools,
            tool_choice,
            parallel_tool_calls,
            tool_format: self.tool_format.clone(),
            chat_template_kwargs: self.thinking()?,
            response_format: self.response_format()?,
            ..ChatRequest::default()
        })
    }

    /// Refuses a request for an answer that does not say how long it may be.
    ///
    /// # Errors
    /// 400 when `max_tokens` is missing.
    pub fn check_max_tokens(&self) -> Result<(), ApiError> {
        match self.max_tokens {
            Some(_) => Ok(()),
            None => Err(ApiError::invalid_request("'max_tokens' is required")
                .at("max_tokens")
                .with_code("missing_parameter")),
        }
    }

    fn tool_choice(&self) -> Result<(Option<Value>, Option<bool>), ApiError> {
        let Some(choice) = &self.tool_choice else { return Ok((None, None)) };
        let word = match choice["type"].as_str() {
            Some("auto") => json!("auto"),
            Some("any") => json!("required"),
            Some("none") => json!("none"),
            Some("tool") => json!({"type": "function", "function": {"name": choice["name"]}}),
            _ => {
                let message = format!("{choice} given, a type of auto, any, tool or none expected");
                return Err(ApiError::invalid_param("tool_choice", message));
            }
        };
        Ok((Some(word), choice["disable_parallel_tool_use"].as_bool().map(|disabled| !disabled)))
    }

    fn response_format(&self) -> Result<Option<ResponseFormat>, ApiError> {
        let Some(config) = &self.output_config else { return Ok(None) };
        if let Some(key) = config.keys().find(|key| *key != "format") {
            return Err(ApiError::unsupported(format!("output_config.{key}"), &config[key]));
        }
        match config.get("format") {
            None | Some(Value::Null) => Ok(None),
            Some(format) if format["type"] == "json_schema" => {
                Ok(Some(ResponseFormat::JsonObject { schema: format.get("schema").cloned() }))
            }
            Some(format) => Err(ApiError::unsupported("output_config.format", format)),
        }
    }

    fn thinking(&self) -> Result<Option<Map<String, Value>>, ApiError> {
        let Some(thinking) = &self.thinking else { return Ok(None) };
        let is_enabled = match thinking["type"].as_str() {
            Some("enabled" | "adaptive") => true,
            Some("disabled") => false,
            _ => {
                return Err(ApiError::invalid_param(
                    "thinking",
                    format_args!("{thinking} given, a type of enabled or disabled expected"),
                ));
            }
        };
        Ok(Some(Map::from_iter([("enable_thinking".to_owned(), json!(is_enabled))])))
    }
}

fn said(role: &str, text: String, other: Map<String, Value>) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content: Some(MessageContent::Text(text)), other }
}

/// A text, or the text of blocks of it.
fn text_of(value: &Value, path: &str) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => {
            let text = |(index, block): (usize, &Value)| match (block["type"].as_str(), block["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text.to_owned()),
                (kind, _) => Err(unsupported_block(&format!("{path}[{index}]"), kind)),
            };
            Ok(blocks.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        _ => Err(ApiError::invalid_param(path, "a string or an array of blocks expected")),
    }
}

fn unsupported_block(path: &str, kind: Option<&str>) -> ApiError {
    match kind {
        Some(kind) => ApiError::unsupported(format!("{path}.type"), format_args!("a '{kind}' block here")),
        None => ApiError::invalid_param(path, "a block with a type expected"),
    }
}

impl MessageParam {
    /// Appends the messages of a chat that say the same.
    fn read(&self, index: usize, messages: &mut Vec<ChatMessage>) -> Result<(), ApiError> {
        let path = format!("messages[{index}].content");
        let is_user = match self.role.as_str() {
            "user" => true,
            "assistant" => false,
            role => {
                let message = format!("'{role}' given, user or assistant expected");
                return Err(ApiError::invalid_param(format!("messages[{index}].role"), message));
            }
        };
        let Value::Array(blocks) = &self.content else {
            messages.push(said(&self.role, text_of(&self.content, &path)?, Map::new()));
            return Ok(());
        };
        let (mut texts, mut calls, mut reasoning) = (Vec::new(), Vec::new(), String::new());
        for (number, block) in blocks.iter().enumerate() {
            let path = format!("{path}[{number}]");
            match block["type"].as_str() {
                Some("text") => {
                    texts.push(block["text"].as_str().ok_or_else(|| ApiError::invalid_param(&path, "a text expected"))?)
                }
                Some("tool_result") if is_user => {
                    let text = match &block["content"] {
                        Value::Null => String::new(),
                        content => text_of(content, &format!("{path}.content"))?,
                    };
                    let id = Map::from_iter([("tool_call_id".to_owned(), block["tool_use_id"].clone())]);
                    messages.push(said("tool", text, id));
                }
                Some("tool_use") if !is_user => calls.push(json!({
                    "id": block["id"], "type": "function",
                    "function": {"name": block["name"], "arguments": block["input"].to_string()},
                })),
                Some("thinking") if !is_user => reasoning.push_str(block["thinking"].as_str().unwrap_or_default()),
                Some("redacted_thinking") if !is_user => {}
                kind => return Err(unsupported_block(&path, kind)),
            }
        }
        let mut other = Map::new();
        if !calls.is_empty() {
            other.insert("tool_calls".to_owned(), Value::Array(calls));
        }
        if !reasoning.is_empty() {
            other.insert("reasoning_content".to_owned(), json!(reasoning));
        }
        if !texts.is_empty() || !other.is_empty() || blocks.is_empty() {
            messages.push(said(&self.role, texts.join("\n"), other));
        }
        Ok(())
    }
}

/// A tool as chat completions have it.
fn tool((index, tool): (usize, &Value)) -> Result<Value, ApiError> {
    match tool["type"].as_str() {
        None | Some("custom") => {}
        Some(kind) => {
            return Err(ApiError::unsupported(format!("tools[{index}].type"), format_args!("the tool '{kind}'")));
        }
    }
    let mut function = json!({"name": tool["name"], "parameters": tool["input_schema"]});
    if let Some(description) = tool.get("description") {
        function["description"] = description.clone();
    }
    Ok(json!({"type": "function", "function": function}))
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MessagesResponse {
    /// Its name, `msg-…`.
    pub id: String,
    /// `message`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `assistant`.
    pub role: String,
    /// The model's name.
    pub model: String,
    /// What it says, thinks and wants called.
    pub content: Vec<ContentBlock>,
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`; null while it goes on.
    pub stop_reason: Option<String>,
    /// The text that ended it.
    pub stop_sequence: Option<String>,
    /// Tokens used.
    pub usage: MessagesUsage,
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    /// What it says.
    Text {
        /// The text.
        text: String,
    },
    /// What it thinks.
    Thinking {
        /// The text.
        thinking: String,
        /// Empty: nothing is signed here.
        signature: String,
    },
    /// What it wants called.
    ToolUse {
        /// Names the call.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments; an empty object in the event that begins a block.
        #[schema(value_type = Object)]
        input: Value,
    },
}

/// Tokens used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessagesUsage {
    /// Tokens of the prompt that were computed.
    pub input_tokens: usize,
    /// Tokens generated.
    pub output_tokens: usize,
    /// Tokens of the prompt found in the KV cache.
    pub cache_read_input_tokens: usize,
    /// Always 0: the cache is kept without being asked.
    pub cache_creation_input_tokens: usize,
}

/// An event of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MessagesEvent {
    /// The answer begins; it has no content yet.
    MessageStart {
        /// The answer.
        message: MessagesResponse,
    },
    /// A block begins, empty.
    ContentBlockStart {
        /// Which.
        index: usize,
        /// The block.
        content_block: ContentBlock,
    },
    /// More of a block.
    ContentBlockDelta {
        /// Which.
        index: usize,
        /// What is new.
        delta: BlockDelta,
    },
    /// A block is whole.
    ContentBlockStop {
        /// Which.
        index: usize,
    },
    /// Why the answer ended.
    MessageDelta {
        /// Why.
        delta: StopDelta,
        /// Tokens used.
        usage: MessagesUsage,
    },
    /// The last event.
    MessageStop {},
}

impl MessagesEvent {
    /// The event's name on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop {} => "message_stop",
        }
    }
}

/// What is new in a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BlockDelta {
    /// More text.
    TextDelta {
        /// The text.
        text: String,
    },
    /// More thinking.
    ThinkingDelta {
        /// The text.
        thinking: String,
    },
    /// More of the arguments' JSON.
    InputJsonDelta {
        /// The text.
        partial_json: String,
    },
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StopDelta {
    /// As in [`MessagesResponse`].
    pub stop_reason: Option<String>,
    /// As in [`MessagesResponse`].
    pub stop_sequence: Option<String>,
}

/// How long a conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenCount {
    /// Tokens of the prompt it makes.
    pub input_tokens: usize,
}

/// An error in Anthropic's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessagesError {
    /// `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened.
    pub error: MessagesErrorDetail,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessagesErrorDetail {
    /// `invalid_request_error`, `authentication_error`, `not_found_error`, `rate_limit_error`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// What was given and what was expected.
    pub message: String,
}

impl MessagesError {
    /// An error in this form.
    #[must_use]
    pub fn new(error: &ApiError) -> Self {
        let kind = match error.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            408 | 504 => "timeout_error",
            503 => "overloaded_error",
            500..=599 => "api_error",
            _ => "invalid_request_error",
        };
        let error = MessagesErrorDetail { kind: kind.to_owned(), message: error.message.clone() };
        Self { kind: "error".to_owned(), error }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parse;

    fn read(body: &Value) -> Result<ChatRequest, ApiError> {
        parse::from_slice::<MessagesRequest>(body.to_string().as_bytes())?.chat_request()
    }

    #[test]
    fn blocks_become_messages() {
        let chat = read(&json!({
            "max_tokens": 9, "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "stop_sequences": ["END"], "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "So."},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "r"}]},
                    {"type": "text", "text": "And?"}]},
            ],
        }))
        .unwrap();
        let roles: Vec<&str> = chat.messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "user"]);
        assert_eq!(chat.messages[2].other["tool_calls"][0]["function"], json!({"name": "f", "arguments": "{\"a\":1}"}));
        assert_eq!(chat.messages[3].other["tool_call_id"], "t1");
        assert_eq!((chat.tool_choice.unwrap(), chat.parallel_tool_calls), (json!("required"), Some(false)));
        assert_eq!(chat.tools.unwrap()[0]["function"]["parameters"], json!({"type": "object"}));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let refused = |body: Value, param: &str| {
            let error = read(&body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        };
        let user = |content: Value| json!({"max_tokens": 1, "messages": [{"role": "user", "content": content}]});
        refused(user(json!([{"type": "image", "source": {}}])), "messages[0].content[0].type");
        refused(
            user(json!([{"type": "tool_use", "id": "x", "name": "f", "input": {}}])),
            "messages[0].content[0].type",
        );
        refused(user(json!(7)), "messages[0].content");
        refused(json!({"messages": [{"role": "system", "content": "x"}]}), "messages[0].role");
        refused(json!({"messages": []}), "messages");
        let with = |key: &str, value: Value| {
            let mut body = user(json!("x"));
            body[key] = value;
            body
        };
        refused(with("tools", json!([{"type": "web_search_20250305", "name": "s"}])), "tools[0].type");
        refused(with("tool_choice", json!({"type": "always"})), "tool_choice");
        refused(with("mcp_servers", json!([])), "mcp_servers");
        refused(with("output_config", json!({"effort": "low"})), "output_config.effort");
    }
}
