//! The prefix tree: which cached pages hold which tokens.
//!
//! A node is one full page; its children continue it. As a page can be only one node, nodes are numbered like pages and
//! the tree needs no storage of its own per node but the page's tokens. Children are found by a hash of their tokens and
//! compared token for token, so a hash collision costs a cache miss and never a wrong answer. Children are also a list,
//! the newest first: one that begins as wanted and ends otherwise is worth a copy.
//!
//! Pages nobody holds form a list from the one unused longest. Sequences release their last page first and hold every
//! page their pages continue, so a page enters the list after all its descendants: the head is always a leaf.

use std::{collections::HashMap, sync::Arc};

const NONE: u32 = u32::MAX;

/// Children looked at for one that begins alike.
const MAX_COMPARED: usize = 64;

/// Whose pages a sequence may share: only sequences of an equal scope find each other's pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheScope {
    /// The request's salt.
    pub salt: Option<String>,
    /// The content hash of the adapter that computed them.
    pub adapter: Option<[u8; 32]>,
}

/// Hash of one full page of a sequence. The scope is part of the first page's hash; later pages inherit it.
pub fn hash_page(scope: Option<&CacheScope>, tokens: &[u32]) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, value: u64| {
        let mixed = (hash ^ value).wrapping_mul(MULTIPLIER);
        mixed ^ (mixed >> 29)
    };
    let salt = scope.and_then(|scope| scope.salt.as_deref()).unwrap_or_default();
    let start = salt.bytes().fold(salt.len() as u64, |hash, byte| mix(hash, u64::from(byte)));
    let adapter = scope.and_then(|scope| scope.adapter.as_ref()).map_or(&[][..], |hash| hash);
    let start = adapter.iter().fold(start, |hash, &byte| mix(hash, u64::from(byte)));
    tokens.iter().fold(start, |hash, &token| mix(hash, u64::from(token) + 1))
}

/// What became of a page offered to the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is a node now.
    New,
    /// This page holds the same tokens after the same prefix.
    Existing(u32),
    /// Another page has its place (a hash collision).
    Clash,
}

#[derive(Debug, Clone)]
struct Node {
    cached: bool,
    unused: bool,
    parent: u32,
    hash: u64,
    /// The newest child, and the neighbours among the children of its own parent.
    first_child: u32,
    newer_sibling: u32,
    older_sibling: u32,
    previous: u32,
    next: u32,
    /// Only of nodes without a parent.
    scope: Option<Arc<CacheScope>>,
}

const VACANT: Node = Node {
    cached: false,
    unused: false,
    parent: NONE,
    hash: 0,
    first_child: NONE,
    newer_sibling: NONE,
    older_sibling: NONE,
    previous: NONE,
    next: NONE,
    scope: None,
};

/// Full pages by their tokens, and the order in which unused ones are given up.
#[derive(Debug)]
pub struct PrefixTree {
    page_tokens: usize,
    nodes: Vec<Node>,
    /// `[num_pages, page_tokens]`
    tokens: Vec<u32>,
    children: HashMap<(u32, u64), u32>,
    /// The newest node without a parent.
    first_root: u32,
    oldest: u32,
    newest: u32,
    unused: usize,
}

impl PrefixTree {
    /// An empty tree over pages `0..num_pages` of `page_tokens` tokens.
    pub fn new(num_pages: usize, page_tokens: usize) -> Self {
        Self {
            page_tokens,
            nodes: vec![VACANT; num_pages],
            tokens: vec![0; num_pages * page_tokens],
            children: HashMap::new(),
            first_root: NONE,
            oldest: NONE,
            newest: NONE,
            unused: 0,
        }
    }

    /// Tokens per page.
    pub fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    /// Remembered pages that nobody holds.
    pub fn unused(&self) -> usize {
        self.unused
    }

    /// Whether the page is remembered.
    pub fn contains(&self, page: u32) -> bool {
        self.nodes[page as usize].cached
    }

    /// Whether the page is remembered and nobody holds it.
    pub fn is_unused(&self, page: u32) -> bool {
        self.nodes[page as usize].unused
    }

