//! What becomes known of a request while it is answered; spans are made of it at its end, with the times it had.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use yantra_api::{ApiError, ChatMessage, GenerationParams};
use yantra_engine::{Event, FinishReason, Timings, Usage};

use super::{Telemetry, content, names};
use crate::observe::REQUEST_ID;

/// One request. Its spans are exported when the last who knows of it lets it go.
#[derive(Debug)]
pub(crate) struct Record {
    telemetry: Telemetry,
    operation: &'static str,
    /// The client's span, if it sent one.
    parent: Context,
    begun: SystemTime,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    attributes: Vec<KeyValue>,
    model: Option<String>,
    /// When the engine was given the request.
    submitted: Option<SystemTime>,
    /// What the engine did for each prompt.
    runs: Vec<Run>,
    /// By prompt and choice.
    choices: BTreeMap<(usize, usize), Choice>,
    /// Bytes of answers that were noted.
    answer_bytes: usize,
    status: Option<u16>,
    error: Option<Cow<'static, str>>,
}

#[derive(Debug)]
struct Run {
    number: usize,
    usage: Usage,
    timings: Timings,
}

#[derive(Debug, Default)]
struct Choice {
    text: String,
    finish_reason: &'static str,
    has_calls: bool,
}

impl Record {
    pub(super) fn begin(telemetry: &Telemetry, operation: &'static str, route: &str, headers: &HeaderMap) -> Self {
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let mut attributes = vec![
            KeyValue::new(names::OPERATION, operation),
            KeyValue::new(names::PROVIDER_NAME, names::PROVIDER),
            KeyValue::new(names::SERVER_ADDRESS, telemetry.inner.host.clone()),
            KeyValue::new(names::SERVER_PORT, i64::from(telemetry.inner.port)),
            KeyValue::new(names::HTTP_METHOD, "POST"),
            KeyValue::new(names::HTTP_ROUTE, route.to_owned()),
        ];
        if let Some(id) = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok()) {
            attributes.push(strings(names::HTTP_REQUEST_ID, [id.to_owned()]));
        }
        let facts = Mutex::new(Facts { attributes, ..Facts::default() });
        Self { telemetry: telemetry.clone(), operation, parent, begun: SystemTime::now(), facts }
    }

    fn learn(&self, learn: impl FnOnce(&mut Facts)) {
        learn(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Which model is to answer, and by which name the request asked for it.
    pub(crate) fn model(&self, id: &str, requested: Option<&str>) {
        self.learn(|facts| {
            let requested = requested.unwrap_or(id);
            facts.model = Some(requested.to_owned());
            facts.attributes.push(KeyValue::new(names::REQUEST_MODEL, requested.to_owned()));
            facts.attributes.push(KeyValue::new(names::RESPONSE_MODEL, id.to_owned()));
        });
    }

    /// How it is to answer; what is left at its neutral value is left out.
    pub(crate) fn params(&self, params: &GenerationParams) {
        let mut attributes = vec![
            KeyValue::new(names::REQUEST_TEMPERATURE, double(params.temperature)),
            KeyValue::new(names::REQUEST_TOP_P, double(params.top_p)),
        ];
        let mut add = |name, value: Option<Value>| attributes.extend(value.map(|value| KeyValue::new(name, value)));
        let integer = |value: usize| Value::I64(i64::try_from(value).unwrap_or(i64::MAX));
        let penalty = |value: f32| (value != 0.0).then(|| Value::F64(double(value)));
        add(names::REQUEST_MAX_TOKENS, params.max_tokens.map(integer));
        add(names::REQUEST_CHOICES, (params.n != 1).then(|| integer(params.n)));
        add(names::REQUEST_TOP_K, (params.top_k > 0).then_some(Value::F64(params.top_k as f64)));
        add(names::REQUEST_FREQUENCY_PENALTY, penalty(params.frequency_penalty));
        add(names::REQUEST_PRESENCE_PENALTY, penalty(params.presence_penalty));
        add(names::REQUEST_SEED, params.seed.and_then(|seed| i64::try_from(seed).ok()).map(Value::I64));
        // What a user wrote.
        if self.telemetry.inner.content && !params.stop.is_empty() {
            attributes.push(strings(names::REQUEST_STOP_SEQUENCES, params.stop.iter().cloned()));
        }
        self.learn(|facts| facts.attributes.extend(attributes));
    }

    /// The conversation to continue.
    pub(crate) fn conversation(&self, messages: &[ChatMessage]) {
        self.input(|| content::conversation(messages));
    }

    /// The texts to continue.
    pub(crate) fn texts<'a>(&self, texts: impl DoubleEndedIterator<Item = &'a str>) {
        self.input(|| content::texts(texts));
    }

    fn input(&self, messages: impl FnOnce() -> String) {
        if self.telemetry.inner.content {
            let messages = messages();
            self.learn(|facts| facts.attributes.push(KeyValue::new(names::INPUT_MESSAGES, messages)));
        }
    }

    /// The engine has been given the request.
    pub(crate) fn submitted(&self) {
        self.learn(|facts| facts.submitted = Some(SystemTime::now()));
    }

    /// The engine has done something about prompt `number`.
    pub(crate) fn event(&self, number: usize, event: &Event) {
        match event {
            Event::Token { index, text, .. } => self.answer((number, *index), text),
            Event::Finished { index, reason, text } => {
                self.answer((number, *index), text);
                let reason = match reason {
                    FinishReason::Length => "length",
                    _ => "stop",
                };
                self.learn(|facts| facts.choices.entry((number, *index)).or_default().finish_reason = reason);
            }
            Event::Done { usage, timings, .. } => {
                let run = Run { number, usage: *usage, timings: *timings };
                self.learn(|facts| facts.runs.push(run));
            }
            Event::PromptLogprobs(_) | Event::Error(_) => {}
        }
    }

    fn answer(&self, choice: (usize, usize), text: &str) {
        if self.telemetry.inner.content {
            self.learn(|facts| {
                let text = content::cut(text, content::MAX_BYTES - facts.answer_bytes);
                facts.answer_bytes += text.len();
                facts.choices.entry(choice).or_default().text.push_str(text);
            });
        }
    }

    /// A choice of the first prompt calls a tool.
    pub(crate) fn tool_call(&self, index: usize) {
        self.learn(|facts| facts.choices.entry((0, index)).or_default().has_calls = true);
    }

    /// So many tokens have been embedded.
    pub(crate) fn embedded(&self, tokens: usize) {
        self.learn(|facts| facts.attributes.push(count(names::INPUT_TOKENS, tokens)));
    }

    /// The answer's name.
    pub(crate) fn answer_id(&self, id: &str) {
        self.learn(|facts| facts.attributes.push(KeyValue::new(names::RESPONSE_ID, id.to_owned())));
    }

    /// The request failed; the first reason counts.
    pub(crate) fn failed(&self, error: &ApiError) {
        let error = Cow::Borrowed(error.code.unwrap_or(error.kind));
        self.learn(|facts| facts.error = facts.error.take().or(Some(error)));
    }

    /// The answer has begun.
    pub(super) fn responded(&self, status: u16, is_stream: bool) {
        self.learn(|facts| {
            facts.status = Some(status);
            if status >= 400 && facts.error.is_none() {
                facts.error = Some(Cow::Owned(status.to_string()));
            }
            if is_stream {
                facts.attributes.push(KeyValue::new(names::REQUEST_STREAM, true));
            }
        });
    }

    /// Nobody waits for the answer any more.
    pub(super) fn cancelled(&self) {
        self.learn(|facts| facts.error = facts.error.take().or(Some(Cow::Borrowed(names::CANCELLED))));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let ended = SystemTime::now();
        let mut facts = std::mem::take(self.facts.get_mut().unwrap_or_else(PoisonError::into_inner));
        if facts.status.is_none() {
            facts.error.get_or_insert(Cow::Borrowed(names::CANCELLED));
        }
        let tracer = &self.telemetry.inner.tracer;
        let name = match &facts.model {
            Some(model) => format!("{} {model}", self.operation),
            None => self.operation.to_owned(),
        };
        let span = tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .with_start_time(self.begun)
            .with_attributes(facts.all_attributes(self.telemetry.inner.content))
            .start_with_context(tracer, &self.parent);
        if !span.is_recording() {
            return;
        }
        let context = Context::new().with_span(span);
        for run in &facts.runs {
            run.export(&self.telemetry, &context, facts.submitted.unwrap_or(self.begun));
        }
        // That a client asked for what can not be is no error of the server.
        if let Some(error) = facts.error.filter(|_| facts.status.is_none_or(|status| !(400..500).contains(&status))) {
            context.span().set_status(Status::error(error));
        }
        context.span().end_with_timestamp(ended);
    }
}

