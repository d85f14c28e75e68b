//! Answers that follow a grammar: masks before a token is chosen, tokens that need no choice.

use llguidance::toktrie::SimpleVob;

use super::Core;
use crate::{
    EngineError, Grammar,
    constraint::{Following, masks::MaskThreads},
    scheduler::SequenceKey,
    speculation::Speculation,
};

/// How a token that a grammar had a say in was chosen.
pub(super) enum Allowed {
    /// By nobody: there was no other.
    Only(u32),
    /// Among these.
    Some(SimpleVob),
}

impl Core {
    /// A choice's place at the start of its grammar, whose first mask is worked out while the prompt is computed.
    pub(super) fn follow(&mut self, grammar: &Grammar) -> Result<Box<Following>, EngineError> {
        if self.masks.is_none() {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            self.masks = MaskThreads::start((cores / 4).max(1));
        }
        let mut following = Following::new(grammar).map_err(|message| EngineError::Grammar { message })?;
        following.prepare(self.masks.as_ref());
        Ok(Box::new(following))
    }

    /// What the grammar of a choice allows next; `None` without a grammar.
    pub(super) fn allowed(&mut self, key: SequenceKey) -> Result<Option<Allowed>, EngineError> {
        let Self { choices, shared, .. } = self;
        let choice = choices.get_mut(key.index()).and_then(Option::as_mut);
        let Some(following) = choice.and_then(|choice| choice.following.as_deref_mut()) else { return Ok(None) };
        if let Some(id) = following.next_forced() {
            shared.counters.forced_tokens.add(1);
            return Ok(Some(Allowed::Only(id)));
        }
        let mask = following.mask().map_err(|message| EngineError::Grammar { message })?;
        if mask.is_zero() {
            let message = "the model's vocabulary has no token that may come next".to_owned();
            return Err(EngineError::Grammar { message });
        }
        shared.counters.constrained_tokens.add(1);
        if let Some(took) = following.take_last_mask_time() {
            shared.counters.grammar_mask_seconds.record(took.as_secs_f64());
        }
        let limit = shared.config.grammar_time;
        if following.time > limit {
            let message = format!(
                "following it took {:.1} s, at most {:.1} s are given",
                following.time.as_secs_f64(),
                limit.as_secs_f64()
            );
            return Err(EngineError::Grammar { message });
        }
        Ok(Some(Allowed::Some(mask)))
    }

    /// Has the masks worked out that sequences will need after the next step.
    pub(super) fn prepare_mask(&mut self, key: SequenceKey) {
        let Self { choices, masks, .. } = self;
        let choice = choices.get_mut(key.index()).and_then(Option::as_mut);
        if let Some(following) = choice.and_then(|choice| choice.following.as_deref_mut()) {
            following.prepare(masks.as_ref());
        }
    }

    /// Gives decoding sequences the tokens that their grammars leave no choice in as a draft.
    pub(super) fn propose_forced(&mut self) {
        if self.masks.is_none() {
            return;
        }
        let mut rows = Speculation::FORCED_ROWS_PER_STEP;
        let due: Vec<SequenceKey> = self.scheduler.decoding().collect();
        for key in due {
            let choice = self.choices.get(key.index()).and_then(Option::as_ref);
            let Some(following) = choice.and_then(|choice| choice.following.as_deref()) else { continue };
            let count = following.forced().len().min(self.answer_room(key)).min(rows);
            if count > 0 {
                let draft: Vec<u32> = following.forced().iter().take(count).copied().collect();
                self.scheduler.set_draft(key, &draft);
                rows -= count;
            }
        }
    }
}

/// Takes what is not allowed out of a row of logits.
pub(super) fn apply_mask(row: &mut [f32], mask: &SimpleVob) {
    let words = mask.as_slice();
    for (logits, word) in row.chunks_mut(32).zip(words.iter().copied().chain(std::iter::repeat(0))) {
        if word == u32::MAX {
            continue;
        }
        for (bit, logit) in logits.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}
