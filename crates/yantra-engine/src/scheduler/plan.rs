//! A step's plan and how sequences are put into it. All buffers are reused from step to step.

use std::ops::Range;

use super::{Scheduler, SequenceKey};

/// One sequence's part of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSequence {
    /// The sequence.
    pub key: SequenceKey,
    /// Index of its first token in the step.
    pub query_start: usize,
    /// Tokens computed for it.
    pub query_len: usize,
    /// Its tokens in the KV cache after the step, the draft's included.
    pub context_len: usize,
    /// How many of the tokens computed are a draft: the last ones.
    pub draft_len: usize,
    /// The prompt positions whose logits are wanted to score the tokens that follow them.
    pub scored_positions: Range<usize>,
    /// The logits row of the first of them; the others follow.
    pub first_scored_row: usize,
    /// The logits row to sample its next token from, followed by a row for each token of the draft; `None` while its
    /// prompt is not complete.
    pub sample_row: Option<usize>,
    /// When this is its first step: how many of its tokens came from the prefix cache.
    pub started_with: Option<usize>,
}

/// What a step computes. Per-token slices are `[num_tokens]`.
#[derive(Debug, Default)]
pub struct StepPlan {
    pub(super) tokens: Vec<u32>,
    pub(super) positions: Vec<u32>,
    pub(super) slots: Vec<u32>,
    pub(super) logit_rows: Vec<u32>,
    pub(super) copies: Vec<(u32, u32)>,
    pub(super) entries: Vec<PlannedSequence>,
    /// Scored rows that may still be planned.
    pub(super) scored_rows_left: usize,
    /// Tokens that may still be planned.
    pub(super) tokens_left: usize,
}

impl StepPlan {
    /// Token ids.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions in their sequences.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// KV slots.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// Indices of the tokens whose logits are wanted.
    pub fn logit_rows(&self) -> &[u32] {
        &self.logit_rows
    }

    /// Pages to be copied before the step is computed: from, to.
    pub fn copies(&self) -> &[(u32, u32)] {
        &self.copies
    }

    /// The sequences, in the order of their tokens.
    pub fn entries(&self) -> &[PlannedSequence] {
        &self.entries
    }

    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    fn reset(&mut self, tokens: usize, scored_rows: usize) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.logit_rows.clear();
        self.copies.clear();
        self.entries.clear();
        (self.tokens_left, self.scored_rows_left) = (tokens, scored_rows);
    }
}

impl Scheduler {
    /// Plans the next step. The plan is empty only when the scheduler is.
    pub fn schedule(&mut self, plan: &mut StepPlan) {
        plan.reset(self.config.token_budget, self.config.max_scored_rows);
        self.out_of_pages = false;
        self.preempted.clear();
        self.tenants.begin_step();
        self.release_spare_pages();
        self.make_room_for_priority();
        self.make_room_for_share();
        self.plan_decoding(plan);
        self.plan_prompts(plan);
        if !self.out_of_pages {
            self.admit_waiting(plan);
        }
    }

    fn plan_decoding(&mut self, plan: &mut StepPlan) {
        let (mut at, mut unplanned) = (0, 0);
        // Preemption shortens the list from its end while it is walked.
        while let Some(rank) = self.running.get(at) {
            let key = rank.key;
            if self.sequences[key as usize].remaining() == 1 && self.ensure_page(key) {
                unplanned += 1;
            }
            at += 1;
        }
        let order = self.decoding_order();
        for &key in &order {
            unplanned -= 1;
            self.trim_draft(key, plan.tokens_left - 1 - unplanned);
            self.plan_tokens(plan, key, 1, None);
            self.sequences[key as usize].draft.clear();
        }
        self.decoding_order = order;
    }

    /// Running sequences that lack one token, those of one adapter together: its matrices are then read once. The buffer
    /// is the scheduler's.
    fn decoding_order(&mut self) -> Vec<u32> {
        let mut order = std::mem::take(&mut self.decoding_order);
        let sequence = |key: u32| &self.sequences[key as usize];
        order.clear();
        order.extend(self.running.iter().map(|rank| rank.key).filter(|&key| sequence(key).remaining() == 1));
        if order.iter().any(|&key| sequence(key).scope.adapter.is_some()) {
            order.sort_by_key(|&key| sequence(key).scope.adapter);
        }
        order
    }

