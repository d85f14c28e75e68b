//! One request, as far as it is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use yantra_api::{
    ApiError, RequestChunk, RequestGap, RequestInterruption, RequestRecord, RequestState, RequestSummary,
    RequestTimeline, Usage,
};
use yantra_engine::timeline::{Gap, Interruption, Timeline};
use yantra_engine::{Event, FinishReason};

use super::why;
use crate::app::App;
use crate::generation::wire_usage;
use crate::tenant::Tenant;

/// Prompts of one request whose timelines are kept.
const MAX_TIMELINES: usize = 8;
/// Choices whose ends are kept.
const MAX_REASONS: usize = 128;

#[derive(Debug)]
pub(crate) struct Kept {
    /// `x-request-id`.
    id: Arc<str>,
    tenant: Tenant,
    endpoint: String,
    /// Whether it may be in the list.
    is_listed: bool,
    /// Whether what it says is kept.
    is_traced: bool,
    created: SystemTime,
    begun: Instant,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    model: String,
    priority: i32,
    answer_id: Option<String>,
    stream: bool,
    status: Option<u16>,
    error: Option<String>,
    is_cancelled: bool,
    submitted: Option<Instant>,
    ended: Option<Instant>,
    queue_ms: Option<f64>,
    time_to_first_token_ms: Option<f64>,
    usage: Usage,
    reasons: BTreeMap<(usize, usize), &'static str>,
    /// Choices that call tools.
    callers: BTreeSet<usize>,
    timelines: Vec<Run>,
}

/// What the engine did for a prompt.
#[derive(Debug)]
struct Run {
    number: usize,
    usage: Usage,
    timeline: Box<Timeline>,
}

impl Kept {
    pub(super) fn new(id: &str, tenant: Tenant, endpoint: String, is_listed: bool, is_traced: bool) -> Self {
        let (created, begun) = (SystemTime::now(), Instant::now());
        Self { id: id.into(), tenant, endpoint, is_listed, is_traced, created, begun, facts: Mutex::default() }
    }

    /// The endpoint's path.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A model has taken its work; from now on it is in the list, if it is one of those.
    pub(crate) fn submitted(self: &Arc<Self>, app: &App, model: &str, priority: i32) {
        {
            let mut facts = self.facts();
            if facts.submitted.replace(Instant::now()).is_some() {
                return;
            }
            (facts.model, facts.priority) = (model.to_owned(), priority);
        }
        if self.is_listed {
            app.requests().add(Arc::clone(self));
        }
    }

    /// The engine has done something about prompt `number`. Called on its thread, for each token too.
    pub(crate) fn event(&self, number: usize, event: &mut Event) {
        match event {
            Event::Finished { index, reason, .. } => {
                let Some(name) = name_of(reason) else { return };
                let mut facts = self.facts();
                if facts.reasons.len() < MAX_REASONS {
                    facts.reasons.insert((number, *index), name);
                }
            }
            Event::Done { usage, timings, timeline } => {
                let (usage, timeline) = (wire_usage(*usage), std::mem::take(timeline));
                let mut facts = self.facts();
                facts.usage = facts.usage.plus(usage);
                facts.queue_ms = Some(facts.queue_ms.unwrap_or(0.0).max(timings.queue_ms));
                let first = facts.time_to_first_token_ms.into_iter().chain(timings.time_to_first_token_ms);
                facts.time_to_first_token_ms = first.reduce(f64::min);
                if facts.timelines.len() < MAX_TIMELINES {
                    facts.timelines.push(Run { number, usage, timeline });
                }
            }
            Event::PromptLogprobs(_) | Event::Token { .. } | Event::Error(_) => {}
        }
    }

    /// So many tokens have been embedded.
    pub(crate) fn embedded(&self, tokens: usize) {
        self.facts().usage = Usage::new(tokens, 0, 0);
    }

    /// The answer's name.
    pub(crate) fn answer_id(&self, id: &str) {
        self.facts().answer_id = Some(id.to_owned());
    }

    /// It failed; the first reason counts.
    pub(crate) fn failed(&self, error: &ApiError) {
        self.facts().error.get_or_insert_with(|| error.code.unwrap_or(error.kind).to_owned());
    }

    /// The answer has begun. Whether it is worth following to its end.
    pub(super) fn responded(&self, status: u16, stream: bool) -> bool {
        let mut facts = self.facts();
        (facts.status, facts.stream) = (Some(status), stream);
        facts.submitted.is_some()
    }

    /// The answer is out, or nobody waits for it any more.
    pub(super) fn end(&self, is_whole: bool) {
        let mut facts = self.facts();
        facts.ended = Some(Instant::now());
        facts.is_cancelled = !is_whole;
    }

    pub(super) fn is_of(&self, tenant: &Tenant) -> bool {
        tenant.name().is_none() || *tenant == self.tenant
    }

    pub(super) fn is_called(&self, id: &str) -> bool {
        &*self.id == id || self.facts().answer_id.as_deref() == Some(id)
    }

    /// The main figures.
    pub(crate) fn summary(&self) -> RequestSummary {
        self.summarise(&self.facts())
    }

