//! The one trait for "a model that chats", and the plain data that goes in and comes out of it.
//!
//! Only a stream of events is required of an implementation: a whole reply is a stream that was collected, and a
//! stream that is dropped is a request that is cancelled. So there is one code path to get right, not three.

use crate::ClientError;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, future::Future, pin::Pin};

/// A future that owns or borrows for `'a` and may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The events of one reply; dropping it cancels the request.
pub type ChatStream = Pin<Box<dyn Stream<Item = Result<ChatEvent, ClientError>> + Send>>;

/// A model that answers conversations.
///
/// Contract, checked by [`crate::conformance`]: a stream yields any number of text, reasoning and tool-call pieces,
/// then exactly one [`ChatEvent::Finished`], then at most one [`ChatEvent::Usage`]; an `Err` is always the last item.
pub trait ChatModel: Send + Sync {
    /// The model's name as requests and reports give it.
    fn model(&self) -> &str;

    /// Starts a reply.
    ///
    /// # Errors
    /// When the request is refused before any event: unreachable, not authorised, invalid, overloaded.
    fn stream(&self, request: ChatRequest) -> BoxFuture<'_, Result<ChatStream, ClientError>>;

    /// The whole reply at once.
    ///
    /// # Errors
    /// As [`ChatModel::stream`], and when the reply breaks off.
    fn complete(&self, request: ChatRequest) -> BoxFuture<'_, Result<ChatReply, ClientError>> {
        Box::pin(async move { collect(self.stream(request).await?).await })
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool the model called.
    Tool,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; empty when the turn only calls tools.
    pub content: String,
    /// The tools an assistant turn calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool turn answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A turn that only speaks.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tool_calls: Vec::new(), tool_call_id: None }
    }

    /// What the person says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// Instructions for the whole conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }
}

/// A tool the model wants called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Names the call, so that its result can refer to it.
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type", default = "function_kind")]
    pub kind: String,
    /// What to call.
    pub function: FunctionCall,
}

/// The function of a [`ToolCall`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// Its arguments as JSON text, exactly as the model wrote them.
    pub arguments: String,
}

fn function_kind() -> String {
    "function".into()
}

/// How to sample; what is `None` is left to the model's own defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatParams {
    /// At most this many tokens in the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// 0 is greedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Nucleus sampling: the smallest set of tokens with this much probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Only the `top_k` likeliest tokens; 0 is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Only tokens at least this fraction as likely as the likeliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Divides the logits of tokens already seen; 1 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// Subtracted once for tokens already produced; 0 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// Subtracted per occurrence of tokens already produced; 0 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    /// Token id → what is added to its logit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<u32, f32>,
    /// Same seed, same reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Strings that end the reply and are not part of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

/// One request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatRequest {
    /// The conversation so far, oldest first.
    pub messages: Vec<Message>,
    /// Tools the model may call, as OpenAI's JSON; empty is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<serde_json::Value>,
    /// How to sample.
    #[serde(flatten)]
    pub params: ChatParams,
    /// Fields sent as they are (`response_format`, a provider's own). A model in this process refuses those it lacks.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl ChatRequest {
    /// A request of one user turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self { messages: vec![Message::user(content)], ..Self::default() }
    }
}

/// One piece of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatEvent {
    /// Part of the answer; never empty.
    Text(String),
    /// Part of the reasoning before the answer; never empty.
    Reasoning(String),
    /// Part of a tool call.
    ToolCall(ToolCallDelta),
    /// The reply is whole; comes exactly once.
    Finished(FinishReason),
    /// What the request cost; at most once, after `Finished`.
    Usage(Usage),
}

/// Part of a tool call: the first piece of each `index` carries `id` and `name`, the rest `arguments`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    /// Which call of the reply, from 0.
    pub index: usize,
    /// The call's id, in its first piece.
    pub id: Option<String>,
    /// The function's name, in its first piece.
    pub name: Option<String>,
    /// The next piece of the arguments' JSON text.
    pub arguments: String,
}

/// Why a reply ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string did.
    Stop,
    /// `max_tokens` or the context length was reached.
    Length,
    /// The model waits for its tools.
    ToolCalls,
    /// The provider withheld the rest.
    ContentFilter,
    /// Anything else a provider says.
    Other(String),
}

impl FinishReason {
    /// OpenAI's word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Other(reason) => reason,
        }
    }
}

