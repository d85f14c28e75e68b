//! A decoder-only transformer as data: everything the forward pass needs to know about a family.

use yantra_kernels::{ActivationFn, ExpertGroups, ExpertScoring, RopeStyle};

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
    /// How tokens enter the residual stream.
    pub embedding: EmbeddingSpec,
    /// The normalisation of blocks and before the head.
    pub norm: NormSpec,
    /// How blocks join the residual stream.
    pub block: BlockSpec,
    /// How tokens look at one another.
    pub attention: AttentionSpec,
    /// Factor on the logits (Granite).
    pub logit_scale: f32,
    /// Soft cap on the final logits: `cap * tanh(x / cap)`.
    pub logit_softcap: Option<f32>,
    /// What differs from layer to layer.
    pub layers: Vec<LayerSpec>,
}

/// How tokens enter the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbeddingSpec {
    /// Factor on the embedding row (Gemma: the square root of the width).
    pub scale: f32,
    /// Whether a learned vector of each position is added (GPT-2).
    pub learned_positions: bool,
    /// Whether the sum is normalised before the first layer (BLOOM).
    pub norm: bool,
}

/// Normalisation of a token's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// What is subtracted and divided by.
    pub kind: NormKind,
    /// Added to the mean square or the variance.
    pub eps: f32,
    /// Added to the stored weights (Gemma in Hugging Face files stores `weight - 1`).
    pub weight_offset: f32,
}

/// What normalisation subtracts and divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Divided by the root of the mean square (Zhang and Sennrich, 2019).
    Rms,
    /// The mean subtracted, divided by the standard deviation (Ba et al., 2016).
    Layer,
}

/// How a layer's two blocks, attention and the feed-forward network, join the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockSpec {
    /// Whether a block's input is normalised (all but OLMo 2).
    pub pre_norms: bool,
    /// Whether a block's output is normalised before it joins (Gemma 2 and 3, OLMo 2).
    pub post_norms: bool,
    /// Whether both blocks read the stream as the layer found it (GPT-NeoX, Falcon).
    pub parallel: bool,
    /// Factor on a block's output (Granite).
    pub residual_scale: f32,
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
    /// Keys and values through a narrow vector, which alone is kept; `head_dim` and `num_kv_heads` are those of the cache.
    pub latent: Option<LatentSpec>,
    /// How queries and keys are normalised.
    pub qk_norm: QkNorm,
    /// Bound on queries, keys and values themselves (MPT).
    pub clip: Option<f32>,
    /// Soft cap on the scores (Gemma 2).
    pub softcap: Option<f32>,
    /// How query and key components pair up in the rotation.
    pub rope_style: RopeStyle,
    /// Scores that fall with distance, by a slope of each head.
    pub alibi: Option<AlibiSpec>,
    /// What sharpens scores at late positions, in layers without a rotary embedding (Llama 4).
    pub sharpening: Option<SharpeningSpec>,
    /// Whether each head has a logit of its own in the softmax that stands for no token (gpt-oss).
    pub sinks: bool,
}

/// Multi-head latent attention (DeepSeek-AI, 2024): a token is kept as one vector of `kv_rank` values, from which every
/// head's key and value could be made, and `rope_dim` rotated ones. The matrices that would make them are applied to queries
/// and results instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentSpec {
    /// Width of the vector that queries are made from, if there is one.
    pub query_rank: Option<usize>,
    /// Width of the vector that is kept.
    pub kv_rank: usize,
    /// Components of a head's query and key that are not rotated.
    pub nope_dim: usize,
    /// Components that are; all heads share a key's.
    pub rope_dim: usize,
    /// Components of a head's value.
    pub value_dim: usize,
}

/// Attention with linear biases (Press et al., 2022).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AlibiSpec {
    /// The gentlest head's slope is `2^-max_bias`.
    pub max_bias: f32,
    /// Factor on all slopes (Falcon scales them with the scores).
    pub scale: f32,
}

/// A factor on queries that grows with their position: `1 + scale * ln(1 + floor((position + 1) / interval))` (Nakanishi, 2025,
/// arXiv:2501.19399).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SharpeningSpec {
    /// Positions after which it grows.
    pub interval: f32,
    /// How much.
    pub scale: f32,
}

impl SharpeningSpec {
    /// The factor at a position.
    pub(crate) fn factor(&self, position: u32) -> f32 {
        ((position as f32 + 1.0) / self.interval).floor().ln_1p() * self.scale + 1.0
    }
}

/// How queries and keys are normalised before they are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Not at all.
    None,
    /// Each head by itself (Qwen3, Gemma 3).
    Head,
    /// All heads of a token together (OLMo 2).
    Token,
    /// Each head by itself, without weights and after it was rotated, where it is (Llama 4).
    RotatedHead,
}

/// The feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MlpSpec {
    /// `down(activation(up(x)))`.
    Plain {
        /// Width inside.
        intermediate_size: usize,
        /// What goes on inside.
        activation: ActivationFn,
    },
    /// `down(activation(gate(x)) * up(x))` (Shazeer, 2020).
    Gated {
        /// Width inside.
        intermediate_size: usize,
        /// The activation on the gate.
        activation: ActivationFn,
    },
    /// A few gated networks of many (Shazeer et al., 2017).
    Experts(ExpertsSpec),
}

