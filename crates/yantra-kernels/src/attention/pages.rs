//! Keys and values of past tokens, in pages.
//!
//! Keys lie transposed within a page, `[kv_head][head_dim][token]`, values as they come, `[kv_head][token][value_dim]`: in
//! both products of attention the vector then runs along the last axis and every sum along the one before it, one
//! addition after another. No sum crosses vector lanes, so a score is the same bits whether it is computed for one query
//! or a block of them, and a page needs no transposition when it is read. bfloat16 keeps two neighbours along the axis
//! that is summed in one lane: `[kv_head][head_dim / 2][token][2]` and `[kv_head][token / 2][value_dim][2]`. Fewer bits lie
//! as `quantized` says. Values that are the beginning of their keys are not stored at all.

use super::{
    quantized::{Int4, Int8, SCALE_BYTES},
    rotation::rotation_block,
    stored::{Bf16, F16, F32, Stored},
    tile::fetch,
};
use crate::{
    Compute, CpuLevel, KernelError,
    buffer::Buffer,
    parallel::SharedSlice,
    simd::{MAX_LANES, Simd, simd_dispatch},
};
use std::ops::Range;

/// Tokens whose keys and values are worth waking other threads for.
const FORK_TOKENS: usize = 4;
/// Tasks that share a head, each with pages of its own.
const HEAD_TASKS: usize = 2;

/// Head dimensions are at most this.
pub(super) const MAX_HEAD_DIM: usize = 1024;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// 32-bit floats.
    F32,
    /// Half precision.
    F16,
    /// bfloat16.
    BF16,
    /// Integers of 8 bits and a factor for each token and head, turned by a Hadamard matrix: half of bfloat16.
    Int8,
    /// Values in 4 bits; keys, whose errors are errors in an exponent, in 8 as [`KvFormat::Int8`].
    Int4,
}

impl KvFormat {
    /// The format of 16 bits that a level computes with fastest.
    pub fn preferred(level: CpuLevel) -> Self {
        if level == CpuLevel::Avx512Bf16 { Self::BF16 } else { Self::F16 }
    }
}

/// The shape of a layer's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Heads of keys and values (fewer than query heads with grouped queries).
    pub num_kv_heads: usize,
    /// Components of a key.
    pub head_dim: usize,
    /// Components of a value, and of what attention gives for a query head.
    pub value_dim: usize,
    /// Whether a token's value is the first `value_dim` components of its key and only keys are stored, as for the latent
    /// vectors of DeepSeek's attention (2024, arXiv:2405.04434). [`KvFormat::Int4`] keeps keys, hence all of it, in 8 bits.
    pub shares_values: bool,
    /// Tokens in a page: a multiple of 16, usually 32.
    pub page_tokens: usize,
    /// How values are stored.
    pub format: KvFormat,
}

impl KvLayout {
    /// Keys and values as wide as each other, both stored.
    pub fn new(num_kv_heads: usize, head_dim: usize, page_tokens: usize, format: KvFormat) -> Self {
        Self { num_kv_heads, head_dim, value_dim: head_dim, shares_values: false, page_tokens, format }
    }

    /// Keys of one head, which the values are the first `value_dim` components of.
    pub fn latent(head_dim: usize, value_dim: usize, page_tokens: usize, format: KvFormat) -> Self {
        Self { value_dim, shares_values: true, ..Self::new(1, head_dim, page_tokens, format) }
    }

    /// Bytes of one head in one page: keys, values.
    fn head_bytes(&self) -> (usize, usize) {
        let stored_values = if self.shares_values { 0 } else { self.value_dim };
        let (keys, values) = (self.head_dim * self.page_tokens, stored_values * self.page_tokens);
        let scales = SCALE_BYTES * self.page_tokens;
        let value_scales = if self.shares_values { 0 } else { scales };
        match self.format {
            KvFormat::F32 => (4 * keys, 4 * values),
            KvFormat::F16 | KvFormat::BF16 => (2 * keys, 2 * values),
            KvFormat::Int8 => (keys + scales, values + value_scales),
            KvFormat::Int4 => (keys + scales, values / 2 + value_scales),
        }
    }

