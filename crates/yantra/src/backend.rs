//! What the commands need of the libraries below, behind a few functions.

use crate::{
    commands::pull::DownloadBar,
    config::{EngineSettings, GenerationConfig},
    failure::{hinted, usage},
    output,
};
use anyhow::{Context, Result, bail};
use std::{path::PathBuf, sync::Arc};
use yantra_engine::{
    EmbedderHandle, EncoderRunner, EngineConfig, EngineHandle, ModelRunner, SamplingParams, Speculation,
    SpeculationMethod,
    load::{self, LoadOptions, LoadedModel, MemoryPlan, ModelKind},
    spill::SpillStore,
};
use yantra_formats::Checkpoint;
use yantra_hub::{CatalogueSampling, Hub, HubError, Origin, Resolved};
use yantra_kernels::{Compute, DenseType};
use yantra_model::{Decoder, Encoder, EncoderSpec};

/// Where models are found and fetched from.
pub(crate) fn hub() -> Result<Hub> {
    Ok(Hub::from_env()?)
}

/// The file or directory that `model` names: a path, or a model that was pulled.
pub(crate) fn resolve(model: &str) -> Result<PathBuf> {
    Ok(resolve_model(model)?.path)
}

/// The same, with its name and where it comes from.
pub(crate) fn resolve_model(model: &str) -> Result<Resolved> {
    let bar = DownloadBar::new();
    let resolved = hub()?.resolve(model, &bar);
    bar.finish();
    match resolved {
        Ok(resolved) => Ok(resolved),
        Err(HubError::NotDownloaded { name }) => Err(hinted(
            format!("the model `{name}` is known, but not on this machine yet"),
            format!("fetch it with `yantra pull {name}`"),
        )),
        Err(error @ HubError::NoSuchPath { .. }) => {
            Err(hinted(error.to_string(), "check the path; `yantra pull --list` shows the models of the catalogue"))
        }
        Err(error) => Err(error.into()),
    }
}

/// The thread pool for these settings.
pub(crate) fn compute(settings: &EngineSettings) -> Arc<Compute> {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Arc::new(Compute::new(settings.threads.unwrap_or(available)))
}

/// The settings as the engine takes them.
pub(crate) fn load_options(settings: &EngineSettings) -> LoadOptions {
    let default = LoadOptions::default();
    let by_model = settings.draft_model.as_ref().map(|_| SpeculationMethod::DraftModel);
    let speculation = Speculation {
        method: settings.speculate.or(by_model).unwrap_or(default.engine.speculation.method),
        max_draft: settings.draft_max.unwrap_or(default.engine.speculation.max_draft),
    };
    let engine = EngineConfig {
        max_sequences: settings.max_sequences.unwrap_or(default.engine.max_sequences),
        token_budget: settings.token_budget.unwrap_or(default.engine.token_budget),
        max_queue: settings.max_queue.unwrap_or(default.engine.max_queue),
        prefix_cache: settings.prefix_cache.unwrap_or(default.engine.prefix_cache),
        speculation,
        ..default.engine
    };
    LoadOptions {
        context: settings.context,
        kv_memory_bytes: settings.kv_memory_bytes,
        kv_format: settings.kv_dtype.unwrap_or(default.kv_format),
        quantize: settings.quantize,
        encoder_dtype: settings.embedding_dtype.unwrap_or(default.encoder_dtype),
        expert_directory: settings.experts_on_disk.clone(),
        reserved_bytes: 0,
        spill: None,
        draft_model: settings.draft_model.as_ref().map(PathBuf::from),
        engine,
    }
}

/// The directory for spilled pages, if one is wanted.
pub(crate) fn spill_store(settings: &EngineSettings) -> Result<Option<Arc<SpillStore>>> {
    let Some(spill) = &settings.kv_spill else { return Ok(None) };
    let store = SpillStore::open(&spill.directory, spill.limit_bytes)?;
    let stats = store.stats();
    if stats.pages > 0 {
        let (directory, bytes) = (spill.directory.display(), output::bytes(stats.bytes));
        eprintln!("{directory}: {} spilled pages, {bytes}", stats.pages);
    }
    Ok(Some(Arc::new(store)))
}

/// Loads a model and starts it; says on standard error what memory it will take.
pub(crate) fn load(model: &str, compute: &Arc<Compute>, options: &LoadOptions) -> Result<LoadedModel> {
    load_beside(model, compute, options, &mut 0)
}

