//! `/v1/messages`: conversations in Anthropic's form.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use yantra_api::{
    AnswerParser, ApiError, BlockDelta, ContentBlock, MessagesError, MessagesEvent, MessagesRequest, MessagesResponse,
    MessagesUsage, Piece, StopDelta, TokenCount, call_id,
};
use yantra_engine::{Event, FinishReason};

use crate::app::App;
use crate::body::JsonBody;
use crate::failure::Failure;
use crate::generation::{self, Head};
use crate::registry::Task;
use crate::requests;
use crate::sse::{self, Chunks, Whole as _};
use crate::telemetry;
use crate::tenant::Visit;
use crate::turn::{self, Begun};
use crate::work::Lane;

/// An error in Anthropic's form.
#[derive(Debug)]
pub(crate) struct MessagesFailure(ApiError);

impl From<ApiError> for MessagesFailure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<Failure> for MessagesFailure {
    fn from(failure: Failure) -> Self {
        Self(failure.0)
    }
}

impl IntoResponse for MessagesFailure {
    fn into_response(self) -> Response {
        telemetry::note(|record| record.failed(&self.0));
        requests::note(|kept| kept.failed(&self.0));
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = Json(MessagesError::new(&self.0));
        match self.0.retry_after_s {
            Some(seconds) => (status, [(header::RETRY_AFTER, seconds.to_string())], body).into_response(),
            None => (status, body).into_response(),
        }
    }
}

/// Continues a conversation.
#[utoipa::path(
    post, path = "/v1/messages", tag = "Generation", request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer; with `stream` as events",
            content((MessagesResponse = "application/json"), (MessagesEvent = "text/event-stream"))),
        (status = 400, body = MessagesError), (status = 401, body = yantra_api::ErrorBody),
        (status = 404, body = MessagesError), (status = 408, body = MessagesError), (status = 413, body = MessagesError),
        (status = 415, body = MessagesError), (status = 429, body = MessagesError), (status = 500, body = MessagesError),
        (status = 503, body = MessagesError),
    )
)]
pub(crate) async fn messages(
    visit: Visit,
    body: Result<JsonBody<MessagesRequest>, Failure>,
) -> Result<Response, MessagesFailure> {
    let JsonBody(request, share) = body?;
    request.check_max_tokens()?;
    let Begun { model, mut generation, parser, prompt_tokens, own_stop, .. } =
        turn::begin(&visit, request.chat_request()?, share, "messages").await?;
    let mut writer = Writer::new(Head::new("msg", &model.id), parser, prompt_tokens, own_stop);
    if request.stream == Some(true) {
        return Ok(sse::respond(&visit.app, generation, writer));
    }
    let mut whole = Whole(writer.message());
    while let Some(next) = generation.next().await {
        let (number, event) = next?;
        writer.chunks(number, event).iter().for_each(|event| whole.add(event));
    }
    writer.last().iter().for_each(|event| whole.add(event));
    Ok(Json(whole.0).into_response())
}

/// Tells how many tokens a conversation has.
#[utoipa::path(
    post, path = "/v1/messages/count_tokens", tag = "Tokens", request_body = MessagesRequest,
    responses((status = 200, body = TokenCount), (status = 400, body = MessagesError), (status = 401, body = yantra_api::ErrorBody),
        (status = 404, body = MessagesError), (status = 408, body = MessagesError), (status = 413, body = MessagesError),
        (status = 415, body = MessagesError), (status = 429, body = MessagesError), (status = 500, body = MessagesError),
        (status = 503, body = MessagesError))
)]
pub(crate) async fn count_tokens(
    State(app): State<App>,
    body: Result<JsonBody<MessagesRequest>, Failure>,
) -> Result<Json<TokenCount>, MessagesFailure> {
    let JsonBody(request, _share) = body?;
    let chat = request.chat_request()?;
    chat.validate()?;
    let model = app.registry().find_for(chat.model.as_deref(), Task::Generate)?;
    // What can not be asked can not be counted.
    chat.generation(&model.generator()?.defaults)?;
    let count = move || turn::count_tokens(&model, &chat);
    let input_tokens = app.lanes().run(Lane::Generate, app.deadline(), count).await?;
    Ok(Json(TokenCount { input_tokens }))
}