    /// Bytes of all heads in one page: keys, values.
    fn page_bytes(&self) -> (usize, usize) {
        let (keys, values) = self.head_bytes();
        (self.num_kv_heads * keys, self.num_kv_heads * values)
    }

    fn check(&self) -> Result<(), KernelError> {
        let shape = |what, given, expected| Err(KernelError::Shape { what, given, expected });
        if self.num_kv_heads == 0 {
            return shape("key/value heads", 0, 1);
        }
        if self.head_dim == 0 || self.head_dim > MAX_HEAD_DIM {
            return shape("head dimension (limit)", self.head_dim, MAX_HEAD_DIM);
        }
        if self.value_dim == 0 || self.value_dim > MAX_HEAD_DIM {
            return shape("value dimension (limit)", self.value_dim, MAX_HEAD_DIM);
        }
        if self.shares_values && self.value_dim > self.head_dim {
            return shape("value dimension (at most that of the keys they share)", self.value_dim, self.head_dim);
        }
        let is_turned = matches!(self.format, KvFormat::Int8 | KvFormat::Int4);
        let block = rotation_block(self.head_dim);
        if self.shares_values && is_turned && !self.value_dim.is_multiple_of(block) {
            let expected = self.value_dim.next_multiple_of(block);
            return shape("value dimension (whole blocks of the keys' rotation)", self.value_dim, expected);
        }
        let is_paired = matches!(self.format, KvFormat::BF16 | KvFormat::Int8 | KvFormat::Int4);
        if is_paired && !self.head_dim.is_multiple_of(2) {
            return shape("head dimension (even for bf16, int8 and int4)", self.head_dim, self.head_dim + 1);
        }
        if self.page_tokens == 0 || !self.page_tokens.is_multiple_of(MAX_LANES) {
            let expected = self.page_tokens.next_multiple_of(MAX_LANES).max(MAX_LANES);
            return shape("tokens in a page (a multiple of 16)", self.page_tokens, expected);
        }
        Ok(())
    }
}

/// The pages of all layers. New pages read as zeros; the operating system provides their memory when first written.
///
/// What a page holds of all layers lies together, `[page][layer][keys, values]`, in huge pages of the system: decoding
/// reads a few kilobytes of a page and layer, and would otherwise look up as many translations.
pub struct KvPages {
    layers: Vec<PlacedLayer>,
    page_bytes: usize,
    num_pages: usize,
    bytes: Buffer,
}

/// A layer, and where its keys and values begin in a page.
#[derive(Clone, Copy)]
struct PlacedLayer {
    layout: KvLayout,
    /// Bytes of one head: keys, values.
    head_bytes: (usize, usize),
    keys: usize,
    values: usize,
}

impl KvPages {
    /// `num_pages` pages of layers with these layouts.
    ///
    /// # Errors
    /// If a layout is not supported (see [`KvLayout`]) or the memory could not be reserved.
    pub fn new(layouts: &[KvLayout], num_pages: usize) -> Result<Self, KernelError> {
        let (mut layers, mut page_bytes) = (Vec::with_capacity(layouts.len()), 0);
        for &layout in layouts {
            layout.check()?;
            let (keys, values) = layout.page_bytes();
            let head_bytes = layout.head_bytes();
            layers.push(PlacedLayer { layout, head_bytes, keys: page_bytes, values: page_bytes + keys });
            page_bytes += keys + values;
        }
        let bytes = Buffer::lazily_zeroed(page_bytes.saturating_mul(num_pages), "key/value pages")?;
        Ok(Self { layers, page_bytes, num_pages, bytes })
    }

    /// Bytes of one page of layers with these layouts.
    pub fn bytes_per_page(layouts: &[KvLayout]) -> usize {
        layouts.iter().map(KvLayout::page_bytes).map(|(keys, values)| keys + values).sum()
    }

