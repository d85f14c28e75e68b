//! The families: how the hyper-parameters of a checkpoint become a [`ModelSpec`], one file each.

mod bloom;
mod cohere;
mod deepseek;
pub(crate) mod encoders;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granite;
mod grok;
mod llama;
mod llama4;
mod mistral;
mod mixtral;
mod mpt;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod rope;
mod smollm3;
mod starcoder2;

use crate::{
    AttentionSpec, BlockSpec, EmbeddingSpec, ExpertsSpec, LayerSpec, MlpSpec, ModelError, ModelSpec, NormKind,
    NormSpec, QkNorm,
    decoder::names::{LLAMA_NAMES, Names, TensorNames},
    parameters::{Aliases, Defaults, Key, Parameters, key},
};
use yantra_formats::Checkpoint;
use yantra_kernels::{ActivationFn, ExpertScoring, RopeStyle};

/// A family of decoders: how it differs from Llama.
pub(crate) struct Family {
    /// The name shown to people.
    pub(crate) name: &'static str,
    /// Values of GGUF's `general.architecture`.
    pub(crate) gguf: &'static [&'static str],
    /// Values of `architectures` in `config.json`.
    pub(crate) hugging_face: &'static [&'static str],
    /// What a `config.json` calls otherwise.
    aliases: Aliases,
    /// What a `config.json` may leave out.
    defaults: Defaults,
    /// Names of tensors.
    pub(crate) names: TensorNames,
    /// Whether GGUF's rows of queries and keys are in the order that rotates neighbouring components, not halves of a head.
    pub(crate) neighbours_in_gguf: bool,
    norm: NormKind,
    /// Whether the feed-forward network has a gate.
    gated: bool,
    /// What published models have; GGUF does not record it. llama.cpp computes GELU by its approximation with a hyperbolic
    /// tangent in all families; here it is what the family was trained with.
    activation: ActivationFn,
    /// What the family changes of [`common`], the Llama-like decoder.
    adapt: fn(&Parameters<'_>, &mut ModelSpec) -> Result<(), ModelError>,
}

/// What a family is where it says nothing else.
const LLAMA_LIKE: Family = Family {
    name: "",
    gguf: &[],
    hugging_face: &[],
    aliases: &[],
    defaults: &[],
    names: LLAMA_NAMES,
    neighbours_in_gguf: false,
    norm: NormKind::Rms,
    gated: true,
    activation: ActivationFn::Silu,
    adapt: |_, _| Ok(()),
};

const FAMILIES: [&Family; 25] = [
    &bloom::FAMILY,
    &cohere::FAMILY,
    &deepseek::FAMILY,
    &falcon::FAMILY,
    &gemma::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &gpt2::FAMILY,
    &gpt_neox::FAMILY,
    &gpt_oss::FAMILY,
    &granite::FAMILY,
    &grok::FAMILY,
    &llama::FAMILY,
    &llama4::FAMILY,
    &mistral::FAMILY,
    &mixtral::FAMILY,
    &mpt::FAMILY,
    &olmo2::FAMILY,
    &phi3::FAMILY,
    &qwen2::FAMILY,
    &qwen2_moe::FAMILY,
    &qwen3::FAMILY,
    &qwen3_moe::FAMILY,
    &smollm3::FAMILY,
    &starcoder2::FAMILY,
];

/// The order of rows in a matrix that holds query, key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FusedRows {
    /// All queries, all keys, all values.
    OneAfterAnother,
    /// For each key/value head its queries, its key, its value.
    ByGroup,
}

/// The order of rows in a matrix that holds gate and up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FusedGate {
    /// The whole gate first.
    Halves,
    /// A row of the gate, a row of what it gates.
    Alternating,
}

/// Whether the checkpoint is of an embedding model or a reranker, loaded by [`crate::Encoder`], rather than of a text
/// generator.
///
/// # Errors
/// If the checkpoint names no architecture.
pub fn is_encoder(checkpoint: &Checkpoint) -> Result<bool, ModelError> {
    Ok(encoders::is_known(Parameters::new(checkpoint)?.architecture()))
}

/// Every architecture name that can be loaded, GGUF's and Hugging Face's.
pub fn known() -> Vec<&'static str> {
    let of_family = |family: &&'static Family| family.gguf.iter().chain(family.hugging_face).copied();
    FAMILIES.iter().flat_map(of_family).chain(encoders::known()).collect()
}

/// What a family of decoders is called.
#[derive(Clone, Copy, Debug)]
pub struct FamilyNames {
    /// The name shown to people.
    pub name: &'static str,
    /// Values of GGUF's `general.architecture`.
    pub gguf: &'static [&'static str],
    /// Values of `architectures` in `config.json`.
    pub hugging_face: &'static [&'static str],
}

/// Every family of decoders, by name.
pub fn all() -> impl Iterator<Item = FamilyNames> {
    FAMILIES.into_iter().map(|&Family { name, gguf, hugging_face, .. }| FamilyNames { name, gguf, hugging_face })
}

