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
    /// The stored bytes of pages; `None` when they can not leave the model.
    fn page_bytes(&mut self) -> Option<&mut dyn PageBytes> {
        None
    }
    /// Stores the batch's keys and values in their slots and leaves the logits of `batch.logit_rows` in `logits`
    /// (`[logit_rows, vocab_size]`, replacing what was there).
    ///
    /// A sequence's logits must not depend on what else is in the batch.
    ///
    /// # Errors
    /// Any error fails the requests in this batch; the engine goes on with the others.
    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), EngineError>;
}

/// Pages as bytes, to be kept elsewhere and brought back.
pub trait PageBytes {
    /// Bytes of one page.
    fn bytes_per_page(&self) -> usize;
    /// Leaves a page's bytes in `bytes`, replacing what was there.
    fn export(&self, page: u32, bytes: &mut Vec<u8>);
    /// Overwrites a page with bytes exported from it or another one.
    fn import(&mut self, page: u32, bytes: &[u8]);
}
