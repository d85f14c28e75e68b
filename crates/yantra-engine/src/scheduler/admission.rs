//! Which waiting sequences enter the batch, and who must leave for them.

use std::ops::Bound;

use super::{Rank, Scheduler, State, StepPlan};

/// Waiting sequences looked at beyond those that can not enter yet, per step.
const MAX_DEFERRED: usize = 64;

/// As many of tenants that have their share.
const MAX_FULL: usize = 4096;

enum Admission {
    Admitted,
    /// Not now, but those behind it may.
    Deferred,
    /// Neither it nor those behind it.
    NoRoom,
}

impl Scheduler {
    /// Admits waiting sequences in order of rank. One that lacks pages holds up those behind it, so a long prompt is
    /// not starved by short ones.
    pub(super) fn admit_waiting(&mut self, plan: &mut StepPlan) {
        let mut after = Bound::Unbounded;
        let (mut deferred, mut full) = (0, 0);
        while self.running.len() < self.config.max_sequences
            && plan.tokens_left > 0
            && deferred < MAX_DEFERRED
            && full < MAX_FULL
        {
            let Some(&rank) = self.waiting.range((after, Bound::Unbounded)).next() else { return };
            if self.is_full(rank.key) {
                full += 1;
                after = Bound::Excluded(rank);
                continue;
            }
            match self.admit(rank, plan) {
                Admission::Admitted => {}
                Admission::Deferred => {
                    deferred += 1;
                    after = Bound::Excluded(rank);
                }
                Admission::NoRoom => return,
            }
        }
    }

    fn admit(&mut self, rank: Rank, plan: &mut StepPlan) -> Admission {
        if self.sequences[rank.key as usize].restoring {
            return Admission::Deferred;
        }
        self.find_prefix(rank.key);
        if self.next_page_is_being_computed(rank.key) {
            return Admission::Deferred;
        }
        let new_pages = self.new_pages(rank.key);
        if !self.may_hold_more(rank.key, new_pages) {
            return Admission::Deferred;
        }
        // A page of headroom per running sequence, lest the newcomer is preempted at once.
        if self.available_besides_found() < new_pages + self.running.len() {
            return Admission::NoRoom;
        }
        let (copied, copied_tokens) = self.next_page_to_copy(rank.key).unzip();
        let found_tokens = self.found.len() * self.config.page_tokens + copied_tokens.unwrap_or(0);
        self.sequences[rank.key as usize].computed = found_tokens;
        let chunk = self.chunk(plan, rank.key);
        if chunk == 0 {
            self.sequences[rank.key as usize].computed = 0;
            return Admission::Deferred;
        }
        self.enter(rank, new_pages);
        if let Some(from) = copied {
            plan.copies.push((from, self.sequences[rank.key as usize].pages[self.found.len()]));
        }
        self.tenants.plan(self.sequences[rank.key as usize].tenant, chunk);
        let started_with = self.note_start(rank.key, found_tokens);
        self.plan_tokens(plan, rank.key, chunk, started_with);
        Admission::Admitted
    }

    /// The page that begins like what comes after the pages found, and how many tokens of it are the same: that of a
    /// running twin, or a remembered one. The last token is always computed, for its logits.
    fn next_page_to_copy(&self, key: u32) -> Option<(u32, usize)> {
        if let Some(twin) = self.twin_page(key) {
            return Some(twin);
        }
        let sequence = &self.sequences[key as usize];
        if !self.config.prefix_cache {
            return None;
        }
        let wanted = self.found.len() * self.config.page_tokens..sequence.sharable_tokens();
        self.pages.find_similar(self.found.last().copied(), &sequence.scope, sequence.tokens.get(wanted)?)
    }

