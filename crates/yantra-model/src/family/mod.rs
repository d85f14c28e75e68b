//! The families: how the hyper-parameters of a checkpoint become a [`ModelSpec`], one file each.

mod gemma3;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod rope;
mod smollm3;

use crate::{
    AttentionSpec, LayerSpec, MlpSpec, ModelError, ModelSpec, NormSpec,
    parameters::{Defaults, Key, Parameters, key},
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
    /// What a `config.json` may leave out.
    defaults: Defaults,
    /// The key of `config.json` that names the activation.
    activation: Key,
    /// What the family changes of [`common`], the Llama-like decoder.
    adapt: fn(&Parameters<'_>, &Checkpoint, &mut ModelSpec) -> Result<(), ModelError>,
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

/// The one key of nearly all families.
const HIDDEN_ACT: Key = key("", "hidden_act");

const FAMILIES: [&Family; 6] =
    [&llama::FAMILY, &mistral::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY, &gemma3::FAMILY, &smollm3::FAMILY];

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
    let parameters = parameters.with_defaults(family.defaults);
    let mut spec = common(family, &parameters, checkpoint)?;
    (family.adapt)(&parameters, checkpoint, &mut spec)?;
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
    let rope = rope::rope(p, checkpoint, head_dim, rope::FULL)?;
    let layer = LayerSpec { window: None, rope: Some(rope) };
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
            activation: activation(p, family.activation)?.unwrap_or(ActivationFn::Silu),
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
    let name = match p.config() {
        None => "token_embd.weight".to_owned(),
        Some(_) => format!("{}embed_tokens.weight", hugging_face_names(checkpoint).0),
    };
    let view = checkpoint.require(&name)?;
    match view.shape[..] {
        [rows, cols] if cols == hidden_size => Ok(rows),
        _ => Err(ModelError::TensorShape { name, given: view.shape, expected: vec![0, hidden_size] }),
    }
}

/// What precedes the names of a Hugging Face checkpoint's tensors, and the name of its head: both depend on whether the
/// model also sees or hears, and on who wrote the file.
pub(crate) fn hugging_face_names(checkpoint: &Checkpoint) -> (&'static str, &'static str) {
    const NAMES: [(&str, &str); 3] = [
        ("model.", "lm_head.weight"),
        ("language_model.model.", "language_model.lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
    ];
    let holds = |(prefix, _): &(&str, &str)| checkpoint.tensor(&format!("{prefix}embed_tokens.weight")).is_some();
    NAMES.into_iter().find(holds).unwrap_or(NAMES[0])
}

/// The activation that `config.json` names at `key`, if it names one.
fn activation(p: &Parameters<'_>, key: Key) -> Result<Option<ActivationFn>, ModelError> {
    Ok(Some(match p.text(key)? {
        None => return Ok(None),
        Some("silu" | "swish") => ActivationFn::Silu,
        Some("gelu") => ActivationFn::Gelu,
        Some("gelu_pytorch_tanh" | "gelu_new") => ActivationFn::GeluTanh,
        Some("relu") => ActivationFn::Relu,
        Some(name) => return Err(ModelError::Unsupported { feature: format!("activation '{name}'") }),
    }))
}

/// Which layers see only a window, by `layer_types` of `config.json`, if it has that list.
fn sliding_layers(p: &Parameters<'_>, num_layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
    let kinds: Option<Vec<&str>> = p.config().map(|config| config.find("layer_types")).transpose()?.flatten();
    let Some(kinds) = kinds else { return Ok(None) };
    check(kinds.len() == num_layers, "layer_types", || format!("{} types for {num_layers} layers", kinds.len()))?;
    let sliding = kinds.into_iter().map(|kind| match kind {
        rope::SLIDING => Ok(true),
        rope::FULL => Ok(false),
        other => Err(ModelError::Unsupported { feature: format!("layer type '{other}'") }),
    });
    sliding.collect::<Result<_, _>>().map(Some)
}

/// The width of the window, which must be recorded where there are layers that see only a window.
fn window(p: &Parameters<'_>) -> Result<usize, ModelError> {
    p.required_count(WINDOW)
}
