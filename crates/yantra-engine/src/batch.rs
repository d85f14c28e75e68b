//! What one forward pass is given: the model crate's types.
//!
//! No padding and no separate prefill and decode phases: a sequence contributes as many tokens as the step computes for
//! it, one when decoding and a chunk of its prompt when prefilling.

pub use yantra_model::{AdapterSpan, AttentionSequence, Batch};
