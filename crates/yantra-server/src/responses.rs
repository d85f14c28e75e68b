//! `/v1/responses`: answers as lists of items, kept in memory to be continued.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use yantra_api::{
    AnswerParser, ApiError, ChatMessage, ErrorBody, InputTokensDetails, MessageContent, Piece, ResponseObject,
    ResponsesEvent, ResponsesRequest, ResponsesUsage, call_id,
};
use yantra_engine::{Event, FinishReason};

use crate::body::JsonBody;
use crate::failure::Failure;
use crate::generation::{self, Head};
use crate::sse::{self, Chunks};
use crate::tenant::{Tenant, Visit};
use crate::turn::{self, Begun};

/// Answers kept, and bytes of their conversations; the oldest go first.
const MAX_KEPT: usize = 1024;
const MAX_KEPT_BYTES: usize = 64 << 20;

/// An answer and the conversation that led to it.
#[derive(Debug)]
struct Kept {
    tenant: Tenant,
    response: ResponseObject,
    /// What was said up to it, and it.
    messages: Vec<ChatMessage>,
    /// What the request itself said.
    input: Vec<ChatMessage>,
    bytes: usize,
}

/// The answers that can be continued.
#[derive(Debug, Default)]
pub(crate) struct Responses {
    kept: Mutex<VecDeque<Arc<Kept>>>,
}

impl Responses {
    /// The answer of this name, if it is the tenant's.
    fn find(&self, tenant: &Tenant, id: &str, param: &str) -> Result<Arc<Kept>, ApiError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().find(|kept| kept.response.id == id && kept.tenant == *tenant).cloned();
        found.ok_or_else(|| ApiError::not_found(format!("there is no response '{id}', or not any more")).at(param))
    }

    fn keep(&self, new: Kept) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(Arc::new(new));
        while kept.len() > MAX_KEPT
            || kept.len() > 1 && kept.iter().map(|kept| kept.bytes).sum::<usize>() > MAX_KEPT_BYTES
        {
            kept.pop_front();
        }
    }

    fn forget(&self, id: &str) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.len();
        kept.retain(|kept| kept.response.id != id);
        kept.len() < before
    }
}

/// Answers.
#[utoipa::path(
    post, path = "/v1/responses", operation_id = "create_response", tag = "Generation", request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The answer; with `stream` as events",
            content((ResponseObject = "application/json"), (ResponsesEvent = "text/event-stream"))),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 408, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 500, body = ErrorBody), (status = 503, body = ErrorBody),
    )
)]
pub(crate) async fn create(
    visit: Visit,
    JsonBody(request, share): JsonBody<ResponsesRequest>,
) -> Result<Response, Failure> {
    let before = match &request.previous_response_id {
        Some(id) => visit.app.responses().find(&visit.tenant, id, "previous_response_id")?.messages.clone(),
        None => Vec::new(),
    };
    let input = request.messages()?;
    let chat = request.chat_request(&before)?;
    let Begun { model, params, mut generation, parser, .. } = turn::begin(&visit, chat, share, "input").await?;
    let response = begun(&request, Head::new("resp", &model.id), params.temperature, params.top_p);
    let mut writer = Writer {
        visit: visit.clone(),
        response,
        parser,
        conversation: [before, input.clone()].concat(),
        input,
        begun: false,
        open: None,
        calls: 0,
        number: 0,
    };
    if request.stream == Some(true) {
        return Ok(sse::respond(&visit.app, generation, writer));
    }
    while let Some(next) = generation.next().await {
        let (number, event) = next?;
        writer.chunks(number, event);
    }
    writer.last();
    Ok(Json(writer.response).into_response())
}