    /// The page that holds `tokens` after `parent`.
    pub fn find(&self, parent: Option<u32>, scope: &CacheScope, hash: u64, tokens: &[u32]) -> Option<u32> {
        let &page = self.children.get(&(parent.unwrap_or(NONE), hash))?;
        self.matches(page, parent, scope, tokens).then_some(page)
    }

    /// Among the newest pages that continue `parent`, the one that begins most like `tokens`, and how many tokens are the
    /// same: at least one.
    pub fn find_similar(&self, parent: Option<u32>, scope: &CacheScope, tokens: &[u32]) -> Option<(u32, usize)> {
        let node = |page: u32| (page != NONE).then_some(page);
        let first = node(parent.map_or(self.first_root, |parent| self.nodes[parent as usize].first_child));
        std::iter::successors(first, |&page| node(self.nodes[page as usize].older_sibling))
            .take(MAX_COMPARED)
            .filter(|&page| self.is_of_scope(page, parent, scope))
            .map(|page| (page, self.page_content(page).iter().zip(tokens).take_while(|(a, b)| a == b).count()))
            .filter(|&(_, same)| same > 0)
            .max_by_key(|&(_, same)| same)
    }

    fn matches(&self, page: u32, parent: Option<u32>, scope: &CacheScope, tokens: &[u32]) -> bool {
        self.is_of_scope(page, parent, scope) && self.page_content(page) == tokens
    }

    fn is_of_scope(&self, page: u32, parent: Option<u32>, scope: &CacheScope) -> bool {
        parent.is_some() || self.nodes[page as usize].scope.as_deref() == Some(scope)
    }

    /// Where the newest child of a node is noted, or the newest node without a parent.
    fn first_child_mut(&mut self, parent: u32) -> &mut u32 {
        if parent == NONE { &mut self.first_root } else { &mut self.nodes[parent as usize].first_child }
    }

    /// The tokens of a remembered page.
    pub(super) fn page_content(&self, page: u32) -> &[u32] {
        let start = page as usize * self.page_tokens;
        &self.tokens[start..start + self.page_tokens]
    }

    /// The page that a remembered page continues.
    pub(super) fn parent(&self, page: u32) -> Option<u32> {
        Some(self.nodes[page as usize].parent).filter(|&parent| parent != NONE)
    }

    /// The scope of a remembered page without parent.
    pub(super) fn scope(&self, page: u32) -> Option<&CacheScope> {
        self.nodes[page as usize].scope.as_deref()
    }

