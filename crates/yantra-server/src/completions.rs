//! `/v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use yantra_api::{
    ApiError, Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, ErrorBody, FinishReason, Prompt,
    Usage,
};
use yantra_engine::{Event, TokenLogprobs};
use yantra_text::Tokenizer;

use crate::body::JsonBody;
use crate::failure::{self, Failure};
use crate::generation::{self, Answer, Answers, Generation, Head, Outcome};
use crate::logprobs::CompletionWriter;
use crate::registry::{ServedModel, Task};
use crate::sse::{self, Chunks};
use crate::telemetry;
use crate::tenant::Visit;
use crate::tokenize::text_tokens;
use crate::work::Lane;

/// Continues one or several texts.
#[utoipa::path(
    post, path = "/v1/completions", tag = "Generation", request_body = CompletionRequest,
    responses(
        (status = 200, description = "The continuations; with `stream` as events, ended by `[DONE]`",
            content((Completion = "application/json"), (Completion = "text/event-stream"))),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 408, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
        (status = 429, description = "Too many requests wait; see `Retry-After`", body = ErrorBody),
        (status = 500, body = ErrorBody), (status = 503, body = ErrorBody),
    )
)]
pub(crate) async fn completions(
    visit: Visit,
    JsonBody(request, share): JsonBody<CompletionRequest>,
) -> Result<Response, Failure> {
    let app = &visit.app;
    let deadline = app.deadline();
    request.validate()?;
    let logprobs = request.logprobs()?;
    let constrained = request.constraint()?;
    let model = app.registry().find_for(request.model.as_deref(), Task::Generate)?;
    let generator = model.generator()?;
    let mut params = request.generation(&generator.defaults)?;
    telemetry::note(|record| {
        record.model(&model.id, request.model.as_deref());
        record.params(&params);
    });
    let n = params.n;
    params.n = request.best_of(n)?;
    let streamed = request.stream == Some(true);
    let include_usage = request.stream_options.as_ref().is_some_and(|options| options.include_usage == Some(true));
    let echo = request.echo == Some(true);

    generator.engine.check_queue().map_err(|error| failure::of_submit(error, "prompt"))?;
    let most = generator.longest_prompt(params.max_tokens);
    let (prompts, grammar) = {
        let model = Arc::clone(&model);
        let prepare = move || {
            let grammar = generation::grammar(&model.generator()?.engine, constrained)?;
            Ok((prompts_of(&model, &request, most)?, grammar))
        };
        app.lanes().run(Lane::Generate, deadline, prepare).await?
    };
    drop(share);
    telemetry::note(|record| record.texts(prompts.iter().map(|prompt| prompt.text.as_str())));
    let names: Vec<String> = match prompts.as_slice() {
        [_] => vec!["prompt".to_owned()],
        several => (0..several.len()).map(|index| format!("prompt[{index}]")).collect(),
    };
    // Choosing the best needs log-probabilities whether they are returned or not.
    let wanted = logprobs.or((params.n > n).then_some(0));
    let submit = |prompt: &EchoedPrompt| {
        let scored = echo && logprobs.is_some();
        generation::engine_request(&visit, &params, prompt.tokens.clone(), grammar.clone(), wanted, scored)
    };
    let requests = prompts.iter().map(submit).collect::<Result<_, _>>()?;
    let generation = Generation::start(&visit, &model, requests, &names, deadline)?;
    let choices = prompts.len() * n;
    let writer = Writer {
        head: Head::new("cmpl", &model.id),
        tokenizer: generator.tokenizer.clone(),
        skip_special: params.skip_special_tokens,
        logprobs: logprobs.is_some(),
        n,
        echo,
        include_usage: include_usage || !streamed,
        prompt_logprobs: vec![Vec::new(); prompts.len()],
        prompts,
        begun: vec![None; choices],
        usage: Usage::default(),
    };
    if streamed {
        return Ok(sse::respond(app, generation, writer));
    }
    let outcome = generation.collect(params.n).await?;
    Ok(Json(writer.whole(outcome)).into_response())
}

/// A prompt, and its text as an echo repeats it.
struct EchoedPrompt {
    tokens: Vec<u32>,
    text: String,
}

