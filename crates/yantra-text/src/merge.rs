//! Merging neighbours, best pair first: the loop that byte-pair encoding (best = earliest learnt merge) and
//! SentencePiece (best = highest score of the merged token) share.
//!
//! Short words scan for the best pair, which beats any queue; long ones use a heap, so that a megabyte without a space
//! takes `n log n` steps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A run of the text that is one token so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Symbol {
    /// Its token; [`Symbol::NONE`] where the vocabulary has none.
    pub(crate) id: u32,
    /// Byte range in the text.
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Symbol {
    pub(crate) const NONE: u32 = u32::MAX;
}

/// What merging two neighbours gives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Merge {
    /// Lower merges first; among equals the leftmost.
    pub(crate) priority: u32,
    /// The merged token.
    pub(crate) id: u32,
}

/// At this many symbols the heap overtakes scanning.
const SCAN_LIMIT: usize = 64;

/// Merges `symbols` until no pair merges.
pub(crate) fn merge_all(symbols: &mut Vec<Symbol>, lookup: impl Fn(Symbol, Symbol) -> Option<Merge>) {
    if symbols.len() <= SCAN_LIMIT {
        merge_scanning(symbols, lookup);
    } else {
        merge_with_heap(symbols, lookup);
    }
}

fn merge_scanning(symbols: &mut Vec<Symbol>, lookup: impl Fn(Symbol, Symbol) -> Option<Merge>) {
    // pairs[i] is the merge of symbols i and i + 1.
    let mut pairs = [None; SCAN_LIMIT];
    for (pair, neighbours) in pairs.iter_mut().zip(symbols.windows(2)) {
        *pair = lookup(neighbours[0], neighbours[1]);
    }
    loop {
        let count = symbols.len().saturating_sub(1);
        let best = pairs[..count]
            .iter()
            .enumerate()
            .filter_map(|(at, pair)| pair.map(|merge: Merge| (merge.priority, at, merge.id)))
            .min();
        let Some((_, at, id)) = best else { return };
        symbols[at] = Symbol { id, start: symbols[at].start, end: symbols[at + 1].end };
        symbols.remove(at + 1);
        pairs.copy_within(at + 1..count, at);
        if at > 0 {
            pairs[at - 1] = lookup(symbols[at - 1], symbols[at]);
        }
        if at + 1 < symbols.len() {
            pairs[at] = lookup(symbols[at], symbols[at + 1]);
        }
    }
}

/// A symbol in the doubly linked list the heap works on.
struct Node {
    symbol: Symbol,
    prev: u32,
    next: u32,
    alive: bool,
}

/// End of the list.
const END: u32 = u32::MAX;

/// A pair waiting to merge; stale once its right end has moved or it is no longer a pair.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    priority: u32,
    left: u32,
    right: u32,
    end: u32,
    id: u32,
}

fn merge_with_heap(symbols: &mut Vec<Symbol>, lookup: impl Fn(Symbol, Symbol) -> Option<Merge>) {
    let count = u32::try_from(symbols.len()).unwrap_or(END);
    let mut nodes: Vec<Node> = (0..count)
        .zip(symbols.iter())
        .map(|(at, &symbol)| Node {
            symbol,
            prev: at.wrapping_sub(1),
            next: if at + 1 < count { at + 1 } else { END },
            alive: true,
        })
        .collect();
    let candidate = |nodes: &[Node], left: u32, right: u32| {
        if left == END || right == END {
            return None;
        }
        let (left_symbol, right_symbol) = (nodes[left as usize].symbol, nodes[right as usize].symbol);
        let Merge { priority, id } = lookup(left_symbol, right_symbol)?;
        Some(Reverse(Candidate { priority, left, right, end: right_symbol.end, id }))
    };
    let first: Vec<_> = (1..count).filter_map(|right| candidate(&nodes, right - 1, right)).collect();
    let mut heap = BinaryHeap::from(first);
    while let Some(Reverse(Candidate { left, right, end, id, .. })) = heap.pop() {
        let (left_node, right_node) = (&nodes[left as usize], &nodes[right as usize]);
        if !left_node.alive || left_node.next != right || right_node.symbol.end != end {
            continue;
        }
        let (prev, next) = (left_node.prev, right_node.next);
        nodes[right as usize].alive = false;
        let node = &mut nodes[left as usize];
        node.symbol = Symbol { id, start: node.symbol.start, end };
        node.next = next;
        if next != END {
            nodes[next as usize].prev = left;
        }
        heap.extend(candidate(&nodes, prev, left));
        heap.extend(candidate(&nodes, left, next));
    }
    symbols.clear();
    symbols.extend(nodes.iter().filter(|node| node.alive).map(|node| node.symbol));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Merges over a four-letter alphabet: a merged pair's id is derived from its parts, and half of all pairs merge.
    fn lookup(left: Symbol, right: Symbol) -> Option<Merge> {
        let mixed = left.id.wrapping_mul(31).wrapping_add(right.id.wrapping_mul(17));
        (right.end - left.start < 12 && mixed.is_multiple_of(2))
            .then_some(Merge { priority: mixed % 23, id: mixed % 1_000 })
    }

    proptest! {
        #[test]
        fn heap_and_scan_agree(ids in prop::collection::vec(0u32..4, 0..SCAN_LIMIT)) {
            let symbols: Vec<Symbol> =
                (0u32..).zip(&ids).map(|(at, &id)| Symbol { id, start: at, end: at + 1 }).collect();
            let (mut scanned, mut heaped) = (symbols.clone(), symbols);
            merge_scanning(&mut scanned, lookup);
            merge_with_heap(&mut heaped, lookup);
            let ids = |symbols: &[Symbol]| symbols.iter().map(|s| (s.id, s.start, s.end)).collect::<Vec<_>>();
            prop_assert_eq!(ids(&scanned), ids(&heaped));
        }
    }
}
