//! A model in this process: template, tokeniser and engine put behind the same trait as a URL.

use crate::{BoxFuture, ChatEvent, ChatModel, ChatParams, ChatRequest, ChatStream, ClientError, FinishReason, Usage};
use futures_util::{StreamExt, stream};
use std::collections::VecDeque;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use yantra_engine::{EngineHandle, Event, Request, SamplingParams, SubmitError};
use yantra_text::{ChatInput, ChatTemplate, Tokenizer};

/// A [`ChatModel`] over an engine in this process. Cheap to clone.
#[derive(Clone)]
pub struct EngineChat {
    model: String,
    engine: EngineHandle,
    tokenizer: Tokenizer,
    template: std::sync::Arc<ChatTemplate>,
    defaults: SamplingParams,
}

impl EngineChat {
    /// A running engine with the tokeniser and the chat template of its model.
    pub fn new(model: impl Into<String>, engine: EngineHandle, tokenizer: Tokenizer, template: ChatTemplate) -> Self {
        let (template, defaults) = (std::sync::Arc::new(template), SamplingParams::default());
        Self { model: model.into(), engine, tokenizer, template, defaults }
    }

    /// How to sample where a request says nothing.
    #[must_use]
    pub fn with_defaults(mut self, defaults: SamplingParams) -> Self {
        self.defaults = defaults;
        self
    }

    /// The conversation as the model reads it, in tokens.
    fn prompt(&self, request: &ChatRequest) -> Result<Vec<u32>, ClientError> {
        let invalid = |reason: String| ClientError::InvalidRequest { reason };
        if request.messages.is_empty() {
            return Err(invalid("messages: none given, at least one expected".into()));
        }
        // What cannot be honoured is refused: an ignored tool or format would look like a model that misbehaves.
        if !request.tools.is_empty() {
            return Err(invalid("tools: a model in this process takes none yet; serve it and use its URL".into()));
        }
        if let Some(field) = request.extra.keys().next() {
            return Err(invalid(format!("{field}: not known to a model in this process")));
        }
        let messages = serde_json::to_value(&request.messages).map_err(|error| invalid(error.to_string()))?;
        let input =
            ChatInput { messages: &messages, tools: None, add_generation_prompt: true, extra: &serde_json::Map::new() };
        self.template.encode(&input, &self.tokenizer, false).map_err(|error| invalid(error.to_string()))
    }
}

impl ChatModel for EngineChat {
    fn model(&self) -> &str {
        &self.model
    }

    fn stream(&self, request: ChatRequest) -> BoxFuture<'_, Result<ChatStream, ClientError>> {
        Box::pin(async move {
            let prompt = self.prompt(&request)?;
            let params = request.params;
            let engine_request = Request {
                prompt,
                max_tokens: params.max_tokens.map(|tokens| tokens as usize),
                stop: params.stop.clone(),
                sampling: sampling(&params, &self.defaults),
                ..Request::default()
            };
            // Unbounded, yet never longer than the reply; a bounded one would cancel a reply that is read slowly.
            let (sender, events) = unbounded_channel();
            let sink = move |event: Event| sender.send(event).is_ok();
            self.engine.submit(engine_request, Box::new(sink)).map_err(refused)?;
            Ok(stream_of(events))
        })
    }
}

fn sampling(params: &ChatParams, default: &SamplingParams) -> SamplingParams {
    SamplingParams {
        temperature: params.temperature.unwrap_or(default.temperature),
        top_k: params.top_k.map_or(default.top_k, |k| k as usize),
        top_p: params.top_p.unwrap_or(default.top_p),
        min_p: params.min_p.unwrap_or(default.min_p),
        repetition_penalty: params.repetition_penalty.unwrap_or(default.repetition_penalty),
        presence_penalty: params.presence_penalty.unwrap_or(default.presence_penalty),
        frequency_penalty: params.frequency_penalty.unwrap_or(default.frequency_penalty),
        logit_bias: params.logit_bias.iter().map(|(&id, &bias)| (id, bias)).collect(),
        seed: params.seed,
    }
}

fn refused(error: SubmitError) -> ClientError {
    match error {
        SubmitError::QueueFull { retry_after, .. } => ClientError::Busy { retry_after },
        error @ (SubmitError::PromptTooLong { .. } | SubmitError::Invalid { .. }) => {
            ClientError::InvalidRequest { reason: error.to_string() }
        }
        error => ClientError::Engine { reason: error.to_string() },
    }
}

/// Dropping the stream drops the receiver, the engine's next send fails, and the request is cancelled.
fn stream_of(events: UnboundedReceiver<Event>) -> ChatStream {
    let state = (events, VecDeque::new(), false);
    stream::unfold(state, |(mut events, mut ready, mut ended)| async move {
        loop {
            if let Some(event) = ready.pop_front() {
                return Some((Ok(event), (events, ready, ended)));
            }
            if ended {
                return None;
            }
            match events.recv().await {
                None => {
                    let error = ClientError::Interrupted { reason: "the engine stopped".into() };
                    return Some((Err(error), (events, ready, true)));
                }
                Some(Event::Error(error)) => {
                    let error = ClientError::Engine { reason: error.to_string() };
                    return Some((Err(error), (events, ready, true)));
                }
                Some(event) => {
                    ended = matches!(event, Event::Done { .. });
                    translate(event, &mut ready);
                }
            }
        }
    })
    .boxed()
}

fn translate(event: Event, ready: &mut VecDeque<ChatEvent>) {
    let mut text_event = |text: String| {
        if !text.is_empty() {
            ready.push_back(ChatEvent::Text(text));
        }
    };
    match event {
        Event::Token { text, .. } => text_event(text),
        Event::Finished { reason, text, .. } => {
            use yantra_engine::FinishReason as Engine;
            text_event(text);
            let reason = match reason {
                Engine::Stop | Engine::StopToken(_) | Engine::StopString(_) => FinishReason::Stop,
                Engine::Length => FinishReason::Length,
                Engine::Cancelled => FinishReason::Other("cancelled".into()),
            };
            ready.push_back(ChatEvent::Finished(reason));
        }
        Event::Done { usage, .. } => ready.push_back(ChatEvent::Usage(Usage {
            prompt_tokens: usage.prompt_tokens as u64,
            cached_prompt_tokens: usage.cached_prompt_tokens as u64,
            completion_tokens: usage.completion_tokens as u64,
        })),
        Event::PromptLogprobs(_) | Event::Error(_) => {}
    }
}