impl MlpSpec {
    /// Width inside; of experts, that of the widest.
    pub fn intermediate_size(&self) -> usize {
        match *self {
            Self::Plain { intermediate_size, .. } | Self::Gated { intermediate_size, .. } => intermediate_size,
            Self::Experts(experts) => {
                experts.intermediate_size.max(experts.shared.map_or(0, |shared| shared.intermediate_size))
            }
        }
    }
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertsSpec {
    /// Experts there are.
    pub num_experts: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// Width inside an expert.
    pub intermediate_size: usize,
    /// The activation on an expert's gate.
    pub activation: ActivationFn,
    /// What weights are made from.
    pub scoring: ExpertScoring,
    /// Whether the checkpoint has a bias of each expert by which it is chosen (DeepSeek-V3).
    pub choice_bias: bool,
    /// Groups that are chosen before experts are (DeepSeek).
    pub groups: Option<ExpertGroups>,
    /// Whether a token's weights are divided by their sum.
    pub normalize: bool,
    /// Factor on weights.
    pub scale: f32,
    /// Whether weights are put on what experts read, not on what they give (Llama 4).
    pub weighs_input: bool,
    /// A network that every token goes through, too.
    pub shared: Option<SharedExpertSpec>,
}

/// The expert of all tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExpertSpec {
    /// Width inside.
    pub intermediate_size: usize,
    /// Whether a sigmoid of its own weighs it (Qwen2-MoE).
    pub weighed: bool,
}

/// What differs from layer to layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Only the last `window` tokens are seen.
    pub window: Option<usize>,
    /// With a window, the first so many tokens are seen, too (Xiao et al., 2024).
    pub sink_tokens: usize,
    /// Only tokens of the same chunk of so many are seen (Llama 4).
    pub chunk: Option<usize>,
    /// The layer's rotary embedding, if it has one.
    pub rope: Option<RopeSpec>,
    /// The feed-forward block.
    pub mlp: MlpSpec,
}

/// Rotary position embedding (Su et al., 2021).
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// The base of the frequencies.
    pub theta: f32,
    /// Rotated components of a head, the first ones.
    pub rotary_dim: usize,
    /// How positions beyond the training length are handled.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All frequencies divided by the factor (Chen et al., 2023).
    Linear {
        /// The factor.
        factor: f32,
    },
    /// "Dynamic NTK": a larger base where the context is longer than the training's. It is set once, by the longest
    /// sequence that the model is loaded for, so that keys stay good as a sequence grows.
    Dynamic {
        /// The factor.
        factor: f32,
        /// Context of the training.
        original_context: f32,
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
    /// YaRN (Peng et al., 2023): frequencies that turn less than `beta_slow` times in the training's context are divided
    /// by the factor, those that turn more than `beta_fast` times stay, with a ramp over the dimensions between.
    Yarn {
        /// The factor.
        factor: f32,
        /// Turns above which a frequency stays.
        beta_fast: f32,
        /// Turns below which it is fully scaled.
        beta_slow: f32,
        /// Context of the first training.
        original_context: f32,
        /// Whether the ramp begins and ends at whole dimensions.
        truncate: bool,
        /// Factor on queries and keys.
        attention_factor: f32,
    },
    /// LongRoPE (Ding et al., 2024): divisors of each frequency, one list for contexts of the training's length and one for
    /// longer ones. Which of them is set once, by the longest sequence that the model is loaded for.
    LongRope {
        /// Divisors up to the training's context, `[rotary_dim / 2]`.
        short: Vec<f32>,
        /// Divisors beyond it.
        long: Vec<f32>,
        /// Context of the training.
        original_context: f32,
        /// Factor on queries and keys.
        attention_factor: f32,
    },
    /// Per-frequency divisors stored in the checkpoint (GGUF's `rope_freqs.weight`).
    Stored,
}

impl ModelSpec {
    /// Width of all query heads together, as they meet keys.
    pub fn query_size(&self) -> usize {
        self.attention.num_heads * self.attention.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_size(&self) -> usize {
        self.attention.num_kv_heads * self.attention.head_dim
    }

    /// Width of what all query heads saw together, as attention leaves it.
    pub(crate) fn attended_size(&self) -> usize {
        let AttentionSpec { num_heads, head_dim, latent, .. } = self.attention;
        num_heads * latent.map_or(head_dim, |latent| latent.kv_rank)
    }

    /// Width of what the output matrix reads.
    pub(crate) fn output_size(&self) -> usize {
        let AttentionSpec { num_heads, head_dim, latent, .. } = self.attention;
        num_heads * latent.map_or(head_dim, |latent| latent.value_dim)
    }

    /// Width inside the widest feed-forward network without a gate; 0 if all have one.
    pub(crate) fn plain_width(&self) -> usize {
        let width = |layer: &LayerSpec| match layer.mlp {
            MlpSpec::Plain { intermediate_size, .. } => intermediate_size,
            _ => 0,
        };
        self.layers.iter().map(width).max().unwrap_or(0)
    }

    /// The mixtures of experts among the layers.
    pub(crate) fn experts(&self) -> impl Iterator<Item = ExpertsSpec> {
        self.layers.iter().filter_map(|layer| match layer.mlp {
            MlpSpec::Experts(experts) => Some(experts),
            _ => None,
        })
    }
}