    /// Cuts the sequence's draft to `most` tokens and to what there are pages for without preemption.
    fn trim_draft(&mut self, key: u32, most: usize) {
        let page_tokens = self.config.page_tokens;
        let sequence = &mut self.sequences[key as usize];
        sequence.draft.truncate(most);
        while sequence.pages.len() * page_tokens < sequence.tokens.len() + sequence.draft.len() {
            match self.pages.allocate() {
                Some(page) => sequence.pages.push(page),
                None => {
                    sequence.draft.truncate(sequence.pages.len() * page_tokens - sequence.tokens.len());
                }
            }
        }
    }

    fn plan_prompts(&mut self, plan: &mut StepPlan) {
        for at in 0..self.running.len() {
            let key = self.running[at].key;
            if self.sequences[key as usize].remaining() < 2 {
                continue;
            }
            let chunk = self.chunk(plan, key);
            if chunk > 0 {
                self.tenants.plan(self.sequences[key as usize].tenant, chunk);
                self.plan_tokens(plan, key, chunk, None);
            }
        }
    }

    /// How many tokens of the sequence the step has room for.
    pub(super) fn chunk(&self, plan: &StepPlan, key: u32) -> usize {
        let sequence = &self.sequences[key as usize];
        let (places, budget) = (self.config.max_sequences, self.config.token_budget);
        let tokens_left = self.tenants.tokens_left(sequence.tenant, plan.tokens_left, places, budget);
        let chunk = sequence.remaining().min(tokens_left);
        if sequence.scored + 1 >= sequence.prompt_len {
            return chunk;
        }
        let unscored = sequence.scored.saturating_sub(sequence.computed);
        let all_scored = sequence.prompt_len - 1 - sequence.computed;
        // Whatever lies beyond the scored positions needs no rows.
        if unscored + plan.scored_rows_left >= all_scored { chunk } else { chunk.min(unscored + plan.scored_rows_left) }
    }

    /// Makes sure that there is a page for the next token, by preemption if need be; `false` when the sequence itself
    /// had to go.
    fn ensure_page(&mut self, key: u32) -> bool {
        loop {
            let sequence = &mut self.sequences[key as usize];
            if sequence.computed < sequence.pages.len() * self.config.page_tokens {
                return true;
            }
            if let Some(page) = self.pages.allocate() {
                sequence.pages.push(page);
                continue;
            }
            self.out_of_pages = true;
            if self.preempt_last().is_none_or(|victim| victim == key) {
                return false;
            }
        }
    }

    /// Puts the sequence's next `count` tokens into the plan, and its draft if they are all it knows; there are pages for
    /// them.
    pub(super) fn plan_tokens(&self, plan: &mut StepPlan, key: u32, count: usize, started_with: Option<usize>) {
        let sequence = &self.sequences[key as usize];
        let (start, end) = (sequence.computed, sequence.computed + count);
        let is_complete = end == sequence.tokens.len();
        let draft: &[u32] = if is_complete { &sequence.draft } else { &[] };
        let query_start = plan.tokens.len();
        plan.tokens.extend_from_slice(&sequence.tokens[start..end]);
        plan.tokens.extend_from_slice(draft);
        let page_tokens = self.config.page_tokens;
        let context_len = end + draft.len();
        for position in start..context_len {
            let page = sequence.pages[position / page_tokens];
            plan.positions.push(position as u32);
            plan.slots.push(page * page_tokens as u32 + (position % page_tokens) as u32);
        }
        let first_scored_row = plan.logit_rows.len();
        let scored_positions = sequence.scored.max(start)..end.min(sequence.prompt_len - 1);
        let row_of = |position: usize| (query_start + position - start) as u32;
        plan.logit_rows.extend(scored_positions.clone().map(row_of));
        let sample_row = is_complete.then_some(plan.logit_rows.len());
        if is_complete {
            plan.logit_rows.extend((end - 1..context_len).map(row_of));
        }
        plan.tokens_left -= context_len - start;
        plan.scored_rows_left = plan.scored_rows_left.saturating_sub(scored_positions.len());
        plan.entries.push(PlannedSequence {
            key: SequenceKey(key),
            query_start,
            query_len: context_len - start,
            context_len,
            draft_len: draft.len(),
            scored_positions,
            first_scored_row,
            sample_row,
            started_with,
        });
    }
}
