//! Keys and values of past tokens, in pages.
//!
//! Keys lie transposed within a page, `[kv_head][head_dim][token]`, values as they come, `[kv_head][token][head_dim]`: in
//! both products of attention the vector then runs along the last axis and every sum along the one before it, one
//! addition after another. No sum crosses vector lanes, so a score is the same bits whether it is computed for one query
//! or a block of them, and a page needs no transposition when it is read. bfloat16 keeps two neighbours along the axis
//! that is summed in one lane: `[kv_head][head_dim / 2][token][2]` and `[kv_head][token / 2][head_dim][2]`. Fewer bits lie
//! as `quantized` says.

use super::{
    quantized::{Int4, Int8, SCALE_BYTES},
    stored::{Bf16, F16, F32, Stored},
};
use crate::{
    Compute, CpuLevel, KernelError,
    parallel::SharedSlice,
    simd::{MAX_LANES, Simd, simd_dispatch},
};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Tokens whose keys and values are worth waking other threads for.
const FORK_TOKENS: usize = 4;

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
    /// Values in a head.
    pub head_dim: usize,
    /// Tokens in a page: a multiple of 16, usually 32.
    pub page_tokens: usize,
    /// How values are stored.
    pub format: KvFormat,
}

impl KvLayout {
    /// Bytes of one head in one page: keys, values.
    fn head_bytes(&self) -> (usize, usize) {
        let (len, scales) = (self.head_dim * self.page_tokens, SCALE_BYTES * self.page_tokens);
        match self.format {
            KvFormat::F32 => (4 * len, 4 * len),
            KvFormat::F16 | KvFormat::BF16 => (2 * len, 2 * len),
            KvFormat::Int8 => (len + scales, len + scales),
            KvFormat::Int4 => (len + scales, len / 2 + scales),
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

/// The pages of one layer. New pages read as zeros; the operating system provides their memory when first written.
pub struct KvPages {
    layout: KvLayout,
    num_pages: usize,
    keys: ZeroedBytes,
    values: ZeroedBytes,
}

impl KvPages {
    /// `num_pages` pages of a layout.
    ///
    /// # Errors
    /// If the layout is not supported (see [`KvLayout`]) or the memory could not be reserved.
    pub fn new(layout: KvLayout, num_pages: usize) -> Result<Self, KernelError> {
        layout.check()?;
        let bytes = Self::bytes_per_page(layout).saturating_mul(num_pages);
        let (keys, values) = layout.page_bytes();
        let side = |page_bytes: usize| {
            let len = page_bytes.saturating_mul(num_pages);
            ZeroedBytes::new(len).ok_or(KernelError::OutOfMemory { bytes, what: "key/value pages" })
        };
        Ok(Self { layout, num_pages, keys: side(keys)?, values: side(values)? })
    }

    /// Bytes of one page of one layer, keys and values together.
    pub fn bytes_per_page(layout: KvLayout) -> usize {
        let (keys, values) = layout.page_bytes();
        keys + values
    }

    /// The shape of the pages.
    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    /// How many pages there are.
    pub fn num_pages(&self) -> usize {
        self.num_pages
    }

    /// Writes the keys and values of tokens: `k` and `v` are `[num_tokens, num_kv_heads, head_dim]`, `slots` is
    /// `[num_tokens]`, each `page * page_tokens + offset`.
    ///
    /// # Panics
    /// If a slice is not of that shape or a slot is past the last page.
    pub fn store(&mut self, cx: &Compute, k: &[f32], v: &[f32], slots: &[u32]) {
        let layout = self.layout;
        let width = layout.num_kv_heads * layout.head_dim;
        assert!(k.len() == slots.len() * width && v.len() == k.len(), "keys and values of every token");
        let num_slots = self.num_pages * layout.page_tokens;
        assert!(slots.iter().all(|&slot| (slot as usize) < num_slots), "slots within the pages");
        let tokens = Tokens { layout, k, v, slots };
        let (keys, values) = (SharedSlice::new(self.keys.as_mut_slice()), SharedSlice::new(self.values.as_mut_slice()));
        // Heads go to different tasks, so that a slot given twice is no race. A token's key has a value on each of many
        // cache lines: what takes time is to get them.
        let store_head = |head: usize| store_head(cx.level(), &tokens, head, &keys, &values);
        if slots.len() < FORK_TOKENS {
            (0..layout.num_kv_heads).for_each(store_head);
        } else {
            cx.run(layout.num_kv_heads, &store_head);
        }
    }

    /// Copies a whole page, keys and values.
    ///
    /// # Panics
    /// If a page is past the last.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        for (side, bytes) in self.sides() {
            let from = from as usize * bytes;
            side.as_mut_slice().copy_within(from..from + bytes, to as usize * bytes);
        }
    }

    /// The stored bytes of a page, whatever its format: its keys and its values, [`Self::bytes_per_page`] together.
    ///
    /// # Panics
    /// If the page is past the last.
    pub fn page_bytes(&self, page: u32) -> [&[u8]; 2] {
        let (keys, values) = self.layout.page_bytes();
        let page = page as usize;
        [
            &self.keys.as_slice()[page * keys..(page + 1) * keys],
            &self.values.as_slice()[page * values..(page + 1) * values],
        ]
    }

    /// As [`Self::page_bytes`], to be overwritten with those of a page of the same layout.
    ///
    /// # Panics
    /// If the page is past the last.
    pub fn page_bytes_mut(&mut self, page: u32) -> [&mut [u8]; 2] {
        let page = page as usize;
        self.sides().map(|(side, bytes)| &mut side.as_mut_slice()[page * bytes..(page + 1) * bytes])
    }

    /// Keys and values, and the bytes of a page of each.
    fn sides(&mut self) -> [(&mut ZeroedBytes, usize); 2] {
        let (keys, values) = self.layout.page_bytes();
        [(&mut self.keys, keys), (&mut self.values, values)]
    }

    /// Overwrites every page with bits that are NaN in every format, or a factor that is: what a test must not see.
    #[cfg(test)]
    pub(super) fn fill_with_nan(&mut self) {
        self.keys.as_mut_slice().fill(0xff);
        self.values.as_mut_slice().fill(0xff);
    }

    /// Keys and values of one head in one page.
    ///
    /// # Panics
    /// If the page or the head is past the last.
    #[inline]
    pub(super) fn head(&self, page: u32, head: usize) -> (&[u8], &[u8]) {
        assert!((page as usize) < self.num_pages && head < self.layout.num_kv_heads, "a page and a head that exist");
        let index = page as usize * self.layout.num_kv_heads + head;
        let (keys, values) = self.layout.head_bytes();
        (&self.keys.as_slice()[index * keys..][..keys], &self.values.as_slice()[index * values..][..values])
    }
}

/// Tokens to be stored.
struct Tokens<'a> {
    layout: KvLayout,
    k: &'a [f32],
    v: &'a [f32],
    slots: &'a [u32],
}

