//! Decides what each step computes: a pure state machine over token counts and page numbers.
//!
//! No clock, no model, no I/O, so it can be simulated. A step goes
//! [`schedule`](Scheduler::schedule) → forward → [`advance`](Scheduler::advance), then
//! [`push_token`](Scheduler::push_token) or [`remove`](Scheduler::remove) per sequence.
//!
//! A decoding sequence may bring a draft ([`set_draft`](Scheduler::set_draft)), a guess at its next tokens that is computed
//! together with the one it lacks. Drafts take only pages and budget that nobody else wants in the step, and preempt
//! nobody. A drafted token that turns out right is pushed as [`push_computed`](Scheduler::push_computed); the keys and
//! values of the others are overwritten later, and pages taken for them alone are given back before the next step.
//!
//! Prefill and decode are the same thing: a sequence has `computed` of its known tokens in the KV cache and wants the
//! rest computed. In each step
//! 1. sequences that lack one token (they decode) are planned first, so a prompt never delays them;
//! 2. running prompts get chunks of what is left of the token budget, in order of rank;
//! 3. waiting sequences are admitted while there is budget, a place, and pages for all their tokens.
//!
//! Rank is priority, then arrival. When a decoding sequence finds no page, the running sequence of lowest rank is
//! preempted: it loses its pages, keeps its tokens, and waits to be computed again (its full pages often survive in the
//! prefix cache until then). A waiting sequence of higher priority preempts likewise. As victims always come from the
//! end of the rank order and planning goes from its start, nothing already planned is ever taken back.
//!
//! Where several tenants have sequences, each has at most its share of the batch and of the pages, and those that want
//! more than their share have no more than it of a step's prompt tokens (`tenants`).
//!
//! A waiting sequence whose next page is just being computed by another one is left waiting: one step later it shares
//! that page instead of computing it again. Sixteen requests with one system prompt prefill it once. Where prompts part
//! in the middle of a page, the page is copied and goes on differently for each: that of a remembered prompt, or, for the
//! choices of one request, the last page of the first one.

mod admission;
mod plan;
mod restore;
mod sequence;
mod tenants;

use std::{collections::BTreeSet, sync::Arc};

pub use plan::{PlannedSequence, StepPlan};
pub use restore::LookUp;
use sequence::{Rank, Sequence, State};
use tenants::Tenants;

use crate::{
    AttentionSequence,
    kv::{CacheScope, PageTable},
};

/// What the scheduler has to work with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Sequences computed at the same time.
    pub max_sequences: usize,
    /// Tokens per step; at least `max_sequences`.
    pub token_budget: usize,
    /// Scored prompt positions per step.
    pub max_scored_rows: usize,
    /// Tokens per KV page.
    pub page_tokens: usize,
    /// KV pages there are.
    pub num_pages: usize,
    /// Whether pages are shared between sequences.
    pub prefix_cache: bool,
}

/// Names a sequence until it is removed; the number is used again afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceKey(pub(crate) u32);

impl SequenceKey {
    /// The key as an index: small, dense numbers.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A sequence to be scheduled.
#[derive(Debug, Clone)]
pub struct NewSequence<'a> {
    /// The prompt; at least one token.
    pub prompt: &'a [u32],
    /// Whose pages it may share.
    pub scope: Arc<CacheScope>,
    /// Higher goes first.
    pub priority: i32,
    /// Lower goes first among equal priorities.
    pub arrival: u64,
    /// Whose it is.
    pub tenant: Option<&'a Arc<str>>,
    /// How much of the engine its tenant gets beside others; at least 1.
    pub weight: u32,
    /// Whether the logits of all prompt positions are wanted.
    pub score_prompt: bool,
    /// A sequence with the same prompt, whose last, not full page may be copied while it runs.
    pub twin: Option<SequenceKey>,
}

/// What the scheduler counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedulerCounts {
    /// Sequences put back to make room.
    pub preemptions: u64,
    /// Prompt tokens found in the prefix cache at first admission, copied ones included.
    pub prefix_hit_tokens: u64,
    /// Prompt tokens admitted.
    pub prefix_query_tokens: u64,
}

