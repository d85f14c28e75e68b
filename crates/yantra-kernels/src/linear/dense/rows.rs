//! The activations of a dense product, rounded once for all products that read them.
#![expect(unsafe_code, reason = "tasks write disjoint tokens of shared buffers")]

use super::DenseType;
use crate::linear::simd::{Isa, Operation, Simd};
use crate::simd::{self, MAX_LANES, Simd as FloatSimd, simd_dispatch};
use crate::{Compute, CpuLevel, parallel};
use std::ops::Range;

/// Bytes of a token that share a scale. One for the whole token left MiniLM's smallest cosine with f32 over 50 sentences at
/// 0.993; with one per 128 values it is above 0.995.
const GROUP: usize = 128;
/// Words of a group.
pub(super) const GROUP_WORDS: usize = GROUP / 4;

/// How a group of a token's bytes is read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(super) struct GroupStats {
    /// What a byte of one stands for.
    pub(super) scale: f32,
    /// -128 times the sum of the bytes: what a bias of 128 on each weight adds, taken away.
    pub(super) unbias: i32,
}

/// A reusable buffer of activations `[num_tokens, cols]`, rounded to a [`DenseType`]; it grows and never shrinks.
pub struct DenseRows {
    dense: DenseType,
    level: CpuLevel,
    num_tokens: usize,
    cols: usize,
    /// `[num_tokens, words]`
    words: Vec<u32>,
    /// `[num_tokens, groups]`
    stats: Vec<GroupStats>,
}

impl DenseRows {
    /// An empty buffer for weights of this level and type.
    pub fn new(level: CpuLevel, dense: DenseType) -> Self {
        Self { dense, level, num_tokens: 0, cols: 0, words: Vec::new(), stats: Vec::new() }
    }

    /// Bytes that a token of `cols` values takes.
    pub fn bytes_per_token(dense: DenseType, cols: usize) -> usize {
        dense.words(cols) * size_of::<u32>() + dense.groups(cols) * size_of::<GroupStats>()
    }

    /// Tokens held.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// Values of a token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn is_for(&self, level: CpuLevel, dense: DenseType) -> bool {
        (self.level, self.dense) == (level, dense)
    }

    /// The words of the tokens from `token` on.
    pub(super) fn words(&self, token: usize) -> *const u32 {
        self.words[token * self.dense.words(self.cols)..].as_ptr()
    }

    /// The stats of the tokens from `token` on.
    pub(super) fn stats(&self, token: usize) -> *const GroupStats {
        self.stats[token * self.dense.groups(self.cols)..].as_ptr()
    }

    /// Takes `x`, `[num_tokens, cols]`.
    ///
    /// # Panics
    /// If the length of `x` is not `num_tokens * cols`.
    pub fn set(&mut self, cx: &Compute, x: &[f32], num_tokens: usize, cols: usize) {
        assert_eq!(x.len(), num_tokens * cols, "values of activations");
        (self.num_tokens, self.cols) = (num_tokens, cols);
        let words = self.dense.words(cols);
        if self.words.len() < num_tokens * words {
            self.words.resize(num_tokens * words, 0);
        }
        let groups = self.dense.groups(cols);
        if self.stats.len() < num_tokens * groups {
            self.stats.resize(num_tokens * groups, GroupStats::default());
        }
        let out = Out { words: self.words.as_mut_ptr(), stats: self.stats.as_mut_ptr(), row_words: words, groups };
        let num_tasks = (x.len() / parallel::FORK_THRESHOLD).clamp(1, cx.num_threads() * 4).min(num_tokens.max(1));
        let (dense, level) = (self.dense, self.level);
        cx.run(num_tasks, &|task| {
            let tokens = task * num_tokens / num_tasks..(task + 1) * num_tokens / num_tasks;
            match dense {
                DenseType::Bf16 => to_bf16(level, x, cols, tokens, &out),
                DenseType::Int8 => Isa::of(level).dispatch(ToInt8 { x, cols, tokens, out: &out }),
            }
        });
    }

    /// The values that the words stand for, `[num_tokens, cols]`.
    #[cfg(test)]
    pub(super) fn values(&self) -> Vec<f32> {
        let words = self.dense.words(self.cols);
        let value = |token: usize, col: usize| match self.dense {
            DenseType::Bf16 => {
                let word = self.words[token * words + col / 2];
                f32::from_bits(if col.is_multiple_of(2) { word << 16 } else { word & 0xffff_0000 })
            }
            DenseType::Int8 => {
                let byte = self.words[token * words + col / 4].to_le_bytes()[col % 4];
                f32::from(byte.cast_signed()) * self.stats[token * self.dense.groups(self.cols) + col / GROUP].scale
            }
        };
        (0..self.num_tokens).flat_map(|token| (0..self.cols).map(move |col| value(token, col))).collect()
    }
}

