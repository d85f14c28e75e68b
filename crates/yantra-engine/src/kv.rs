//! Who holds which KV page.
//!
//! Only accounting: the pages' contents belong to the model. A page is *free*, *used* by one or more sequences, or
//! *cached*: used by nobody, but remembered in the [`PrefixTree`] and handed out again when a prompt begins alike.
//! Cached pages are as good as free ones, they are merely taken last.

mod pool;
mod prefix;

use std::sync::Arc;

pub use pool::PagePool;
pub use prefix::{CacheScope, Inserted, PrefixTree, hash_page};

/// The page pool and the prefix tree, kept consistent with each other.
#[derive(Debug)]
pub struct PageTable {
    pool: PagePool,
    tree: PrefixTree,
}

impl PageTable {
    /// All `num_pages` pages of `page_tokens` tokens free.
    pub fn new(num_pages: usize, page_tokens: usize) -> Self {
        Self { pool: PagePool::new(num_pages), tree: PrefixTree::new(num_pages, page_tokens) }
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
            Inserted::New => Some(page),
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
