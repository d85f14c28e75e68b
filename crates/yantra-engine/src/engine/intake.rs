//! Between steps: new requests, cancellations, draining, and how requests leave.

use std::{
    sync::{Arc, mpsc::TryRecvError},
    time::Instant,
};

use super::{
    Core, Drain,
    active::{ActiveRequest, Choice, ChoiceText, Progress},
};
use crate::{
    EngineError, Event, FinishReason,
    handle::{Message, Submission},
    sampling::Sampler,
    scheduler::{NewSequence, SequenceKey},
    stats,
    stop::StopMatcher,
};

impl Core {
    /// Takes all messages there are, waiting for one when there is nothing to compute. `false`: stop.
    pub(super) fn take_messages(&mut self) -> bool {
        self.answer_drains();
        if self.scheduler.is_empty() {
            match self.next_message_when_idle() {
                Ok(message) => {
                    if !self.handle(message) {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        loop {
            match self.messages.try_recv() {
                Ok(message) => {
                    if !self.handle(message) {
                        return false;
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        self.answer_drains();
        true
    }

    fn handle(&mut self, message: Message) -> bool {
        match message {
            Message::Submit(submission) => self.start_request(*submission),
            Message::Cancel(id) => {
                if let Some(&slot) = self.by_id.get(&id) {
                    self.cancel_request(slot);
                }
            }
            Message::Drain { until, done } => self.drains.push(Drain { until, done }),
            Message::Shutdown => return false,
        }
        true
    }

    fn start_request(&mut self, submission: Submission) {
        if self.drained {
            // Slipped in while the queue was closed; dropping it tells its sink.
            return;
        }
        let tag = self.fair.tag(&submission.request);
        let request = ActiveRequest::new(submission, tag, self.scheduler.num_running(), self.scheduler.num_waiting());
        let slot = self.vacant_requests.pop().unwrap_or(self.requests.len());
        if slot == self.requests.len() {
            self.requests.push(None);
        }
        self.by_id.insert(request.id, slot);
        self.requests[slot] = Some(request);
        self.start_choices(slot, 0..1);
    }

    /// Queues a request's choices with the scheduler.
    pub(super) fn start_choices(&mut self, slot: usize, indices: std::ops::Range<usize>) {
        for index in indices {
            let grammar = self.requests[slot].as_ref().and_then(|active| active.request.grammar.clone());
            let following = match grammar.map(|grammar| self.follow(&grammar)).transpose() {
                Ok(following) => following,
                Err(error) => return self.fail_request(slot, error),
            };
            let Some(active) = &mut self.requests[slot] else { return };
            let request = &active.request;
            let twin = match active.choices.first() {
                Some(Progress::Running(first)) if index > 0 => Some(*first),
                _ => None,
            };
            let key = self.scheduler.add(NewSequence {
                prompt: &request.prompt,
                scope: Arc::clone(&active.scope),
                priority: request.priority,
                arrival: active.tag,
                tenant: request.tenant.as_ref(),
                weight: request.weight,
                score_prompt: request.prompt_logprobs && index == 0,
                twin,
            });
            let detokenizer = self.decoder.as_ref().map(|decoder| decoder.stream(request.skip_special_tokens));
            let choice = Choice {
                request: slot,
                index,
                sampler: Sampler::new(&request.sampling, &request.prompt, index, active.seed),
                text: ChoiceText { detokenizer, stop: StopMatcher::new(&request.stop, request.include_stop) },
                following,
                generated: 0,
                last_token: None,
                is_preempted: false,
                reached: 0,
            };
            active.choices[index] = Progress::Running(key);
            if self.choices.len() <= key.index() {
                self.choices.resize_with(key.index() + 1, || None);
            }
            self.choices[key.index()] = Some(choice);
        }
    }

    fn answer_drains(&mut self) {
        if self.drains.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut gently = true;
        if !self.by_id.is_empty() {
            if self.drains.iter().all(|drain| drain.until > now) {
                return;
            }
            self.cancel_all();
            gently = false;
        }
        self.drained = true;
        for drain in self.drains.drain(..) {
            // Nobody waiting for the answer is no harm.
            let _ = drain.done.try_send(gently);
        }
    }

    pub(super) fn cancel_all(&mut self) {
        for slot in 0..self.requests.len() {
            self.cancel_request(slot);
        }
    }

    /// Ends all choices of a request as cancelled.
    pub(super) fn cancel_request(&mut self, slot: usize) {
        let Some(mut active) = self.take_request(slot) else { return };
        for index in 0..active.choices.len() {
            let mut text = String::new();
            match active.choices[index] {
                Progress::Finished => continue,
                Progress::NotStarted => {}
                Progress::Running(key) => {
                    if let Some(mut choice) = self.take_choice(key) {
                        active.note_masks(&choice);
                        text = choice.text.finish(FinishReason::Cancelled).0;
                    }
                }
            }
            active.sink.send(Event::Finished { index, reason: FinishReason::Cancelled, text });
        }
        stats::add(&self.shared.counters.requests_cancelled, 1);
        let done = active.done(Instant::now());
        active.sink.close(done);
    }

    /// Ends a request with an error.
    pub(super) fn fail_request(&mut self, slot: usize, error: EngineError) {
        let Some(active) = self.take_request(slot) else { return };
        for progress in &active.choices {
            if let Progress::Running(key) = *progress {
                self.take_choice(key);
            }
        }
        stats::add(&self.shared.counters.requests_failed, 1);
        active.sink.close(Event::Error(error));
    }

    /// Ends a request whose choices have all ended.
    pub(super) fn complete_request(&mut self, slot: usize, now: Instant) {
        let Some(mut active) = self.take_request(slot) else { return };
        let counters = &self.shared.counters;
        stats::add(&counters.requests_completed, 1);
        counters.request_seconds.record((now - active.submitted).as_secs_f64());
        let done = active.done(now);
        active.sink.close(done);
    }

    /// Removes a request; its choices' sequences are left to the caller.
    fn take_request(&mut self, slot: usize) -> Option<ActiveRequest> {
        let active = self.requests.get_mut(slot)?.take()?;
        self.vacant_requests.push(slot);
        self.by_id.remove(&active.id);
        Some(active)
    }

    /// Removes a choice and its sequence.
    pub(super) fn take_choice(&mut self, key: SequenceKey) -> Option<Choice> {
        let choice = self.choices.get_mut(key.index())?.take()?;
        self.scheduler.remove(key);
        if let Some(speculating) = &mut self.speculating {
            speculating.forget(key);
        }
        Some(choice)
    }

    /// The place of the request a sequence belongs to.
    pub(super) fn request_of(&self, key: SequenceKey) -> Option<usize> {
        self.choices.get(key.index())?.as_ref().map(|choice| choice.request)
    }
}