/// Where tokens go.
struct Out {
    words: *mut u32,
    stats: *mut GroupStats,
    /// Words of a token.
    row_words: usize,
    groups: usize,
}

// SAFETY: tasks write disjoint tokens.
unsafe impl Sync for Out {}

impl Out {
    fn token(&self, token: usize) -> *mut u32 {
        self.words.wrapping_add(token * self.row_words)
    }
}

/// Calls `$body` with each vector of a row and the index of its first value; what is past the end is zero.
macro_rules! for_each_vector {
    ($s:expr, $lanes:expr, $row:ident, |$at:ident, $vector:ident| $body:expr) => {{
        let whole = $row.len() - $row.len() % $lanes;
        for $at in (0..whole).step_by($lanes) {
            // SAFETY: a whole vector is in the row.
            let $vector = unsafe { $s.load($row.as_ptr().add($at)) };
            $body
        }
        if whole < $row.len() {
            let ($at, $vector) = (whole, $s.load_partial(&$row[whole..], 0.0));
            $body
        }
    }};
}

simd_dispatch! {
    fn to_bf16(x: &[f32], cols: usize, tokens: Range<usize>, out: &Out) = to_bf16_body;
}

#[inline(always)]
fn to_bf16_body<S: simd::Simd>(s: S, x: &[f32], cols: usize, tokens: Range<usize>, out: &Out) {
    for token in tokens {
        let row = &x[token * cols..(token + 1) * cols];
        let to = out.token(token).cast::<u16>();
        for_each_vector!(s, S::LANES, row, |at, vector| {
            // SAFETY: a token's words hold whole vectors of `MAX_LANES` values.
            unsafe { s.store_bf16(to.add(at), vector) }
        });
        let written = cols.next_multiple_of(S::LANES);
        // SAFETY: the rest of the token's words.
        unsafe { std::ptr::write_bytes(to.add(written), 0, out.row_words * 2 - written) };
    }
}

struct ToInt8<'a> {
    x: &'a [f32],
    cols: usize,
    tokens: Range<usize>,
    out: &'a Out,
}

impl Operation for ToInt8<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const { assert!(S::LANES <= MAX_LANES) };
        let Self { x, cols, tokens, out } = self;
        let f = s.float();
        for token in tokens {
            let row = &x[token * cols..(token + 1) * cols];
            let to = out.token(token).cast::<i8>();
            for (group, values) in row.chunks(GROUP).enumerate() {
                let mut amax = f.splat(0.0);
                for_each_vector!(f, S::LANES, values, |_at, vector| {
                    amax = f.max(amax, f.max(vector, f.sub(f.splat(0.0), vector)));
                });
                let amax = f.reduce_max(amax);
                // Below this the inverse overflows; such values are nothing next to any weight's rounding.
                let inverse = f.splat(if amax > 1e-30 { 127.0 / amax } else { 0.0 });
                // Adding and taking away 1.5 * 2^23 rounds to a whole number, ties to even.
                let magic = f.splat(12_582_912.0);
                let mut sum = f.splat(0.0);
                for_each_vector!(f, S::LANES, values, |at, vector| {
                    let rounded = f.sub(f.fma(vector, inverse, magic), magic);
                    sum = f.add(sum, rounded);
                    // SAFETY: a token's words hold whole vectors of `MAX_LANES` values.
                    unsafe { s.store_as_i8(to.add(group * GROUP + at), rounded) }
                });
                let stats = GroupStats { scale: amax / 127.0, unbias: -128 * f.reduce_add(sum) as i32 };
                // SAFETY: a token has stats for each of its groups.
                unsafe { *out.stats.add(token * out.groups + group) = stats };
            }
            let written = cols.next_multiple_of(S::LANES);
            // SAFETY: the rest of the token's words.
            unsafe { std::ptr::write_bytes(to.add(written), 0, out.row_words * 4 - written) };
        }
    }
}
