//! Texts that go through the layers together, and the pages that hold their keys and values.

use super::EncoderText;
use crate::kv::PAGE_TOKENS;
use std::ops::Range;
use yantra_kernels::AttentionSequence;

/// Tokens of a group at most, unless it is one long text: its activations and some weights fit a second-level cache.
const GROUP_TOKENS: usize = 160;
/// Tokens of a group at least: fewer would read the weights too often.
const MIN_GROUP_TOKENS: usize = 48;

/// Consecutive texts that go through the layers together, by their places: several for each thread if there are enough.
pub(super) fn groups(texts: &[EncoderText<'_>], num_threads: usize) -> Vec<Range<usize>> {
    let num_tokens: usize = texts.iter().map(|text| text.tokens.len()).sum();
    let most = (num_tokens / (4 * num_threads)).clamp(MIN_GROUP_TOKENS, GROUP_TOKENS);
    let mut groups = Vec::new();
    let (mut first, mut tokens) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        if index > first && tokens + text.tokens.len() > most {
            groups.push(first..index);
            (first, tokens) = (index, 0);
        }
        tokens += text.tokens.len();
    }
    if first < texts.len() {
        groups.push(first..texts.len());
    }
    groups
}

/// Pages, slots and positions of texts laid one after another.
#[derive(Default)]
pub(super) struct Paging {
    pages: Vec<u32>,
    /// First page, first token and length of each text.
    spans: Vec<(usize, usize, usize)>,
    pub(super) slots: Vec<u32>,
    pub(super) positions: Vec<u32>,
    pub(super) num_pages: usize,
}

impl Paging {
    pub(super) fn push(&mut self, len: usize) {
        let first_slot = self.num_pages * PAGE_TOKENS;
        self.spans.push((self.num_pages, self.slots.len(), len));
        self.slots.extend((first_slot..first_slot + len).map(|slot| slot as u32));
        self.positions.extend(0..len as u32);
        let after = self.num_pages + len.div_ceil(PAGE_TOKENS);
        self.pages.extend((self.num_pages..after).map(|page| page as u32));
        self.num_pages = after;
    }

    pub(super) fn sequences(&self) -> impl Iterator<Item = AttentionSequence<'_>> {
        self.spans.iter().map(|(first_page, query_start, len)| AttentionSequence {
            query_start: *query_start,
            query_len: *len,
            context_len: *len,
            pages: &self.pages[*first_page..first_page + len.div_ceil(PAGE_TOKENS)],
        })
    }
}
