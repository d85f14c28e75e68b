//! `/v1/chat/completions`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use yantra_api::{
    AnswerParser, ApiError, AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta,
    ChatLogprobs, ChatRequest, ErrorBody, FinishReason, FunctionCall, FunctionDelta, Piece, ToolCall, ToolCallDelta,
    Usage, call_id,
};
use yantra_engine::Event;
use yantra_text::Tokenizer;

use crate::body::JsonBody;
use crate::failure::Failure;
use crate::generation::{self, Head, Outcome};
use crate::logprobs::chat_logprobs;
use crate::sse::{self, Chunks};
use crate::tenant::Visit;
use crate::turn::{self, Begun};

/// Continues a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "Generation", request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer; with `stream` as events, ended by `[DONE]`",
            content((ChatCompletion = "application/json"), (ChatChunk = "text/event-stream"))),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 408, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
        (status = 429, description = "Too many requests wait; see `Retry-After`", body = ErrorBody),
        (status = 500, body = ErrorBody), (status = 503, body = ErrorBody),
    )
)]
pub(crate) async fn chat_completions(
    visit: Visit,
    JsonBody(request, share): JsonBody<ChatRequest>,
) -> Result<Response, Failure> {
    let streamed = request.stream == Some(true);
    let include_usage = request.stream_options.as_ref().is_some_and(|options| options.include_usage == Some(true));
    let logprobs = request.logprobs == Some(true);
    let Begun { model, params, generation, parser, .. } = turn::begin(&visit, request, share, "messages").await?;
    let writer = Writer {
        head: Head::new("chatcmpl", &model.id),
        tokenizer: model.tokenizer().clone(),
        logprobs,
        include_usage,
        choices: vec![Choice { begun: false, calls: 0, parser }; params.n],
        usage: Usage::default(),
    };
    if streamed {
        return Ok(sse::respond(&visit.app, generation, writer));
    }
    let outcome = generation.collect(params.n).await?;
    Ok(Json(writer.whole(outcome)?).into_response())
}

/// Writes an answer, whole or in chunks.
struct Writer {
    head: Head,
    tokenizer: Tokenizer,
    logprobs: bool,
    include_usage: bool,
    choices: Vec<Choice>,
    usage: Usage,
}

/// How far a choice is told.
#[derive(Debug, Clone)]
struct Choice {
    /// Whether it has had its first chunk.
    begun: bool,
    /// Calls that have begun.
    calls: usize,
    parser: AnswerParser,
}

impl Writer {
    fn whole(self, outcome: Outcome) -> Result<ChatCompletion, ApiError> {
        let answers = outcome.requests.into_iter().next();
        let answers = answers.ok_or_else(|| ApiError::internal("no answer was generated"))?;
        let choice = |(index, answer): (usize, generation::Answer)| {
            let message = self.message(index, &answer.text);
            ChatChoice {
                index,
                finish_reason: finish_reason(answer.finish_reason, message.tool_calls.len()),
                message,
                logprobs: self.logprobs.then(|| chat_logprobs(&self.tokenizer, &answer.logprobs)),
            }
        };
        Ok(ChatCompletion {
            choices: answers.choices.into_iter().enumerate().map(choice).collect(),
            id: self.head.id,
            object: "chat.completion".to_owned(),
            created: self.head.created,
            model: self.head.model,
            usage: outcome.usage,
        })
    }