simd_dispatch! {
    fn store_head(tokens: &Tokens<'_>, head: usize, keys: &SharedSlice<'_, u8>, values: &SharedSlice<'_, u8>)
        = store_head_body;
}

#[inline(always)]
fn store_head_body<S: Simd>(
    simd: S,
    tokens: &Tokens<'_>,
    head: usize,
    keys: &SharedSlice<'_, u8>,
    values: &SharedSlice<'_, u8>,
) {
    match tokens.layout.format {
        KvFormat::F32 => store_head_as::<S, F32>(simd, tokens, head, keys, values),
        KvFormat::F16 => store_head_as::<S, F16>(simd, tokens, head, keys, values),
        KvFormat::BF16 => store_head_as::<S, Bf16>(simd, tokens, head, keys, values),
        // What they are computed with does not matter here.
        KvFormat::Int8 => store_head_as::<S, Int8<F32>>(simd, tokens, head, keys, values),
        KvFormat::Int4 => store_head_as::<S, Int4<F32>>(simd, tokens, head, keys, values),
    }
}

#[inline(always)]
fn store_head_as<S: Simd, K: Stored>(
    simd: S,
    tokens: &Tokens<'_>,
    head: usize,
    keys: &SharedSlice<'_, u8>,
    values: &SharedSlice<'_, u8>,
) {
    let KvLayout { num_kv_heads, head_dim, page_tokens, .. } = tokens.layout;
    let (key_bytes, value_bytes) = tokens.layout.head_bytes();
    for (token, &slot) in tokens.slots.iter().enumerate() {
        let (page, offset) = (slot as usize / page_tokens, slot as usize % page_tokens);
        let index = page * num_kv_heads + head;
        let source = (token * num_kv_heads + head) * head_dim;
        let (key, value) = (&tokens.k[source..][..head_dim], &tokens.v[source..][..head_dim]);
        // SAFETY: this task alone writes this head; `slice` checks bounds.
        #[expect(unsafe_code, reason = "heads are disjoint")]
        let (keys, values) =
            unsafe { (keys.slice(index * key_bytes, key_bytes), values.slice(index * value_bytes, value_bytes)) };
        K::store(simd, key, value, keys, values, offset);
    }
}

/// A fixed buffer of zeros, aligned to a cache line, whose memory the system provides lazily.
///
/// The allocation itself is aligned to [`LAZY_ALIGN`] only: the system allocator clears memory of a larger alignment by
/// hand, touching every page of a cache that may never be filled.
struct ZeroedBytes {
    allocation: NonNull<u8>,
    layout: Layout,
    /// Where the buffer starts in the allocation.
    offset: usize,
    len: usize,
}

const CACHE_LINE: usize = 64;
const LAZY_ALIGN: usize = 16;

// SAFETY: the buffer is owned, as a boxed slice would be.
#[expect(unsafe_code, reason = "an owned buffer")]
unsafe impl Send for ZeroedBytes {}
// SAFETY: as above; shared access only reads.
#[expect(unsafe_code, reason = "an owned buffer")]
unsafe impl Sync for ZeroedBytes {}

impl ZeroedBytes {
    #[expect(unsafe_code, reason = "aligned, lazily provided memory has no safe constructor")]
    fn new(len: usize) -> Option<Self> {
        let layout = Layout::from_size_align(len.checked_add(CACHE_LINE)?, LAZY_ALIGN).ok()?;
        // SAFETY: the layout is not of size zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let offset = allocation.as_ptr().addr().wrapping_neg() % CACHE_LINE;
        Some(Self { allocation, layout, offset, len })
    }

    #[expect(unsafe_code, reason = "the offset stays inside the allocation")]
    fn start(&self) -> *mut u8 {
        // SAFETY: the allocation is a cache line longer than the buffer, and the offset is less than one.
        unsafe { self.allocation.as_ptr().add(self.offset) }
    }

    #[expect(unsafe_code, reason = "the buffer as a slice")]
    fn as_slice(&self) -> &[u8] {
        // SAFETY: the buffer is this long, initialised, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }

    #[expect(unsafe_code, reason = "the buffer as a slice")]
    fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the buffer is this long, initialised, and borrowed mutably with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl Drop for ZeroedBytes {
    #[expect(unsafe_code, reason = "allocated by `new`")]
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}
