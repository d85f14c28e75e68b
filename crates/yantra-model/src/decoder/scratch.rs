//! Intermediate values of a step, kept between steps so that a step allocates nothing.

use super::{
    Decoder,
    adapter::AdapterScratch,
    latent::LatentScratch,
    mlp::{ExpertScratch, Routing},
};
use crate::ModelSpec;
use yantra_kernels::{ActivationKind, ActivationKinds, Activations};

/// Buffers of [`Decoder::forward`]; they grow to the largest batch seen.
pub struct Scratch {
    /// The residual stream.
    pub(super) hidden: Vec<f32>,
    /// What a block's first matrices read.
    pub(super) input: Activations,
    pub(super) query: Vec<f32>,
    pub(super) key: Vec<f32>,
    pub(super) value: Vec<f32>,
    pub(super) attended: Vec<f32>,
    /// The inside of a feed-forward network without a gate.
    pub(super) inner: Vec<f32>,
    /// What the last matrix of a feed-forward network reads.
    pub(super) gated: Activations,
    pub(super) experts: ExpertScratch,
    pub(super) latent: LatentScratch,
    pub(super) adapters: AdapterScratch,
    /// A block's output where it does not join the stream as it is.
    pub(super) block: Vec<f32>,
}

impl Decoder {
    /// Buffers for [`Decoder::forward`].
    pub fn scratch(&self) -> Scratch {
        let mut kinds = ActivationKinds { float: false, int8: false };
        for matrix in self.matrices() {
            match matrix.activation_kind() {
                ActivationKind::Float => kinds.float = true,
                ActivationKind::Int8 => kinds.int8 = true,
            }
        }
        Scratch {
            hidden: Vec::new(),
            input: Activations::new(kinds),
            query: Vec::new(),
            key: Vec::new(),
            value: Vec::new(),
            attended: Vec::new(),
            inner: Vec::new(),
            gated: Activations::new(kinds),
            experts: ExpertScratch::new(kinds),
            latent: LatentScratch::new(kinds),
            adapters: AdapterScratch::default(),
            block: Vec::new(),
        }
    }
}

impl Scratch {
    /// Has every mixture of experts write down which experts it chooses, from here on.
    pub fn record_routing(&mut self) {
        self.experts.log = Some(Vec::new());
    }

    /// What was written down, a layer each, in their order.
    pub fn routing(&self) -> &[Routing] {
        self.experts.log.as_deref().unwrap_or_default()
    }

    pub(super) fn resize(&mut self, spec: &ModelSpec, num_tokens: usize) {
        self.hidden.resize(num_tokens * spec.hidden_size, 0.0);
        self.query.resize(num_tokens * spec.query_size(), 0.0);
        self.key.resize(num_tokens * spec.kv_size(), 0.0);
        let values = if spec.attention.latent.is_some() { 0 } else { spec.kv_size() };
        self.value.resize(num_tokens * values, 0.0);
        self.attended.resize(num_tokens * spec.attended_size(), 0.0);
        self.inner.resize(num_tokens * spec.plain_width(), 0.0);
        self.block.resize(num_tokens * spec.hidden_size, 0.0);
    }
}