    /// An answer's text, taken apart.
    fn message(&self, index: usize, text: &str) -> AssistantMessage {
        let mut parser = self.choices[index].parser.clone();
        let mut pieces = parser.push(text);
        pieces.extend(parser.finish());
        let (mut content, mut reasoning, mut tool_calls) = (String::new(), String::new(), Vec::<ToolCall>::new());
        for piece in pieces {
            match piece {
                Piece::Content(text) => content += &text,
                Piece::Reasoning(text) => reasoning += &text,
                Piece::Call { name } => tool_calls.push(ToolCall {
                    id: call_id(&self.head.id, index, tool_calls.len()),
                    kind: "function".to_owned(),
                    function: FunctionCall { name, arguments: String::new() },
                }),
                Piece::Arguments(text) => {
                    if let Some(call) = tool_calls.last_mut() {
                        call.function.arguments += &text;
                    }
                }
            }
        }
        if !tool_calls.is_empty() {
            generation::note_tool_call(index);
        }
        AssistantMessage {
            role: "assistant".to_owned(),
            content: (tool_calls.is_empty() || !content.is_empty()).then_some(content),
            refusal: None,
            reasoning_content: (!reasoning.is_empty()).then_some(reasoning),
            tool_calls,
        }
    }

    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        ChatChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage: self.include_usage.then_some(usage),
        }
    }

    fn delta(
        &self,
        index: usize,
        delta: ChatDelta,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<FinishReason>,
    ) -> ChatChunk {
        self.chunk(vec![ChatChunkChoice { index, delta, logprobs, finish_reason }], None)
    }

    /// The chunk that tells the role, once per choice.
    fn begin(&mut self, index: usize) -> Option<ChatChunk> {
        if std::mem::replace(&mut self.choices[index].begun, true) {
            return None;
        }
        let role = Some("assistant".to_owned());
        let delta = ChatDelta { role, content: Some(String::new()), ..ChatDelta::default() };
        Some(self.delta(index, delta, None, None))
    }

    /// Pieces of an answer as chunks; the first has the log-probabilities.
    fn pieces(&mut self, index: usize, pieces: Vec<Piece>, mut logprobs: Option<ChatLogprobs>) -> Vec<ChatChunk> {
        let mut chunks = Vec::new();
        for piece in pieces {
            let delta = self.piece(index, piece);
            chunks.push(self.delta(index, delta, logprobs.take(), None));
        }
        if logprobs.is_some() {
            let delta = ChatDelta { content: Some(String::new()), ..ChatDelta::default() };
            chunks.push(self.delta(index, delta, logprobs, None));
        }
        chunks
    }

    fn piece(&mut self, index: usize, piece: Piece) -> ChatDelta {
        let choice = &mut self.choices[index];
        match piece {
            Piece::Content(text) => ChatDelta { content: Some(text), ..ChatDelta::default() },
            Piece::Reasoning(text) => ChatDelta { reasoning_content: Some(text), ..ChatDelta::default() },
            Piece::Call { name } => {
                generation::note_tool_call(index);
                let call = ToolCallDelta {
                    index: choice.calls,
                    id: Some(call_id(&self.head.id, index, choice.calls)),
                    kind: Some("function".to_owned()),
                    function: FunctionDelta { name: Some(name), arguments: Some(String::new()) },
                };
                choice.calls += 1;
                ChatDelta { tool_calls: vec![call], ..ChatDelta::default() }
            }
            Piece::Arguments(text) => {
                let function = FunctionDelta { name: None, arguments: Some(text) };
                let call =
                    ToolCallDelta { index: choice.calls.saturating_sub(1), function, ..ToolCallDelta::default() };
                ChatDelta { tool_calls: vec![call], ..ChatDelta::default() }
            }
        }
    }
}

/// Why an answer with so many calls ended.
fn finish_reason(reason: Option<FinishReason>, calls: usize) -> FinishReason {
    match reason.unwrap_or(FinishReason::Stop) {
        FinishReason::Stop if calls > 0 => FinishReason::ToolCalls,
        reason => reason,
    }
}

/// An answer put together again from its chunks.
struct Whole {
    answer: ChatCompletion,
    /// By choice; none yet of those that were not told to the end.
    finish_reasons: Vec<Option<FinishReason>>,
}

impl sse::Whole for Whole {
    type Chunk = ChatChunk;

