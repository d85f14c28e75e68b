//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use yantra_api::{
    ApiError, AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatLogprobs,
    ChatRequest, ErrorBody, FinishReason, Usage,
};
use yantra_engine::Event;
use yantra_text::Tokenizer;

use crate::app::App;
use crate::body::JsonBody;
use crate::failure::{self, Failure};
use crate::generation::{self, Generation, Head, Outcome};
use crate::logprobs::chat_logprobs;
use crate::registry::{ServedModel, Task};
use crate::sse::{self, Chunks};
use crate::tokenize::{Conversation, conversation_tokens};
use crate::work::Lane;

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
    State(app): State<App>,
    JsonBody(request, share): JsonBody<ChatRequest>,
) -> Result<Response, Failure> {
    let deadline = app.deadline();
    request.validate()?;
    let logprobs = request.logprobs()?;
    let constrained = request.constraint()?;
    let model = app.registry().find_for(request.model.as_deref(), Task::Generate)?;
    let generator = model.generator()?;
    let params = request.generation(&generator.defaults)?;
    let streamed = request.stream == Some(true);
    let include_usage = request.stream_options.as_ref().is_some_and(|options| options.include_usage == Some(true));

    generator.engine.check_queue().map_err(|error| failure::of_submit(error, "messages"))?;
    let most = generator.longest_prompt(params.max_tokens);
    let (prompt, grammar) = {
        let model = Arc::clone(&model);
        let prepare = move || {
            let grammar = generation::grammar(&model.generator()?.engine, constrained)?;
            Ok((prompt_tokens(&model, &request, most)?, grammar))
        };
        app.lanes().run(Lane::Generate, deadline, prepare).await?
    };
    drop(share);
    let submitted = generation::engine_request(&params, prompt, grammar, logprobs, false);
    let generation = Generation::start(&generator.engine, vec![submitted], &["messages".to_owned()], deadline)?;
    let writer = Writer {
        head: Head::new("chatcmpl", &model.id),
        tokenizer: generator.tokenizer.clone(),
        logprobs: logprobs.is_some(),
        include_usage,
        begun: vec![false; params.n],
        usage: Usage::default(),
    };
    if streamed {
        return Ok(sse::respond(&app, generation, writer));
    }
    let outcome = generation.collect(params.n).await?;
    Ok(Json(writer.whole(outcome)?).into_response())
}

fn prompt_tokens(model: &ServedModel, request: &ChatRequest, most: usize) -> Result<Vec<u32>, ApiError> {
    let tools = request.template_tools();
    let chat = Conversation {
        messages: &request.messages,
        tools: tools.as_ref(),
        template_variables: request.chat_template_kwargs.as_ref(),
        add_generation_prompt: request.add_generation_prompt.unwrap_or(true),
        add_special_tokens: false,
    };
    conversation_tokens(model, &chat, Some(most))
}

/// Writes an answer, whole or in chunks.
struct Writer {
    head: Head,
    tokenizer: Tokenizer,
    logprobs: bool,
    include_usage: bool,
    /// Which choices have had their first chunk.
    begun: Vec<bool>,
    usage: Usage,
}

impl Writer {
    fn whole(self, outcome: Outcome) -> Result<ChatCompletion, ApiError> {
        let answers = outcome.requests.into_iter().next();
        let answers = answers.ok_or_else(|| ApiError::internal("no answer was generated"))?;
        let choice = |(index, answer): (usize, generation::Answer)| ChatChoice {
            index,
            message: AssistantMessage { role: "assistant".to_owned(), content: Some(answer.text), refusal: None },
            logprobs: self.logprobs.then(|| chat_logprobs(&self.tokenizer, &answer.logprobs)),
            finish_reason: answer.finish_reason.unwrap_or(FinishReason::Stop),
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
        if std::mem::replace(&mut self.begun[index], true) {
            return None;
        }
        let delta = ChatDelta { role: Some("assistant".to_owned()), content: Some(String::new()) };
        Some(self.delta(index, delta, None, None))
    }

    fn text(&self, index: usize, text: String, logprobs: Option<ChatLogprobs>) -> ChatChunk {
        self.delta(index, ChatDelta { role: None, content: Some(text) }, logprobs, None)
    }
}

impl Chunks for Writer {
    type Chunk = ChatChunk;

    fn chunks(&mut self, _: usize, event: Event) -> Vec<ChatChunk> {
        let mut chunks = Vec::new();
        match event {
            Event::Token { index, text, logprob, .. } => {
                chunks.extend(self.begin(index));
                let logprobs = logprob.map(|token| chat_logprobs(&self.tokenizer, &[token]));
                if !text.is_empty() || logprobs.is_some() {
                    chunks.push(self.text(index, text, logprobs));
                }
            }
            Event::Finished { index, reason, text } => {
                chunks.extend(self.begin(index));
                if !text.is_empty() {
                    chunks.push(self.text(index, text, None));
                }
                let reason = generation::finish_reason(&reason);
                chunks.push(self.delta(index, ChatDelta::default(), None, Some(reason)));
            }
            Event::Done { usage, .. } => self.usage = generation::wire_usage(usage),
            Event::PromptLogprobs(_) | Event::Error(_) => {}
        }
        chunks
    }

    fn last(&mut self) -> Option<ChatChunk> {
        self.include_usage.then(|| self.chunk(Vec::new(), Some(self.usage)))
    }
}