/// The specification of a text-generation checkpoint.
///
/// # Errors
/// If the architecture is unknown, of another kind, or a hyper-parameter is missing or not supported.
pub fn spec(checkpoint: &Checkpoint) -> Result<ModelSpec, ModelError> {
    resolve(checkpoint).map(|(_, spec)| spec)
}

/// The family of an architecture, as either format names it.
pub(crate) fn of_architecture(name: &str) -> Option<&'static Family> {
    FAMILIES.into_iter().find(|family| family.gguf.contains(&name) || family.hugging_face.contains(&name))
}

/// The factor that YaRN puts on queries and keys where nothing else is said.
pub(crate) fn yarn_scale(factor: f32) -> f32 {
    rope::yarn_scale(factor, 1.0)
}

/// The width of feed-forward networks that a checkpoint records, be there layers of it or not.
pub(crate) fn recorded_width(checkpoint: &Checkpoint, family: &Family) -> Result<Option<usize>, ModelError> {
    Parameters::new(checkpoint)?.of_family(family.aliases, family.defaults).count(INTERMEDIATE_SIZE)
}

pub(crate) fn resolve(checkpoint: &Checkpoint) -> Result<(&'static Family, ModelSpec), ModelError> {
    let parameters = Parameters::new(checkpoint)?;
    let architecture = parameters.architecture();
    let Some(family) = of_architecture(architecture) else {
        let architecture = architecture.to_owned();
        return Err(if encoders::is_known(&architecture) {
            let found = "an embedding model or a reranker";
            ModelError::WrongKind { architecture, found, expected: "a text generator" }
        } else {
            ModelError::UnknownArchitecture { given: architecture, known: known().join(", ") }
        });
    };
    let parameters = parameters.of_family(family.aliases, family.defaults);
    let mut spec = common(family, &parameters)?;
    (family.adapt)(&parameters, &mut spec)?;
    Ok((family, spec))
}

const HIDDEN_SIZE: Key = key("embedding_length", "hidden_size");
const NUM_LAYERS: Key = key("block_count", "num_hidden_layers");
const NUM_HEADS: Key = key("attention.head_count", "num_attention_heads");
const NUM_KV_HEADS: Key = key("attention.head_count_kv", "num_key_value_heads");
const HEAD_DIM: Key = key("attention.key_length", "head_dim");
const VALUE_DIM: Key = key("attention.value_length", "");
const NUM_EXPERTS: Key = key("expert_count", "num_experts");
const KV_RANK: Key = key("attention.kv_lora_rank", "kv_lora_rank");
const INTERMEDIATE_SIZE: Key = key("feed_forward_length", "intermediate_size");
const CONTEXT_LENGTH: Key = key("context_length", "max_position_embeddings");
const WINDOW: Key = key("attention.sliding_window", "sliding_window");

/// A Llama-like decoder from the hyper-parameters nearly all families share.
fn common(family: &Family, p: &Parameters<'_>) -> Result<ModelSpec, ModelError> {
    let hidden_size = p.required_count(HIDDEN_SIZE)?;
    let num_heads = p.required_count(NUM_HEADS)?;
    let num_kv_heads = p.count(NUM_KV_HEADS)?.unwrap_or(num_heads);
    let head_dim = p.count(HEAD_DIM)?.unwrap_or(hidden_size / num_heads);
    check(num_heads % num_kv_heads == 0, "num_key_value_heads", || {
        format!("{num_kv_heads} does not divide the {num_heads} query heads")
    })?;
    let same_width = p.count(VALUE_DIM)?.is_none_or(|dim| dim == head_dim) || p.count(KV_RANK)?.is_some();
    check(same_width, "attention.value_length", || {
        format!("values of another width than keys ({head_dim}) are not supported")
    })?;
    let activation = activation(p)?.unwrap_or(family.activation);
    let mlp = if family.gated {
        MlpSpec::Gated { intermediate_size: p.required_count(INTERMEDIATE_SIZE)?, activation }
    } else {
        let intermediate_size = p.count(INTERMEDIATE_SIZE)?.unwrap_or(4 * hidden_size);
        MlpSpec::Plain { intermediate_size, activation }
    };
    let layer =
        LayerSpec { window: None, sink_tokens: 0, chunk: None, rope: Some(rope::rope(p, head_dim, rope::FULL)?), mlp };
    let neighbours = family.neighbours_in_gguf && p.is_gguf();
    let rope_style = if neighbours { RopeStyle::Interleaved } else { RopeStyle::HalfSplit };
    Ok(ModelSpec {
        family: family.name,
        vocab_size: vocab_size(p, family, hidden_size)?,
        hidden_size,
        context_length: p.required_count(CONTEXT_LENGTH)?,
        embedding: EmbeddingSpec { scale: 1.0, learned_positions: false, norm: false },
        norm: NormSpec { kind: family.norm, eps: norm_eps(p, family.norm)?, weight_offset: 0.0 },
        block: BlockSpec { pre_norms: true, post_norms: false, parallel: false, residual_scale: 1.0 },
        attention: AttentionSpec {
            num_heads,
            num_kv_heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            latent: None,
            qk_norm: QkNorm::None,
            clip: None,
            softcap: None,
            rope_style,
            alibi: None,
            sharpening: None,
            sinks: false,
        },
        logit_scale: 1.0,
        logit_softcap: None,
        layers: vec![layer; p.required_count(NUM_LAYERS)?],
    })
}

