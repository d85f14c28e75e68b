//! What becomes of token vectors, as checkpoints say it: sentence-transformers' files, or GGUF's `pooling_type`.

use crate::{
    HeadActivation, ModelError, Pooling, ScoreSpec,
    encoder::HeadNames,
    parameters::{Key, Parameters, key},
};
use yantra_formats::Checkpoint;

const POOLING_TYPE: Key = key("pooling_type", "");
/// GGUF's number for a model that scores pairs.
const RANK: usize = 4;

fn unsupported<T>(feature: String) -> Result<T, ModelError> {
    Err(ModelError::Unsupported { feature })
}

/// Whether a GGUF file says that its model scores pairs.
pub(super) fn is_ranking(p: &Parameters<'_>) -> Result<bool, ModelError> {
    Ok(p.is_gguf() && p.count_or_zero(POOLING_TYPE)? == RANK)
}

/// How an embedding model pools: GGUF has 1 for the mean and 2 for the first token, sentence-transformers a file.
pub(super) fn pooling(p: &Parameters<'_>) -> Result<Pooling, ModelError> {
    match p.checkpoint() {
        Checkpoint::Gguf(_) => match p.count(POOLING_TYPE)? {
            None | Some(1) => Ok(Pooling::Mean),
            Some(2) => Ok(Pooling::Cls),
            Some(other) => unsupported(format!("pooling type {other}")),
        },
        Checkpoint::HuggingFace(directory) => {
            let Some(config) = directory.pooling_config()? else { return Ok(Pooling::Mean) };
            let on = |key: &str| Ok::<_, ModelError>(config.find(key)? == Some(true));
            match (on("pooling_mode_mean_tokens")?, on("pooling_mode_cls_token")?) {
                (true, false) => Ok(Pooling::Mean),
                (false, true) => Ok(Pooling::Cls),
                _ => unsupported(format!("pooling {}", config.value())),
            }
        }
    }
}

/// The head of a model that gives a score.
pub(super) fn score(
    p: &Parameters<'_>,
    names: HeadNames,
    activation: HeadActivation,
    norm: bool,
) -> Result<ScoreSpec, ModelError> {
    let labels = p.checkpoint().require(&format!("{}.weight", names.output))?.shape.first().copied().unwrap_or(0);
    if labels != 1 {
        return unsupported(format!("a classifier of {labels} labels (a reranker has 1)"));
    }
    let pooling = match p.text(key("", "classifier_pooling"))? {
        None | Some("cls") => Pooling::Cls,
        Some("mean") => Pooling::Mean,
        Some(other) => return unsupported(format!("classifier pooling '{other}'")),
    };
    if let Some(name) = p.text(key("", "classifier_activation"))?.filter(|name| *name != "gelu") {
        return unsupported(format!("classifier activation '{name}'"));
    }
    Ok(ScoreSpec { pooling, activation, norm, sigmoid: sigmoid(p)? })
}

/// Whether sentence-transformers puts the score between 0 and 1: unless the model's authors have said otherwise it does.
/// GGUF has no such key, and llama.cpp gives scores as they are.
fn sigmoid(p: &Parameters<'_>) -> Result<bool, ModelError> {
    let Some(config) = p.config() else { return Ok(false) };
    let newest = config.section("sentence_transformers");
    let named = newest.as_ref().map(|section| section.find::<&str>("activation_fn")).transpose()?.flatten();
    let named = if named.is_some() { named } else { config.find("sbert_ce_default_activation_function")? };
    match named.map(|path| path.rsplit_once('.').map_or(path, |(_, class)| class)) {
        None | Some("Sigmoid") => Ok(true),
        Some("Identity") => Ok(false),
        Some(class) => unsupported(format!("activation '{class}' of a score")),
    }
}