    /// As [`Self::next_page_to_copy`], of a running twin that has all but the last token.
    fn twin_page(&self, key: u32) -> Option<(u32, usize)> {
        let sequence = &self.sequences[key as usize];
        let twin = &self.sequences[sequence.twin?.index()];
        let needed = sequence.tokens.len() - 1;
        let is_rest =
            self.found.len() == needed / self.config.page_tokens && !needed.is_multiple_of(self.config.page_tokens);
        // A twin that is gone may have left its key to a stranger.
        let is_same =
            twin.tokens.get(..sequence.tokens.len()) == Some(&*sequence.tokens) && twin.scope == sequence.scope;
        let has_it = twin.state == State::Running && twin.computed >= needed;
        let is_scored = sequence.scored + 1 >= sequence.prompt_len;
        let page = || (twin.pages[self.found.len()], needed % self.config.page_tokens);
        (is_rest && is_same && has_it && is_scored).then(page)
    }

    /// Moves the sequence into the batch, with the pages found and as many new ones.
    fn enter(&mut self, rank: Rank, new_pages: usize) {
        self.waiting.remove(&rank);
        let at = self.running.binary_search(&rank).unwrap_or_else(|at| at);
        self.running.insert(at, rank);
        let sequence = &mut self.sequences[rank.key as usize];
        sequence.state = State::Running;
        self.tenants.enter(sequence.tenant);
        sequence.published = self.found.len();
        for &page in &self.found {
            self.pages.retain(page);
        }
        sequence.pages.extend_from_slice(&self.found);
        sequence.pages.extend((0..new_pages).map_while(|_| self.pages.allocate()));
    }

    fn note_start(&mut self, key: u32, found_tokens: usize) -> Option<usize> {
        let sequence = &mut self.sequences[key as usize];
        if std::mem::replace(&mut sequence.started, true) {
            return None;
        }
        self.counts.prefix_query_tokens += sequence.prompt_len as u64;
        self.counts.prefix_hit_tokens += found_tokens as u64;
        Some(found_tokens)
    }

    /// Leaves the remembered pages that begin the sequence in `self.found`.
    pub(super) fn find_prefix(&mut self, key: u32) {
        let sequence = &mut self.sequences[key as usize];
        let pages = if self.config.prefix_cache {
            sequence.hash_pages(self.config.page_tokens);
            sequence.sharable_pages(self.config.page_tokens)
        } else {
            0
        };
        self.pages.find_prefix(&sequence.scope, &sequence.tokens, &sequence.hashes[..pages], &mut self.found);
    }

    /// Pages the sequence needs besides those found.
    pub(super) fn new_pages(&self, key: u32) -> usize {
        self.pages_for(self.sequences[key as usize].tokens.len()) - self.found.len()
    }

    pub(super) fn available_besides_found(&self) -> usize {
        self.pages.available() - self.pages.count_unused(&self.found)
    }

    /// Whether a running sequence is about to compute the page that comes after those found.
    pub(super) fn next_page_is_being_computed(&self, key: u32) -> bool {
        let page_tokens = self.config.page_tokens;
        let index = self.found.len();
        let sequence = &self.sequences[key as usize];
        if !self.config.prefix_cache || index >= sequence.sharable_pages(page_tokens) {
            return false;
        }
        let hash = sequence.hashes[index];
        let content = sequence.page_content(index, page_tokens);
        let same_prefix = |other: &super::Sequence| match index.checked_sub(1) {
            Some(last) => other.pages[last] == self.found[last],
            None => other.scope == sequence.scope,
        };
        self.running.iter().map(|rank| &self.sequences[rank.key as usize]).any(|other| {
            other.published == index
                && other.shareable
                && other.hashes.get(index) == Some(&hash)
                && other.page_content(index, page_tokens) == content
                && same_prefix(other)
        })
    }

    /// Whether the sequence's tenant has its share of the batch.
    pub(super) fn is_full(&self, key: u32) -> bool {
        self.tenants.is_full(self.sequences[key as usize].tenant, self.config.max_sequences)
    }

