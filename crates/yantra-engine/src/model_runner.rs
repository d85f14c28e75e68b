//! The real decoder behind [`StepModel`]: weights, compute pool, KV cache and scratch buffers of one model.

use crate::{EngineError, PageBytes, StepModel};
use std::sync::Arc;
use yantra_kernels::{Compute, KvFormat};
use yantra_model::{Batch, Decoder, KvCache, ModelError, PAGE_TOKENS, Scratch};

/// A decoder with its own KV cache, stepped by the engine.
pub struct ModelRunner {
    decoder: Arc<Decoder>,
    compute: Arc<Compute>,
    kv: KvCache,
    bytes_per_page: usize,
    scratch: Scratch,
}

impl ModelRunner {
    /// Allocates `num_pages` KV pages for `decoder`.
    ///
    /// # Errors
    /// If the memory can not be had.
    pub fn new(
        decoder: impl Into<Arc<Decoder>>,
        compute: Arc<Compute>,
        kv_format: KvFormat,
        num_pages: usize,
    ) -> Result<Self, ModelError> {
        let decoder = decoder.into();
        let kv = KvCache::new(decoder.spec(), kv_format, num_pages)?;
        let bytes_per_page = KvCache::bytes_per_page(decoder.spec(), kv_format);
        let scratch = decoder.scratch();
        Ok(Self { decoder, compute, kv, bytes_per_page, scratch })
    }

    /// The decoder being run.
    pub fn decoder(&self) -> &Arc<Decoder> {
        &self.decoder
    }
}

impl StepModel for ModelRunner {
    fn vocab_size(&self) -> usize {
        self.decoder.spec().vocab_size
    }

    fn max_context(&self) -> usize {
        self.decoder.max_context()
    }

    fn page_tokens(&self) -> usize {
        PAGE_TOKENS
    }

    fn num_pages(&self) -> usize {
        self.kv.num_pages()
    }

    fn copy_page(&mut self, from: u32, to: u32) {
        self.kv.copy_page(from, to);
    }

    fn page_bytes(&mut self) -> Option<&mut dyn PageBytes> {
        Some(self)
    }

    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), EngineError> {
        let Self { decoder, compute, kv, scratch, .. } = self;
        let result = decoder.forward(compute, batch, kv, scratch, logits);
        result.map_err(|error| EngineError::Forward { message: error.to_string() })
    }
}

impl PageBytes for ModelRunner {
    fn bytes_per_page(&self) -> usize {
        self.bytes_per_page
    }

    fn export(&self, page: u32, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.extend_from_slice(self.kv.page(page));
    }

    fn import(&mut self, page: u32, bytes: &[u8]) {
        self.kv.page_mut(page).copy_from_slice(bytes);
    }
}