    /// How many pages there are.
    pub fn num_pages(&self) -> usize {
        self.num_pages
    }

    /// The pages of one layer.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn layer(&self, layer: usize) -> KvLayer<'_> {
        let Self { page_bytes, num_pages, .. } = *self;
        KvLayer { layer: self.layers[layer], page_bytes, num_pages, bytes: self.bytes.as_slice() }
    }

    /// Writes the keys and values of tokens in a layer: `k` is `[num_tokens, num_kv_heads, head_dim]`, `v` is `[num_tokens,
    /// num_kv_heads, value_dim]`, or empty where keys share theirs; `slots` is `[num_tokens]`, each `page * page_tokens +
    /// offset`.
    ///
    /// # Panics
    /// If a slice is not of that shape, there is no such layer, or a slot is past the last page.
    pub fn store(&mut self, cx: &Compute, layer: usize, k: &[f32], v: &[f32], slots: &[u32]) {
        let layer = self.layers[layer];
        let layout = layer.layout;
        let heads = slots.len() * layout.num_kv_heads;
        assert_eq!(k.len(), heads * layout.head_dim, "keys of every token");
        let values = if layout.shares_values { 0 } else { heads * layout.value_dim };
        assert_eq!(v.len(), values, "values of every token, if they are stored");
        let num_slots = self.num_pages * layout.page_tokens;
        assert!(slots.iter().all(|&slot| (slot as usize) < num_slots), "slots within the pages");
        let tokens = Tokens { layer, page_bytes: self.page_bytes, k, v, slots };
        let bytes = SharedSlice::new(self.bytes.as_mut_slice());
        // Heads and pages go to different tasks, so that a slot given twice is no race.
        let store_part = |index| store_part(cx.level(), &tokens, index / HEAD_TASKS, index % HEAD_TASKS, &bytes);
        let num_parts = layout.num_kv_heads * HEAD_TASKS;
        if slots.len() < FORK_TOKENS {
            (0..num_parts).for_each(store_part);
        } else {
            cx.run(num_parts, &store_part);
        }
    }

    /// Copies a whole page, all layers.
    ///
    /// # Panics
    /// If a page is past the last.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let (from, to) = (self.page_range(from), self.page_range(to).start);
        self.bytes.as_mut_slice().copy_within(from, to);
    }

    /// The stored bytes of a page, whatever its formats: layer by layer, keys before values.
    ///
    /// # Panics
    /// If the page is past the last.
    pub fn page(&self, page: u32) -> &[u8] {
        &self.bytes.as_slice()[self.page_range(page)]
    }

    /// As [`Self::page`], to be overwritten with those of a page of the same layouts.
    ///
    /// # Panics
    /// If the page is past the last.
    pub fn page_mut(&mut self, page: u32) -> &mut [u8] {
        let range = self.page_range(page);
        &mut self.bytes.as_mut_slice()[range]
    }

    fn page_range(&self, page: u32) -> Range<usize> {
        let start = page as usize * self.page_bytes;
        start..start + self.page_bytes
    }

    /// Overwrites every page with bits that are NaN in every format, or a factor that is: what a test must not see.
    #[cfg(test)]
    pub(super) fn fill_with_nan(&mut self) {
        self.bytes.as_mut_slice().fill(0xff);
    }
}

/// The pages of one layer of [`KvPages`].
#[derive(Clone, Copy)]
pub struct KvLayer<'a> {
    layer: PlacedLayer,
    page_bytes: usize,
    num_pages: usize,
    bytes: &'a [u8],
}

impl<'a> KvLayer<'a> {
    /// The shape of the pages.
    pub fn layout(&self) -> KvLayout {
        self.layer.layout
    }

    /// How many pages there are.
    pub fn num_pages(&self) -> usize {
        self.num_pages
    }

