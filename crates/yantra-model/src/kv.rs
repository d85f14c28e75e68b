//! The key/value cache of a decoder: pages of every layer, addressed by the page ids the engine hands out.

use crate::{AttentionSpec, ModelError, ModelSpec};
use yantra_kernels::{KvFormat, KvLayout, KvPages};

/// Tokens in one page. A multiple of the attention kernels' block; small enough that a sequence wastes little.
pub const PAGE_TOKENS: usize = 32;

/// Keys and values of all layers. Page `p` means the same tokens in every layer.
pub struct KvCache {
    pub(crate) pages: KvPages,
}

impl KvCache {
    /// Allocates `num_pages` pages for every layer.
    ///
    /// # Errors
    /// If the memory can not be had.
    pub fn new(spec: &ModelSpec, format: KvFormat, num_pages: usize) -> Result<Self, ModelError> {
        Ok(Self { pages: KvPages::new(&Self::layouts(spec, format), num_pages)? })
    }

    fn layouts(spec: &ModelSpec, format: KvFormat) -> Vec<KvLayout> {
        let AttentionSpec { num_kv_heads, head_dim, latent, .. } = spec.attention;
        let layout = match latent {
            None => KvLayout::new(num_kv_heads, head_dim, PAGE_TOKENS, format),
            Some(latent) => KvLayout::latent(head_dim, latent.kv_rank, PAGE_TOKENS, format),
        };
        vec![layout; spec.layers.len()]
    }

    /// Bytes of one page over all layers.
    pub fn bytes_per_page(spec: &ModelSpec, format: KvFormat) -> usize {
        KvPages::bytes_per_page(&Self::layouts(spec, format))
    }

    /// Pages there are.
    pub fn num_pages(&self) -> usize {
        self.pages.num_pages()
    }

    /// Copies a page over another, in every layer.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        self.pages.copy_page(from, to);
    }

    /// A page's stored bytes, layer by layer, keys before values: [`Self::bytes_per_page`] of them.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn page(&self, page: u32) -> &[u8] {
        self.pages.page(page)
    }

    /// A page's stored bytes, to be overwritten with those of a page of the same model and format.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn page_mut(&mut self, page: u32) -> &mut [u8] {
        self.pages.page_mut(page)
    }
}
