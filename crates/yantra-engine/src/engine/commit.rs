//! After a forward pass: score, sample, detokenise, tell the sinks.

use std::time::Instant;

use super::{
    Core,
    active::Progress,
    constrain::{Allowed, apply_mask},
};
use crate::{
    EngineError, Event, FinishReason, TokenLogprobs,
    sampling::logprobs,
    scheduler::{PlannedSequence, SequenceKey, StepPlan},
    stats,
    stop::Stopping,
};

/// What a sampled token means for its choice.
struct Sampled {
    id: u32,
    logprob: Option<TokenLogprobs>,
}

impl Core {
    /// Uses the logits of a step that was scheduled at `scheduled` and ended `now`.
    pub(super) fn commit(&mut self, plan: &StepPlan, scheduled: Instant, now: Instant) {
        let load = self.step_load(plan, scheduled, now);
        for entry in plan.entries() {
            self.note_start(entry, scheduled);
            self.record_step(entry, &load);
            self.score_prompt(entry);
            if let Some(row) = entry.sample_row {
                self.commit_tokens(plan, entry, row, now);
            }
        }
        while let Some(slot) = self.to_fork.pop() {
            let choices = self.requests[slot].as_ref().map_or(0, |active| active.choices.len());
            self.start_choices(slot, 1.min(choices)..choices);
        }
    }

    /// A request leaves the queue with the first step of its first choice, when that step is scheduled.
    fn note_start(&mut self, entry: &PlannedSequence, scheduled: Instant) {
        let (Some(cached), Some(slot)) = (entry.started_with, self.request_of(entry.key)) else { return };
        let Some(active) = self.requests[slot].as_mut().filter(|active| active.started.is_none()) else { return };
        active.started = Some(scheduled);
        self.fair.begin(active.tag);
        active.usage.cached_prompt_tokens = cached;
        active.place = None;
        let counters = &self.shared.counters;
        stats::add(&counters.prompt_tokens, active.usage.prompt_tokens);
        counters.queue_seconds.record((scheduled - active.submitted).as_secs_f64());
    }

    /// Collects the log-probabilities of prompt tokens and sends them when they are complete.
    fn score_prompt(&mut self, entry: &PlannedSequence) {
        let Some(slot) = self.request_of(entry.key) else { return };
        let Some(active) = &mut self.requests[slot] else { return };
        let request = &active.request;
        let scores = &mut active.prompt_logprobs;
        if !request.prompt_logprobs || scores.len() == request.prompt.len() {
            return;
        }
        if scores.is_empty() {
            scores.push(None);
        }
        let vocab_size = self.shared.limits.vocab_size;
        let top = request.logprobs.unwrap_or(0);
        let rows = self.logits.chunks_exact(vocab_size).skip(entry.first_scored_row);
        for (position, row) in entry.scored_positions.clone().zip(rows) {
            let token = request.prompt[position + 1];
            let Some(score) = logprobs::of_token(row, token, top, &mut self.values) else {
                return self.fail_request(slot, EngineError::NonFiniteLogits { position: position + 1 });
            };
            scores.push(Some(score));
        }
        if scores.len() == request.prompt.len() {
            let event = Event::PromptLogprobs(scores.clone());
            self.send(slot, event);
        }
    }

    /// Samples a sequence's next token and, while the draft has it right, the ones after it. Each is sampled from its own
    /// row, in order and with all that came before it seen, as if it had had a step of its own.
    fn commit_tokens(&mut self, plan: &StepPlan, entry: &PlannedSequence, first_row: usize, now: Instant) {
        let position = entry.context_len - entry.draft_len;
        let draft = &plan.tokens()[entry.query_start + entry.query_len - entry.draft_len..][..entry.draft_len];
        let is_forced =
            self.choices.get(entry.key.index()).and_then(Option::as_ref).is_some_and(|choice| {
                choice.following.as_ref().is_some_and(|following| !following.forced().is_empty())
            });
        if !draft.is_empty() && !is_forced {
            stats::add(&self.shared.counters.drafts, 1);
            stats::add(&self.shared.counters.draft_tokens, draft.len());
            if let Some(recorder) = self.recorder_of(entry.key) {
                recorder.drafted(draft.len(), 0);
            }
        }
        for (offset, guess) in draft.iter().map(Some).chain([None]).enumerate() {
            let Some(id) = self.commit_token(entry.key, position + offset, first_row + offset, now) else { return };
            if guess != Some(&id) {
                self.prepare_mask(entry.key);
                return self.scheduler.push_token(entry.key, id);
            }
            self.scheduler.push_computed(entry.key, id);
            if !is_forced {
                stats::add(&self.shared.counters.accepted_draft_tokens, 1);
                if let Some(recorder) = self.recorder_of(entry.key) {
                    recorder.drafted(0, 1);
                }
            }
        }
    }

