//! One step's input: the tokens of every scheduled sequence, flattened.

use crate::AdapterSpan;
use yantra_kernels::AttentionSequence;

/// Tokens of several sequences laid end to end, as one forward pass takes them.
///
/// `num_tokens` is the length of `tokens`; the spans of `sequences` cover it in order.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids, `[num_tokens]`.
    pub tokens: &'a [u32],
    /// Position of each token in its sequence, `[num_tokens]`.
    pub positions: &'a [u32],
    /// Where each token's keys and values go: `page * page_tokens + offset`, `[num_tokens]`.
    pub slots: &'a [u32],
    /// The sequences: their span of `tokens`, their context so far and their pages.
    pub sequences: &'a [AttentionSequence<'a>],
    /// Indices into `tokens` whose logits are wanted, ascending.
    pub logit_rows: &'a [u32],
    /// Which tokens belong to adapters: spans in order, that do not overlap.
    pub adapters: &'a [AdapterSpan<'a>],
}