impl Facts {
    /// What is known at the end.
    fn all_attributes(&mut self, content: bool) -> Vec<KeyValue> {
        let mut attributes = std::mem::take(&mut self.attributes);
        attributes.extend(self.status.map(|status| KeyValue::new(names::HTTP_STATUS, i64::from(status))));
        attributes.extend(self.error.clone().map(|error| KeyValue::new(names::ERROR_TYPE, error)));
        if !self.runs.is_empty() {
            let sum = |tokens: fn(&Usage) -> usize| self.runs.iter().map(|run| tokens(&run.usage)).sum();
            attributes.push(count(names::INPUT_TOKENS, sum(|usage| usage.prompt_tokens)));
            attributes.push(count(names::CACHED_INPUT_TOKENS, sum(|usage| usage.cached_prompt_tokens)));
            attributes.push(count(names::OUTPUT_TOKENS, sum(|usage| usage.completion_tokens)));
        }
        let finished: Vec<&Choice> = self.choices.values().filter(|it| !it.finish_reason.is_empty()).collect();
        if !finished.is_empty() {
            let reasons = finished.iter().map(|choice| choice.reason().to_owned());
            attributes.push(strings(names::RESPONSE_FINISH_REASONS, reasons));
        }
        if content && !self.choices.is_empty() {
            let message = |choice: &Choice| {
                let mut message = content::message("assistant", &choice.text);
                message["finish_reason"] = choice.reason().into();
                message
            };
            let messages: serde_json::Value = self.choices.values().map(message).collect();
            attributes.push(KeyValue::new(names::OUTPUT_MESSAGES, messages.to_string()));
        }
        attributes
    }
}

