//! One HTTP request's generations: submitted together, their events carried from the engines' threads to the response,
//! and cancelled when the response is dropped (the client went away) or its time is over.

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout_at};
use yantra_api::{ApiError, Constrained, FinishReason, GenerationParams, Reasoning, Usage};
use yantra_engine::{
    Constraint, EngineHandle, Event, Grammar, Preface, Request, RequestId, SamplingParams, TokenLogprobs,
};
use yantra_store::Used;

use crate::failure;
use crate::registry::{Generator, ServedModel};
use crate::requests;
use crate::storage::now;
use crate::telemetry;
use crate::tenant::Visit;

/// Running generations of one HTTP request.
#[derive(Debug)]
pub(crate) struct Generation {
    engine: EngineHandle,
    /// Unbounded, but never long: it holds at most the tokens of these requests, which `max_tokens` and the context bound.
    events: UnboundedReceiver<(usize, Event)>,
    /// Requests that have not ended.
    open: Vec<Option<RequestId>>,
    deadline: Instant,
    visit: Visit,
    model: String,
    /// By request.
    used: Vec<Used>,
}

impl Generation {
    /// Submits all requests, or none; `prompts` are what the API calls their prompts.
    pub(crate) fn start(
        visit: &Visit,
        model: &ServedModel,
        requests: Vec<Request>,
        prompts: &[String],
        deadline: Instant,
    ) -> Result<Self, ApiError> {
        let (sender, events) = unbounded_channel();
        let Generator { engine, adapter, .. } = model.generator()?;
        // Dropping it on an error below cancels those already submitted.
        let mut generation = Self {
            engine: engine.clone(),
            events,
            open: Vec::new(),
            deadline,
            visit: visit.clone(),
            model: model.id.clone(),
            used: Vec::new(),
        };
        let current = requests::current();
        for (number, mut request) in requests.into_iter().enumerate() {
            request.adapter.clone_from(adapter);
            let sender = sender.clone();
            let current = current.clone();
            let sink = move |mut event| {
                if let Some(current) = &current {
                    current.kept.event(number, &mut event);
                }
                sender.send((number, event)).is_ok()
            };
            let prompt = prompts.get(number).map_or("prompt", String::as_str);
            let refused = |error| failure::of_submit(error, prompt);
            let used = Used { prompt_tokens: request.prompt.len() as u64, ..Used::default() };
            let priority = request.priority;
            let id = engine.submit(request, Box::new(sink)).map_err(refused)?;
            requests::note_submitted(&visit.app, &model.id, priority);
            generation.open.push(Some(id));
            generation.used.push(used);
        }
        telemetry::note(|record| record.submitted());
        tracing::debug!(request_id = &*visit.request_id, model = model.id, prompts = prompts.len(), "submitted");
        Ok(generation)
    }

    /// The next event and the number of the request it belongs to; `None` when all have ended. After an error the
    /// generation is of no more use.
    pub(crate) async fn next(&mut self) -> Option<Result<(usize, Event), ApiError>> {
        if self.open.iter().all(Option::is_none) {
            return None;
        }
        let Ok(received) = timeout_at(self.deadline, self.events.recv()).await else {
            return Some(Err(ApiError::timeout("the answer was not complete in time and has been cancelled")));
        };
        Some(match received {
            None => Err(ApiError::internal("the engine dropped the request")),
            Some((number, Event::Error(error))) => {
                self.open[number] = None;
                Err(failure::of_engine(&error))
            }
            // Only the server itself cancels: here, when nobody reads this any more, or while stopping.
            Some((_, Event::Finished { reason: yantra_engine::FinishReason::Cancelled, .. })) => {
                Err(ApiError::shutting_down())
            }
            Some((number, event)) => {
                telemetry::note(|record| record.event(number, &event));
                match &event {
                    Event::Token { .. } => self.used[number].completion_tokens += 1,
                    Event::Done { usage, .. } => {
                        self.open[number] = None;
                        self.used[number].completion_tokens = usage.completion_tokens as u64;
                        self.used[number].cached_prompt_tokens = usage.cached_prompt_tokens as u64;
                    }
                    _ => {}
                }
                Ok((number, event))
            }
        })
    }

    /// Waits for all events.
    pub(crate) async fn collect(mut self, choices: usize) -> Result<Outcome, ApiError> {
        let request = || Answers { choices: vec![Answer::default(); choices], prompt_logprobs: Vec::new() };
        let mut outcome = Outcome { requests: self.open.iter().map(|_| request()).collect(), usage: Usage::default() };
        while let Some(next) = self.next().await {
            let (number, event) = next?;
            outcome.take(number, event);
        }
        Ok(outcome)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        for id in self.open.iter().flatten() {
            self.engine.cancel(*id);
        }
        if self.open.is_empty() {
            return;
        }
        let mut used = self.used.iter().fold(Used::default(), |sum, used| sum.plus(*used));
        used.requests = 1;
        self.visit.app.usage().note(&self.visit.tenant, &self.model, used);
    }
}

/// Everything that was generated.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) requests: Vec<Answers>,
    pub(crate) usage: Usage,
}

/// One engine request's choices.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) choices: Vec<Answer>,
    pub(crate) prompt_logprobs: Vec<Option<TokenLogprobs>>,
}

