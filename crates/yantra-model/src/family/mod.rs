//! The families: how the hyper-parameters of a checkpoint become a [`ModelSpec`], one file each.

mod gemma3;
mod llama;
mod qwen2;
mod qwen3;

use crate::{
    AttentionSpec, LayerSpec, MlpSpec, ModelError, ModelSpec, NormSpec, RopeScaling, RopeSpec,
    parameters::{Key, Parameters, key},
};
use yantra_formats::Checkpoint;
use yantra_kernels::{ActivationFn, RopeStyle};

/// A family of decoders.
pub(crate) struct Family {
    /// The name shown to people.
    name: &'static str,
    /// Values of GGUF's `general.architecture`.
    gguf: &'static [&'static str],
    /// Values of `architectures` in `config.json`.
    hugging_face: &'static [&'static str],
    /// What the family changes of [`common`], the Llama-like decoder.
    adapt: fn(&Parameters<'_>, &mut ModelSpec) -> Result<(), ModelError>,
    /// Hugging Face names of the norms of a layer.
    pub(crate) norms: NormNames,
}

/// Hugging Face names of a layer's norms (GGUF names them alike for all families).
#[derive(Clone, Copy)]
pub(crate) struct NormNames {
    pub(crate) before_mlp: &'static str,
    pub(crate) after_attention: &'static str,
    pub(crate) after_mlp: &'static str,
}

/// Llama's names; it has no norms after the blocks.
const LLAMA_NORMS: NormNames = NormNames { before_mlp: "post_attention_layernorm", after_attention: "", after_mlp: "" };

const FAMILIES: [&Family; 4] = [&llama::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY, &gemma3::FAMILY];

/// Architectures of embedding models, loaded by [`crate::Encoder`].
pub(crate) const ENCODERS: [&str; 2] = ["bert", "BertModel"];

/// Whether the checkpoint is of an embedding model rather than a text generator.
///
/// # Errors
/// If the checkpoint names no architecture.
pub fn is_encoder(checkpoint: &Checkpoint) -> Result<bool, ModelError> {
    Ok(ENCODERS.contains(&Parameters::new(checkpoint)?.architecture()))
}

/// Every architecture name that can be loaded, GGUF's and Hugging Face's.
pub fn known() -> Vec<&'static str> {
    let of_family = |family: &&'static Family| family.gguf.iter().chain(family.hugging_face).copied();
    FAMILIES.iter().flat_map(of_family).chain(ENCODERS).collect()
}

/// The specification of a text-generation checkpoint.
///
/// # Errors
/// If the architecture is unknown, of another kind, or a hyper-parameter is missing or not supported.
pub fn spec(checkpoint: &Checkpoint) -> Result<ModelSpec, ModelError> {
    resolve(checkpoint).map(|(_, spec)| spec)
}

pub(crate) fn resolve(checkpoint: &Checkpoint) -> Result<(&'static Family, ModelSpec), ModelError> {
    let parameters = Parameters::new(checkpoint)?;
    let architecture = parameters.architecture();
    let family = FAMILIES
        .into_iter()
        .find(|family| family.gguf.contains(&architecture) || family.hugging_face.contains(&architecture));
    let Some(family) = family else {
        let architecture = architecture.to_owned();
        return Err(if ENCODERS.contains(&architecture.as_str()) {
            ModelError::WrongKind { architecture, found: "an embedding model", expected: "a text generator" }
        } else {
            ModelError::UnknownArchitecture { given: architecture, known: known().join(", ") }
        });
    };
    let mut spec = common(family, &parameters, checkpoint)?;
    (family.adapt)(&parameters, &mut spec)?;
    Ok((family, spec))
}

const HIDDEN_SIZE: Key = key("embedding_length", "hidden_size");
const NUM_LAYERS: Key = key("block_count", "num_hidden_layers");
const NUM_HEADS: Key = key("attention.head_count", "num_attention_heads");
const NUM_KV_HEADS: Key = key("attention.head_count_kv", "num_key_value_heads");
const HEAD_DIM: Key = key("attention.key_length", "head_dim");
const VALUE_DIM: Key = key("attention.value_length", "");
const WINDOW: Key = key("attention.sliding_window", "sliding_window");

