//! A model behind an OpenAI-compatible URL.

use crate::{
    BoxFuture, ChatEvent, ChatModel, ChatRequest, ChatStream, ClientError, Endpoint, EndpointConfig,
    http::EventStream,
    wire::{Chunk, error_message},
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::{collections::VecDeque, time::Duration};

/// Waiting longer than this for a busy server is the caller's decision, not ours.
const LONGEST_RETRY_WAIT: Duration = Duration::from_secs(30);

/// A [`ChatModel`] over HTTP: OpenAI itself, Yantra, llama.cpp, vLLM and whatever speaks as they do.
#[derive(Debug, Clone)]
pub struct OpenAiChat {
    endpoint: Endpoint,
    model: String,
    max_retries: u32,
}

impl OpenAiChat {
    /// The model called `model` at `endpoint`; a request that fails before its first event is tried at most twice more.
    pub fn new(endpoint: Endpoint, model: impl Into<String>) -> Self {
        Self { endpoint, model: model.into(), max_retries: 2 }
    }

    /// Asks the server which model it offers and takes the first one.
    ///
    /// # Errors
    /// When the server cannot be asked or offers none.
    pub async fn first_model(config: &EndpointConfig) -> Result<Self, ClientError> {
        let endpoint = Endpoint::new(config)?;
        let models = endpoint.models().await?;
        let first = models.into_iter().find(crate::ModelEntry::generates_text);
        let first = first.ok_or_else(|| ClientError::protocol("a model that generates text in /v1/models", "none"))?;
        Ok(Self::new(endpoint, first.id))
    }

    /// How often a request that fails before its first event is tried again (0 for measurements).
    #[must_use]
    pub fn with_max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = max_retries;
        self
    }

    /// The server.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn body(&self, request: ChatRequest) -> Result<Value, ClientError> {
        let mut body =
            serde_json::to_value(request).map_err(|error| ClientError::InvalidRequest { reason: error.to_string() })?;
        body["model"] = json!(self.model);
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        Ok(body)
    }

    async fn open(&self, body: &Value) -> Result<EventStream, ClientError> {
        let mut attempt = 0;
        loop {
            let error = match self.endpoint.post_stream("/v1/chat/completions", body).await {
                Ok(events) => return Ok(events.boxed()),
                Err(error) => error,
            };
            let wait = error.retry_after().filter(|wait| *wait <= LONGEST_RETRY_WAIT);
            match wait {
                Some(wait) if attempt < self.max_retries => tokio::time::sleep(wait * (attempt + 1)).await,
                _ => return Err(error),
            }
            attempt += 1;
        }
    }
}

impl ChatModel for OpenAiChat {
    fn model(&self) -> &str {
        &self.model
    }

    fn stream(&self, request: ChatRequest) -> BoxFuture<'_, Result<ChatStream, ClientError>> {
        Box::pin(async move {
            let events = self.open(&self.body(request)?).await?;
            let reading = Reading { events, ready: VecDeque::new(), finished: false, used: false, ended: false };
            let stream: ChatStream =
                stream::unfold(reading, |mut reading| async move { Some((reading.next().await?, reading)) }).boxed();
            Ok(stream)
        })
    }
}

/// Turns server-sent events into chat events and holds the server to the contract.
struct Reading {
    events: EventStream,
    ready: VecDeque<ChatEvent>,
    finished: bool,
    used: bool,
    ended: bool,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<ChatEvent, ClientError>> {
        while !self.ended || !self.ready.is_empty() {
            if let Some(event) = self.ready.pop_front() {
                match event {
                    // Some servers repeat the finish reason or the usage; the first one counts.
                    ChatEvent::Finished(_) if std::mem::replace(&mut self.finished, true) => continue,
                    ChatEvent::Usage(_) if !self.finished || std::mem::replace(&mut self.used, true) => continue,
                    event => return Some(Ok(event)),
                }
            }
            match self.read().await {
                Ok(()) => {}
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    async fn read(&mut self) -> Result<(), ClientError> {
        let Some(event) = self.events.next().await.transpose()? else {
            self.ended = true;
            let reason = "the server closed the connection before the reply was finished".into();
            return if self.finished { Ok(()) } else { Err(ClientError::Interrupted { reason }) };
        };
        let data = event.data.trim();
        if data == "[DONE]" {
            self.ended = true;
            let reason = "the server said it is done without a finish reason".into();
            return if self.finished { Ok(()) } else { Err(ClientError::Interrupted { reason }) };
        }
        if data.is_empty() {
            return Ok(());
        }
        let chunk: Chunk =
            serde_json::from_str(data).map_err(|_| ClientError::protocol("a chat completion chunk", data))?;
        if let Some(error) = chunk.error.as_ref().filter(|error| !error.is_null()) {
            let message = error_message(error).map_or_else(|| error.to_string(), |(message, _)| message);
            return Err(ClientError::Server { message });
        }
        self.ready.extend(chunk.into_events());
        Ok(())
    }
}