/// The state machine; see the module's documentation.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    pages: PageTable,
    /// By key; vacant entries keep their buffers.
    sequences: Vec<Sequence>,
    vacant: Vec<u32>,
    waiting: BTreeSet<Rank>,
    /// In order of rank.
    running: Vec<Rank>,
    tenants: Tenants,
    counts: SchedulerCounts,
    /// Scratch: the decoding sequences in the order of their tokens in a step.
    decoding_order: Vec<u32>,
    /// Scratch of prefix look-ups.
    found: Vec<u32>,
    /// Put back since the step's planning began.
    preempted: Vec<SequenceKey>,
    /// A decoding sequence had to preempt in the step being planned.
    out_of_pages: bool,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(config: SchedulerConfig) -> Self {
        let pages = PageTable::new(config.num_pages, config.page_tokens);
        Self {
            pages,
            sequences: Vec::new(),
            vacant: Vec::new(),
            waiting: BTreeSet::new(),
            running: Vec::with_capacity(config.max_sequences),
            tenants: Tenants::default(),
            counts: SchedulerCounts::default(),
            decoding_order: Vec::new(),
            found: Vec::new(),
            preempted: Vec::new(),
            out_of_pages: false,
            config,
        }
    }

    /// Adds a sequence to those that wait. It must never grow beyond `num_pages * page_tokens` tokens.
    pub fn add(&mut self, new: NewSequence<'_>) -> SequenceKey {
        debug_assert!(!new.prompt.is_empty(), "a sequence needs a token to start from");
        let key = self.vacant.pop().unwrap_or_else(|| {
            self.sequences.push(Sequence::default());
            self.sequences.len() as u32 - 1
        });
        let sequence = &mut self.sequences[key as usize];
        sequence.start(&new, key);
        sequence.tenant = self.tenants.add(new.tenant, new.weight);
        if self.config.prefix_cache {
            sequence.hash_pages(self.config.page_tokens);
        }
        self.waiting.insert(sequence.rank);
        SequenceKey(key)
    }

    /// Takes a sequence out, wherever it is; its pages are free (or cached) at once. Does nothing twice.
    pub fn remove(&mut self, key: SequenceKey) {
        let rank = self.sequences[key.index()].rank;
        match self.sequences[key.index()].state {
            State::Vacant => return,
            State::Waiting => {
                self.waiting.remove(&rank);
            }
            State::Running => {
                if let Ok(at) = self.running.binary_search(&rank) {
                    self.running.remove(at);
                }
                self.release_pages(key.0);
                self.tenants.leave(self.sequences[key.index()].tenant);
            }
        }
        self.tenants.remove(self.sequences[key.index()].tenant);
        let sequence = &mut self.sequences[key.index()];
        sequence.state = State::Vacant;
        sequence.tokens.clear();
        self.vacant.push(key.0);
    }

    /// The step's tokens are in the KV cache: their full pages can be shared from now on.
    pub fn advance(&mut self, plan: &StepPlan) {
        for entry in plan.entries() {
            let sequence = &mut self.sequences[entry.key.index()];
            // Nobody knows yet whether the draft is right.
            sequence.computed = entry.context_len - entry.draft_len;
            sequence.scored = sequence.scored.max(sequence.computed.min(sequence.prompt_len - 1));
            if self.config.prefix_cache {
                self.publish(entry.key.0);
            }
        }
    }

    /// Appends a sampled token, to be computed in the next step.
    pub fn push_token(&mut self, key: SequenceKey, token: u32) {
        self.sequences[key.index()].tokens.push(token);
    }

    /// Appends a sampled token that is the next one of the draft computed in this step: its keys and values are in the
    /// cache already.
    pub fn push_computed(&mut self, key: SequenceKey, token: u32) {
        let sequence = &mut self.sequences[key.index()];
        sequence.tokens.push(token);
        sequence.computed += 1;
        if self.config.prefix_cache {
            self.publish(key.0);
        }
    }

    /// Proposes tokens to be computed after the one that a decoding sequence lacks, in the next step.
    pub fn set_draft(&mut self, key: SequenceKey, draft: &[u32]) {
        let sequence = &mut self.sequences[key.index()];
        sequence.draft.clear();
        sequence.draft.extend_from_slice(draft);
    }

    /// Running sequences that lack one token: those that drafts are for, in order of rank.
    pub fn decoding(&self) -> impl Iterator<Item = SequenceKey> {
        let decodes = |rank: &&Rank| self.sequences[rank.key as usize].remaining() == 1;
        self.running.iter().filter(decodes).map(|rank| SequenceKey(rank.key))
    }

    /// Whether some prompt is not computed yet.
    pub fn has_prompts(&self) -> bool {
        let is_prompt = |rank: &Rank| self.sequences[rank.key as usize].remaining() > 1;
        !self.waiting.is_empty() || self.running.iter().any(is_prompt)
    }

    /// The sequence's tokens: its prompt and what was pushed since.
    pub fn tokens(&self, key: SequenceKey) -> &[u32] {
        &self.sequences[key.index()].tokens
    }

    /// Fills `spans` with the plan's sequences, as the model wants them.
    pub fn spans<'a>(&'a self, plan: &StepPlan, spans: &mut Vec<AttentionSequence<'a>>) {
        spans.clear();
        spans.extend(plan.entries().iter().map(|entry| AttentionSequence {
            query_start: entry.query_start,
            query_len: entry.query_len,
            context_len: entry.context_len,
            pages: &self.sequences[entry.key.index()].pages,
        }));
    }

    /// Whether there is neither a running nor a waiting sequence.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Sequences in the batch.
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait, preempted ones included.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Who holds which page.
    pub fn pages(&self) -> &PageTable {
        &self.pages
    }

    /// Who was put back to make room when the last step was planned.
    pub fn preempted(&self) -> &[SequenceKey] {
        &self.preempted
    }

    /// What was counted so far.
    pub fn counts(&self) -> SchedulerCounts {
        self.counts
    }

    /// Checks all accounting against itself. For tests; slow.
    ///
    /// # Errors
    /// A description of the first contradiction.
    pub fn audit(&self) -> Result<(), String> {
        let held = self.sequences.iter().flat_map(|sequence| sequence.pages.iter().copied());
        self.pages.audit(held)?;
        if !self.running.is_sorted() || self.running.len() > self.config.max_sequences {
            return Err(format!("running: {:?}", self.running));
        }
        let states = |state| self.sequences.iter().filter(|sequence| sequence.state == state).count();
        let found = (states(State::Running), states(State::Waiting), states(State::Vacant));
        let expected = (self.running.len(), self.waiting.len(), self.vacant.len());
        if found != expected {
            return Err(format!("(running, waiting, vacant): {found:?} by state, {expected:?} by list"));
        }
        let by_tenant = self.tenants.totals();
        if by_tenant != (self.running.len() + self.waiting.len(), self.running.len()) {
            return Err(format!("(all, running) by tenant: {by_tenant:?}"));
        }
        let idle = self.sequences.iter().filter(|sequence| sequence.state != State::Running);
        match idle.into_iter().find(|sequence| !sequence.pages.is_empty()) {
            Some(sequence) => Err(format!("{:?} holds pages without running", sequence.rank)),
            None => Ok(()),
        }
    }

    fn pages_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.config.page_tokens)
    }

    /// Lets go of a sequence's pages, last first.
    fn release_pages(&mut self, key: u32) {
        let sequence = &mut self.sequences[key as usize];
        for &page in sequence.pages.iter().rev() {
            self.pages.release(page);
        }
        sequence.pages.clear();
        sequence.draft.clear();
        (sequence.computed, sequence.published) = (0, 0);
    }

    /// Gives back pages that only tokens of wrong drafts were in.
    fn release_spare_pages(&mut self) {
        for rank in &self.running {
            let needed = self.pages_for(self.sequences[rank.key as usize].tokens.len());
            let sequence = &mut self.sequences[rank.key as usize];
            while sequence.pages.len() > needed
                && let Some(page) = sequence.pages.pop()
            {
                self.pages.release(page);
            }
        }
    }

    /// Puts the running sequence of lowest rank back and returns its key.
    fn preempt_last(&mut self) -> Option<u32> {
        let last = self.running.len().checked_sub(1)?;
        Some(self.preempt(last))
    }

    /// Puts the running sequence at this place back and returns its key.
    fn preempt(&mut self, at: usize) -> u32 {
        let rank = self.running.remove(at);
        self.release_pages(rank.key);
        let sequence = &mut self.sequences[rank.key as usize];
        sequence.state = State::Waiting;
        sequence.looked_up = false;
        self.tenants.leave(sequence.tenant);
        self.waiting.insert(rank);
        self.counts.preemptions += 1;
        self.preempted.push(SequenceKey(rank.key));
        rank.key
    }

    /// Remembers the full pages that the sequence has computed since the last time.
    fn publish(&mut self, key: u32) {
        let page_tokens = self.config.page_tokens;
        let sequence = &mut self.sequences[key as usize];
        if !sequence.shareable || sequence.computed / page_tokens == sequence.published {
            return;
        }
        sequence.hash_pages(page_tokens);
        for i in sequence.published..sequence.computed / page_tokens {
            let parent = i.checked_sub(1).map(|before| sequence.pages[before]);
            let tokens = &sequence.tokens[i * page_tokens..(i + 1) * page_tokens];
            let published = self.pages.publish(parent, &sequence.scope, sequence.hashes[i], tokens, sequence.pages[i]);
            let Some(page) = published else {
                sequence.shareable = false;
                return;
            };
            sequence.pages[i] = page;
            sequence.published = i + 1;
        }
    }
}
