//! The drafter a model is loaded with: what a draft model takes of the memory, and whether it fits the model.

use super::{LoadError, LoadOptions, MemoryPlan};
use crate::{
    EngineConfig, EngineError, ModelRunner, SpeculationMethod,
    speculation::{DraftModel, Drafter, PromptLookup},
};
use std::{path::Path, sync::Arc};
use yantra_formats::Checkpoint;
use yantra_kernels::Compute;
use yantra_model::{Decoder, KvCache, ModelSpec, family};
use yantra_text::Tokenizer;

/// What a draft model takes.
pub(super) struct DraftPlan {
    /// Weights, buffers of a step and its logits.
    pub(super) fixed_bytes: u64,
    /// One page of its KV cache.
    pub(super) page_bytes: u64,
}

impl DraftPlan {
    /// The plan for a draft model, if the options ask for one.
    pub(super) fn of(spec: &ModelSpec, context: usize, options: &LoadOptions) -> Result<Option<Self>, LoadError> {
        if options.engine.speculation.method != SpeculationMethod::DraftModel {
            return Ok(None);
        }
        let path = path(options)?;
        let checkpoint = Checkpoint::open(path)?;
        let draft = draft_spec(path, &checkpoint, spec)?;
        let load =
            yantra_model::LoadOptions { max_context: Some(context.min(draft.context_length)), ..Default::default() };
        let footprint = Decoder::footprint(&checkpoint, &Compute::new(1), load)?;
        let EngineConfig { max_sequences, token_budget, .. } = options.engine;
        let logits = max_sequences * draft.vocab_size * size_of::<f32>();
        let step = footprint.table_bytes + token_budget * footprint.step_bytes_per_token + logits;
        Ok(Some(Self {
            fixed_bytes: (footprint.weight_bytes + step) as u64,
            page_bytes: KvCache::bytes_per_page(&draft, options.kv_format) as u64,
        }))
    }
}

/// The draft model's specification, if it generates text of the same vocabulary as the model.
fn draft_spec(path: &Path, checkpoint: &Checkpoint, spec: &ModelSpec) -> Result<ModelSpec, LoadError> {
    let refused = |message| Err(LoadError::DraftModel { path: path.to_owned(), message });
    if family::is_encoder(checkpoint)? {
        return refused("it is an embedding model or a reranker".to_owned());
    }
    let draft = family::spec(checkpoint)?;
    if draft.vocab_size != spec.vocab_size {
        let (given, expected) = (draft.vocab_size, spec.vocab_size);
        return refused(format!("it has a vocabulary of {given} tokens, the model one of {expected}"));
    }
    Ok(draft)
}

/// Loads the draft model, which must have the very tokens of the model.
fn load_drafter(
    path: &Path,
    spec: &ModelSpec,
    tokenizer: &Tokenizer,
    compute: &Arc<Compute>,
    options: &LoadOptions,
    plan: &MemoryPlan,
) -> Result<Box<dyn Drafter>, LoadError> {
    let checkpoint = Checkpoint::open(path)?;
    let draft = draft_spec(path, &checkpoint, spec)?;
    let theirs = Tokenizer::from_checkpoint(&checkpoint)?;
    if let Some(id) = (0..spec.vocab_size as u32).find(|&id| theirs.token_text(id) != tokenizer.token_text(id)) {
        let (given, expected) = (theirs.token_text(id), tokenizer.token_text(id));
        let message = format!("its token {id} is {given:?}, the model's is {expected:?}");
        return Err(LoadError::DraftModel { path: path.to_owned(), message });
    }
    let max_context = Some(plan.context.min(draft.context_length));
    let load = yantra_model::LoadOptions { max_context, ..Default::default() };
    let decoder = Decoder::load(&checkpoint, compute, load)?;
    let runner = ModelRunner::new(decoder, Arc::clone(compute), options.kv_format, plan.kv_pages)?;
    Ok(Box::new(DraftModel::new(Box::new(runner), options.engine.token_budget)))
}

/// What guesses for the model, if anything does.
pub(super) fn drafter(
    spec: &ModelSpec,
    tokenizer: &Tokenizer,
    compute: &Arc<Compute>,
    options: &LoadOptions,
    plan: &MemoryPlan,
) -> Result<Option<Box<dyn Drafter>>, LoadError> {
    Ok(match options.engine.speculation.method {
        SpeculationMethod::None => None,
        SpeculationMethod::Lookup => Some(Box::new(PromptLookup::default())),
        SpeculationMethod::DraftModel => Some(load_drafter(path(options)?, spec, tokenizer, compute, options, plan)?),
    })
}

fn path(options: &LoadOptions) -> Result<&Path, LoadError> {
    let message = || "a draft model was asked for, but none was named".to_owned();
    let missing = || LoadError::Engine(EngineError::Config { field: "draft_model", message: message() });
    options.draft_model.as_deref().ok_or_else(missing)
}
