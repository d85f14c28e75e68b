//! Merging neighbours, best pair first: the loop that byte-pair encoding (best = earliest learnt merge) and
//! SentencePiece (best = highest score of the merged token) share.
//!
//! Short words scan for the best pair, which beats any queue; long ones use a heap, so that a megabyte without a space
//! takes `n log n` steps; very long ones sort pairs into buckets, which takes a run of one character in linear time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

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
/// At this many symbols the heap no longer fits the processor's caches, and buckets overtake it.
const HEAP_LIMIT: usize = 1 << 16;

/// Merges `symbols` until no pair merges.
pub(crate) fn merge_all(symbols: &mut Vec<Symbol>, lookup: impl Fn(Symbol, Symbol) -> Option<Merge>) {
    if symbols.len() <= SCAN_LIMIT {
        merge_scanning(symbols, lookup);
    } else if symbols.len() <= HEAP_LIMIT {
        merge_with_queue(symbols, lookup, BinaryHeap::new());
    } else {
        merge_with_queue(symbols, lookup, Buckets::default());
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

/// Candidates, the least of them first.
trait Queue {
    fn push(&mut self, candidate: Candidate);
    fn pop(&mut self) -> Option<Candidate>;
}

impl Queue for BinaryHeap<Reverse<Candidate>> {
    fn push(&mut self, candidate: Candidate) {
        BinaryHeap::push(self, Reverse(candidate));
    }

    fn pop(&mut self) -> Option<Candidate> {
        BinaryHeap::pop(self).map(|Reverse(candidate)| candidate)
    }
}

/// Candidates by priority. Within one, nearly all come from left to right: they need no sorting.
#[derive(Default)]
struct Buckets {
    by_priority: BTreeMap<u32, Bucket>,
}

#[derive(Default)]
struct Bucket {
    in_order: VecDeque<Candidate>,
    out_of_order: BinaryHeap<Reverse<Candidate>>,
}

impl Queue for Buckets {
    fn push(&mut self, candidate: Candidate) {
        let Bucket { in_order, out_of_order } = self.by_priority.entry(candidate.priority).or_default();
        if in_order.back().is_none_or(|last| *last <= candidate) {
            in_order.push_back(candidate);
        } else {
            out_of_order.push(Reverse(candidate));
        }
    }

    fn pop(&mut self) -> Option<Candidate> {
        let mut entry = self.by_priority.first_entry()?;
        let Bucket { in_order, out_of_order } = entry.get_mut();
        let from_heap = match (in_order.front(), out_of_order.peek()) {
            (Some(first), Some(Reverse(other))) => other < first,
            (first, _) => first.is_none(),
        };
        let popped = if from_heap { Queue::pop(out_of_order) } else { in_order.pop_front() };
        if in_order.is_empty() && out_of_order.is_empty() {
            entry.remove();
        }
        popped
    }
}

fn merge_with_queue(
    symbols: &mut Vec<Symbol>,
    lookup: impl Fn(Symbol, Symbol) -> Option<Merge>,
    mut queue: impl Queue,
) {
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
        Some(Candidate { priority, left, right, end: right_symbol.end, id })
    };
    (1..count).filter_map(|right| candidate(&nodes, right - 1, right)).for_each(|pair| queue.push(pair));
    while let Some(Candidate { left, right, end, id, .. }) = queue.pop() {
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
        let (before, after) = (candidate(&nodes, prev, left), candidate(&nodes, left, next));
        before.into_iter().chain(after).for_each(|pair| queue.push(pair));
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
        fn queues_and_scan_agree(ids in prop::collection::vec(0u32..4, 0..SCAN_LIMIT)) {
            let symbols: Vec<Symbol> =
                (0u32..).zip(&ids).map(|(at, &id)| Symbol { id, start: at, end: at + 1 }).collect();
            let (mut scanned, mut heaped, mut bucketed) = (symbols.clone(), symbols.clone(), symbols);
            merge_scanning(&mut scanned, lookup);
            merge_with_queue(&mut heaped, lookup, BinaryHeap::new());
            merge_with_queue(&mut bucketed, lookup, Buckets::default());
            let ids = |symbols: &[Symbol]| symbols.iter().map(|s| (s.id, s.start, s.end)).collect::<Vec<_>>();
            prop_assert_eq!(ids(&scanned), ids(&heaped));
            prop_assert_eq!(ids(&scanned), ids(&bucketed));
        }
    }
}
