//! Model families as data and the one decoder and encoder that interpret them.
//!
//! A checkpoint names its architecture; [`family`] turns its hyper-parameters into a [`ModelSpec`]; [`Decoder`] (text
//! generation) or [`Encoder`] (embeddings, scores of pairs) interprets the specification over weights packed by `yantra-kernels`. A new
//! family is a new specification, not a new forward pass.

mod batch;
pub mod convert;
mod decoder;
mod encoder;
mod error;
pub mod family;
mod footprint;
mod kv;
mod parameters;
mod quantized;
mod rotary;
mod spec;
mod weights;

pub use batch::Batch;
pub use decoder::{Adapter, AdapterSpan, Decoder, Routing, Scratch};
pub use encoder::{
    Encoder, EncoderDtype, EncoderSpec, EncoderText, HeadActivation, NormPlacement, OutputSpec, Pooling, PositionSpec,
    ScoreSpec,
};
pub use error::ModelError;
pub use footprint::Footprint;
pub use kv::{KvCache, PAGE_TOKENS};
pub use quantized::{Quantization, quantization};
pub use spec::{
    AlibiSpec, AttentionSpec, BlockSpec, EmbeddingSpec, ExpertsSpec, LatentSpec, LayerSpec, MlpSpec, ModelSpec,
    NormKind, NormSpec, QkNorm, RopeScaling, RopeSpec, SharedExpertSpec, SharpeningSpec,
};
pub use weights::LoadOptions;
pub use yantra_kernels::AttentionSequence;