impl From<&str> for FinishReason {
    fn from(word: &str) -> Self {
        match word {
            "stop" => Self::Stop,
            "length" => Self::Length,
            "tool_calls" => Self::ToolCalls,
            "content_filter" => Self::ContentFilter,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Tokens that a request read and wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the prompt that a cache already held.
    pub cached_prompt_tokens: u64,
    /// Tokens of the reply.
    pub completion_tokens: u64,
}

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatReply {
    /// The assistant's turn, ready to be appended to the conversation.
    pub message: Message,
    /// The reasoning before the answer, when the model shows it.
    pub reasoning: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What it cost, when the provider says.
    pub usage: Option<Usage>,
}

/// Gathers a stream into a whole reply.
///
/// # Errors
/// The stream's own error, or [`ClientError::Interrupted`] when it ends without saying why.
pub async fn collect(mut stream: ChatStream) -> Result<ChatReply, ClientError> {
    let mut message = Message::assistant(String::new());
    let (mut reasoning, mut finish_reason, mut usage) = (String::new(), None, None);
    while let Some(event) = stream.next().await {
        match event? {
            ChatEvent::Text(text) => message.content.push_str(&text),
            ChatEvent::Reasoning(text) => reasoning.push_str(&text),
            ChatEvent::ToolCall(delta) => merge_tool_call(&mut message.tool_calls, delta)?,
            ChatEvent::Finished(reason) => finish_reason = Some(reason),
            ChatEvent::Usage(tokens) => usage = Some(tokens),
        }
    }
    let finish_reason =
        finish_reason.ok_or_else(|| ClientError::Interrupted { reason: "it ended without a finish reason".into() })?;
    Ok(ChatReply { message, reasoning, finish_reason, usage })
}

/// More parallel calls than any model makes; a larger index is a broken stream, not a reason to allocate.
const MAX_TOOL_CALLS: usize = 256;

fn merge_tool_call(calls: &mut Vec<ToolCall>, delta: ToolCallDelta) -> Result<(), ClientError> {
    if delta.index >= MAX_TOOL_CALLS {
        return Err(ClientError::protocol(
            format!("a tool-call index below {MAX_TOOL_CALLS}"),
            delta.index.to_string(),
        ));
    }
    while calls.len() <= delta.index {
        calls.push(ToolCall { id: String::new(), kind: function_kind(), function: FunctionCall::default() });
    }
    let call = &mut calls[delta.index];
    if let Some(id) = delta.id {
        call.id = id;
    }
    if let Some(name) = delta.name {
        call.function.name = name;
    }
    call.function.arguments.push_str(&delta.arguments);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn reply_of(events: Vec<ChatEvent>) -> Result<ChatReply, ClientError> {
        let stream: ChatStream = Box::pin(futures_util::stream::iter(events.into_iter().map(Ok)));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(collect(stream))
    }

    fn call(index: usize, id: Option<&str>, name: Option<&str>, arguments: &str) -> ChatEvent {
        ChatEvent::ToolCall(ToolCallDelta {
            index,
            id: id.map(Into::into),
            name: name.map(Into::into),
            arguments: arguments.into(),
        })
    }

    #[test]
    fn pieces_become_one_message() {
        let reply = reply_of(vec![
            ChatEvent::Reasoning("hm".into()),
            ChatEvent::Text("two ".into()),
            ChatEvent::Text("words".into()),
            ChatEvent::Finished(FinishReason::Stop),
            ChatEvent::Usage(Usage { prompt_tokens: 3, cached_prompt_tokens: 1, completion_tokens: 2 }),
        ])
        .unwrap();
        assert_eq!(reply.message, Message::assistant("two words"));
        assert_eq!(reply.reasoning, "hm");
        assert_eq!(reply.usage.unwrap().completion_tokens, 2);
    }

    #[test]
    fn interleaved_tool_calls_are_put_together() {
        let reply = reply_of(vec![
            call(0, Some("a"), Some("add"), "{\"x\":"),
            call(1, Some("b"), Some("now"), ""),
            call(0, None, None, "1}"),
            call(1, None, None, "{}"),
            ChatEvent::Finished(FinishReason::ToolCalls),
        ])
        .unwrap();
        let calls: Vec<_> =
            reply.message.tool_calls.iter().map(|c| (&*c.id, &*c.function.name, &*c.function.arguments)).collect();
        assert_eq!(calls, [("a", "add", "{\"x\":1}"), ("b", "now", "{}")]);
    }

    #[test]
    fn a_stream_without_an_end_is_an_error() {
        assert!(matches!(reply_of(vec![ChatEvent::Text("x".into())]), Err(ClientError::Interrupted { .. })));
        assert!(matches!(reply_of(vec![call(1 << 30, None, None, "")]), Err(ClientError::Protocol { .. })));
    }

    #[test]
    fn a_request_is_written_as_openai_reads_it() {
        let mut request = ChatRequest::user("hi");
        request.params.seed = Some(7);
        request.extra.insert("user".into(), "me".into());
        let json = serde_json::to_value(&request).unwrap();
        let expected = serde_json::json!({"messages": [{"role": "user", "content": "hi"}], "seed": 7, "user": "me"});
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<ChatRequest>(json).unwrap(), request);
    }
}