    /// Remembered pages that nobody holds, from the one to be given up first.
    pub(super) fn unused_pages(&self) -> impl Iterator<Item = u32> + '_ {
        let page = |page: u32| (page != NONE).then_some(page);
        std::iter::successors(page(self.oldest), move |&last| page(self.nodes[last as usize].next))
    }

    /// Remembers that `page`, which somebody holds, has `tokens` after `parent`, which is remembered and held too.
    pub fn insert(
        &mut self,
        parent: Option<u32>,
        scope: &Arc<CacheScope>,
        hash: u64,
        tokens: &[u32],
        page: u32,
    ) -> Inserted {
        debug_assert_eq!(tokens.len(), self.page_tokens, "only full pages are remembered");
        let key = (parent.unwrap_or(NONE), hash);
        if let Some(&other) = self.children.get(&key) {
            let same = self.matches(other, parent, scope, tokens);
            return if same { Inserted::Existing(other) } else { Inserted::Clash };
        }
        self.children.insert(key, page);
        let scope = parent.is_none().then(|| Arc::clone(scope));
        let older_sibling = std::mem::replace(self.first_child_mut(key.0), page);
        if older_sibling != NONE {
            self.nodes[older_sibling as usize].newer_sibling = page;
        }
        self.nodes[page as usize] = Node { cached: true, parent: key.0, hash, older_sibling, scope, ..VACANT };
        let start = page as usize * self.page_tokens;
        self.tokens[start..start + self.page_tokens].copy_from_slice(tokens);
        Inserted::New
    }

    /// Nobody holds the page any more: it is the last to be given up now.
    pub fn set_unused(&mut self, page: u32) {
        let previous = self.newest;
        let node = &mut self.nodes[page as usize];
        debug_assert!(node.cached && !node.unused, "page {page} is not a used node");
        (node.unused, node.previous, node.next) = (true, previous, NONE);
        match previous {
            NONE => self.oldest = page,
            _ => self.nodes[previous as usize].next = page,
        }
        self.newest = page;
        self.unused += 1;
    }

    /// Somebody holds the page: it can not be given up.
    pub fn set_used(&mut self, page: u32) {
        let node = &mut self.nodes[page as usize];
        if !node.unused {
            return;
        }
        let (previous, next) = (node.previous, node.next);
        node.unused = false;
        match previous {
            NONE => self.oldest = next,
            _ => self.nodes[previous as usize].next = next,
        }
        match next {
            NONE => self.newest = previous,
            _ => self.nodes[next as usize].previous = previous,
        }
        self.unused -= 1;
    }

    /// Forgets the leaf that nobody has held for longest and returns its page.
    pub fn evict(&mut self) -> Option<u32> {
        let page = self.oldest;
        if page == NONE {
            return None;
        }
        debug_assert_eq!(self.nodes[page as usize].first_child, NONE, "the oldest unused page {page} is not a leaf");
        self.set_used(page);
        let Node { parent, hash, newer_sibling, older_sibling, .. } =
            std::mem::replace(&mut self.nodes[page as usize], VACANT);
        self.children.remove(&(parent, hash));
        match newer_sibling {
            NONE => *self.first_child_mut(parent) = older_sibling,
            _ => self.nodes[newer_sibling as usize].older_sibling = older_sibling,
        }
        if older_sibling != NONE {
            self.nodes[older_sibling as usize].newer_sibling = newer_sibling;
        }
        Some(page)
    }

    /// Checks links and counts.
    pub(super) fn audit(&self) -> Result<(), String> {
        let mut children = vec![0u32; self.nodes.len()];
        for (&(parent, hash), &page) in &self.children {
            let node = &self.nodes[page as usize];
            if !node.cached || (node.parent, node.hash) != (parent, hash) {
                return Err(format!("page {page} is not the child the tree says it is"));
            }
            let is_listed = match (node.newer_sibling, parent) {
                (NONE, NONE) => self.first_root == page,
                (NONE, _) => self.nodes[parent as usize].first_child == page,
                (newer, _) => self.nodes[newer as usize].older_sibling == page,
            };
            let older = node.older_sibling;
            if !is_listed || (older != NONE && self.nodes[older as usize].newer_sibling != page) {
                return Err(format!("page {page} is not in the list of its siblings"));
            }
            if parent == NONE {
                continue;
            }
            children[parent as usize] += 1;
            let parent_node = &self.nodes[parent as usize];
            if !parent_node.cached || (parent_node.unused && !node.unused) {
                return Err(format!("page {page} is held or remembered, but not page {parent}, which it continues"));
            }
        }
        if self.nodes.iter().zip(&children).any(|(node, &count)| (node.first_child == NONE) != (count == 0)) {
            return Err("a node's list of children is wrong".to_owned());
        }
        let nodes = self.nodes.iter().filter(|node| node.cached).count();
        let unused = self.nodes.iter().filter(|node| node.unused).count();
        if nodes != self.children.len() || unused != self.unused {
            return Err(format!("{nodes} nodes, {} of them linked; {unused} unused", self.children.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(salt: Option<&str>) -> Arc<CacheScope> {
        Arc::new(CacheScope { salt: salt.map(str::to_owned), adapter: None })
    }

    #[test]
    fn pages_are_found_by_scope_prefix_and_tokens() {
        let mut tree = PrefixTree::new(8, 2);
        let (plain, salted) = (scope(None), scope(Some("tenant")));
        let first = hash_page(Some(&plain), &[1, 2]);
        let second = hash_page(None, &[3, 4]);
        assert_eq!(tree.insert(None, &plain, first, &[1, 2], 5), Inserted::New);
        assert_eq!(tree.insert(Some(5), &plain, second, &[3, 4], 6), Inserted::New);
        assert_eq!(tree.insert(Some(5), &plain, second, &[3, 4], 7), Inserted::Existing(6));
        assert_eq!(tree.find(None, &plain, first, &[1, 2]), Some(5));
        assert_eq!(tree.find(Some(5), &plain, second, &[3, 4]), Some(6));
        assert_eq!(tree.find(None, &plain, second, &[3, 4]), None, "same tokens, other prefix");
        assert_eq!(tree.find(None, &salted, hash_page(Some(&salted), &[1, 2]), &[1, 2]), None);
        assert_eq!(tree.find(None, &salted, first, &[1, 2]), None, "colliding hash, other scope");
        assert_eq!(tree.find(None, &plain, first, &[1, 9]), None, "colliding hash, other tokens");
        assert_eq!(tree.insert(None, &plain, first, &[1, 9], 1), Inserted::Clash);
    }

    #[test]
    fn the_page_that_begins_most_alike_is_found() {
        let mut tree = PrefixTree::new(8, 3);
        let (plain, salted) = (scope(None), scope(Some("tenant")));
        let pages =
            [(None, [1, 2, 3]), (None, [1, 2, 4]), (Some(0), [5, 6, 7]), (Some(0), [5, 8, 8]), (None, [9, 9, 9])];
        for (page, (parent, tokens)) in (0..).zip(pages) {
            let scope = if page == 4 { &salted } else { &plain };
            tree.insert(parent, scope, hash_page(parent.is_none().then_some(scope), &tokens), &tokens, page);
        }
        assert_eq!(tree.find_similar(None, &plain, &[1, 2, 4, 5]), Some((1, 3)));
        assert_eq!(tree.find_similar(None, &plain, &[1]).map(|found| found.1), Some(1));
        assert_eq!(tree.find_similar(None, &plain, &[2, 2, 3]), None);
        assert_eq!(tree.find_similar(Some(0), &plain, &[5, 6, 9]), Some((2, 2)));
        assert_eq!(tree.find_similar(Some(1), &plain, &[5, 6, 9]), None, "nothing continues that page");
        assert_eq!(tree.find_similar(None, &plain, &[9, 9]), None, "another scope's");
        assert_eq!(tree.find_similar(None, &salted, &[9, 9]), Some((4, 2)));
        for page in [1, 3, 2, 0] {
            tree.set_unused(page);
        }
        assert_eq!(tree.evict(), Some(1), "from the middle of its siblings");
        tree.audit().expect("consistent");
        assert_eq!(tree.find_similar(None, &plain, &[1, 2, 4]), Some((0, 2)));
        assert_eq!(tree.evict(), Some(3), "the newest of its siblings");
        tree.audit().expect("consistent");
        assert_eq!(tree.find_similar(Some(0), &plain, &[5, 8]), Some((2, 1)));
    }

    #[test]
    fn the_leaf_unused_longest_goes_first() {
        let mut tree = PrefixTree::new(8, 1);
        let scope = scope(None);
        // 0 - 1 - 2 and 0 - 3
        for (parent, token, page) in [(None, 10, 0), (Some(0), 11, 1), (Some(1), 12, 2), (Some(0), 13, 3)] {
            let first = parent.is_none().then_some(&*scope);
            tree.insert(parent, &scope, hash_page(first, &[token]), &[token], page);
        }
        for page in [2, 1, 3, 0] {
            tree.set_unused(page);
        }
        tree.audit().expect("consistent");
        // 0 and 1 are wanted again and given back: they are the newest now.
        for page in [0, 1] {
            tree.set_used(page);
        }
        for page in [1, 0] {
            tree.set_unused(page);
        }
        let evicted: Vec<_> = std::iter::from_fn(|| tree.evict()).collect();
        assert_eq!(evicted, [2, 3, 1, 0]);
        assert_eq!(tree.unused(), 0);
        tree.audit().expect("consistent");
    }

    #[test]
    fn the_hash_tells_order_length_and_salt_apart() {
        let salted = CacheScope { salt: Some("a".to_owned()), adapter: None };
        let hashes = [
            hash_page(None, &[1, 2]),
            hash_page(None, &[2, 1]),
            hash_page(None, &[1, 2, 0]),
            hash_page(None, &[0, 1, 2]),
            hash_page(Some(&salted), &[1, 2]),
        ];
        let distinct: std::collections::HashSet<_> = hashes.into_iter().collect();
        assert_eq!(distinct.len(), hashes.len());
    }
}