/// A Llama-like decoder from the hyper-parameters nearly all families share.
fn common(family: &Family, p: &Parameters<'_>, checkpoint: &Checkpoint) -> Result<ModelSpec, ModelError> {
    let hidden_size = p.required_count(HIDDEN_SIZE)?;
    let num_heads = p.required_count(NUM_HEADS)?;
    let num_kv_heads = p.count(NUM_KV_HEADS)?.unwrap_or(num_heads);
    let head_dim = p.count(HEAD_DIM)?.unwrap_or(hidden_size / num_heads);
    check(num_heads % num_kv_heads == 0, "num_key_value_heads", || {
        format!("{num_kv_heads} does not divide the {num_heads} query heads")
    })?;
    check(p.count(VALUE_DIM)?.is_none_or(|dim| dim == head_dim), "attention.value_length", || {
        format!("values of another width than keys ({head_dim}) are not supported")
    })?;
    let rope = RopeSpec {
        theta: rope_theta(p)?,
        rotary_dim: p.count(key("rope.dimension_count", ""))?.unwrap_or(head_dim),
        scaling: rope_scaling(p, checkpoint)?,
    };
    check(rope.rotary_dim.is_multiple_of(2) && rope.rotary_dim <= head_dim, "rope.dimension_count", || {
        format!("{} is odd or wider than a head ({head_dim})", rope.rotary_dim)
    })?;
    let layer = LayerSpec { window: None, rope };
    Ok(ModelSpec {
        family: family.name,
        vocab_size: vocab_size(p, checkpoint, hidden_size)?,
        hidden_size,
        context_length: p.required_count(key("context_length", "max_position_embeddings"))?,
        embedding_scale: 1.0,
        norm: NormSpec {
            eps: p.real(key("attention.layer_norm_rms_epsilon", "rms_norm_eps"))?.unwrap_or(1e-6),
            weight_offset: 0.0,
        },
        post_norms: false,
        attention: AttentionSpec {
            num_heads,
            num_kv_heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            qk_norm: false,
            softcap: None,
            rope_style: RopeStyle::HalfSplit,
        },
        mlp: MlpSpec::Gated {
            intermediate_size: p.required_count(key("feed_forward_length", "intermediate_size"))?,
            activation: ActivationFn::Silu,
        },
        logit_softcap: None,
        layers: vec![layer; p.required_count(NUM_LAYERS)?],
    })
}

fn check(holds: bool, key: &str, message: impl FnOnce() -> String) -> Result<(), ModelError> {
    if holds { Ok(()) } else { Err(ModelError::Parameter { key: key.to_owned(), message: message() }) }
}

/// Rows of the embedding table: what the file holds is the truth, the recorded number only a hint.
fn vocab_size(p: &Parameters<'_>, checkpoint: &Checkpoint, hidden_size: usize) -> Result<usize, ModelError> {
    let name = if p.is_gguf() { "token_embd.weight" } else { "model.embed_tokens.weight" };
    let view = checkpoint.require(name)?;
    match view.shape[..] {
        [rows, cols] if cols == hidden_size => Ok(rows),
        _ => Err(ModelError::TensorShape { name: name.to_owned(), given: view.shape, expected: vec![0, hidden_size] }),
    }
}

fn rope_theta(p: &Parameters<'_>) -> Result<f32, ModelError> {
    // transformers 5 moved the base into `rope_parameters`.
    let keys = [key("rope.freq_base", "rope_theta"), key("rope.freq_base", "rope_parameters.rope_theta")];
    for key in keys {
        if let Some(theta) = p.real(key)? {
            return Ok(theta);
        }
    }
    Ok(10_000.0)
}

fn rope_scaling(p: &Parameters<'_>, checkpoint: &Checkpoint) -> Result<RopeScaling, ModelError> {
    let unsupported = |kind: &str| ModelError::Unsupported { feature: format!("rotary scaling '{kind}'") };
    let Some(config) = p.config() else {
        if checkpoint.tensor("rope_freqs.weight").is_some() {
            return Ok(RopeScaling::Stored);
        }
        return match p.text(key("rope.scaling.type", ""))? {
            None | Some("none") => Ok(RopeScaling::None),
            Some("linear") => {
                let factor = p.real(key("rope.scaling.factor", ""))?.unwrap_or(1.0);
                Ok(RopeScaling::Linear { factor })
            }
            Some(kind) => Err(unsupported(kind)),
        };
    };
    let Some(section) = config.section("rope_scaling").or_else(|| config.section("rope_parameters")) else {
        return Ok(RopeScaling::None);
    };
    let kind: Option<&str> = section.find("rope_type")?;
    let kind = if kind.is_some() { kind } else { section.find("type")? };
    match kind {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: section.get("factor")? }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: section.get("factor")?,
            low_freq_factor: section.get("low_freq_factor")?,
            high_freq_factor: section.get("high_freq_factor")?,
            original_context: section.get("original_max_position_embeddings")?,
        }),
        Some(kind) => Err(unsupported(kind)),
    }
}