/// As [`load`], beside models that hold `reserved` bytes they have not touched yet; adds those of this one.
pub(crate) fn load_beside(
    model: &str,
    compute: &Arc<Compute>,
    options: &LoadOptions,
    reserved: &mut u64,
) -> Result<LoadedModel> {
    let resolved = resolve_model(model)?;
    let path = &resolved.path;
    let mut options = LoadOptions { reserved_bytes: *reserved, ..options.clone() };
    options.draft_model = draft_model(&options)?;
    let show = |plan: &MemoryPlan| {
        eprintln!("{model}: {plan}");
        *reserved += plan.reserved_bytes();
    };
    let mut loaded =
        load::load(path, compute, &options, show).with_context(|| format!("cannot load {}", path.display()))?;
    if loaded.suggested_sampling.is_none() && resolved.origin == Origin::Catalogue {
        let known = hub()?.catalogue().find(&resolved.name).and_then(|model| model.sampling);
        loaded.suggested_sampling = known.map(|CatalogueSampling { temperature, top_p, top_k }| SamplingParams {
            temperature,
            top_p,
            top_k,
            ..SamplingParams::default()
        });
    }
    Ok(loaded)
}

/// The file of the draft model, if one is to be used; the options have the name it was given by.
pub(crate) fn draft_model(options: &LoadOptions) -> Result<Option<PathBuf>> {
    if options.engine.speculation.method != SpeculationMethod::DraftModel {
        return Ok(None);
    }
    let named = options.draft_model.as_ref().and_then(|name| name.to_str());
    let named = named.ok_or_else(|| usage("speculation with a draft model needs one: give --draft-model MODEL"))?;
    resolve(named).map(Some)
}

/// How to sample from a model when nobody says.
pub(crate) fn default_sampling(settings: &EngineSettings, loaded: &LoadedModel) -> SamplingParams {
    match settings.generation_config {
        GenerationConfig::Auto => loaded.suggested_sampling.clone().unwrap_or_default(),
        GenerationConfig::None => SamplingParams::default(),
    }
}

/// The engine of a model that generates text.
pub(crate) fn generator(model: &str, loaded: &LoadedModel) -> Result<EngineHandle> {
    match &loaded.kind {
        ModelKind::Generate(engine) => Ok(engine.clone()),
        ModelKind::Embed(_) => bail!("`{model}` is an embedding model or a reranker: it generates no text"),
    }
}

/// A decoder that is stepped by hand, for measurements; with the pages `num_tokens` need in each of `sequences`.
pub(crate) fn model_runner(
    model: &str,
    compute: &Arc<Compute>,
    options: &LoadOptions,
    sequences: usize,
    num_tokens: usize,
) -> Result<ModelRunner> {
    let path = resolve(model)?;
    let cannot = || format!("cannot load {}", path.display());
    let checkpoint = Checkpoint::open(&path).with_context(cannot)?;
    if yantra_model::family::is_encoder(&checkpoint).with_context(cannot)? {
        bail!("`{model}` is an embedding model or a reranker: it generates no text");
    }
    let decoder = Decoder::load(&checkpoint, compute, options.of_model(num_tokens.max(1))).with_context(cannot)?;
    let context = decoder.spec().context_length;
    if num_tokens > context {
        bail!("{num_tokens} tokens per sequence are wanted, but the model was made for at most {context}");
    }
    let pages = sequences * num_tokens.div_ceil(yantra_model::PAGE_TOKENS);
    let bytes = pages as u64 * yantra_model::KvCache::bytes_per_page(decoder.spec(), options.kv_format) as u64;
    ModelRunner::new(decoder, Arc::clone(compute), options.kv_format, pages)
        .with_context(|| format!("cannot set up a KV cache of {}", output::bytes(bytes)))
}

/// An embedding model on its thread, for measurements: what it is, and what its matrices multiply in.
pub(crate) fn embedder(
    model: &str,
    compute: &Arc<Compute>,
    options: &LoadOptions,
) -> Result<(EmbedderHandle, EncoderSpec, &'static str)> {
    let path = resolve(model)?;
    let cannot = || format!("cannot load {}", path.display());
    let checkpoint = Checkpoint::open(&path).with_context(cannot)?;
    let spec = EncoderSpec::read(&checkpoint).with_context(cannot)?;
    if spec.scores_pairs() {
        bail!("`{model}` scores pairs of texts: an embedding model is expected");
    }
    let encoder = Encoder::load(&checkpoint, compute, options.of_model(spec.context_length)).with_context(cannot)?;
    let dtype = match encoder.dense_type() {
        None => "f32",
        Some(DenseType::Bf16) => "bf16",
        Some(DenseType::Int8) => "int8",
    };
    let runner = EncoderRunner::new(encoder, Arc::clone(compute));
    Ok((EmbedderHandle::spawn(Box::new(runner), options.engine.max_queue)?, spec, dtype))
}
