//! What this client reads of other servers' replies, leniently.
//!
//! `yantra-api` holds the exact wire types that our server writes. A client must also read what other servers write:
//! missing fields, nulls where the specification has none, fields of their own. So these shapes name only what is used
//! and require nothing.

use crate::{ChatEvent, FinishReason, ToolCallDelta, Usage};
use serde::Deserialize;

/// One `chat.completion.chunk`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<WireUsage>,
    pub(crate) error: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    index: usize,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<WireToolCall>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireToolCall {
    index: Option<usize>,
    id: Option<String>,
    function: Option<WireFunction>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireFunction {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

impl Chunk {
    /// The events of choice 0 in this chunk, in the order of the contract (finish before usage).
    pub(crate) fn into_events(self) -> Vec<ChatEvent> {
        let mut events = Vec::new();
        let mut finished = None;
        for choice in self.choices.unwrap_or_default().into_iter().filter(|choice| choice.index == 0) {
            let delta = choice.delta.unwrap_or_default();
            let reasoning = delta.reasoning_content.or(delta.reasoning).filter(|text| !text.is_empty());
            events.extend(reasoning.map(ChatEvent::Reasoning));
            events.extend(delta.content.filter(|text| !text.is_empty()).map(ChatEvent::Text));
            for (position, call) in delta.tool_calls.unwrap_or_default().into_iter().enumerate() {
                let function = call.function.unwrap_or_default();
                events.push(ChatEvent::ToolCall(ToolCallDelta {
                    index: call.index.unwrap_or(position),
                    id: call.id,
                    name: function.name,
                    arguments: function.arguments.unwrap_or_default(),
                }));
            }
            finished = choice.finish_reason.or(finished);
        }
        events.extend(finished.map(|reason| ChatEvent::Finished(FinishReason::from(&*reason))));
        events.extend(self.usage.map(|usage| {
            ChatEvent::Usage(Usage {
                prompt_tokens: usage.prompt_tokens,
                cached_prompt_tokens: usage.prompt_tokens_details.and_then(|d| d.cached_tokens).unwrap_or(0),
                completion_tokens: usage.completion_tokens,
            })
        }));
        events
    }
}

/// The message and the kind in an error body: OpenAI's `{"error": {"message", "type", "code"}}`, FastAPI's
/// `{"detail"}`, or plain `{"message"}`.
pub(crate) fn error_message(body: &serde_json::Value) -> Option<(String, Option<String>)> {
    let error = body.get("error").unwrap_or(body);
    if let Some(text) = error.as_str() {
        return Some((text.to_owned(), None));
    }
    let message = ["message", "detail"].iter().find_map(|key| error.get(key))?;
    let message = message.as_str().map_or_else(|| message.to_string(), str::to_owned);
    let kind = ["type", "code"].iter().find_map(|key| error.get(key).and_then(|kind| kind.as_str()));
    Some((message, kind.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn events(json: &str) -> Vec<ChatEvent> {
        serde_json::from_str::<Chunk>(json).unwrap().into_events()
    }

    #[test]
    fn chunks_of_many_servers() {
        // The shapes of OpenAI (first chunk, text, end, usage), llama.cpp (null content) and DeepSeek (reasoning).
        assert_eq!(events(r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#), []);
        assert_eq!(
            events(r#"{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}],"usage":null}"#),
            [ChatEvent::Text("Hi".into())]
        );
        assert_eq!(
            events(
                r#"{"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"usage":{"prompt_tokens":2,"completion_tokens":1}}"#
            ),
            [
                ChatEvent::Finished(FinishReason::Stop),
                ChatEvent::Usage(Usage { prompt_tokens: 2, cached_prompt_tokens: 0, completion_tokens: 1 })
            ]
        );
        assert_eq!(
            events(
                r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":8}}}"#
            ),
            [ChatEvent::Usage(Usage { prompt_tokens: 9, cached_prompt_tokens: 8, completion_tokens: 1 })]
        );
        assert_eq!(
            events(r#"{"choices":[{"delta":{"content":null,"reasoning_content":"so"}}]}"#),
            [ChatEvent::Reasoning("so".into())]
        );
        assert_eq!(events(r#"{"choices":[{"index":1,"delta":{"content":"another choice"}}]}"#), []);
        assert_eq!(events("{}"), []);
    }

    #[test]
    fn error_bodies_of_many_servers() {
        let check = |json: &str, expected: Option<(&str, Option<&str>)>| {
            let got = error_message(&serde_json::from_str(json).unwrap());
            assert_eq!(got.as_ref().map(|(message, kind)| (&**message, kind.as_deref())), expected, "{json}");
        };
        check(
            r#"{"error":{"message":"no","type":"invalid_request_error","code":null}}"#,
            Some(("no", Some("invalid_request_error"))),
        );
        check(r#"{"error":"model not found"}"#, Some(("model not found", None)));
        check(r#"{"detail":"Not Found"}"#, Some(("Not Found", None)));
        check(r#"{"object":"error","message":"bad","type":"BadRequestError"}"#, Some(("bad", Some("BadRequestError"))));
        check("{}", None);
    }
}