    /// Whether the sequence's tenant may have so many pages besides those of its running sequences.
    fn may_hold_more(&self, key: u32, pages: usize) -> bool {
        let tenant = self.sequences[key as usize].tenant;
        let running = self.running.iter().map(|rank| &self.sequences[rank.key as usize]);
        let held: usize = running.filter(|other| other.tenant == tenant).map(|other| other.pages.len()).sum();
        self.tenants.may_hold(tenant, held + pages, self.config.num_pages)
    }

    /// The first waiting sequence whose tenant has not all its share, or whose priority is above that of a running one of
    /// the same tenant: that one is preempted.
    fn first_with_share(&mut self) -> Option<Rank> {
        for &rank in self.waiting.iter().take(MAX_DEFERRED) {
            if !self.is_full(rank.key) {
                return Some(rank);
            }
            let tenant = self.sequences[rank.key as usize].tenant;
            let is_victim =
                |other: &Rank| other.priority > rank.priority && self.sequences[other.key as usize].tenant == tenant;
            if let Some(at) = self.running.iter().rposition(is_victim) {
                self.preempt(at);
                return Some(rank);
            }
        }
        None
    }

    /// Preempts running sequences of lower priority for the first waiting one, if that lets it in.
    pub(super) fn make_room_for_priority(&mut self) {
        let is_lowest = |rank: &Rank| self.waiting.first().is_none_or(|first| rank.priority <= first.priority);
        if self.running.last().is_none_or(is_lowest) {
            return;
        }
        let Some(first) = self.first_with_share() else { return };
        let is_lower = |rank: &Rank| rank.priority > first.priority;
        if !self.running.last().is_some_and(is_lower) || self.sequences[first.key as usize].restoring {
            return;
        }
        self.find_prefix(first.key);
        if self.next_page_is_being_computed(first.key) {
            return;
        }
        let staying = self.running.iter().filter(|rank| !is_lower(rank)).count();
        let needed = self.new_pages(first.key) + self.count_found_held_by_lower(staying);
        let gained: usize = self.running[staying..].iter().map(|rank| self.exclusive_pages(rank.key)).sum();
        if staying >= self.config.max_sequences || self.available_besides_found() + gained < needed + staying {
            return;
        }
        while self.running.last().is_some_and(is_lower) && !self.has_room_for(first.key) {
            self.preempt_last();
        }
    }

    /// Preempts running sequences of tenants that have more than their share for the first waiting one of a tenant that
    /// has less.
    pub(super) fn make_room_for_share(&mut self) {
        let has_room = self.running.len() < self.config.max_sequences && self.pages.available() > self.running.len();
        if has_room || self.tenants.is_alone() {
            return;
        }
        let Some(&first) = self.waiting.iter().take(MAX_DEFERRED).find(|rank| !self.is_full(rank.key)) else { return };
        if self.sequences[first.key as usize].restoring {
            return;
        }
        let is_victim = |this: &Self, rank: &Rank| {
            let tenant = this.sequences[rank.key as usize].tenant;
            rank.priority >= first.priority && this.tenants.has_more(tenant, this.config.max_sequences)
        };
        while !self.has_room_for(first.key)
            && let Some(at) = self.running.iter().rposition(|rank| is_victim(self, rank))
        {
            self.preempt(at);
        }
    }

    /// Pages found that become unused when the sequences after the first `staying` leave: no gain for the newcomer.
    fn count_found_held_by_lower(&self, staying: usize) -> usize {
        let leaving = &self.running[staying..];
        let holds = |page: &u32| {
            leaving.iter().any(|rank| self.sequences[rank.key as usize].pages.contains(page))
                && self.pages.is_exclusive(*page)
        };
        self.found.iter().filter(|page| holds(page)).count()
    }

    fn exclusive_pages(&self, key: u32) -> usize {
        self.sequences[key as usize].pages.iter().filter(|&&page| self.pages.is_exclusive(page)).count()
    }

    fn has_room_for(&mut self, key: u32) -> bool {
        self.find_prefix(key);
        self.running.len() < self.config.max_sequences
            && self.available_besides_found() >= self.new_pages(key) + self.running.len()
    }
}
