//! An encoder as data: everything the forward pass needs to know about a family.

use crate::{LayerSpec, MlpSpec, ModelError, family::encoders};
use yantra_formats::Checkpoint;

/// A transformer whose tokens see one another in both directions. Sizes are in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderSpec {
    /// The family's name, for people.
    pub family: &'static str,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream and of an embedding.
    pub hidden_size: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Longest text, in tokens.
    pub context_length: usize,
    /// How a token knows its place.
    pub positions: PositionSpec,
    /// Kinds of tokens that have a vector of their own, which is added; of a pair of texts the second is of kind 1.
    pub token_types: usize,
    /// Added to the variance in layer normalisation.
    pub norm_eps: f32,
    /// Where blocks are normalised.
    pub norms: NormPlacement,
    /// What differs from layer to layer; a window is how near a token must be to be seen, on either side.
    pub layers: Vec<LayerSpec>,
    /// What becomes of a text's token vectors.
    pub output: OutputSpec,
}

/// How a token knows its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionSpec {
    /// A learned vector is added to its embedding.
    Learned {
        /// Row of the table that the first token of a text has (RoBERTa: the one after padding's).
        first: usize,
    },
    /// Queries and keys are rotated, as each layer says.
    Rotary,
}

/// Where a layer's two blocks, attention and the feed-forward network, are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// The residual stream, once a block has joined it (Vaswani et al., 2017).
    Post,
    /// A block's input, and the stream after the last layer. The first layer's attention reads the embeddings, which are
    /// normalised already (ModernBERT).
    Pre,
}

/// What becomes of a text's token vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OutputSpec {
    /// One vector.
    Embedding {
        /// How token vectors are pooled.
        pooling: Pooling,
        /// Whether the result is scaled to unit length.
        normalize: bool,
    },
    /// How well a text answers another that it was read with.
    Score(ScoreSpec),
}

/// How the token vectors of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all tokens.
    Mean,
    /// The vector of the first token.
    Cls,
}

/// The head of a cross-encoder (Nogueira and Cho, 2019): `output(norm(activation(dense(pooled))))`, one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreSpec {
    /// How token vectors are pooled.
    pub pooling: Pooling,
    /// What follows the first matrix.
    pub activation: HeadActivation,
    /// Whether there is a norm before the number.
    pub norm: bool,
    /// Whether the number is put between 0 and 1 by a sigmoid.
    pub sigmoid: bool,
}

/// What follows the first matrix of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadActivation {
    /// The hyperbolic tangent.
    Tanh,
    /// GELU by the error function.
    Gelu,
}

impl EncoderSpec {
    /// Reads the hyper-parameters of a checkpoint.
    ///
    /// # Errors
    /// If the checkpoint is no encoder, or a hyper-parameter is missing or not supported.
    pub fn read(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        encoders::resolve(checkpoint).map(|(_, spec)| spec)
    }

    /// Whether it scores pairs of texts rather than embedding texts.
    pub fn scores_pairs(&self) -> bool {
        matches!(self.output, OutputSpec::Score(_))
    }

    /// Length of what comes of a text: a vector, or a score.
    pub fn dimensions(&self) -> usize {
        if self.scores_pairs() { 1 } else { self.hidden_size }
    }

    pub(super) fn pooling(&self) -> Pooling {
        match self.output {
            OutputSpec::Embedding { pooling, .. } | OutputSpec::Score(ScoreSpec { pooling, .. }) => pooling,
        }
    }

    pub(super) fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Width inside the widest feed-forward network.
    pub(super) fn inner_size(&self) -> usize {
        self.layers.iter().map(|layer| layer.mlp.intermediate_size()).max().unwrap_or(0)
    }

    pub(super) fn is_gated(&self) -> bool {
        self.layers.iter().any(|layer| matches!(layer.mlp, MlpSpec::Gated { .. }))
    }

    /// Tables of positions that are kept: one for each type of token that may come.
    pub(super) fn position_tables(&self) -> usize {
        match self.positions {
            PositionSpec::Rotary => 0,
            PositionSpec::Learned { .. } if self.scores_pairs() => self.token_types.clamp(1, 2),
            PositionSpec::Learned { .. } => 1,
        }
    }
}
