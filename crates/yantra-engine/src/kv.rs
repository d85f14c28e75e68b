//! Who holds which KV page.
//!
//! Only accounting: the pages' contents belong to the model. A page is *free*, *used* by one or more sequences, or
//! *cached*: used by nobody, but remembered in the [`PrefixTree`] and handed out again when a prompt begins alike.
//! Cached pages are as good as free ones, they are merely taken last.

mod pool;
mod prefix;

use std::sync::Arc;

use crate::spill::{PageIdentity, PageKey};

pub use pool::PagePool;
pub use prefix::{CacheScope, Inserted, PrefixTree, hash_page};

/// The page pool and the prefix tree, kept consistent with each other.
#[derive(Debug)]
pub struct PageTable {
    pool: PagePool,
    tree: PrefixTree,
    spilling: Option<Spilling>,
}

/// What is kept to know pages by outside of memory.
#[derive(Debug)]
struct Spilling {
    fingerprint: PageKey,
    /// By page; of remembered pages only.
    keys: Vec<PageKey>,
    /// By page: whether it was offered to the disk since it was computed.
    offered: Vec<bool>,
    evicted: Vec<SpilledPage>,
}

/// A page whose content may be wanted again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpilledPage {
    /// Where its content is, until the next forward pass.
    pub page: u32,
    /// What it holds.
    pub identity: PageIdentity,
}

impl PageTable {
    /// All `num_pages` pages of `page_tokens` tokens free.
    pub fn new(num_pages: usize, page_tokens: usize) -> Self {
        Self { pool: PagePool::new(num_pages), tree: PrefixTree::new(num_pages, page_tokens), spilling: None }
    }

    /// From now on keeps the names that pages have on disk, those of a model of this fingerprint, and a list of the
    /// pages forgotten. Only for a table that remembers nothing yet.
    pub fn keep_evicted(&mut self, fingerprint: PageKey) {
        debug_assert_eq!(self.available(), self.pool.free_pages(), "no page is remembered yet");
        let num_pages = self.pool.num_pages();
        let (keys, offered) = (vec![fingerprint; num_pages], vec![false; num_pages]);
        self.spilling = Some(Spilling { fingerprint, keys, offered, evicted: Vec::new() });
    }

    /// Adds to `evicted` the pages forgotten since the last call. Their content is there until the next forward pass.
    pub fn take_evicted(&mut self, evicted: &mut Vec<SpilledPage>) {
        if let Some(spilling) = &mut self.spilling {
            evicted.append(&mut spilling.evicted);
        }
    }

    /// At most `count` cached pages that were never offered to the disk, from the one to be forgotten first; they count as
    /// offered from now on.
    pub fn offer_cached(&mut self, count: usize, offered: &mut Vec<SpilledPage>) {
        let Some(spilling) = &mut self.spilling else { return };
        for page in self.tree.unused_pages() {
            if offered.len() >= count {
                return;
            }
            if !std::mem::replace(&mut spilling.offered[page as usize], true) {
                offered.push(spilling.spilled(&self.tree, page));
            }
        }
    }

    /// The key on disk of what continues `last`, or of what begins a sequence.
    pub fn key_before_next(&self, last: Option<u32>, scope: &CacheScope) -> Option<PageKey> {
        let spilling = self.spilling.as_ref()?;
        Some(spilling.key_before_next(last, scope))
    }

    /// Makes room in the tree for `count` pages from page `first` of a sequence on, whose content is had from elsewhere:
    /// afterwards they are cached like others. Adds to `restored` the pages to be filled, with their place in the
    /// sequence; the caller must fill them before anything else. Returns how many pages of the sequence are remembered now:
    /// fewer than wanted when pages before `first` are gone or there is no room.
    pub fn restore(
        &mut self,
        scope: &Arc<CacheScope>,
        tokens: &[u32],
        hashes: &[u64],
        first: usize,
        count: usize,
        restored: &mut Vec<(usize, u32)>,
    ) -> usize {
        let mut chain = Vec::new();
        self.find_prefix(scope, tokens, &hashes[..first + count], &mut chain);
        if chain.len() < first {
            return chain.len();
        }
        // Held while it grows: no page of it may be given up for another.
        chain.iter().for_each(|&page| self.retain(page));
        let page_tokens = self.tree.page_tokens();
        for index in chain.len()..first + count {
            let Some(page) = self.allocate() else { break };
            let content = &tokens[index * page_tokens..(index + 1) * page_tokens];
            match self.publish(chain.last().copied(), scope, hashes[index], content, page) {
                Some(page) => {
                    if let Some(spilling) = &mut self.spilling {
                        spilling.offered[page as usize] = true;
                    }
                    chain.push(page);
                    restored.push((index, page));
                }
                None => {
                    self.release(page);
                    break;
                }
            }
        }
        chain.iter().rev().for_each(|&page| self.release(page));
        chain.len()
    }

    /// Pages that can be had now, cached ones included.
    pub fn available(&self) -> usize {
        self.pool.free_pages() + self.tree.unused()
    }

    /// Pages that sequences hold.
    pub fn used(&self) -> usize {
        self.pool.num_pages() - self.available()
    }

    /// Pages kept only for later prompts.
    pub fn cached(&self) -> usize {
        self.tree.unused()
    }