/// Which kind of block is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
    Tool,
}

/// Turns engine events into those of Anthropic's stream.
struct Writer {
    head: Head,
    parser: AnswerParser,
    prompt_tokens: usize,
    /// A text that ends answers for our own reasons.
    own_stop: Option<&'static str>,
    begun: bool,
    open: Option<Open>,
    /// Blocks that have begun.
    blocks: usize,
    calls: usize,
    stop: StopDelta,
    usage: MessagesUsage,
}

impl Writer {
    fn new(head: Head, parser: AnswerParser, prompt_tokens: usize, own_stop: Option<&'static str>) -> Self {
        let stop = StopDelta { stop_reason: None, stop_sequence: None };
        let usage = MessagesUsage { input_tokens: prompt_tokens, ..MessagesUsage::default() };
        Self { head, parser, prompt_tokens, own_stop, begun: false, open: None, blocks: 0, calls: 0, stop, usage }
    }

    /// The answer before it has said anything.
    fn message(&self) -> MessagesResponse {
        MessagesResponse {
            id: self.head.id.clone(),
            kind: "message".to_owned(),
            role: "assistant".to_owned(),
            model: self.head.model.clone(),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: MessagesUsage { input_tokens: self.prompt_tokens, ..MessagesUsage::default() },
        }
    }

    fn pieces(&mut self, pieces: Vec<Piece>, events: &mut Vec<MessagesEvent>) {
        for piece in pieces {
            match piece {
                Piece::Content(text) => {
                    self.open(Open::Text, || ContentBlock::Text { text: String::new() }, events);
                    self.delta(BlockDelta::TextDelta { text }, events);
                }
                Piece::Reasoning(thinking) => {
                    let empty = || ContentBlock::Thinking { thinking: String::new(), signature: String::new() };
                    self.open(Open::Thinking, empty, events);
                    self.delta(BlockDelta::ThinkingDelta { thinking }, events);
                }
                Piece::Call { name } => {
                    generation::note_tool_call(0);
                    self.close(events);
                    let id = call_id(&self.head.id, 0, self.calls);
                    self.calls += 1;
                    self.open(Open::Tool, || ContentBlock::ToolUse { id, name, input: json!({}) }, events);
                }
                Piece::Arguments(partial_json) => self.delta(BlockDelta::InputJsonDelta { partial_json }, events),
            }
        }
    }

    fn open(&mut self, kind: Open, block: impl FnOnce() -> ContentBlock, events: &mut Vec<MessagesEvent>) {
        if self.open == Some(kind) {
            return;
        }
        self.close(events);
        events.push(MessagesEvent::ContentBlockStart { index: self.blocks, content_block: block() });
        self.open = Some(kind);
        self.blocks += 1;
    }

    fn delta(&self, delta: BlockDelta, events: &mut Vec<MessagesEvent>) {
        events.push(MessagesEvent::ContentBlockDelta { index: self.blocks.saturating_sub(1), delta });
    }

    fn close(&mut self, events: &mut Vec<MessagesEvent>) {
        if self.open.take().is_some() {
            events.push(MessagesEvent::ContentBlockStop { index: self.blocks - 1 });
        }
    }

    fn note_end(&mut self, reason: FinishReason) {
        let (reason, sequence) = match reason {
            FinishReason::Length => ("max_tokens", None),
            _ if self.calls > 0 => ("tool_use", None),
            FinishReason::StopString(text) if self.own_stop != Some(text.as_str()) => ("stop_sequence", Some(text)),
            _ => ("end_turn", None),
        };
        self.stop = StopDelta { stop_reason: Some(reason.to_owned()), stop_sequence: sequence };
    }
}

