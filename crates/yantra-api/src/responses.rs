//! `POST /v1/responses`: <https://platform.openai.com/docs/api-reference/responses>. A request becomes the chat request that
//! asks for the same; answers are lists of items.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::neutral::{self, Unsupported};
use crate::{
    ApiError, ChatMessage, ChatRequest, MessageContent, NamedSchema, ResponseFormat, TextOrItems, WordOrObject, check,
};

/// What to answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2-135m", "input": "Hello!"}))]
pub struct ResponsesRequest {
    /// Name or alias of the model; may be left out when only one model does this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A text, or items: messages, `function_call`, `function_call_output`, `reasoning`.
    #[schema(value_type = TextOrItems)]
    pub input: Value,
    /// What holds for this answer: a system message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The answer that this one continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_response_id: Option<String>,
    /// Whether the answer is kept, to be continued or looked up. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<bool>,
    /// Most tokens to generate; to the end of the context when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<i64>,
    /// 0 always takes the most likely token. Default: what the model suggests, else 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Keeps the fewest tokens whose probabilities sum to at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Whether to send the answer as events while it is generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// What the model may call: `{"type": "function", "name": …, "parameters": …}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `auto`, `none`, `required`, or `{"type": "function", "name": …}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WordOrObject>)]
    pub tool_choice: Option<Value>,
    /// Whether an answer may hold several calls. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// How calls are written, as in chat completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_format: Option<String>,
    /// The form of the text: `{"format": {"type": "text" | "json_object" | "json_schema", …}}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub text: Option<Map<String, Value>>,
    /// The caller's notes, returned as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// The caller's end user. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The caller's end user, hashed. Not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_identifier: Option<String>,
    /// A hint for routing between servers; one server needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_key: Option<String>,
    /// Only `disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub truncation: Option<Value>,
    /// Only false.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub background: Option<Value>,
    /// Only an empty list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub include: Option<Value>,
    /// Not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub reasoning: Option<Value>,
    /// Only `auto` or `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub service_tier: Option<Value>,
    /// Not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Value>,
    /// Not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Value>,
    /// Only 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub top_logprobs: Option<Value>,
}

fn is_empty_object(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.values().all(Value::is_null))
}

impl ResponsesRequest {
    /// The chat request that asks for the same after `before`, the conversation that is continued.
    ///
    /// # Errors
    /// 400 naming what is wrong or not supported.
    pub fn chat_request(&self, before: &[ChatMessage]) -> Result<ChatRequest, ApiError> {
        let entry = |name, given, is_neutral| Unsupported { name, given, is_neutral };
        neutral::check(&[
            entry("truncation", &self.truncation, |value| value == "disabled"),
            entry("background", &self.background, neutral::is_false),
            entry("include", &self.include, neutral::is_empty_list),
            entry("reasoning", &self.reasoning, is_empty_object),
            entry("service_tier", &self.service_tier, neutral::is_default_tier),
            entry("conversation", &self.conversation, neutral::nothing),
            entry("prompt", &self.prompt, neutral::nothing),
            entry("top_logprobs", &self.top_logprobs, neutral::is_zero),
        ])?;
        let mut messages: Vec<ChatMessage> =
            self.instructions.iter().map(|text| said("system", text.clone())).collect();
        messages.extend_from_slice(before);
        messages.extend(self.messages()?);
        let tools = self.tools.as_deref().map(|tools| tools.iter().enumerate().map(tool).collect()).transpose()?;
        Ok(ChatRequest {
            model: self.model.clone(),
            messages,
            max_completion_tokens: self.max_output_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            tools,
            tool_choice: self.tool_choice.clone(),
            parallel_tool_calls: self.parallel_tool_calls,
            tool_format: self.tool_format.clone(),
            response_format: self.format()?,
            metadata: self.metadata.clone(),
            ..ChatRequest::default()
        })
    }

