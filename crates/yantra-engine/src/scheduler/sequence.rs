//! One sequence as the scheduler sees it.

use std::{cmp::Reverse, sync::Arc};

use super::{NewSequence, SequenceKey, tenants::TenantIndex};
use crate::kv::{CacheScope, hash_page};

/// The order in which sequences are served: higher priority, then earlier arrival.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) priority: Reverse<i32>,
    pub(super) arrival: u64,
    pub(super) key: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum State {
    /// The entry is free for a new sequence.
    #[default]
    Vacant,
    /// Not in the batch; holds no pages.
    Waiting,
    /// In the batch; holds pages for at least its computed tokens.
    Running,
}

#[derive(Debug, Default)]
pub(super) struct Sequence {
    pub(super) state: State,
    pub(super) rank: Rank,
    pub(super) tenant: TenantIndex,
    pub(super) scope: Arc<CacheScope>,
    /// Whose last prompt page may be copied.
    pub(super) twin: Option<SequenceKey>,
    /// Prompt and generated tokens.
    pub(super) tokens: Vec<u32>,
    /// A guess at what follows them, for the next step only.
    pub(super) draft: Vec<u32>,
    pub(super) prompt_len: usize,
    /// How many tokens have their keys and values in the KV cache.
    pub(super) computed: usize,
    pub(super) pages: Vec<u32>,
    /// How many of `pages` are in the prefix tree.
    pub(super) published: usize,
    /// Whether further pages can enter the prefix tree.
    pub(super) shareable: bool,
    /// Hashes of the full pages, as far as they were needed.
    pub(super) hashes: Vec<u64>,
    /// Prompt positions whose successor has been scored; `prompt_len - 1` when that is done or not wanted.
    pub(super) scored: usize,
    /// Whether it has been in the batch before.
    pub(super) started: bool,
    /// Whether its pages have been looked for on disk since it last began to wait.
    pub(super) looked_up: bool,
    /// Whether it waits for pages from disk.
    pub(super) restoring: bool,
}

impl Sequence {
    /// Makes a vacant entry a waiting sequence, keeping its buffers.
    pub(super) fn start(&mut self, new: &NewSequence<'_>, key: u32) {
        self.state = State::Waiting;
        self.rank = Rank { priority: Reverse(new.priority), arrival: new.arrival, key };
        self.scope = Arc::clone(&new.scope);
        self.twin = new.twin;
        self.tokens.clear();
        self.tokens.extend_from_slice(new.prompt);
        self.draft.clear();
        self.prompt_len = new.prompt.len();
        self.pages.clear();
        self.hashes.clear();
        (self.computed, self.published) = (0, 0);
        self.shareable = true;
        self.scored = if new.score_prompt { 0 } else { self.prompt_len - 1 };
        self.started = false;
        (self.looked_up, self.restoring) = (false, false);
    }

    /// Known tokens that are not computed yet.
    pub(super) fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Hashes the full pages of the known tokens that were not hashed before.
    pub(super) fn hash_pages(&mut self, page_tokens: usize) {
        for page in self.tokens.chunks_exact(page_tokens).skip(self.hashes.len()) {
            let scope = self.hashes.is_empty().then_some(&*self.scope);
            self.hashes.push(hash_page(scope, page));
        }
    }

    /// How many tokens may come from the prefix cache: the last token must be computed, and so must every position that
    /// is still to be scored.
    pub(super) fn sharable_tokens(&self) -> usize {
        if self.scored + 1 < self.prompt_len { self.scored } else { self.tokens.len() - 1 }
    }

    /// How many full pages may come from the prefix cache.
    pub(super) fn sharable_pages(&self, page_tokens: usize) -> usize {
        self.sharable_tokens() / page_tokens
    }

    /// The tokens of page `index`, if they are all known.
    pub(super) fn page_content(&self, index: usize, page_tokens: usize) -> Option<&[u32]> {
        self.tokens.get(index * page_tokens..(index + 1) * page_tokens)
    }
}