    /// Samples the token at `position` of a sequence and sends it on; `None` when the sequence ends with it.
    fn commit_token(&mut self, key: SequenceKey, position: usize, row: usize, now: Instant) -> Option<u32> {
        let slot = self.request_of(key)?;
        if self.requests[slot].as_ref().is_some_and(|active| active.request.max_tokens == Some(0)) {
            self.finish_empty(slot, now);
            return None;
        }
        let Sampled { id, logprob } = match self.sample(key, position, row) {
            Ok(sampled) => sampled,
            Err(error) => {
                self.fail_request(slot, error);
                return None;
            }
        };
        self.count_token(slot, key, now);
        if let Some(reason) = self.ending_token(slot, id) {
            self.finish_choice(key, reason, now);
            return None;
        }
        let (Some(choice), Some(active)) = (&mut self.choices[key.index()], &self.requests[slot]) else { return None };
        let index = choice.index;
        let (text, stop) = match choice.text.push(id) {
            Stopping::Continue(text) => (text, None),
            Stopping::Stop { text, stop } => (text, Some(stop)),
        };
        let at_limit = active.request.max_tokens.is_some_and(|most| choice.generated >= most);
        let is_complete = choice.following.as_ref().is_some_and(|following| following.has_ended());
        if !self.send(slot, Event::Token { index, id, text, logprob }) {
            return None;
        }
        if let Some(stop) = stop {
            self.end_choice(key, FinishReason::StopString(stop), String::new(), now);
        } else if is_complete {
            self.finish_choice(key, FinishReason::Stop, now);
        } else if at_limit || position + 1 >= self.shared.limits.context {
            self.finish_choice(key, FinishReason::Length, now);
        } else {
            return Some(id);
        }
        None
    }

    /// The one place where tokens are chosen: what restricts them further belongs here, and holds for drafts too.
    fn sample(&mut self, key: SequenceKey, position: usize, row: usize) -> Result<Sampled, EngineError> {
        let allowed = self.allowed(key)?;
        let gone = || EngineError::Internal { message: "a token was due for a request that is gone".to_owned() };
        let no_number = || EngineError::NonFiniteLogits { position };
        let vocab_size = self.shared.limits.vocab_size;
        let row = &mut self.logits[row * vocab_size..(row + 1) * vocab_size];
        let choice = self.choices[key.index()].as_mut().ok_or_else(gone)?;
        let top = self.requests[choice.request].as_ref().ok_or_else(gone)?.request.logprobs;
        if top.is_some() {
            self.raw_row.clear();
            self.raw_row.extend_from_slice(row);
        }
        let id = match &allowed {
            Some(Allowed::Only(id)) => {
                choice.sampler.note(*id);
                *id
            }
            Some(Allowed::Some(mask)) => {
                apply_mask(row, mask);
                choice.sampler.sample(row, position, &mut self.scratch).ok_or_else(no_number)?
            }
            None => choice.sampler.sample(row, position, &mut self.scratch).ok_or_else(no_number)?,
        };
        if let (Some(Allowed::Some(_)), Some(following)) = (&allowed, &mut choice.following) {
            following.push(id).map_err(|message| EngineError::Grammar { message })?;
        }
        let logprob = match top {
            Some(top) => Some(logprobs::of_token(&self.raw_row, id, top, &mut self.values).ok_or_else(no_number)?),
            None => None,
        };
        Ok(Sampled { id, logprob })
    }

    /// Counts a token of a choice, whatever it means.
    fn count_token(&mut self, slot: usize, key: SequenceKey, now: Instant) {
        let (Some(active), Some(choice)) = (&mut self.requests[slot], &mut self.choices[key.index()]) else { return };
        let counters = &self.shared.counters;
        choice.generated += 1;
        active.usage.completion_tokens += 1;
        stats::add(&counters.generated_tokens, 1);
        if let Some(before) = choice.last_token.replace(now) {
            counters.inter_token_seconds.record((now - before).as_secs_f64());
        }
        if active.first_token.is_none() {
            active.first_token = Some(now);
            counters.time_to_first_token_seconds.record((now - active.submitted).as_secs_f64());
            if active.choices.len() > 1 {
                self.to_fork.push(slot);
            }
        }
    }

    /// Whether the token ends its choice.
    fn ending_token(&self, slot: usize, id: u32) -> Option<FinishReason> {
        let request = &self.requests[slot].as_ref()?.request;
        let eos = self.decoder.as_ref().map_or(&[][..], |decoder| decoder.eos_ids());
        if !request.ignore_eos && eos.contains(&id) {
            return Some(FinishReason::Stop);
        }
        request.stop_tokens.contains(&id).then_some(FinishReason::StopToken(id))
    }

    /// Ends a choice and lets out the text held back.
    fn finish_choice(&mut self, key: SequenceKey, reason: FinishReason, now: Instant) {
        let Some(choice) = &mut self.choices[key.index()] else { return };
        let (text, reason) = choice.text.finish(reason);
        self.end_choice(key, reason, text, now);
    }

    fn end_choice(&mut self, key: SequenceKey, reason: FinishReason, text: String, now: Instant) {
        let Some(choice) = self.take_choice(key) else { return };
        let Some(active) = &mut self.requests[choice.request] else { return };
        active.choices[choice.index] = Progress::Finished;
        active.note_masks(&choice);
        let event = Event::Finished { index: choice.index, reason, text };
        if self.send(choice.request, event) && self.requests[choice.request].as_ref().is_some_and(|it| it.is_done()) {
            self.complete_request(choice.request, now);
        }
    }

    /// Ends a request that wanted no tokens: its prompt is computed.
    fn finish_empty(&mut self, slot: usize, now: Instant) {
        let choices = self.requests[slot].as_ref().map_or(0, |active| active.choices.len());
        for index in 0..choices {
            let Some(active) = &mut self.requests[slot] else { return };
            if let Progress::Running(key) = std::mem::replace(&mut active.choices[index], Progress::Finished) {
                self.take_choice(key);
            }
            let reason = FinishReason::Length;
            if !self.send(slot, Event::Finished { index, reason, text: String::new() }) {
                return;
            }
        }
        self.complete_request(slot, now);
    }

    /// Sends an event of a request; when nobody listens any more, cancels it and returns `false`.
    fn send(&mut self, slot: usize, event: Event) -> bool {
        let Some(active) = &mut self.requests[slot] else { return false };
        let listens = active.sink.send(event);
        if !listens {
            self.cancel_request(slot);
        }
        listens
    }
}