impl Choice {
    fn reason(&self) -> &'static str {
        if self.has_calls && self.finish_reason == "stop" { "tool_calls" } else { self.finish_reason }
    }
}

impl Run {
    /// The three parts of the engine's work, one after the other.
    fn export(&self, telemetry: &Telemetry, parent: &Context, submitted: SystemTime) {
        let Self { number, usage, timings } = self;
        let at = |ms: f64| submitted + Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default();
        let computed = timings.time_to_first_token_ms.unwrap_or(timings.total_ms);
        let input = vec![
            count(names::INPUT_TOKENS, usage.prompt_tokens),
            count(names::CACHED_INPUT_TOKENS, usage.cached_prompt_tokens),
        ];
        let child = |name: &'static str, from: f64, to: f64, mut attributes: Vec<KeyValue>| {
            attributes.push(count(names::PROMPT_NUMBER, *number));
            let tracer = &telemetry.inner.tracer;
            let builder = tracer.span_builder(name).with_start_time(at(from)).with_attributes(attributes);
            builder.start_with_context(tracer, parent).end_with_timestamp(at(to));
        };
        child(names::QUEUE, 0.0, timings.queue_ms, Vec::new());
        child(names::PREFILL, timings.queue_ms, computed, input);
        if timings.time_to_first_token_ms.is_some() {
            let output = vec![count(names::OUTPUT_TOKENS, usage.completion_tokens)];
            child(names::DECODE, computed, timings.total_ms, output);
        }
    }
}

/// A number of things.
fn count(name: &'static str, count: usize) -> KeyValue {
    KeyValue::new(name, i64::try_from(count).unwrap_or(i64::MAX))
}

fn strings(name: &'static str, values: impl IntoIterator<Item = String>) -> KeyValue {
    KeyValue::new(name, Value::Array(Array::String(values.into_iter().map(StringValue::from).collect())))
}

/// The number that was meant: 0.7, not 0.699999988079071.
fn double(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