    /// The messages that the input says.
    ///
    /// # Errors
    /// 400 naming the first item that is wrong or not supported.
    pub fn messages(&self) -> Result<Vec<ChatMessage>, ApiError> {
        let items = match &self.input {
            Value::String(text) => return Ok(vec![said("user", text.clone())]),
            Value::Array(items) => items,
            _ => return Err(ApiError::invalid_param("input", "a string or an array of items expected")),
        };
        check::length("input", items.len(), 1..=16_384)?;
        let mut messages = Vec::new();
        for (index, item) in items.iter().enumerate() {
            read_item(item, &format!("input[{index}]"), &mut messages)?;
        }
        Ok(messages)
    }

    fn format(&self) -> Result<Option<ResponseFormat>, ApiError> {
        let Some(text) = &self.text else { return Ok(None) };
        if let Some(key) = text.keys().find(|key| *key != "format" && !text[*key].is_null()) {
            return Err(ApiError::unsupported(format!("text.{key}"), &text[key]));
        }
        let Some(format) = text.get("format").filter(|format| !format.is_null()) else { return Ok(None) };
        match format["type"].as_str() {
            Some("text") => Ok(None),
            Some("json_object") => Ok(Some(ResponseFormat::JsonObject { schema: None })),
            Some("json_schema") => {
                let name = format["name"].as_str().unwrap_or_default().to_owned();
                let schema = format.get("schema").cloned();
                let json_schema = NamedSchema { name, schema, description: None, strict: None };
                Ok(Some(ResponseFormat::JsonSchema { json_schema }))
            }
            _ => Err(ApiError::invalid_param(
                "text.format.type",
                format_args!("{} given, text, json_object or json_schema expected", format["type"]),
            )),
        }
    }
}

fn said(role: &str, text: String) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content: Some(MessageContent::Text(text)), other: Map::new() }
}

/// Appends what an item says.
fn read_item(item: &Value, path: &str, messages: &mut Vec<ChatMessage>) -> Result<(), ApiError> {
    match item["type"].as_str() {
        None | Some("message") => {
            let role = item["role"]
                .as_str()
                .ok_or_else(|| ApiError::invalid_param(format!("{path}.role"), "a role expected"))?;
            messages.push(said(role, text_of(&item["content"], &format!("{path}.content"))?));
        }
        Some("function_call") => {
            let call = json!({"id": item["call_id"], "type": "function",
                "function": {"name": item["name"], "arguments": item["arguments"]}});
            // Calls of one answer are one message.
            let calls = messages
                .last_mut()
                .filter(|last| last.role == "assistant")
                .map(|last| last.other.entry("tool_calls").or_insert_with(|| json!([])));
            match calls.and_then(Value::as_array_mut) {
                Some(calls) => calls.push(call),
                None => {
                    let mut message = said("assistant", String::new());
                    message.other.insert("tool_calls".to_owned(), json!([call]));
                    messages.push(message);
                }
            }
        }
        Some("function_call_output") => {
            let mut message = said("tool", text_of(&item["output"], &format!("{path}.output"))?);
            message.other.insert("tool_call_id".to_owned(), item["call_id"].clone());
            messages.push(message);
        }
        // What a model thought is not shown to it again.
        Some("reasoning") => {}
        Some(kind) => return Err(ApiError::unsupported(format!("{path}.type"), format_args!("an item '{kind}'"))),
    }
    Ok(())
}

/// A text, or the text of parts.
fn text_of(value: &Value, path: &str) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let text = |(index, part): (usize, &Value)| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("input_text" | "output_text" | "text"), Some(text)) => Ok(text.to_owned()),
                (kind, _) => {
                    let kind = kind.unwrap_or("unnamed");
                    Err(ApiError::unsupported(format!("{path}[{index}].type"), format_args!("a '{kind}' part")))
                }
            };
            Ok(parts.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        _ => Err(ApiError::invalid_param(path, "a string or an array of parts expected")),
    }
}

