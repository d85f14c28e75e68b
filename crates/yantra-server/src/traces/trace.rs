//! A request that is going to be kept, on its way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use serde_json::Value;
use tokio::sync::mpsc::Sender;
use yantra_api::{RequestState, RequestSummary};
use yantra_store::{NewTrace, TraceFacts};

use super::{Redactor, Traces, content, redact};
use crate::requests::Kept;
use crate::tenant::Tenant;
use crate::work::BodyShare;

/// One request. It is put into the queue when the last who knows of it lets it go.
pub(crate) struct Trace {
    traces: Traces,
    queue: Sender<Pending>,
    kept: Arc<Kept>,
    owner: Option<String>,
    content: Mutex<Content>,
}

/// What it says.
struct Content {
    /// Of a request that was not understood there is none, and it is not kept.
    input: Option<Vec<u8>>,
    output: Output,
    share: BodyShare,
    /// Whether there was no memory left for it.
    is_too_much: bool,
}

/// An answer. What it takes to make JSON of it is left to the writer.
#[derive(Default)]
enum Output {
    #[default]
    None,
    /// As it went over the wire.
    Sent(Vec<Bytes>),
    /// Put together from what was streamed.
    Told(Box<dyn FnOnce() -> serde_json::Result<Value> + Send>),
}

impl Traces {
    /// Begins one for a request; `None`: no more are taken.
    pub(crate) fn begin(&self, kept: &Arc<Kept>, tenant: &Tenant) -> Option<Arc<Trace>> {
        let share = self.inner.held.share();
        let content = Content { input: None, output: Output::None, share, is_too_much: false };
        Some(Arc::new(Trace {
            traces: self.clone(),
            queue: self.queue()?,
            kept: Arc::clone(kept),
            owner: tenant.owner().map(str::to_owned),
            content: Mutex::new(content),
        }))
    }
}

impl Trace {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request's body, which has been understood.
    pub(crate) fn asked(&self, body: Vec<u8>) {
        let mut content = self.content();
        if content.grow(body.len()) {
            content.input = Some(body);
        }
    }

    /// More of an answer as it goes over the wire.
    pub(crate) fn sent(&self, bytes: &Bytes) {
        let mut content = self.content();
        if !content.grow(bytes.len()) {
            return;
        }
        match &mut content.output {
            Output::Sent(parts) => parts.push(bytes.clone()),
            output => *output = Output::Sent(vec![bytes.clone()]),
        }
    }

    /// So many bytes more of a stream are held.
    pub(crate) fn holds(&self, bytes: usize) {
        self.content().grow(bytes);
    }

    /// What a stream came to.
    pub(crate) fn told(&self, whole: impl FnOnce() -> serde_json::Result<Value> + Send + 'static) {
        let mut content = self.content();
        if !content.is_too_much {
            content.output = Output::Told(Box::new(whole));
        }
    }

    /// Whether there is no memory left for it.
    pub(crate) fn is_too_much(&self) -> bool {
        self.content().is_too_much
    }

    /// Whether an answer of this status is kept.
    pub(crate) fn wants_answer(&self, status: u16) -> bool {
        content::is_answer_kept(self.kept.endpoint(), status)
    }
}

impl Content {
    fn grow(&mut self, bytes: usize) -> bool {
        if !self.is_too_much && self.share.grow(bytes).is_err() {
            self.is_too_much = true;
            (self.input, self.output) = (None, Output::None);
        }
        !self.is_too_much
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let content = self.content.get_mut().unwrap_or_else(PoisonError::into_inner);
        if content.is_too_much {
            return self.traces.count_full();
        }
        let Some(input) = content.input.take() else { return };
        let summary = self.kept.summary();
        if !content::is_worth(summary.status) {
            return;
        }
        let output = std::mem::take(&mut content.output);
        let share = std::mem::replace(&mut content.share, self.traces.inner.held.share());
        let pending = Pending { facts: facts(summary, self.owner.take()), input, output, _share: share };
        if self.queue.try_send(pending).is_err() {
            self.traces.count_full();
        }
    }
}

fn facts(summary: RequestSummary, owner: Option<String>) -> TraceFacts {
    let state = match summary.state {
        RequestState::Running | RequestState::Cancelled => "cancelled",
        RequestState::Failed => "failed",
        RequestState::Done if summary.status.is_some_and(|status| status >= 400) => "failed",
        RequestState::Done => "done",
    };
    let usage = summary.usage;
    TraceFacts {
        request_id: summary.id,
        answer_id: summary.answer_id,
        owner,
        tenant: summary.tenant,
        endpoint: summary.endpoint,
        model: summary.model,
        stream: summary.stream,
        state: state.to_owned(),
        status: summary.status,
        error: summary.error,
        finish_reasons: summary.finish_reasons,
        created_ms: (summary.created * 1e3) as u64,
        queue_ms: summary.queue_ms,
        time_to_first_token_ms: summary.time_to_first_token_ms,
        total_ms: summary.total_ms,
        prompt_tokens: usage.prompt_tokens as u64,
        cached_prompt_tokens: usage.prompt_tokens_details.cached_tokens as u64,
        completion_tokens: usage.completion_tokens as u64,
    }
}

/// One that waits to be written.
pub(crate) struct Pending {
    facts: TraceFacts,
    input: Vec<u8>,
    output: Output,
    /// Of the memory for traces.
    _share: BodyShare,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("request_id", &self.facts.request_id).finish_non_exhaustive()
    }
}

impl Pending {
    /// As it is going to be kept. May take long.
    pub(super) fn redacted(self, redactors: &[Arc<dyn Redactor>]) -> serde_json::Result<NewTrace> {
        let mut input = serde_json::from_slice(&self.input)?;
        redact::request(&mut input, redactors);
        let output = match self.output {
            Output::None => None,
            Output::Sent(parts) => Some(serde_json::from_slice(&parts.concat())?),
            Output::Told(whole) => Some(whole()?),
        };
        let output = output.map(|mut output| {
            redact::answer(&mut output, redactors);
            output
        });
        Ok(NewTrace { facts: self.facts, input, output })
    }
}