fn prompts_of(model: &ServedModel, request: &CompletionRequest, most: usize) -> Result<Vec<EchoedPrompt>, ApiError> {
    let add_special = request.add_special_tokens.unwrap_or(true);
    let from_text = |text: &String, param: &str| {
        let tokens = text_tokens(model, text, add_special, Some(most), param)?;
        Ok(EchoedPrompt { tokens, text: text.clone() })
    };
    let from_tokens = |tokens: &Vec<u32>, param: String| {
        let size = model.generator()?.tokenizer.vocab_size();
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= size) {
            return Err(ApiError::invalid_param(param, format!("token {token} given, the vocabulary has {size}")));
        }
        if tokens.is_empty() {
            return Err(ApiError::invalid_param(param, "no tokens given, at least 1 expected"));
        }
        Ok(EchoedPrompt { tokens: tokens.clone(), text: model.tokenizer().decode(tokens, true) })
    };
    let prompts = match &request.prompt {
        Prompt::Text(text) => Ok(vec![from_text(text, "prompt")?]),
        Prompt::Tokens(tokens) => Ok(vec![from_tokens(tokens, "prompt".to_owned())?]),
        Prompt::Texts(texts) => {
            texts.iter().enumerate().map(|(index, text)| from_text(text, &format!("prompt[{index}]"))).collect()
        }
        Prompt::TokenLists(lists) => {
            lists.iter().enumerate().map(|(index, tokens)| from_tokens(tokens, format!("prompt[{index}]"))).collect()
        }
    };
    let prompts: Vec<EchoedPrompt> = prompts?;
    // All of them before the first is submitted.
    match prompts.iter().position(|prompt| prompt.tokens.len() > most) {
        None => Ok(prompts),
        Some(index) => {
            let param = if prompts.len() == 1 { "prompt".to_owned() } else { format!("prompt[{index}]") };
            Err(ApiError::context_length_exceeded(prompts[index].tokens.len(), most).at(param))
        }
    }
}

/// Writes continuations, whole or in chunks.
struct Writer {
    head: Head,
    tokenizer: Tokenizer,
    /// Whether special tokens have no text in an answer.
    skip_special: bool,
    logprobs: bool,
    /// Choices returned per prompt.
    n: usize,
    echo: bool,
    include_usage: bool,
    prompts: Vec<EchoedPrompt>,
    prompt_logprobs: Vec<Vec<Option<TokenLogprobs>>>,
    /// Per choice, once it has had its first chunk: where its tokens are in its text.
    begun: Vec<Option<CompletionWriter>>,
    usage: Usage,
}

impl Writer {
    fn whole(mut self, outcome: Outcome) -> Completion {
        self.usage = outcome.usage;
        let mut choices = Vec::new();
        for (number, answers) in outcome.requests.into_iter().enumerate() {
            let Answers { choices: mut answers, prompt_logprobs } = answers;
            self.prompt_logprobs[number] = prompt_logprobs;
            if answers.len() > self.n {
                // A stable sort: among equals the earlier stays first.
                answers.sort_by(|a, b| b.mean_logprob().total_cmp(&a.mean_logprob()));
                answers.truncate(self.n);
            }
            for (index, answer) in answers.into_iter().enumerate() {
                choices.push(self.choice(number, index, answer));
            }
        }
        let usage = self.usage;
        self.completion(choices, Some(usage))
    }

    fn choice(&self, number: usize, index: usize, answer: Answer) -> CompletionChoice {
        let (mut writer, mut text, mut logprobs) = self.opening(number);
        text.push_str(&answer.text);
        for token in &answer.logprobs {
            writer.push(&mut logprobs, &self.tokenizer, token.id, Some(token));
        }
        let finish_reason = answer.finish_reason.or(Some(FinishReason::Stop));
        CompletionChoice {
            index: number * self.n + index,
            text,
            logprobs: self.logprobs.then_some(logprobs),
            finish_reason,
        }
    }