    fn summarise(&self, facts: &Facts) -> RequestSummary {
        let since = |end: Option<Instant>| {
            end.unwrap_or_else(Instant::now).saturating_duration_since(self.begun).as_secs_f64() * 1e3
        };
        let state = match facts {
            Facts { ended: None, .. } => RequestState::Running,
            Facts { is_cancelled: true, .. } => RequestState::Cancelled,
            Facts { error: Some(_), .. } => RequestState::Failed,
            _ => RequestState::Done,
        };
        RequestSummary {
            id: self.id.to_string(),
            object: "request".to_owned(),
            answer_id: facts.answer_id.clone(),
            tenant: self.tenant.name().map(str::to_owned),
            endpoint: self.endpoint.clone(),
            model: facts.model.clone(),
            priority: facts.priority,
            stream: facts.stream,
            state,
            status: facts.status,
            error: facts.error.clone(),
            created: self.created.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            prepare_ms: since(facts.submitted),
            queue_ms: facts.queue_ms,
            time_to_first_token_ms: facts.time_to_first_token_ms,
            total_ms: since(facts.ended),
            usage: facts.usage,
            finish_reasons: facts.finish_reasons(),
        }
    }

    /// A choice calls a tool.
    pub(crate) fn tool_call(&self, index: usize) {
        self.facts().callers.insert(index);
    }

    pub(super) fn record(&self) -> RequestRecord {
        let facts = self.facts();
        let summary = self.summarise(&facts);
        let mut timelines: Vec<RequestTimeline> = facts.timelines.iter().map(wire).collect();
        drop(facts);
        timelines.sort_by_key(|timeline| timeline.prompt);
        RequestRecord { traced: self.is_traced, why: why::sentences(&summary, &timelines), summary, timelines }
    }
}

/// How the API calls a reason. That a request was cancelled is its state: choices are not told where nobody listens.
impl Facts {
    /// As the API tells them: who calls tools ends for that.
    fn finish_reasons(&self) -> Vec<String> {
        let name = |(&(number, index), &reason): (&(usize, usize), &&'static str)| {
            let calls = number == 0 && reason == "stop" && self.callers.contains(&index);
            if calls { "tool_calls".to_owned() } else { reason.to_owned() }
        };
        self.reasons.iter().map(name).collect()
    }
}

fn name_of(reason: &FinishReason) -> Option<&'static str> {
    match reason {
        FinishReason::Stop | FinishReason::StopToken(_) | FinishReason::StopString(_) => Some("stop"),
        FinishReason::Length => Some("length"),
        FinishReason::Cancelled => None,
    }
}

/// Milliseconds.
fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

fn wire(run: &Run) -> RequestTimeline {
    let timeline = &run.timeline;
    let gap = |gap: &Gap| [gap.us, u32::from(gap.sequences), u32::from(gap.prompt_tokens)];
    let mean = |sum: u64| sum as f64 / timeline.decode.gaps.max(1) as f64;
    RequestTimeline {
        prompt: run.number,
        usage: run.usage,
        running_at_arrival: timeline.running_at_arrival,
        waiting_at_arrival: timeline.waiting_at_arrival,
        admitted_ms: timeline.admitted_us.map(ms),
        first_token_ms: timeline.first_token_us.map(ms),
        ended_ms: ms(timeline.ended_us),
        chunks: timeline
            .chunks
            .iter()
            .map(|chunk| RequestChunk {
                at_ms: ms(chunk.at_us),
                took_ms: ms(u64::from(chunk.took_us)),
                choice: chunk.choice,
                from: chunk.from,
                tokens: chunk.tokens,
                other_tokens: chunk.other_tokens,
                tokens_again: chunk.tokens_again,
            })
            .collect(),
        num_chunks: timeline.prefill.chunks,
        prefill_ms: ms(timeline.prefill.took_us),
        prefill_tokens: timeline.prefill.tokens,
        prefill_tokens_again: timeline.prefill.tokens_again,
        gaps: timeline.gaps.iter().map(gap).collect(),
        long_gaps: timeline
            .long_gaps
            .iter()
            .map(|long| RequestGap { at_ms: ms(long.at_us), gap: gap(&long.gap) })
            .collect(),
        num_gaps: timeline.decode.gaps,
        decode_ms: ms(timeline.decode.took_us),
        longest_gap_ms: ms(u64::from(timeline.decode.longest_us)),
        mean_step_sequences: mean(timeline.decode.sequences),
        mean_step_tokens: mean(timeline.decode.step_tokens),
        preemptions: interruptions(&timeline.preemptions),
        num_preemptions: timeline.num_preemptions,
        restores: interruptions(&timeline.restores),
        drafted_tokens: timeline.drafted_tokens,
        accepted_tokens: timeline.accepted_tokens,
        mask_ms: ms(timeline.mask_us),
        mask_wait_ms: ms(timeline.mask_wait_us),
    }
}

fn interruptions(list: &[Interruption]) -> Vec<RequestInterruption> {
    let wire = |it: &Interruption| RequestInterruption {
        at_ms: ms(it.at_us),
        took_ms: ms(it.took_us),
        choice: it.choice,
        pages: it.pages,
    };
    list.iter().map(wire).collect()
}
