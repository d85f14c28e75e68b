//! What one forward pass is given: the tokens of all scheduled sequences, flattened.
//!
//! No padding and no separate prefill and decode phases: a sequence contributes as many tokens as the step computes for
//! it, one when decoding and a chunk of its prompt when prefilling.

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionSequence<'a> {
    /// Index of its first token in [`Batch::tokens`].
    pub query_start: usize,
    /// How many tokens the step computes for it.
    pub query_len: usize,
    /// Tokens in its KV cache after this step's were stored.
    pub context_len: usize,
    /// Its KV pages in order; token `t` lies in `pages[t / page_tokens]` at offset `t % page_tokens`.
    pub pages: &'a [u32],
}

/// One step's input. All per-token slices are `[num_tokens]`.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// Each token's position in its sequence, from 0.
    pub positions: &'a [u32],
    /// Each token's KV slot: `page * page_tokens + offset`.
    pub slots: &'a [u32],
    /// The sequences the tokens belong to; their spans cover the tokens in order.
    pub sequences: &'a [AttentionSequence<'a>],
    /// Indices of the tokens whose logits are wanted, ascending.
    pub logit_rows: &'a [u32],
}
