//! The families of encoders: how the hyper-parameters of a checkpoint become an [`EncoderSpec`], one file each.

mod bert;
mod modern_bert;
mod output;
mod roberta;

use super::{CONTEXT_LENGTH, HIDDEN_SIZE, INTERMEDIATE_SIZE, NUM_HEADS, NUM_LAYERS, activation, check};
use crate::{
    EncoderSpec, HeadActivation, LayerSpec, MlpSpec, ModelError, NormPlacement, OutputSpec, PositionSpec,
    encoder::EncoderNames,
    parameters::{Aliases, Parameters, key},
};
use yantra_formats::Checkpoint;
use yantra_kernels::ActivationFn;

/// A family of encoders.
pub(crate) struct EncoderFamily {
    /// The name shown to people.
    name: &'static str,
    /// The value of GGUF's `general.architecture`.
    gguf: &'static str,
    /// Classes in `config.json` that are embedding models; a head that guesses masked words is left where it is.
    embedders: &'static [&'static str],
    /// Classes with a head that gives a score.
    scorers: &'static [&'static str],
    /// What a `config.json` calls otherwise.
    aliases: Aliases,
    /// Added to the variance where the checkpoint says nothing.
    norm_eps: f32,
    names: EncoderNames,
    gguf_names: EncoderNames,
    norms: NormPlacement,
    /// Whether the feed-forward network has a gate.
    gated: bool,
    /// Of a head that gives a score.
    head_activation: HeadActivation,
    /// Whether that head has a norm.
    head_norm: bool,
    /// What the family changes of [`common`], an encoder with learned positions.
    adapt: fn(&Parameters<'_>, &mut EncoderSpec) -> Result<(), ModelError>,
}

const FAMILIES: [&EncoderFamily; 3] = [&bert::FAMILY, &modern_bert::FAMILY, &roberta::FAMILY];

impl EncoderFamily {
    fn architectures(&self) -> impl Iterator<Item = &'static str> {
        [self.gguf]
            .into_iter()
            .chain(self.embedders.iter().chain(self.scorers).copied())
            .filter(|name| !name.is_empty())
    }

    pub(crate) fn names(&self, is_gguf: bool) -> EncoderNames {
        if is_gguf { self.gguf_names } else { self.names }
    }
}

/// Every architecture name of an encoder, GGUF's and Hugging Face's.
pub(super) fn known() -> impl Iterator<Item = &'static str> {
    FAMILIES.into_iter().flat_map(EncoderFamily::architectures)
}

fn find(architecture: &str) -> Option<&'static EncoderFamily> {
    FAMILIES.into_iter().find(|family| family.architectures().any(|name| name == architecture))
}

/// Whether an architecture is an encoder's.
pub(super) fn is_known(architecture: &str) -> bool {
    find(architecture).is_some()
}

/// The family and the specification of a checkpoint of an encoder.
pub(crate) fn resolve(checkpoint: &Checkpoint) -> Result<(&'static EncoderFamily, EncoderSpec), ModelError> {
    let parameters = Parameters::new(checkpoint)?;
    let Some(family) = find(parameters.architecture()) else {
        let architecture = parameters.architecture().to_owned();
        return Err(ModelError::WrongKind {
            architecture,
            found: "a text generator",
            expected: "an embedding model or a reranker",
        });
    };
    let parameters = parameters.of_family(family.aliases, &[]);
    let mut spec = common(family, &parameters)?;
    (family.adapt)(&parameters, &mut spec)?;
    if let Some(tuned) = tuned_length(checkpoint)? {
        spec.context_length = spec.context_length.min(tuned);
    }
    Ok((family, spec))
}

fn common(family: &'static EncoderFamily, p: &Parameters<'_>) -> Result<EncoderSpec, ModelError> {
    if let Some(kind) = p.text(key("", "position_embedding_type"))?.filter(|kind| *kind != "absolute") {
        return Err(ModelError::Unsupported { feature: format!("position embedding '{kind}'") });
    }
    let hidden_size = p.required_count(HIDDEN_SIZE)?;
    let num_heads = p.required_count(NUM_HEADS)?;
    check(hidden_size.is_multiple_of(num_heads), "num_attention_heads", || {
        format!("{num_heads} heads do not divide the width {hidden_size}")
    })?;
    let names = family.names(p.is_gguf());
    let find = |name: &str| names.find(|name| p.checkpoint().tensor(name).is_some(), name);
    let rows =
        |name: &str| Ok::<_, ModelError>(p.checkpoint().require(&find(name))?.shape.first().copied().unwrap_or(0));
    let activation = activation(p)?.unwrap_or(ActivationFn::Gelu);
    let intermediate_size = p.required_count(INTERMEDIATE_SIZE)?;
    let mlp = match family.gated {
        true => MlpSpec::Gated { intermediate_size, activation },
        false => MlpSpec::Plain { intermediate_size, activation },
    };
    let layer = LayerSpec { window: None, sink_tokens: 0, chunk: None, rope: None, mlp };
    Ok(EncoderSpec {
        family: family.name,
        vocab_size: rows(names.words)?,
        hidden_size,
        num_heads,
        context_length: p.required_count(CONTEXT_LENGTH)?,
        positions: PositionSpec::Learned { first: 0 },
        token_types: if names.token_types.is_empty() { 0 } else { rows(names.token_types)? },
        norm_eps: p.real(key("attention.layer_norm_epsilon", "layer_norm_eps"))?.unwrap_or(family.norm_eps),
        norms: family.norms,
        layers: vec![layer; p.required_count(NUM_LAYERS)?],
        output: output(family, p)?,
    })
}

fn output(family: &EncoderFamily, p: &Parameters<'_>) -> Result<OutputSpec, ModelError> {
    if family.scorers.contains(&p.architecture()) || output::is_ranking(p)? {
        let names = family.names(p.is_gguf()).head;
        return output::score(p, names, family.head_activation, family.head_norm).map(OutputSpec::Score);
    }
    Ok(OutputSpec::Embedding { pooling: output::pooling(p)?, normalize: true })
}

/// The length of the texts that a model was tuned on, if sentence-transformers noted it.
fn tuned_length(checkpoint: &Checkpoint) -> Result<Option<usize>, ModelError> {
    let Checkpoint::HuggingFace(directory) = checkpoint else { return Ok(None) };
    let config = directory.read_json("sentence_bert_config.json")?;
    let tuned: Option<usize> = config.map(|config| config.find("max_seq_length")).transpose()?.flatten();
    check(tuned != Some(0), "max_seq_length", || "0 tokens, at least 1 is expected".to_owned())?;
    Ok(tuned)
}
