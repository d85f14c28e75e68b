//! Keeps the timelines of requests while steps go by.

use std::time::Instant;

use super::Core;
use crate::{
    scheduler::{PlannedSequence, SequenceKey, StepPlan},
    timeline::{Recorder, StepLoad},
};

/// What the disk means for a sequence.
#[derive(Debug, Clone, Copy)]
pub(super) enum DiskNote {
    /// It waits.
    Begun,
    /// It waits no longer; so many pages came.
    Ended { pages: usize },
}

impl Core {
    /// Sums up a step that is about to be committed.
    pub(super) fn step_load(&self, plan: &StepPlan, began: Instant, ended: Instant) -> StepLoad {
        let prompt = |entry: &&PlannedSequence| is_prompt(entry);
        let prompt_tokens = plan.entries().iter().filter(prompt).map(|entry| entry.query_len).sum();
        StepLoad { began, ended, sequences: plan.entries().len(), tokens: plan.tokens().len(), prompt_tokens }
    }

    /// Notes what a step did for a sequence, before its tokens are sent.
    pub(super) fn record_step(&mut self, entry: &PlannedSequence, load: &StepLoad) {
        let Some(choice) = self.choices.get_mut(entry.key.index()).and_then(Option::as_mut) else { return };
        let Some(active) = &mut self.requests[choice.request] else { return };
        let recorder = &mut active.recorder;
        let resumes = std::mem::take(&mut choice.is_preempted);
        if resumes {
            recorder.resumed(choice.index, load.began);
        }
        // What further choices compute of a prompt that is there already is a token.
        let copies = choice.index > 0 && entry.query_len == 1;
        if (is_prompt(entry) && !copies) || resumes {
            let from = entry.context_len - entry.query_len;
            recorder.chunk(load, choice.index, from, entry.query_len, choice.reached);
        }
        choice.reached = choice.reached.max(entry.context_len - entry.draft_len);
        if entry.sample_row.is_some() {
            recorder.token(load);
        }
    }

    /// Notes who lost its place when the step that began `now` was planned.
    pub(super) fn record_preemptions(&mut self, now: Instant) {
        for at in 0..self.scheduler.preempted().len() {
            let key = self.scheduler.preempted()[at];
            let Some(choice) = self.choices.get_mut(key.index()).and_then(Option::as_mut) else { continue };
            choice.is_preempted = true;
            let index = choice.index;
            if let Some(recorder) = self.recorder_of(key) {
                recorder.preempted(index, now);
            }
        }
    }

    /// Notes who waits for the disk and who does so no longer.
    pub(super) fn record_restores(&mut self, now: Instant) {
        let Some(mut notes) = self.spilling.as_mut().map(|spilling| std::mem::take(&mut spilling.notes)) else {
            return;
        };
        for (key, note) in notes.drain(..) {
            let Some(index) = self.choices.get(key.index()).and_then(Option::as_ref).map(|choice| choice.index) else {
                continue;
            };
            let Some(recorder) = self.recorder_of(key) else { continue };
            match note {
                DiskNote::Begun => recorder.restoring(index, now),
                DiskNote::Ended { pages } => recorder.restored(index, now, pages),
            }
        }
        if let Some(spilling) = &mut self.spilling {
            spilling.notes = notes;
        }
    }

    pub(super) fn recorder_of(&mut self, key: SequenceKey) -> Option<&mut Recorder> {
        let slot = self.request_of(key)?;
        self.requests[slot].as_mut().map(|active| &mut active.recorder)
    }
}

/// Whether a step computes more of a sequence than the token that it sampled last, and a draft.
fn is_prompt(entry: &PlannedSequence) -> bool {
    entry.sample_row.is_none() || entry.started_with.is_some() || entry.query_len - entry.draft_len > 1
}