impl Chunks for Writer {
    type Chunk = MessagesEvent;
    type Whole = Whole;
    const END: Option<&'static str> = None;

    fn whole(&self) -> Whole {
        Whole(self.message())
    }

    /// Its events tell everything.
    fn complete(&mut self, _: &mut Whole) {}

    fn chunks(&mut self, _: usize, event: Event) -> Vec<MessagesEvent> {
        let mut events = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            events.push(MessagesEvent::MessageStart { message: self.message() });
        }
        match event {
            Event::Token { text, .. } => {
                let pieces = self.parser.push(&text);
                self.pieces(pieces, &mut events);
            }
            Event::Finished { reason, text, .. } => {
                let mut pieces = self.parser.push(&text);
                pieces.extend(self.parser.finish());
                self.pieces(pieces, &mut events);
                self.close(&mut events);
                self.note_end(reason);
            }
            Event::Done { usage, .. } => {
                self.usage = MessagesUsage {
                    input_tokens: usage.prompt_tokens - usage.cached_prompt_tokens,
                    output_tokens: usage.completion_tokens,
                    cache_read_input_tokens: usage.cached_prompt_tokens,
                    cache_creation_input_tokens: 0,
                };
            }
            Event::PromptLogprobs(_) | Event::Error(_) => {}
        }
        events
    }

    fn last(&mut self) -> Vec<MessagesEvent> {
        vec![MessagesEvent::MessageDelta { delta: self.stop.clone(), usage: self.usage }, MessagesEvent::MessageStop {}]
    }

    fn name(event: &MessagesEvent) -> Option<String> {
        Some(event.name().to_owned())
    }

    fn error(error: &ApiError) -> (Option<String>, Value) {
        (Some("error".to_owned()), json!(MessagesError::new(error)))
    }
}

/// A whole answer, put together from its events.
struct Whole(MessagesResponse);

impl sse::Whole for Whole {
    type Chunk = MessagesEvent;

    fn add(&mut self, event: &MessagesEvent) {
        let message = &mut self.0;
        match event {
            MessagesEvent::ContentBlockStart { content_block, .. } => {
                // Arguments are collected as text first.
                let block = match content_block.clone() {
                    ContentBlock::ToolUse { id, name, .. } => ContentBlock::ToolUse { id, name, input: json!("") },
                    block => block,
                };
                message.content.push(block);
            }
            MessagesEvent::ContentBlockDelta { delta, .. } => match (message.content.last_mut(), delta) {
                (Some(ContentBlock::Text { text }), BlockDelta::TextDelta { text: more }) => text.push_str(more),
                (Some(ContentBlock::Thinking { thinking, .. }), BlockDelta::ThinkingDelta { thinking: more }) => {
                    thinking.push_str(more);
                }
                (
                    Some(ContentBlock::ToolUse { input: Value::String(text), .. }),
                    BlockDelta::InputJsonDelta { partial_json },
                ) => text.push_str(partial_json),
                _ => {}
            },
            MessagesEvent::ContentBlockStop { .. } => {
                if let Some(ContentBlock::ToolUse { input, .. }) = message.content.last_mut() {
                    // Arguments that `max_tokens` cut off are no JSON; an object is what the form allows.
                    let read = input.as_str().and_then(|text| serde_json::from_str(text).ok());
                    *input = read.unwrap_or_else(|| json!({}));
                }
            }
            MessagesEvent::MessageDelta { delta, usage } => {
                (message.stop_reason, message.stop_sequence) = (delta.stop_reason.clone(), delta.stop_sequence.clone());
                message.usage = *usage;
            }
            MessagesEvent::MessageStart { .. } | MessagesEvent::MessageStop {} => {}
        }
    }

    fn to_json(self) -> serde_json::Result<Value> {
        sse::as_sent(&self.0)
    }
}