/// A tool as chat completions have it.
fn tool((index, tool): (usize, &Value)) -> Result<Value, ApiError> {
    match tool["type"].as_str() {
        Some("function") => {}
        kind => {
            let kind = kind.unwrap_or("unnamed");
            return Err(ApiError::unsupported(format!("tools[{index}].type"), format_args!("the tool '{kind}'")));
        }
    }
    let mut function = Map::new();
    for key in ["name", "description", "parameters", "strict"] {
        if let Some(value) = tool.get(key).filter(|value| !value.is_null()) {
            function.insert(key.to_owned(), value.clone());
        }
    }
    Ok(json!({"type": "function", "function": function}))
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ResponseObject {
    /// Its name, `resp-…`.
    pub id: String,
    /// `response`.
    pub object: String,
    /// When it was begun, in seconds since 1970.
    pub created_at: u64,
    /// `in_progress`, `completed`, `incomplete` or `failed`.
    pub status: String,
    /// What went wrong.
    #[schema(value_type = Option<Object>)]
    pub error: Option<Value>,
    /// Why it is incomplete: `{"reason": "max_output_tokens"}`.
    #[schema(value_type = Option<Object>)]
    pub incomplete_details: Option<Value>,
    /// As in the request.
    pub instructions: Option<String>,
    /// As in the request.
    pub max_output_tokens: Option<i64>,
    /// The model's name.
    pub model: String,
    /// What it says, thinks and wants called: items of type `message`, `reasoning` and `function_call`.
    #[schema(value_type = Vec<Object>)]
    pub output: Vec<Value>,
    /// As in the request.
    pub parallel_tool_calls: bool,
    /// As in the request.
    pub previous_response_id: Option<String>,
    /// As in the request.
    pub store: bool,
    /// As in the request, or the default.
    pub temperature: f64,
    /// As in the request.
    #[schema(value_type = Object)]
    pub text: Value,
    /// As in the request.
    #[schema(value_type = WordOrObject)]
    pub tool_choice: Value,
    /// As in the request.
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Value>,
    /// As in the request, or the default.
    pub top_p: f64,
    /// `disabled`.
    pub truncation: String,
    /// Tokens used; null while it goes on.
    pub usage: Option<ResponsesUsage>,
    /// As in the request.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
}

/// Tokens used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponsesUsage {
    /// Tokens of the prompt.
    pub input_tokens: usize,
    /// More about them.
    pub input_tokens_details: InputTokensDetails,
    /// Tokens generated.
    pub output_tokens: usize,
    /// More about them.
    pub output_tokens_details: OutputTokensDetails,
    /// Both together.
    pub total_tokens: usize,
}

/// More about a prompt's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InputTokensDetails {
    /// How many were found in the KV cache.
    pub cached_tokens: usize,
}

/// More about an answer's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputTokensDetails {
    /// Not counted apart: 0.
    pub reasoning_tokens: usize,
}

/// An event of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ResponsesEvent {
    /// `response.created`, `response.output_text.delta`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Its number in the stream, from 0.
    pub sequence_number: u64,
    /// What the event is about.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub about: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parse;

    fn read(body: &Value) -> Result<ChatRequest, ApiError> {
        parse::from_slice::<ResponsesRequest>(body.to_string().as_bytes())?
            .chat_request(&[said("user", "before".to_owned())])
    }

    #[test]
    fn items_become_messages() {
        let chat = read(&json!({
            "instructions": "Be brief.", "max_output_tokens": 5,
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": null}],
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
                {"type": "reasoning", "id": "r", "summary": []},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "1"},
                {"type": "function_call_output", "call_id": "c2", "output": "2"},
            ],
        }))
        .unwrap();
        let roles: Vec<&str> = chat.messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "user", "assistant", "tool", "tool"]);
        assert_eq!(chat.messages[3].other["tool_calls"].as_array().unwrap().len(), 2);
        assert_eq!(chat.tools.clone().unwrap()[0]["function"]["name"], "f");
        assert!(chat.constraint().unwrap().is_some());
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let refused = |body: Value, param: &str| {
            let error = read(&body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        };
        refused(json!({"input": 7}), "input");
        refused(json!({"input": []}), "input");
        refused(json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0].type");
        refused(json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), "input[0].content[0].type");
        refused(json!({"input": "x", "background": true}), "background");
        refused(json!({"input": "x", "tools": [{"type": "web_search"}]}), "tools[0].type");
        refused(json!({"input": "x", "text": {"format": {"type": "xml"}}}), "text.format.type");
        refused(json!({"input": "x", "inputs": 1}), "inputs");
    }
}
