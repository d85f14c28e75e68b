//! Reference-counted page ids and the list of free ones.

use std::collections::HashSet;

/// Pages by number; a page is free or has references.
#[derive(Debug)]
pub struct PagePool {
    references: Vec<u32>,
    free: Vec<u32>,
}

impl PagePool {
    /// A pool of free pages `0..num_pages`.
    pub fn new(num_pages: usize) -> Self {
        let num_pages = u32::try_from(num_pages).unwrap_or(u32::MAX);
        Self { references: vec![0; num_pages as usize], free: (0..num_pages).rev().collect() }
    }

    /// Pages there are.
    pub fn num_pages(&self) -> usize {
        self.references.len()
    }

    /// Pages nobody uses or remembers.
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    /// How many sequences hold the page.
    pub fn references(&self, page: u32) -> u32 {
        self.references[page as usize]
    }

    /// Takes a free page, with one reference.
    pub fn allocate(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.references[page as usize] = 1;
        Some(page)
    }

    /// Adds a reference and returns how many there are now.
    pub fn retain(&mut self, page: u32) -> u32 {
        let references = &mut self.references[page as usize];
        *references += 1;
        *references
    }

    /// Takes a reference away and returns how many are left; the page is not yet free (see [`Self::put_back`]).
    pub fn release(&mut self, page: u32) -> u32 {
        let references = &mut self.references[page as usize];
        debug_assert!(*references > 0, "page {page} released too often");
        *references = references.saturating_sub(1);
        *references
    }

    /// Makes a page without references free.
    pub fn put_back(&mut self, page: u32) {
        debug_assert_eq!(self.references[page as usize], 0, "page {page} freed while in use");
        self.free.push(page);
    }

    /// The free pages, checked for duplicates.
    pub(super) fn free_set(&self) -> Result<HashSet<u32>, String> {
        let set: HashSet<u32> = self.free.iter().copied().collect();
        if set.len() != self.free.len() {
            return Err("a page is in the free list twice".to_owned());
        }
        Ok(set)
    }
}
