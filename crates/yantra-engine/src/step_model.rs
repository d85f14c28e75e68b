//! The model as the engine sees it: one function from a batch to logits.

use crate::{Batch, EngineError};

/// What the engine steps: the real decoder, or a fake in tests.
pub trait StepModel: Send {
    /// Number of logits per row.
    fn vocab_size(&self) -> usize;
    /// Most tokens (prompt and answer) a sequence may have.
    fn max_context(&self) -> usize;
    /// Tokens per KV page.
    fn page_tokens(&self) -> usize;
    /// KV pages there are.
    fn num_pages(&self) -> usize;
    /// Copies all keys and values of a page over those of another.
    fn copy_page(&mut self, from: u32, to: u32);
    /// Stores the batch's keys and values in their slots and leaves the logits of `batch.logit_rows` in `logits`
    /// (`[logit_rows, vocab_size]`, replacing what was there).
    ///
    /// A sequence's logits must not depend on what else is in the batch.
    ///
    /// # Errors
    /// Any error fails the requests in this batch; the engine goes on with the others.
    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), EngineError>;
}