fn norm_eps(p: &Parameters<'_>, kind: NormKind) -> Result<f32, ModelError> {
    let (gguf, default) = match kind {
        NormKind::Rms => ("attention.layer_norm_rms_epsilon", 1e-6),
        NormKind::Layer => ("attention.layer_norm_epsilon", 1e-5),
    };
    Ok(p.real(key(gguf, "rms_norm_eps"))?.unwrap_or(default))
}

fn check(holds: bool, key: &str, message: impl FnOnce() -> String) -> Result<(), ModelError> {
    if holds { Ok(()) } else { Err(ModelError::Parameter { key: key.to_owned(), message: message() }) }
}

/// Rows of the embedding table: what the file holds is the truth, the recorded number only a hint.
fn vocab_size(p: &Parameters<'_>, family: &Family, hidden_size: usize) -> Result<usize, ModelError> {
    let name = Names::new(p.checkpoint(), family).embedding();
    let view = p.checkpoint().require(&name)?;
    match view.shape[..] {
        [rows, cols] if cols == hidden_size => Ok(rows),
        _ => Err(ModelError::TensorShape { name, given: view.shape, expected: vec![0, hidden_size] }),
    }
}

/// The activation that `config.json` names, if it names one.
fn activation(p: &Parameters<'_>) -> Result<Option<ActivationFn>, ModelError> {
    Ok(Some(match p.text(key("", "hidden_act"))? {
        None => return Ok(None),
        Some("silu" | "swish") => ActivationFn::Silu,
        Some("gelu") => ActivationFn::Gelu,
        Some("gelu_pytorch_tanh" | "gelu_new") => ActivationFn::GeluTanh,
        Some("relu") => ActivationFn::Relu,
        Some(name) => return Err(ModelError::Unsupported { feature: format!("activation '{name}'") }),
    }))
}

/// A mixture of experts from the hyper-parameters nearly all families share.
fn experts(p: &Parameters<'_>, spec: &ModelSpec) -> Result<ExpertsSpec, ModelError> {
    let num_experts = p.required_count(NUM_EXPERTS)?;
    let top_k = p.required_count(key("expert_used_count", "num_experts_per_tok"))?;
    check(top_k <= num_experts, "num_experts_per_tok", || format!("{top_k} of {num_experts}"))?;
    let own_width = p.count(key("expert_feed_forward_length", "moe_intermediate_size"))?;
    let mlp = spec.layers.first().map(|layer| layer.mlp);
    Ok(ExpertsSpec {
        num_experts,
        top_k,
        intermediate_size: own_width.map_or_else(|| p.required_count(INTERMEDIATE_SIZE), Ok)?,
        activation: match mlp {
            Some(MlpSpec::Gated { activation, .. }) => activation,
            _ => ActivationFn::Silu,
        },
        scoring: ExpertScoring::Softmax,
        choice_bias: false,
        groups: None,
        normalize: p.flag(key("expert_weights_norm", "norm_topk_prob"))?.unwrap_or(false),
        scale: p.real(key("expert_weights_scale", "routed_scaling_factor"))?.unwrap_or(1.0),
        weighs_input: false,
        shared: None,
    })
}

/// Gives the experts to the layers that Qwen's `config.json` says have them, all by default.
fn sparse_layers(p: &Parameters<'_>, spec: &mut ModelSpec, experts: ExpertsSpec) -> Result<(), ModelError> {
    let step = p.count(key("", "decoder_sparse_step"))?.unwrap_or(1);
    let dense: Vec<u32> = p.numbers("mlp_only_layers")?.unwrap_or_default();
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if !dense.contains(&(index as u32)) && (index + 1).is_multiple_of(step) {
            layer.mlp = MlpSpec::Experts(experts);
        }
    }
    Ok(())
}

/// Makes all layers see the window that is recorded, if one is. llama.cpp's converter writes 0 for none (Phi-4).
fn window_everywhere(p: &Parameters<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let window = Some(p.count_or_zero(WINDOW)?).filter(|window| *window > 0);
    spec.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(())
}

/// Takes the rotary embedding away.
fn without_rope(spec: &mut ModelSpec) {
    spec.layers.iter_mut().for_each(|layer| layer.rope = None);
}

/// Which layers see only a window, by `layer_types` of `config.json` or a file's pattern, if it has one.
fn sliding_layers(p: &Parameters<'_>, num_layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
    if p.is_gguf() {
        return p.pattern("attention.sliding_window_pattern", num_layers);
    }
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
