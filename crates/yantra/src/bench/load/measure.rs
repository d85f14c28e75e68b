//! One request, timed: when each piece of the reply came.

use futures_util::StreamExt;
use serde_json::Value;
use std::time::Instant;
use yantra_client::ClientError;
use yantra_client::Endpoint;

/// What happened to one request.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// What was measured, or the kind and the words of the failure.
    pub(crate) outcome: Result<Timing, Failure>,
}

/// Why a request failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// The times of one answered request, in milliseconds since it was due.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Timing {
    /// Until the first piece of text.
    pub(crate) first_token_ms: f64,
    /// Between pieces of text.
    pub(crate) gaps_ms: Vec<f64>,
    /// Until the end of the stream.
    pub(crate) total_ms: f64,
    /// Tokens of the prompt, as the server counts them.
    pub(crate) prompt_tokens: Option<u64>,
    /// Tokens of the prompt that the server had in its cache.
    pub(crate) cached_tokens: Option<u64>,
    /// Tokens of the reply: by the server's usage, or the number of pieces where it gives none.
    pub(crate) output_tokens: u64,
    /// Whether the server gave the usage.
    pub(crate) usage_given: bool,
}

impl Timing {
    /// Mean time per token after the first.
    pub(crate) fn per_token_ms(&self) -> Option<f64> {
        let following = self.output_tokens.checked_sub(1).filter(|following| *following > 0)?;
        let decode = self.gaps_ms.iter().sum::<f64>();
        Some(decode / following as f64)
    }
}

/// Sends one request and times its reply; `due` is when it should have been sent.
pub(crate) async fn request(endpoint: &Endpoint, path: &str, body: &Value, due: Instant) -> Record {
    let outcome = timed(endpoint, path, body, due).await;
    let outcome = outcome.map_err(|error| Failure { reason: error.label(), message: error.to_string() });
    Record { outcome }
}

async fn timed(endpoint: &Endpoint, path: &str, body: &Value, due: Instant) -> Result<Timing, ClientError> {
    let mut events = endpoint.post_stream(path, body).await?;
    let mut pieces: Vec<Instant> = Vec::new();
    let mut usage = None;
    let mut finished = false;
    while let Some(event) = events.next().await {
        let now = Instant::now();
        let data = event?.data;
        let data = data.trim();
        if data == "[DONE]" {
            break;
        }
        let chunk: Value = serde_json::from_str(data).map_err(|_| ClientError::Protocol {
            expected: "a chunk in JSON".into(),
            got: data.chars().take(200).collect(),
        })?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            let message = error.get("message").and_then(Value::as_str).map_or_else(|| error.to_string(), Into::into);
            return Err(ClientError::Server { message });
        }
        if has_text(&chunk) {
            pieces.push(now);
        }
        finished |= chunk.pointer("/choices/0/finish_reason").is_some_and(|reason| !reason.is_null());
        usage = chunk.get("usage").filter(|usage| usage.is_object()).cloned().or(usage);
    }
    let total_ms = since(due, Instant::now());
    if !finished {
        return Err(ClientError::Interrupted { reason: "it ended without a finish reason".into() });
    }
    let first = pieces.first().ok_or_else(|| ClientError::Interrupted { reason: "it ended without text".into() })?;
    let number = |pointer: &str| usage.as_ref().and_then(|usage| usage.pointer(pointer)?.as_u64());
    let counted = number("/completion_tokens").filter(|tokens| *tokens > 0);
    Ok(Timing {
        first_token_ms: since(due, *first),
        gaps_ms: pieces.windows(2).map(|pair| since(pair[0], pair[1])).collect(),
        total_ms,
        prompt_tokens: number("/prompt_tokens"),
        cached_tokens: number("/prompt_tokens_details/cached_tokens"),
        output_tokens: counted.unwrap_or(pieces.len() as u64),
        usage_given: counted.is_some(),
    })
}

/// Whether a chunk of a chat or plain completion carries text (the answer's or its reasoning's).
fn has_text(chunk: &Value) -> bool {
    let fields = ["/choices/0/delta/content", "/choices/0/delta/reasoning_content", "/choices/0/text"];
    fields.iter().any(|field| chunk.pointer(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty()))
}

fn since(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1000.0
}