    /// Takes a page for one sequence; when none is free, the page cached longest ago is forgotten and taken.
    pub fn allocate(&mut self) -> Option<u32> {
        if let Some(page) = self.pool.allocate() {
            return Some(page);
        }
        if let Some(spilling) = &mut self.spilling {
            let oldest = self.tree.unused_pages().next()?;
            let spilled = spilling.spilled(&self.tree, oldest);
            spilling.evicted.push(spilled);
        }
        let page = self.tree.evict()?;
        self.pool.put_back(page);
        self.pool.allocate()
    }

    /// Makes one more sequence hold a page found by [`Self::find_prefix`].
    pub fn retain(&mut self, page: u32) {
        if self.pool.retain(page) == 1 {
            self.tree.set_used(page);
        }
    }

    /// One sequence lets go of a page. A sequence must release its last page first, so that a cached page is always
    /// forgotten before the one it continues.
    pub fn release(&mut self, page: u32) {
        if self.pool.release(page) > 0 {
            return;
        }
        if self.tree.contains(page) {
            self.tree.set_unused(page);
        } else {
            self.pool.put_back(page);
        }
    }

    /// Whether only one sequence holds the page.
    pub fn is_exclusive(&self, page: u32) -> bool {
        self.pool.references(page) == 1
    }

    /// Leaves in `found` the longest chain of remembered pages that begins `tokens`, at most `hashes.len()` pages, where
    /// `hashes` are the [`hash_page`]s of its full pages. The pages are not yet held: see [`Self::retain`].
    pub fn find_prefix(&self, scope: &CacheScope, tokens: &[u32], hashes: &[u64], found: &mut Vec<u32>) {
        found.clear();
        for (&hash, page_tokens) in hashes.iter().zip(tokens.chunks_exact(self.tree.page_tokens())) {
            match self.tree.find(found.last().copied(), scope, hash, page_tokens) {
                Some(page) => found.push(page),
                None => return,
            }
        }
    }

    /// The remembered page that continues `last` (or begins a sequence) most like `tokens`, and how many tokens are the
    /// same. It is there to be copied until the next forward pass.
    pub fn find_similar(&self, last: Option<u32>, scope: &CacheScope, tokens: &[u32]) -> Option<(u32, usize)> {
        self.tree.find_similar(last, scope, tokens)
    }

    /// How many of these remembered pages nobody holds (holding them makes fewer pages available).
    pub fn count_unused(&self, pages: &[u32]) -> usize {
        pages.iter().filter(|&&page| self.pool.references(page) == 0).count()
    }

    /// Remembers a sequence's full page, which continues `parent`. Returns the page the sequence must use from now on:
    /// the same, or the one that held the same tokens already (then its own is released). `None`: the page can not be
    /// remembered, and neither can those that continue it.
    pub fn publish(
        &mut self,
        parent: Option<u32>,
        scope: &Arc<CacheScope>,
        hash: u64,
        tokens: &[u32],
        page: u32,
    ) -> Option<u32> {
        match self.tree.insert(parent, scope, hash, tokens, page) {
            Inserted::New => {
                if let Some(spilling) = &mut self.spilling {
                    let before = spilling.key_before_next(parent, scope);
                    spilling.keys[page as usize] = before.of_next(tokens);
                    spilling.offered[page as usize] = false;
                }
                Some(page)
            }
            Inserted::Existing(other) => {
                self.retain(other);
                self.release(page);
                Some(other)
            }
            Inserted::Clash => None,
        }
    }

    /// Checks that every page is in exactly one state and that `held` (one entry per sequence and page) is what the
    /// reference counts say. For tests.
    ///
    /// # Errors
    /// A description of the first contradiction.
    pub fn audit(&self, held: impl Iterator<Item = u32>) -> Result<(), String> {
        let mut expected = vec![0u32; self.pool.num_pages()];
        for page in held {
            expected[page as usize] += 1;
        }
        let free = self.pool.free_set()?;
        self.tree.audit()?;
        for (page, &expected) in (0u32..).zip(&expected) {
            let references = self.pool.references(page);
            if references != expected {
                return Err(format!("page {page} has {references} references, sequences hold it {expected} times"));
            }
            let is_free = free.contains(&page);
            let unused = references == 0 && self.tree.contains(page);
            if is_free != (references == 0 && !self.tree.contains(page)) {
                return Err(format!("page {page} is free: {is_free}, references: {references}, cached: {unused}"));
            }
            if unused != self.tree.is_unused(page) {
                return Err(format!("page {page} should be evictable: {unused}"));
            }
        }
        Ok(())
    }
}

impl Spilling {
    fn key_before_next(&self, last: Option<u32>, scope: &CacheScope) -> PageKey {
        match last {
            Some(page) => self.keys[page as usize],
            None => self.fingerprint.of_scope(scope),
        }
    }

    /// A remembered page.
    fn spilled(&self, tree: &PrefixTree, page: u32) -> SpilledPage {
        let parent = match (tree.parent(page), tree.scope(page)) {
            (None, Some(scope)) => self.fingerprint.of_scope(scope),
            (parent, _) => parent.map_or(self.fingerprint, |parent| self.keys[parent as usize]),
        };
        let identity = PageIdentity { key: self.keys[page as usize], parent, tokens: tree.page_content(page).into() };
        SpilledPage { page, identity }
    }
}
