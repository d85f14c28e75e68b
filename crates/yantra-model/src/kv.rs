//! The key/value cache of a decoder: pages of every layer, addressed by the page ids the engine hands out.

use crate::{ModelError, ModelSpec};
use yantra_kernels::{KvFormat, KvLayout, KvPages};

/// Tokens in one page. A multiple of the attention kernels' block; small enough that a sequence wastes little.
pub const PAGE_TOKENS: usize = 32;

/// Keys and values of all layers. Page `p` means the same tokens in every layer.
pub struct KvCache {
    layers: Vec<KvPages>,
    num_pages: usize,
}

impl KvCache {
    /// Allocates `num_pages` pages for every layer.
    ///
    /// # Errors
    /// If the memory can not be had.
    pub fn new(spec: &ModelSpec, format: KvFormat, num_pages: usize) -> Result<Self, ModelError> {
        let layers = spec.layers.iter().map(|_| KvPages::new(Self::layout(spec, format), num_pages));
        Ok(Self { layers: layers.collect::<Result<_, _>>()?, num_pages })
    }

    fn layout(spec: &ModelSpec, format: KvFormat) -> KvLayout {
        let attention = &spec.attention;
        KvLayout {
            num_kv_heads: attention.num_kv_heads,
            head_dim: attention.head_dim,
            page_tokens: PAGE_TOKENS,
            format,
        }
    }

    /// Bytes of one page over all layers.
    pub fn bytes_per_page(spec: &ModelSpec, format: KvFormat) -> usize {
        spec.layers.len() * KvPages::bytes_per_page(Self::layout(spec, format))
    }

    /// Pages there are.
    pub fn num_pages(&self) -> usize {
        self.num_pages
    }

    /// Copies a page over another, in every layer.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        self.layers.iter_mut().for_each(|layer| layer.copy_page(from, to));
    }

    /// Leaves a page's stored bytes in `bytes`, layer by layer, keys before values: [`Self::bytes_per_page`] of them.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn export_page(&self, page: u32, bytes: &mut Vec<u8>) {
        bytes.clear();
        for layer in &self.layers {
            layer.page_bytes(page).into_iter().for_each(|part| bytes.extend_from_slice(part));
        }
    }

    /// Overwrites a page with what [`Self::export_page`] left of a page of the same model and format.
    ///
    /// # Panics
    /// If there is no such page, or `bytes` has another length than a page.
    pub fn import_page(&mut self, page: u32, bytes: &[u8]) {
        let mut rest = bytes;
        for part in self.layers.iter_mut().flat_map(|layer| layer.page_bytes_mut(page)) {
            let (own, following) = rest.split_at(part.len());
            part.copy_from_slice(own);
            rest = following;
        }
        assert!(rest.is_empty(), "the bytes of one page");
    }

    pub(crate) fn layer_mut(&mut self, index: usize) -> &mut KvPages {
        &mut self.layers[index]
    }
}
