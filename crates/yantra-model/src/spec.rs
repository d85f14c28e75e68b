//! A decoder-only transformer as data: everything the forward pass needs to know about a family.

use yantra_kernels::{ActivationFn, RopeStyle};

/// A decoder-only transformer. Sizes are in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The family's name, for people.
    pub family: &'static str,
    /// Rows of the embedding table and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Longest sequence the model was made for, in tokens.
    pub context_length: usize,
    /// Factor on the embedding row (Gemma: the square root of the width).
    pub embedding_scale: f32,
    /// The normalisation before each block and before the head.
    pub norm: NormSpec,
    /// Whether each block's output is normalised before it joins the residual stream (Gemma 2 and 3).
    pub post_norms: bool,
    /// How tokens look at one another.
    pub attention: AttentionSpec,
    /// The feed-forward block.
    pub mlp: MlpSpec,
    /// Soft cap on the final logits: `cap * tanh(x / cap)`.
    pub logit_softcap: Option<f32>,
    /// What differs from layer to layer.
    pub layers: Vec<LayerSpec>,
}

/// Root-mean-square normalisation (Zhang and Sennrich, 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the stored weights (Gemma in Hugging Face files stores `weight - 1`).
    pub weight_offset: f32,
}

/// Grouped-query attention (Ainslie et al., 2023); multi-head and multi-query are its ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Whether queries and keys are normalised per head (Qwen3, Gemma 3).
    pub qk_norm: bool,
    /// Soft cap on the scores (Gemma 2).
    pub softcap: Option<f32>,
    /// How query and key components pair up in the rotation.
    pub rope_style: RopeStyle,
}

/// The feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MlpSpec {
    /// `down(activation(gate(x)) * up(x))` (Shazeer, 2020).
    Gated {
        /// Width inside.
        intermediate_size: usize,
        /// The activation on the gate.
        activation: ActivationFn,
    },
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSpec {
    /// Only the last `window` tokens are seen.
    pub window: Option<usize>,
    /// The layer's rotary embedding, if it has one.
    pub rope: Option<RopeSpec>,
}

/// Rotary position embedding (Su et al., 2021).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSpec {
    /// The base of the frequencies.
    pub theta: f32,
    /// Rotated components of a head.
    pub rotary_dim: usize,
    /// How positions beyond the training length are handled.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All frequencies divided by the factor (Chen et al., 2023).
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Llama 3.1: low frequencies divided by the factor, a ramp between.
    Llama3 {
        /// The factor.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are fully scaled.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` stay.
        high_freq_factor: f32,
        /// Context of the first training.
        original_context: f32,
    },
    /// Per-frequency divisors stored in the checkpoint (GGUF's `rope_freqs.weight`).
    Stored,
}

impl ModelSpec {
    /// Width of all query heads together.
    pub fn query_size(&self) -> usize {
        self.attention.num_heads * self.attention.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_size(&self) -> usize {
        self.attention.num_kv_heads * self.attention.head_dim
    }
}
