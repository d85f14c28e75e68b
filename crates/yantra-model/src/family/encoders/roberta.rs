//! RoBERTa (Liu et al., 2019) and XLM-RoBERTa (Conneau et al., 2020): BERT whose positions begin after padding's.

use super::{EncoderFamily, bert};
use crate::{
    EncoderSpec, ModelError, PositionSpec,
    encoder::{EncoderNames, HeadNames},
    family::check,
    parameters::{Parameters, key},
};

pub(super) const FAMILY: EncoderFamily = EncoderFamily {
    name: "RoBERTa",
    gguf: "",
    embedders: &["RobertaModel", "RobertaForMaskedLM", "XLMRobertaModel", "XLMRobertaForMaskedLM"],
    scorers: &["RobertaForSequenceClassification", "XLMRobertaForSequenceClassification"],
    names: EncoderNames {
        prefix: "roberta.",
        head: HeadNames { dense: "classifier.dense", norm: "", output: "classifier.out_proj" },
        ..bert::NAMES
    },
    adapt,
    ..bert::FAMILY
};

/// The token of padding where `config.json` does not say, as in transformers.
const PADDING: usize = 1;

fn adapt(p: &Parameters<'_>, spec: &mut EncoderSpec) -> Result<(), ModelError> {
    let padding = p.number_or(key("", "pad_token_id"), PADDING)?;
    let first = padding + 1;
    check(first < spec.context_length, "pad_token_id", || {
        format!("positions begin after {padding}, but there are {}", spec.context_length)
    })?;
    spec.positions = PositionSpec::Learned { first };
    spec.context_length -= first;
    Ok(())
}