/// An answer that was kept.
#[utoipa::path(
    get, path = "/v1/responses/{id}", operation_id = "retrieve_response", tag = "Generation",
    params(("id" = String, Path, description = "The answer's name")),
    responses((status = 200, body = ResponseObject), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(crate) async fn retrieve(visit: Visit, Path(id): Path<String>) -> Result<Json<ResponseObject>, Failure> {
    Ok(Json(visit.app.responses().find(&visit.tenant, &id, "id")?.response.clone()))
}

/// Forgets an answer.
#[utoipa::path(
    delete, path = "/v1/responses/{id}", operation_id = "delete_response", tag = "Generation",
    params(("id" = String, Path, description = "The answer's name")),
    responses((status = 200, body = Object), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(crate) async fn delete(visit: Visit, Path(id): Path<String>) -> Result<Json<Value>, Failure> {
    visit.app.responses().find(&visit.tenant, &id, "id")?;
    let deleted = visit.app.responses().forget(&id);
    Ok(Json(json!({"id": id, "object": "response", "deleted": deleted})))
}

/// What the request of an answer said.
#[utoipa::path(
    get, path = "/v1/responses/{id}/input_items", operation_id = "list_input_items", tag = "Generation",
    params(("id" = String, Path, description = "The answer's name")),
    responses((status = 200, body = Object), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(crate) async fn input_items(visit: Visit, Path(id): Path<String>) -> Result<Json<Value>, Failure> {
    let kept = visit.app.responses().find(&visit.tenant, &id, "id")?;
    let item = |(index, message): (usize, &ChatMessage)| {
        let text = message.content.as_ref().and_then(|content| content.text("").ok()).unwrap_or_default();
        let id = format!("item-{index}");
        match message.other.get("tool_call_id") {
            Some(call) => json!({"type": "function_call_output", "id": id, "call_id": call, "output": text}),
            None => json!({"type": "message", "id": id, "role": message.role, "status": "completed",
                "content": [{"type": "input_text", "text": text}]}),
        }
    };
    let data: Vec<Value> = kept.input.iter().enumerate().map(item).collect();
    let end = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    let (first, last) = (end(data.first()), end(data.last()));
    Ok(Json(json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": false})))
}

/// An answer that has said nothing yet.
fn begun(request: &ResponsesRequest, head: Head, temperature: f32, top_p: f32) -> ResponseObject {
    ResponseObject {
        id: head.id,
        object: "response".to_owned(),
        created_at: head.created,
        status: "in_progress".to_owned(),
        error: None,
        incomplete_details: None,
        instructions: request.instructions.clone(),
        max_output_tokens: request.max_output_tokens,
        model: head.model,
        output: Vec::new(),
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
        previous_response_id: request.previous_response_id.clone(),
        store: request.store.unwrap_or(true),
        temperature: f64::from(temperature),
        text: request.text.clone().map_or_else(|| json!({"format": {"type": "text"}}), Value::Object),
        tool_choice: request.tool_choice.clone().unwrap_or_else(|| json!("auto")),
        tools: request.tools.clone().unwrap_or_default(),
        top_p: f64::from(top_p),
        truncation: "disabled".to_owned(),
        usage: None,
        metadata: request.metadata.clone().unwrap_or_default(),
    }
}

/// The item that is being said.
#[derive(Debug)]
enum Open {
    Text(String),
    Reasoning(String),
    Call(String),
}

/// Turns engine events into those of the API, and collects the answer meanwhile.
struct Writer {
    visit: Visit,
    response: ResponseObject,
    parser: AnswerParser,
    /// The conversation before the answer.
    conversation: Vec<ChatMessage>,
    input: Vec<ChatMessage>,
    begun: bool,
    open: Option<Open>,
    calls: usize,
    number: u64,
}

impl Writer {
    fn event(&mut self, kind: &str, about: Value) -> ResponsesEvent {
        let about = match about {
            Value::Object(about) => about,
            _ => Map::new(),
        };
        self.number += 1;
        ResponsesEvent { kind: kind.to_owned(), sequence_number: self.number - 1, about }
    }

    /// An event about the whole answer.
    fn whole(&mut self, kind: &str) -> ResponsesEvent {
        let about = json!({"response": self.response});
        self.event(kind, about)
    }

    /// An event about a part of the last item.
    fn part(&mut self, kind: &str, mut about: Value) -> ResponsesEvent {
        about["item_id"] = self.response.output.last().map_or(Value::Null, |item| item["id"].clone());
        about["output_index"] = json!(self.response.output.len().saturating_sub(1));
        self.event(kind, about)
    }

    fn pieces(&mut self, pieces: Vec<Piece>, events: &mut Vec<ResponsesEvent>) {
        for piece in pieces {
            match piece {
                Piece::Content(text) => {
                    if !matches!(self.open, Some(Open::Text(_))) {
                        self.begin(json!({"type": "message", "role": "assistant", "content": []}), "msg", events);
                        self.open = Some(Open::Text(String::new()));
                        let about = json!({"content_index": 0, "part": output_text("")});
                        events.push(self.part("response.content_part.added", about));
                    }
                    let about = json!({"content_index": 0, "delta": text, "logprobs": []});
                    events.push(self.part("response.output_text.delta", about));
                    self.more(&text);
                }
                Piece::Reasoning(text) => {
                    if !matches!(self.open, Some(Open::Reasoning(_))) {
                        self.begin(json!({"type": "reasoning", "summary": [], "content": []}), "rs", events);
                        self.open = Some(Open::Reasoning(String::new()));
                    }
                    let about = json!({"content_index": 0, "delta": text});
                    events.push(self.part("response.reasoning_text.delta", about));
                    self.more(&text);
                }
                Piece::Call { name } => {
                    generation::note_tool_call(0);
                    let call_id = call_id(&self.response.id, 0, self.calls);
                    self.calls += 1;
                    let item = json!({"type": "function_call", "call_id": call_id, "name": name, "arguments": ""});
                    self.begin(item, "fc", events);
                    self.open = Some(Open::Call(String::new()));
                }
                Piece::Arguments(text) => {
                    events.push(self.part("response.function_call_arguments.delta", json!({"delta": text})));
                    self.more(&text);
                }
            }
        }
    }

    fn more(&mut self, more: &str) {
        if let Some(Open::Text(text) | Open::Reasoning(text) | Open::Call(text)) = &mut self.open {
            text.push_str(more);
        }
    }

    fn begin(&mut self, mut item: Value, prefix: &str, events: &mut Vec<ResponsesEvent>) {
        self.close(events);
        item["id"] =
            json!(format!("{prefix}-{}-{}", self.response.id.trim_start_matches("resp-"), self.response.output.len()));
        item["status"] = json!("in_progress");
        self.response.output.push(item.clone());
        let index = self.response.output.len() - 1;
        events.push(self.event("response.output_item.added", json!({"output_index": index, "item": item})));
    }

    /// The open item is whole.
    fn close(&mut self, events: &mut Vec<ResponsesEvent>) {
        let Some(open) = self.open.take() else { return };
        let (field, value) = match &open {
            Open::Text(text) => {
                events.push(
                    self.part("response.output_text.done", json!({"content_index": 0, "text": text, "logprobs": []})),
                );
                let about = json!({"content_index": 0, "part": output_text(text)});
                events.push(self.part("response.content_part.done", about));
                ("content", json!([output_text(text)]))
            }
            Open::Reasoning(text) => {
                events.push(self.part("response.reasoning_text.done", json!({"content_index": 0, "text": text})));
                ("content", json!([{"type": "reasoning_text", "text": text}]))
            }
            Open::Call(arguments) => {
                let name = self.response.output.last().map_or(Value::Null, |item| item["name"].clone());
                let about = json!({"arguments": arguments, "name": name});
                events.push(self.part("response.function_call_arguments.done", about));
                ("arguments", json!(arguments))
            }
        };
        if let Some(item) = self.response.output.last_mut() {
            item[field] = value;
            item["status"] = json!("completed");
        }
        let (index, item) = (self.response.output.len() - 1, self.response.output.last().cloned());
        events.push(self.event("response.output_item.done", json!({"output_index": index, "item": item})));
    }

    /// The answer as the assistant's turn in the conversation.
    fn message(&self) -> ChatMessage {
        let (mut text, mut calls) = (String::new(), Vec::new());
        for item in &self.response.output {
            match item["type"].as_str() {
                Some("message") => text += item["content"][0]["text"].as_str().unwrap_or_default(),
                Some("function_call") => calls.push(json!({"id": item["call_id"], "type": "function",
                    "function": {"name": item["name"], "arguments": item["arguments"]}})),
                _ => {}
            }
        }
        let mut other = Map::new();
        if !calls.is_empty() {
            other.insert("tool_calls".to_owned(), json!(calls));
        }
        ChatMessage { role: "assistant".to_owned(), content: Some(MessageContent::Text(text)), other }
    }

    fn keep(&mut self) {
        // A batch would push out what people are going to continue.
        if !self.response.store || self.visit.tenant.is_in_bulk() {
            return;
        }
        let mut messages = std::mem::take(&mut self.conversation);
        messages.push(self.message());
        let bytes = serde_json::to_vec(&messages).map_or(0, |bytes| bytes.len());
        let input = std::mem::take(&mut self.input);
        self.visit.app.responses().keep(Kept {
            tenant: self.visit.tenant.clone(),
            response: self.response.clone(),
            messages,
            input,
            bytes,
        });
    }
}

fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// An answer that its writer has put together anyway.
struct Whole(ResponseObject);

impl sse::Whole for Whole {
    type Chunk = ResponsesEvent;

    fn add(&mut self, _: &ResponsesEvent) {}

    fn to_json(self) -> serde_json::Result<Value> {
        sse::as_sent(&self.0)
    }
}

impl Chunks for Writer {
    type Chunk = ResponsesEvent;
    type Whole = Whole;
    const END: Option<&'static str> = None;

    fn whole(&self) -> Whole {
        Whole(self.response.clone())
    }

    fn complete(&mut self, whole: &mut Whole) {
        // What was being said when nobody listened any more.
        self.close(&mut Vec::new());
        whole.0 = self.response.clone();
    }

    fn chunks(&mut self, _: usize, event: Event) -> Vec<ResponsesEvent> {
        let mut events = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            events.push(self.whole("response.created"));
            events.push(self.whole("response.in_progress"));
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
                let is_cut = reason == FinishReason::Length;
                self.response.status = if is_cut { "incomplete" } else { "completed" }.to_owned();
                self.response.incomplete_details = is_cut.then(|| json!({"reason": "max_output_tokens"}));
            }
            Event::Done { usage, .. } => {
                self.response.usage = Some(ResponsesUsage {
                    input_tokens: usage.prompt_tokens,
                    input_tokens_details: InputTokensDetails { cached_tokens: usage.cached_prompt_tokens },
                    output_tokens: usage.completion_tokens,
                    total_tokens: usage.prompt_tokens + usage.completion_tokens,
                    ..ResponsesUsage::default()
                });
            }
            Event::PromptLogprobs(_) | Event::Error(_) => {}
        }
        events
    }

    fn last(&mut self) -> Vec<ResponsesEvent> {
        self.keep();
        let kind = format!("response.{}", self.response.status);
        vec![self.whole(&kind)]
    }

    fn name(event: &ResponsesEvent) -> Option<String> {
        Some(event.kind.clone())
    }

    fn error(error: &ApiError) -> (Option<String>, Value) {
        let about = json!({"type": "error", "code": error.code, "message": error.message, "param": error.param, "sequence_number": 0});
        (Some("error".to_owned()), about)
    }
}
