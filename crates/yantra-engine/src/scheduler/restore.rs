//! Pages that come from disk instead of being computed: which sequences may want some, and how they get them.
//!
//! The scheduler knows nothing of the disk. Whoever does asks it for waiting sequences that are about to enter the batch
//! with pages missing, holds one back while its pages are read, and puts these into the prefix tree, where admission finds
//! them like any others.

use std::{ops::Bound, sync::Arc};

use super::{Scheduler, SequenceKey, State};
use crate::{
    kv::{CacheScope, SpilledPage},
    spill::PageKey,
};

/// A waiting sequence with pages missing that might be had from elsewhere.
#[derive(Debug, Clone)]
pub struct LookUp {
    /// The sequence.
    pub key: SequenceKey,
    /// Whose pages it may share.
    pub scope: Arc<CacheScope>,
    /// The tokens of all pages it could share.
    pub tokens: Vec<u32>,
    /// The pages' hashes in the prefix tree.
    pub hashes: Vec<u64>,
    /// The first page that is missing.
    pub first: usize,
    /// The key on disk of what the missing page continues.
    pub parent: PageKey,
}

impl Scheduler {
    /// From now on keeps account of pages as a disk knows them; see [`crate::kv::PageTable::keep_evicted`].
    pub fn keep_evicted(&mut self, fingerprint: PageKey) {
        self.pages.keep_evicted(fingerprint);
    }

    /// Adds to `evicted` the pages forgotten since the last call.
    pub fn take_evicted(&mut self, evicted: &mut Vec<SpilledPage>) {
        self.pages.take_evicted(evicted);
    }

    /// Adds to `offered` cached pages that were never offered before, until it has `count`.
    pub fn offer_cached(&mut self, count: usize, offered: &mut Vec<SpilledPage>) {
        self.pages.offer_cached(count, offered);
    }

    /// The next waiting sequence that could enter the batch now, lacks pages and was not asked about since it waits.
    pub fn next_to_look_up(&mut self) -> Option<LookUp> {
        let places = self.config.max_sequences.saturating_sub(self.running.len());
        let mut after = Bound::Unbounded;
        for _ in 0..places {
            let &rank = self.waiting.range((after, Bound::Unbounded)).next()?;
            after = Bound::Excluded(rank);
            if self.sequences[rank.key as usize].looked_up || self.is_full(rank.key) {
                continue;
            }
            self.find_prefix(rank.key);
            let needed = self.new_pages(rank.key) + self.running.len();
            if self.next_page_is_being_computed(rank.key) || self.available_besides_found() < needed {
                continue;
            }
            let last = self.found.last().copied();
            let sequence = &mut self.sequences[rank.key as usize];
            sequence.looked_up = true;
            let pages = sequence.sharable_pages(self.config.page_tokens);
            if self.config.prefix_cache && self.found.len() < pages {
                return Some(LookUp {
                    key: SequenceKey(rank.key),
                    scope: Arc::clone(&sequence.scope),
                    tokens: sequence.tokens[..pages * self.config.page_tokens].to_vec(),
                    hashes: sequence.hashes[..pages].to_vec(),
                    first: self.found.len(),
                    parent: self.pages.key_before_next(last, &sequence.scope)?,
                });
            }
        }
        None
    }

    /// Keeps a waiting sequence out of the batch until [`Self::end_restoring`].
    pub fn begin_restoring(&mut self, key: SequenceKey) {
        let sequence = &mut self.sequences[key.index()];
        sequence.restoring = sequence.state == State::Waiting;
    }

    /// Lets a sequence into the batch again, whatever has become of it; `look_up_again`: more of it may be on disk.
    pub fn end_restoring(&mut self, key: SequenceKey, look_up_again: bool) {
        let sequence = &mut self.sequences[key.index()];
        sequence.restoring = false;
        sequence.looked_up &= !look_up_again;
    }

    /// Puts pages `first..first + count` of what was looked up into the prefix tree, where the caller must fill those that
    /// `restored` tells; returns how many pages of it are there now. See [`crate::kv::PageTable::restore`].
    pub fn restore(&mut self, from: &LookUp, first: usize, count: usize, restored: &mut Vec<(usize, u32)>) -> usize {
        self.pages.restore(&from.scope, &from.tokens, &from.hashes, first, count, restored)
    }
}