    fn add(&mut self, chunk: &ChatChunk) {
        for ChatChunkChoice { index, delta, logprobs, finish_reason } in &chunk.choices {
            let (Some(choice), Some(reason)) =
                (self.answer.choices.get_mut(*index), self.finish_reasons.get_mut(*index))
            else {
                continue;
            };
            let message = &mut choice.message;
            append(&mut message.content, delta.content.as_deref());
            append(&mut message.reasoning_content, delta.reasoning_content.as_deref());
            delta.tool_calls.iter().for_each(|call| add_call(&mut message.tool_calls, call));
            if let (Some(told), Some(more)) = (&mut choice.logprobs, logprobs) {
                told.content.extend_from_slice(&more.content);
            }
            *reason = reason.or(*finish_reason);
        }
    }

    fn to_json(self) -> serde_json::Result<Value> {
        let mut answer = sse::as_sent(&self.answer)?;
        for (index, reason) in self.finish_reasons.into_iter().enumerate() {
            answer["choices"][index]["finish_reason"] = serde_json::to_value(reason)?;
        }
        Ok(answer)
    }
}

fn append(text: &mut Option<String>, more: Option<&str>) {
    if let Some(more) = more {
        text.get_or_insert_default().push_str(more);
    }
}

fn add_call(calls: &mut Vec<ToolCall>, delta: &ToolCallDelta) {
    let FunctionDelta { name, arguments } = &delta.function;
    if let Some(name) = name {
        let (id, kind) = (delta.id.clone().unwrap_or_default(), delta.kind.clone().unwrap_or_default());
        let function = FunctionCall { name: name.clone(), arguments: String::new() };
        calls.push(ToolCall { id, kind, function });
    }
    if let (Some(call), Some(more)) = (calls.get_mut(delta.index), arguments) {
        call.function.arguments.push_str(more);
    }
}

impl Chunks for Writer {
    type Chunk = ChatChunk;
    type Whole = Whole;

    fn whole(&self) -> Whole {
        let message = |index| ChatChoice {
            index,
            message: AssistantMessage {
                role: "assistant".to_owned(),
                content: None,
                refusal: None,
                reasoning_content: None,
                tool_calls: Vec::new(),
            },
            logprobs: self.logprobs.then(|| chat_logprobs(&self.tokenizer, &[])),
            finish_reason: FinishReason::Stop,
        };
        let answer = ChatCompletion {
            id: self.head.id.clone(),
            object: "chat.completion".to_owned(),
            created: self.head.created,
            model: self.head.model.clone(),
            choices: (0..self.choices.len()).map(message).collect(),
            usage: Usage::default(),
        };
        Whole { answer, finish_reasons: vec![None; self.choices.len()] }
    }

    fn complete(&mut self, whole: &mut Whole) {
        whole.answer.usage = self.usage;
        for ChatChoice { message, .. } in &mut whole.answer.choices {
            // As `Writer::message` tells it.
            message.content = message.content.take().filter(|text| message.tool_calls.is_empty() || !text.is_empty());
        }
    }

    fn chunks(&mut self, _: usize, event: Event) -> Vec<ChatChunk> {
        let mut chunks = Vec::new();
        match event {
            Event::Token { index, text, logprob, .. } => {
                chunks.extend(self.begin(index));
                let logprobs = logprob.map(|token| chat_logprobs(&self.tokenizer, &[token]));
                let pieces = self.choices[index].parser.push(&text);
                chunks.extend(self.pieces(index, pieces, logprobs));
            }
            Event::Finished { index, reason, text } => {
                chunks.extend(self.begin(index));
                let parser = &mut self.choices[index].parser;
                let mut pieces = parser.push(&text);
                pieces.extend(parser.finish());
                chunks.extend(self.pieces(index, pieces, None));
                let reason = finish_reason(Some(generation::finish_reason(&reason)), self.choices[index].calls);
                chunks.push(self.delta(index, ChatDelta::default(), None, Some(reason)));
            }
            Event::Done { usage, .. } => self.usage = generation::wire_usage(usage),
            Event::PromptLogprobs(_) | Event::Error(_) => {}
        }
        chunks
    }

    fn last(&mut self) -> Vec<ChatChunk> {
        self.include_usage.then(|| self.chunk(Vec::new(), Some(self.usage))).into_iter().collect()
    }
}