    /// Keys and values of one head in one page; no values where keys share theirs.
    ///
    /// # Panics
    /// If the page or the head is past the last.
    #[inline]
    pub(super) fn head(&self, page: u32, head: usize) -> (&'a [u8], &'a [u8]) {
        assert!(
            (page as usize) < self.num_pages && head < self.layer.layout.num_kv_heads,
            "a page and a head that exist"
        );
        let (keys, values) = self.layer.head(self.page_bytes, page as usize, head);
        (&self.bytes[keys], &self.bytes[values])
    }
}

impl PlacedLayer {
    /// Where keys and values of one head in one page are among the bytes of all pages.
    #[inline]
    fn head(&self, page_bytes: usize, page: usize, head: usize) -> (Range<usize>, Range<usize>) {
        let (keys, values) = self.head_bytes;
        let page = page * page_bytes;
        let (key, value) = (page + self.keys + head * keys, page + self.values + head * values);
        (key..key + keys, value..value + values)
    }
}

/// Tokens to be stored.
struct Tokens<'a> {
    layer: PlacedLayer,
    page_bytes: usize,
    k: &'a [f32],
    v: &'a [f32],
    slots: &'a [u32],
}

simd_dispatch! {
    fn store_part(tokens: &Tokens<'_>, head: usize, part: usize, bytes: &SharedSlice<'_, u8>) = store_part_body;
}

#[inline(always)]
fn store_part_body<S: Simd>(simd: S, tokens: &Tokens<'_>, head: usize, part: usize, bytes: &SharedSlice<'_, u8>) {
    match tokens.layer.layout.format {
        KvFormat::F32 => store_part_as::<S, F32>(simd, tokens, head, part, bytes),
        KvFormat::F16 => store_part_as::<S, F16>(simd, tokens, head, part, bytes),
        KvFormat::BF16 => store_part_as::<S, Bf16>(simd, tokens, head, part, bytes),
        // What they are computed with does not matter here.
        KvFormat::Int8 => store_part_as::<S, Int8<F32>>(simd, tokens, head, part, bytes),
        KvFormat::Int4 => store_part_as::<S, Int4<F32>>(simd, tokens, head, part, bytes),
    }
}

/// Stores a head of the tokens in every [`HEAD_TASKS`]th page from `part` on.
#[inline(always)]
fn store_part_as<S: Simd, K: Stored>(
    simd: S,
    tokens: &Tokens<'_>,
    head: usize,
    part: usize,
    bytes: &SharedSlice<'_, u8>,
) {
    let KvLayout { num_kv_heads, head_dim, value_dim, shares_values, page_tokens, .. } = tokens.layer.layout;
    let placed = tokens.slots.iter().map(|&slot| (slot as usize / page_tokens, slot as usize % page_tokens));
    let mut placed = placed.enumerate().filter(|(_, (page, _))| page % HEAD_TASKS == part).peekable();
    while let Some((token, (page, offset))) = placed.next() {
        let source = token * num_kv_heads + head;
        // A token's key has a value on each of many cache lines, and what takes time is to get them. Attention reads the
        // rest of the page next.
        if let Some(&(_, (next, _))) = placed.peek().filter(|(_, (next, _))| *next != page) {
            let (keys, values) = tokens.layer.head(tokens.page_bytes, next, head);
            [keys, values].into_iter().for_each(|range| fetch(simd, bytes.address(range.start), range.len()));
        }
        let (keys, values) = tokens.layer.head(tokens.page_bytes, page, head);
        // SAFETY: this task alone writes this head of this page; `slice` checks bounds.
        #[expect(unsafe_code, reason = "heads and pages are disjoint")]
        let (keys, values) = unsafe { (bytes.slice(keys.start, keys.len()), bytes.slice(values.start, values.len())) };
        K::store_key(simd, &tokens.k[source * head_dim..][..head_dim], keys, offset);
        if !shares_values {
            K::store_value(simd, &tokens.v[source * value_dim..][..value_dim], values, offset);
        }
    }
}
