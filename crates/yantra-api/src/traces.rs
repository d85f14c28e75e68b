//! What was asked and answered, where it is kept: `/v1/traces`. Ours.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{ChatMessage, MessagesRequest, ResponsesRequest, Usage};

/// A request and its answer, without what they say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TraceSummary {
    /// Its id, `trace-…`.
    pub id: String,
    /// `trace`.
    pub object: String,
    /// `x-request-id` of the answer.
    pub request_id: String,
    /// The answer's own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_id: Option<String>,
    /// Whose key it came with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The endpoint's path.
    pub endpoint: String,
    /// The model; empty where none was reached.
    pub model: String,
    /// Whether the answer was streamed.
    pub stream: bool,
    /// `done`, `failed` or `cancelled`.
    pub state: String,
    /// The answer's HTTP status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The code of the error that it ended in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why choices ended.
    pub finish_reasons: Vec<String>,
    /// When it came, in seconds since 1970.
    pub created: f64,
    /// From submission to the first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<f64>,
    /// From submission to the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_to_first_token_ms: Option<f64>,
    /// From its coming to the last byte of its answer.
    pub total_ms: f64,
    /// Tokens used.
    pub usage: Usage,
    /// Bytes of request and answer.
    pub bytes: u64,
    /// What was searched for and what is around it, else the beginning of what was asked last.
    pub snippet: String,
}

/// A request and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TraceRecord {
    /// What is known of it.
    #[serde(flatten)]
    pub summary: TraceSummary,
    /// The request's body.
    #[schema(value_type = Object)]
    pub input: Value,
    /// The answer, put together where it was streamed; null where there was none, and of embeddings.
    #[schema(value_type = Option<Object>)]
    pub output: Option<Value>,
    /// Whether `/v1/requests/{id}` still tells where its time went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<bool>,
}

/// Traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TraceList {
    /// `list`.
    pub object: String,
    /// The traces, those that ended last first.
    pub data: Vec<TraceSummary>,
    /// The first's id.
    pub first_id: Option<String>,
    /// The last's id, for `after`.
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}

/// A trace has been deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceDeleted {
    /// Its id.
    pub id: String,
    /// `trace`.
    pub object: String,
    /// True.
    pub deleted: bool,
}

/// The conversation of a request with its first answer as the assistant's next message, and the tools there were, as
/// training data have them: `{"messages": […], "tools": […]}`. `None`: it was no conversation, or what is kept is not all
/// of it.
#[must_use]
pub fn training_example(endpoint: &str, input: &Value, output: &Value) -> Option<Value> {
    let (mut messages, tools, answer) = match endpoint {
        "/v1/chat/completions" => {
            let tools = input["tools"].as_array().cloned();
            (input["messages"].as_array()?.clone(), tools, chat_answer(&output["choices"][0]["message"])?)
        }
        "/v1/messages" => {
            let request: MessagesRequest = serde_json::from_value(input.clone()).ok()?;
            let chat = request.chat_request().ok()?;
            (as_values(&chat.messages)?, chat.tools, messages_answer(output["content"].as_array()?))
        }
        // What came before is not in the request.
        "/v1/responses" if input["previous_response_id"].is_null() => {
            let request: ResponsesRequest = serde_json::from_value(input.clone()).ok()?;
            let chat = request.chat_request(&[]).ok()?;
            (as_values(&chat.messages)?, chat.tools, responses_answer(output["output"].as_array()?))
        }
        _ => return None,
    };
    messages.push(answer);
    let mut example = json!({"messages": messages});
    if let Some(tools) = tools.filter(|tools| !tools.is_empty()) {
        example["tools"] = json!(tools);
    }
    Some(example)
}

fn as_values(messages: &[ChatMessage]) -> Option<Vec<Value>> {
    messages.iter().map(|message| serde_json::to_value(message).ok()).collect()
}

/// Without the fields that say nothing.
fn chat_answer(message: &Value) -> Option<Value> {
    let fields = message.as_object()?.iter().filter(|(name, value)| !value.is_null() || *name == "content");
    Some(Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect()))
}

fn messages_answer(blocks: &[Value]) -> Value {
    let mut answer = Answer::default();
    for block in blocks {
        match block["type"].as_str() {
            Some("text") => answer.content += block["text"].as_str().unwrap_or_default(),
            Some("thinking") => answer.reasoning += block["thinking"].as_str().unwrap_or_default(),
            Some("tool_use") => answer.call(&block["id"], &block["name"], &json!(block["input"].to_string())),
            _ => {}
        }
    }
    answer.message()
}

fn responses_answer(items: &[Value]) -> Value {
    let mut answer = Answer::default();
    let text = |item: &Value| item["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    for item in items {
        match item["type"].as_str() {
            Some("message") => answer.content += &text(item),
            Some("reasoning") => answer.reasoning += &text(item),
            Some("function_call") => answer.call(&item["call_id"], &item["name"], &item["arguments"]),
            _ => {}
        }
    }
    answer.message()
}

#[derive(Default)]
struct Answer {
    content: String,
    reasoning: String,
    calls: Vec<Value>,
}

impl Answer {
    fn call(&mut self, id: &Value, name: &Value, arguments: &Value) {
        self.calls.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
    }

    fn message(self) -> Value {
        let mut message = json!({"role": "assistant", "content": self.content});
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = json!(self.reasoning);
        }
        if !self.calls.is_empty() {
            message["tool_calls"] = json!(self.calls);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(endpoint: &str, input: &Value, output: &Value, expected: &Value) {
        let example = training_example(endpoint, input, output);
        assert_eq!(example.map_or(Value::Null, |example| example["messages"].clone()), *expected, "{endpoint}");
    }

    #[test]
    fn conversations_of_all_forms_become_messages() {
        let said = |role: &str, content: &str| json!({"role": role, "content": content});
        let call = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]);
        let user = said("user", "Hi");
        check(
            "/v1/chat/completions",
            &json!({"messages": [user]}),
            &json!({"choices": [{"message": {"role": "assistant", "content": null, "refusal": null, "tool_calls": call}}]}),
            &json!([user, {"role": "assistant", "content": null, "tool_calls": call}]),
        );
        check(
            "/v1/messages",
            &json!({"system": "Be brief.", "messages": [user], "max_tokens": 9}),
            &json!({"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Ho"},
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]}),
            &json!([said("system", "Be brief."), user,
                {"role": "assistant", "content": "Ho", "reasoning_content": "Hm.", "tool_calls": call}]),
        );
        let output = json!({"output": [{"type": "message", "content": [{"type": "output_text", "text": "Ho"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"a\":1}"}]});
        let expected =
            json!([said("system", "Be brief."), user, {"role": "assistant", "content": "Ho", "tool_calls": call}]);
        check("/v1/responses", &json!({"instructions": "Be brief.", "input": "Hi"}), &output, &expected);
        let continued = json!({"input": "Hi", "previous_response_id": "resp-1"});
        check("/v1/responses", &continued, &output, &Value::Null);
        let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
        let example = training_example("/v1/responses", &json!({"input": "Hi", "tools": tools}), &output);
        assert_eq!(example.map(|example| example["tools"][0]["function"]["name"].clone()), Some(json!("f")));
        check("/v1/embeddings", &json!({"input": "Hi"}), &Value::Null, &Value::Null);
        check("/v1/chat/completions", &json!({"messages": [user]}), &json!({"error": {}}), &Value::Null);
    }
}