    /// What a choice begins with: the prompt, if it is to be echoed.
    fn opening(&self, number: usize) -> (CompletionWriter, String, CompletionLogprobs) {
        let mut logprobs = CompletionLogprobs::default();
        let answer = self.tokenizer.stream(self.skip_special);
        if !self.echo {
            return (CompletionWriter::new(answer), String::new(), logprobs);
        }
        let mut writer = CompletionWriter::new(self.tokenizer.stream(true).at_text_start());
        if self.logprobs {
            let tokens = self.prompts[number].tokens.iter().zip(&self.prompt_logprobs[number]);
            for (&id, token) in tokens {
                writer.push(&mut logprobs, &self.tokenizer, id, token.as_ref());
            }
        }
        writer.go_on_with(answer);
        (writer, self.prompts[number].text.clone(), logprobs)
    }

    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        Completion {
            id: self.head.id.clone(),
            object: "text_completion".to_owned(),
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage: self.include_usage.then_some(usage),
        }
    }

    /// One chunk, which a choice's first opens with the echo.
    fn piece(
        &mut self,
        (number, index): (usize, usize),
        text: &str,
        token: Option<&TokenLogprobs>,
        finish_reason: Option<FinishReason>,
    ) -> Option<Completion> {
        let choice = number * self.n + index;
        let (mut writer, mut opened, mut logprobs) = match self.begun[choice].take() {
            Some(writer) => (writer, String::new(), CompletionLogprobs::default()),
            None => self.opening(number),
        };
        opened.push_str(text);
        if let Some(token) = token {
            writer.push(&mut logprobs, &self.tokenizer, token.id, Some(token));
        }
        self.begun[choice] = Some(writer);
        if opened.is_empty() && logprobs.tokens.is_empty() && finish_reason.is_none() {
            return None;
        }
        let logprobs = (self.logprobs && !logprobs.tokens.is_empty()).then_some(logprobs);
        let choice = CompletionChoice { index: choice, text: opened, logprobs, finish_reason };
        Some(self.completion(vec![choice], None))
    }
}

impl sse::Whole for Completion {
    type Chunk = Self;

    fn add(&mut self, chunk: &Self) {
        for CompletionChoice { index, text, logprobs, finish_reason } in &chunk.choices {
            let Some(choice) = self.choices.get_mut(*index) else { continue };
            choice.text.push_str(text);
            choice.finish_reason = choice.finish_reason.or(*finish_reason);
            if let (Some(told), Some(more)) = (&mut choice.logprobs, logprobs) {
                told.text_offset.extend_from_slice(&more.text_offset);
                told.token_logprobs.extend_from_slice(&more.token_logprobs);
                told.tokens.extend_from_slice(&more.tokens);
                told.top_logprobs.extend_from_slice(&more.top_logprobs);
            }
        }
    }

    fn to_json(self) -> serde_json::Result<Value> {
        sse::as_sent(&self)
    }
}

impl Chunks for Writer {
    type Chunk = Completion;
    type Whole = Completion;

    fn whole(&self) -> Completion {
        let choice = |index| CompletionChoice {
            index,
            text: String::new(),
            logprobs: self.logprobs.then(CompletionLogprobs::default),
            finish_reason: None,
        };
        self.completion((0..self.begun.len()).map(choice).collect(), None)
    }

    fn complete(&mut self, whole: &mut Completion) {
        whole.usage = Some(Some(self.usage));
    }

    fn chunks(&mut self, number: usize, event: Event) -> Vec<Completion> {
        match event {
            Event::PromptLogprobs(logprobs) => {
                self.prompt_logprobs[number] = logprobs;
                Vec::new()
            }
            Event::Token { index, text, logprob, .. } => {
                self.piece((number, index), &text, logprob.as_ref(), None).into_iter().collect()
            }
            Event::Finished { index, reason, text } => {
                let reason = generation::finish_reason(&reason);
                self.piece((number, index), &text, None, Some(reason)).into_iter().collect()
            }
            Event::Done { usage, .. } => {
                self.usage = self.usage.plus(generation::wire_usage(usage));
                Vec::new()
            }
            Event::Error(_) => Vec::new(),
        }
    }

    fn last(&mut self) -> Vec<Completion> {
        self.include_usage.then(|| self.completion(Vec::new(), Some(self.usage))).into_iter().collect()
    }
}
