//! Drafts before a step, and what is learnt after it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use super::{Core, panic_message};
use crate::{
    EngineError, Speculation,
    scheduler::{SequenceKey, StepPlan},
    speculation::{
        Draft, Drafter,
        policy::{Policy, Wish},
    },
};

/// The engine's drafter and what belongs to it.
pub(super) struct Speculating {
    drafter: Box<dyn Drafter>,
    policy: Policy,
    max_draft: usize,
    /// What was guessed for the step under way, by the scheduler's keys.
    guesses: Vec<Guess>,
    wishes: Vec<Wish>,
}

#[derive(Default)]
struct Guess {
    /// Length of the sequence when it was made.
    position: usize,
    tokens: Vec<u32>,
}

impl Speculating {
    pub(super) fn new(drafter: Box<dyn Drafter>, max_draft: usize) -> Self {
        Self { drafter, policy: Policy::default(), max_draft, guesses: Vec::new(), wishes: Vec::new() }
    }

    pub(super) fn forget(&mut self, key: SequenceKey) {
        self.drafter.forget(key);
        self.policy.forget(key.index());
        if let Some(guess) = self.guesses.get_mut(key.index()) {
            guess.tokens.clear();
        }
    }
}

impl Core {
    /// Gives decoding sequences drafts, where they are expected to pay.
    pub(super) fn propose(&mut self) {
        let Some(mut speculating) = self.speculating.take() else { return };
        match catch_unwind(AssertUnwindSafe(|| self.draft(&mut speculating))) {
            Ok(Ok(())) => {
                for wish in speculating.wishes.iter().filter(|wish| wish.tokens > 0) {
                    if let Some(guess) = speculating.guesses.get(wish.index) {
                        self.scheduler.set_draft(SequenceKey(wish.index as u32), &guess.tokens[..wish.tokens]);
                    }
                }
                self.speculating = Some(speculating);
            }
            Ok(Err(error)) => tracing::error!(%error, "drafting failed: speculation is off from now on"),
            Err(panic) => {
                let message = panic_message(&*panic);
                tracing::error!(message, "drafting panicked: speculation is off from now on");
            }
        }
    }

    fn draft(&self, speculating: &mut Speculating) -> Result<(), EngineError> {
        let Speculating { drafter, policy, max_draft, guesses, wishes } = speculating;
        let rows = Speculation::MAX_DRAFTS_PER_STEP * *max_draft;
        let wish = |key: SequenceKey| Wish { index: key.index(), tokens: self.draft_room(key).min(*max_draft) };
        wishes.clear();
        wishes.extend(self.scheduler.decoding().map(wish));
        let due = wishes.len();
        let base = if self.scheduler.has_prompts() { self.shared.config.token_budget } else { due };
        let free = drafter.is_free();
        if !free {
            policy.choose(due, base, rows, free, wishes);
        }
        let started = Instant::now();
        let wanted = wishes.iter().filter(|wish| wish.tokens > 0);
        let mut drafts: Vec<Draft<'_>> = wanted.map(|wish| self.empty_draft(*wish, guesses)).collect();
        if drafts.is_empty() {
            return Ok(());
        }
        let backlog = drafter.draft(&mut drafts)?;
        let mut total = 0;
        for Draft { key, history, most, mut tokens } in drafts {
            let known = tokens.iter().take_while(|token| (**token as usize) < self.shared.limits.vocab_size).count();
            tokens.truncate(known.min(most));
            total += tokens.len();
            guesses[key.index()] = Guess { position: history.len(), tokens };
        }
        for wish in wishes.iter_mut().filter(|wish| wish.tokens > 0) {
            wish.tokens = guesses[wish.index].tokens.len();
        }
        if free {
            policy.choose(due, base, rows, free, wishes);
        } else if backlog <= 2 * total {
            policy.note_drafting(total, started.elapsed().as_secs_f64());
        }
        Ok(())
    }

    fn empty_draft(&self, wish: Wish, guesses: &mut Vec<Guess>) -> Draft<'_> {
        if guesses.len() <= wish.index {
            guesses.resize_with(wish.index + 1, Guess::default);
        }
        let mut tokens = std::mem::take(&mut guesses[wish.index].tokens);
        tokens.clear();
        let key = SequenceKey(wish.index as u32);
        Draft { key, history: self.scheduler.tokens(key), most: wish.tokens, tokens }
    }

    /// How many drafted tokens could be of use; none where the next ones are known.
    fn draft_room(&self, key: SequenceKey) -> usize {
        let Some(choice) = self.choices.get(key.index()).and_then(Option::as_ref) else { return 0 };
        let Some(active) = &self.requests[choice.request] else { return 0 };
        if choice.following.as_ref().is_some_and(|following| !following.forced().is_empty()) {
            return 0;
        }
        self.answer_room(key).min(active.request.max_draft.unwrap_or(usize::MAX))
    }

    /// How many tokens may still be computed for a choice: the last token of an answer is sampled, but not computed.
    pub(super) fn answer_room(&self, key: SequenceKey) -> usize {
        let Some(choice) = self.choices.get(key.index()).and_then(Option::as_ref) else { return 0 };
        let Some(active) = &self.requests[choice.request] else { return 0 };
        let most = active.request.max_tokens;
        let by_request = most.map_or(usize::MAX, |most| most.saturating_sub(choice.generated + 1));
        let by_context = self.shared.limits.context.saturating_sub(self.scheduler.tokens(key).len() + 1);
        by_request.min(by_context)
    }

    /// Learns from a step of `plan` that took so long, sampling included.
    pub(super) fn learn(&mut self, plan: &StepPlan, seconds: f64) {
        let Some(Speculating { policy, guesses, .. }) = &mut self.speculating else { return };
        policy.note_step(plan.tokens().len(), seconds);
        for entry in plan.entries() {
            let Some(guess) = guesses.get_mut(entry.key.index()).filter(|guess| !guess.tokens.is_empty()) else {
                continue;
            };
            let came = self.scheduler.tokens(entry.key).get(guess.position..).unwrap_or_default();
            if came.is_empty() {
                continue;
            }
            let right = guess.tokens.iter().zip(came).take_while(|(guessed, came)| guessed == came).count();
            policy.note_guesses(entry.key.index(), right, right < guess.tokens.len().min(came.len()));
            guess.tokens.clear();
        }
    }
}