/// One choice.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) logprobs: Vec<TokenLogprobs>,
    pub(crate) finish_reason: Option<FinishReason>,
}

impl Answer {
    /// Mean log-probability per token; an empty answer is the least likely.
    pub(crate) fn mean_logprob(&self) -> f32 {
        match self.logprobs.len() {
            0 => f32::NEG_INFINITY,
            count => self.logprobs.iter().map(|token| token.logprob).sum::<f32>() / count as f32,
        }
    }
}

impl Outcome {
    fn take(&mut self, number: usize, event: Event) {
        let answers = &mut self.requests[number];
        match event {
            Event::PromptLogprobs(logprobs) => answers.prompt_logprobs = logprobs,
            Event::Token { index, text, logprob, .. } => {
                answers.choices[index].text.push_str(&text);
                answers.choices[index].logprobs.extend(logprob);
            }
            Event::Finished { index, reason, text } => {
                answers.choices[index].text.push_str(&text);
                answers.choices[index].finish_reason = Some(finish_reason(&reason));
            }
            Event::Done { usage, .. } => self.usage = self.usage.plus(wire_usage(usage)),
            // `Generation::next` has made an error of it.
            Event::Error(_) => {}
        }
    }
}

/// The engine's request for one prompt.
pub(crate) fn engine_request(
    visit: &Visit,
    params: &GenerationParams,
    prompt: Vec<u32>,
    grammar: Option<Grammar>,
    logprobs: Option<usize>,
    prompt_logprobs: bool,
) -> Result<Request, ApiError> {
    let Visit { app, tenant, .. } = visit;
    Ok(Request {
        prompt,
        n: params.n,
        max_tokens: params.max_tokens,
        sampling: SamplingParams {
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            logit_bias: params.logit_bias.clone(),
            seed: params.seed,
        },
        stop: params.stop.clone(),
        include_stop: params.include_stop,
        stop_tokens: params.stop_tokens.clone(),
        ignore_eos: params.ignore_eos,
        grammar,
        logprobs,
        prompt_logprobs,
        skip_special_tokens: params.skip_special_tokens,
        priority: tenant.priority(params.priority)?,
        tenant: tenant.shared_name(),
        weight: tenant.weight(),
        cache_salt: match app.keys().is_shared() {
            true => params.cache_salt.clone(),
            false => tenant.cache_salt(params.cache_salt.clone()),
        },
        // Known where the request is submitted.
        adapter: None,
        max_draft: None,
    })
}

/// Compiles what an answer must be. May take long.
pub(crate) fn grammar(engine: &EngineHandle, constrained: Option<Constrained>) -> Result<Option<Grammar>, ApiError> {
    let Some(Constrained { constraint, param, after }) = constrained else { return Ok(None) };
    let constraint = match constraint {
        yantra_api::Constraint::JsonSchema(schema) => Constraint::JsonSchema(schema),
        yantra_api::Constraint::Regex(regex) => Constraint::Regex(regex),
        yantra_api::Constraint::Lark(grammar) => Constraint::Lark(grammar),
        yantra_api::Constraint::Gbnf(grammar) => Constraint::Gbnf(grammar),
        yantra_api::Constraint::Grammar(grammar) => Constraint::of_grammar(grammar),
        yantra_api::Constraint::Choice(choices) => Constraint::Choice(choices),
    };
    let constraint = match after.and_then(preface) {
        Some(preface) => Constraint::After(preface, Box::new(constraint)),
        None => constraint,
    };
    engine.compile(&constraint).map(Some).map_err(|error| failure::of_constraint(&error, &param))
}

/// The reasoning before an answer, as the engine takes it; `None` where there can be none.
fn preface(reasoning: Reasoning) -> Option<Preface> {
    if reasoning.is_over {
        return None;
    }
    let (between, without) = if reasoning.is_harmony() { Reasoning::HARMONY_ANSWER } else { ("", "") };
    Some(Preface {
        begin: (!reasoning.is_begun).then(|| reasoning.begin.to_owned()),
        end: reasoning.end.to_owned(),
        between: between.to_owned(),
        without: without.to_owned(),
    })
}

/// A choice calls a tool.
pub(crate) fn note_tool_call(index: usize) {
    telemetry::note(|record| record.tool_call(index));
    requests::note(|kept| kept.tool_call(index));
}

/// How OpenAI calls the reasons.
pub(crate) fn finish_reason(reason: &yantra_engine::FinishReason) -> FinishReason {
    match reason {
        yantra_engine::FinishReason::Length => FinishReason::Length,
        _ => FinishReason::Stop,
    }
}

pub(crate) fn wire_usage(usage: yantra_engine::Usage) -> Usage {
    Usage::new(usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens)
}

/// What all parts of one answer have in common.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
}

impl Head {
    pub(crate) fn new(prefix: &str, model: &str) -> Self {
        let created = now();
        let id = format!("{prefix}-{}", uuid::Uuid::new_v4().simple());
        telemetry::note(|record| record.answer_id(&id));
        requests::note(|kept| kept.answer_id(&id));
        Self { id, created, model: model.to_owned() }
    }
}
