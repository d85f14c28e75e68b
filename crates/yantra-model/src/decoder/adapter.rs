//! LoRA adapters (Hu et al., 2021): to products of some matrices, `scale * B * A * x` is added for the tokens of an adapter.
//!
//! A batch holds tokens of any number of adapters and of none. Every token's logits are the same bits whatever the others
//! have: with an adapter in the batch, products that it changes are left in a buffer first, and join the stream later by
//! the same additions. A batch without adapters goes the ways it always went.
//!
//! The matrices are kept in a precision no coarser than that of the matrix they change, which merging would round to: in
//! single precision beside single precision, in half beside 16 bits; beside quantised weights `A` has 8 bits, to read the
//! activations that there are, and `B` half precision. The scale is part of `A`.

mod load;
mod settings;
mod sites;

use crate::weights::Linear;
pub(super) use sites::Site;
use std::{
    fmt,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use yantra_kernels::{Activations, Compute, LowRankJob, PackedLinear, add_low_rank};

/// An adapter ready to run with the decoder it was loaded for.
pub struct Adapter {
    decoder: DecoderId,
    /// By layer.
    layers: Vec<[Option<LowRank>; Site::COUNT]>,
    hash: [u8; 32],
    parameters: usize,
    rank: usize,
}

/// What an adapter does to one matrix.
struct LowRank {
    /// `[rank, cols]`, scaled.
    down: PackedLinear,
    /// `[rows, rank]`.
    up: PackedLinear,
    /// What each row of the matrix is multiplied with (DoRA; Liu et al., 2024): it is part of `up` already.
    factors: Option<Vec<f32>>,
}

/// The tokens of a batch that belong to an adapter.
#[derive(Clone, Debug)]
pub struct AdapterSpan<'a> {
    /// Indices into the batch's tokens.
    pub tokens: Range<usize>,
    /// The adapter.
    pub adapter: &'a Adapter,
}

impl Adapter {
    /// SHA-256 of its files.
    pub fn content_hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Its weights, as they were stored.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The largest rank of its matrices.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        let parts = self.layers.iter().flatten().flatten();
        parts.map(|part| part.down.bytes() + part.up.bytes() + part.factors.as_ref().map_or(0, |f| 4 * f.len())).sum()
    }

    pub(super) fn is_for(&self, decoder: &DecoderId) -> bool {
        self.decoder == *decoder
    }

    fn part(&self, layer: usize, site: Site) -> Option<&LowRank> {
        self.layers.get(layer)?[site as usize].as_ref()
    }
}

/// Adapters are equal if they do the same to the same model.
impl PartialEq for Adapter {
    fn eq(&self, other: &Self) -> bool {
        self.decoder == other.decoder && self.hash == other.hash
    }
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter")
            .field("rank", &self.rank)
            .field("parameters", &self.parameters)
            .finish_non_exhaustive()
    }
}

/// Tells decoders of one process apart: an adapter fits one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DecoderId(u64);

impl DecoderId {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}

/// Buffers for tokens of adapters; they grow to the largest batch seen.
#[derive(Default)]
pub(super) struct AdapterScratch {
    /// Products with the first matrices.
    between: Vec<f32>,
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
}

/// A product that adapters may change.
pub(super) struct Changed<'a> {
    pub(super) site: Site,
    /// The matrix that made it.
    pub(super) base: &'a Linear,
    /// `[num_tokens, rows]`
    pub(super) out: &'a mut [f32],
}

/// The adapters of a batch at one layer.
#[derive(Clone, Copy)]
pub(super) struct LayerAdapters<'a> {
    pub(super) spans: &'a [AdapterSpan<'a>],
    pub(super) layer: usize,
}

impl LayerAdapters<'_> {
    /// Whether any of them changes one of these products.
    pub(super) fn touch(&self, sites: &[Site]) -> bool {
        self.spans.iter().any(|span| sites.iter().any(|site| span.adapter.part(self.layer, *site).is_some()))
    }

    /// Changes products of the activations `x`.
    pub(super) fn change<const N: usize>(
        &self,
        cx: &Compute,
        x: &Activations,
        products: [Changed<'_>; N],
        scratch: &mut Vec<f32>,
    ) {
        let mut jobs = Vec::with_capacity(N * self.spans.len());
        for Changed { site, base, out } in products {
            let rows = base.weight.rows();
            let (mut rest, mut at) = (out, 0);
            for AdapterSpan { tokens, adapter } in self.spans {
                let Some(LowRank { down, up, factors }) = adapter.part(self.layer, site) else { continue };
                let (_, after) = rest.split_at_mut((tokens.start - at) * rows);
                let (out, after) = after.split_at_mut(tokens.len() * rows);
                (rest, at) = (after, tokens.end);
                if let Some(factors) = factors {
                    out.chunks_exact_mut(rows).for_each(|row| rescale(row, factors, base.bias.as_deref()));
                }
                jobs.push(LowRankJob { down, up, tokens: tokens.clone(), out });
            }
        }
        if !jobs.is_empty() {
            add_low_rank(cx, x, &mut jobs, scratch);
        }
    }
}

impl AdapterScratch {
    pub(super) fn between(&mut self) -> &mut Vec<f32> {
        &mut self.between
    }

    /// The buffers of gate and up, `[num_tokens, rows]`, and that of [`LayerAdapters::change`].
    pub(super) fn gated(&mut self, len: usize) -> (&mut [f32], &mut [f32], &mut Vec<f32>) {
        let Self { between, gate, up } = self;
        gate.resize(len, 0.0);
        up.resize(len, 0.0);
        (gate, up, between)
    }
}

/// Multiplies a token's product, without the bias that is part of it.
fn rescale(row: &mut [f32], factors: &[f32], bias: Option<&[f32]>) {
    match bias {
        None => row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor),
        Some(bias) => {
            for ((value, factor), bias) in row.iter_mut().zip(factors).zip(bias) {
                *value = (*value - bias) * factor + bias;
            }
        }
    }
}
