//! From a model file to a running model: memory plan, weights, tokeniser, template, engine.

mod adapters;
mod draft;
mod memory;
mod suggestion;

use crate::{
    EmbedError, EmbedderHandle, EncoderRunner, Engine, EngineConfig, EngineError, EngineHandle, ModelRunner,
    SamplingParams, Speculation,
    spill::{self, Spill, SpillError, SpillStore},
};
pub use adapters::{AdapterError, AdapterLoader};
use draft::DraftPlan;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, CpuLevel, KvFormat, WeightFormat};
use yantra_model::{Decoder, Encoder, EncoderDtype, EncoderSpec, Footprint, KvCache, ModelError, PAGE_TOKENS, family};
use yantra_text::{ChatTemplate, TextError, Tokenizer};

/// How a model is loaded and run.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Longest sequence in tokens; the model's own context length when `None`.
    pub context: Option<usize>,
    /// Bytes for the KV cache; planned from the free memory when `None`.
    pub kv_memory_bytes: Option<u64>,
    /// How keys and values are stored.
    pub kv_format: KvFormat,
    /// Quantise float weights to this format at load.
    pub quantize: Option<WeightFormat>,
    /// What the matrices of an embedding model multiply in.
    pub encoder_dtype: EncoderDtype,
    /// A directory for a file that the experts of a mixture lie in, so that only those that are used take memory.
    pub expert_directory: Option<PathBuf>,
    /// Memory promised to other models of this process that they have not touched yet.
    pub reserved_bytes: u64,
    /// Where pages go that leave the prefix cache; of models that generate text.
    pub spill: Option<Arc<SpillStore>>,
    /// The small model that drafts, where [`EngineConfig::speculation`] asks for one.
    pub draft_model: Option<PathBuf>,
    /// How requests are scheduled.
    pub engine: EngineConfig,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            context: None,
            kv_memory_bytes: None,
            kv_format: KvFormat::preferred(CpuLevel::detect()),
            quantize: None,
            encoder_dtype: EncoderDtype::default(),
            expert_directory: None,
            reserved_bytes: 0,
            spill: None,
            draft_model: None,
            engine: EngineConfig::default(),
        }
    }
}

impl LoadOptions {
    /// What of them the model itself is loaded with, for sequences of up to `context` tokens.
    pub fn of_model(&self, context: usize) -> yantra_model::LoadOptions<'_> {
        let (quantize, encoder_dtype) = (self.quantize, self.encoder_dtype);
        let expert_directory = self.expert_directory.as_deref();
        yantra_model::LoadOptions { quantize, max_context: Some(context), encoder_dtype, expert_directory }
    }
}

/// An error of loading a model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file.
    #[error(transparent)]
    Format(#[from] yantra_formats::FormatError),
    /// The tokeniser or chat template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The architecture or the weights.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The embedding model's thread.
    #[error(transparent)]
    Embed(#[from] EmbedError),
    /// The tokeniser's thread panicked.
    #[error("reading the tokeniser panicked")]
    TokenizerPanicked,
    /// The spill store does not suit the model.
    #[error(transparent)]
    Spill(#[from] SpillError),
    /// The context asked for is longer than the model's.
    #[error("a context of {given} tokens was asked for, but the model was made for at most {limit}")]
    Context {
        /// Tokens asked for.
        given: usize,
        /// The model's limit.
        limit: usize,
    },
    /// The KV cache asked for can not hold a single sequence.
    #[error(
        "{given} bytes of KV memory hold {pages} pages of {PAGE_TOKENS} tokens, too few for one sequence of {context} \
         tokens: give at least {needed} bytes or a shorter context"
    )]
    KvMemory {
        /// Bytes given.
        given: u64,
        /// Pages they hold.
        pages: usize,
        /// The context wanted.
        context: usize,
        /// Bytes needed.
        needed: u64,
    },
    /// The draft model can not draft for the model.
    #[error("the model at {} can not draft: {message}", path.display())]
    DraftModel {
        /// The draft model.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// The plan is larger than the free memory.
    #[error("not enough memory: {plan}")]
    Memory {
        /// The plan that does not fit.
        plan: Box<MemoryPlan>,
    },
}

/// What a model will take of the memory, known before anything is allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Packed weights and the embedding table.
    pub weight_bytes: u64,
    /// The KV cache.
    pub kv_bytes: u64,
    /// Its pages.
    pub kv_pages: usize,
    /// KV bytes of one token.
    pub kv_bytes_per_token: u64,
    /// Buffers of the largest step, its logits, and small tables.
    pub step_bytes: u64,
    /// Buffers of loading, which are gone when the KV cache is used.
    pub load_bytes: u64,
    /// The draft model: its weights, and a KV cache of as many pages.
    pub draft_bytes: u64,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Free memory when the plan was made, if the system tells.
    pub available_bytes: Option<u64>,
}

impl MemoryPlan {
    /// All of it, at its most.
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes + self.load_bytes.max(self.reserved_bytes()) + self.draft_bytes
    }

    /// What is allocated but not touched when loading ends: other models must not count on it.
    pub fn reserved_bytes(&self) -> u64 {
        self.kv_bytes + self.step_bytes
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        write!(
            f,
            "weights {:.0} MiB + KV cache {:.0} MiB ({} tokens at {:.1} KiB, {} per sequence) + step buffers {:.0} MiB",
            mib(self.weight_bytes),
            mib(self.kv_bytes),
            self.kv_pages * PAGE_TOKENS,
            self.kv_bytes_per_token as f64 / 1024.0,
            self.context,
            mib(self.step_bytes),
        )?;
        if self.draft_bytes > 0 {
            write!(f, " + draft model {:.0} MiB", mib(self.draft_bytes))?;
        }
        write!(f, " = {:.0} MiB", mib(self.total_bytes()))?;
        match self.available_bytes {
            Some(available) => write!(f, " of {:.0} MiB available", mib(available)),
            None => Ok(()),
        }
    }
}

/// A loaded model: what it can do and how to ask it.
pub struct LoadedModel {
    /// Text generation or embedding.
    pub kind: ModelKind,
    /// The tokeniser of the checkpoint.
    pub tokenizer: Tokenizer,
    /// The checkpoint's chat template, if it has one.
    pub template: Option<ChatTemplate>,
    /// The sampling the checkpoint suggests, if it does.
    pub suggested_sampling: Option<SamplingParams>,
    /// Facts for people.
    pub info: ModelInfo,
    /// Loads adapters of it, if it generates text.
    pub adapters: Option<AdapterLoader>,
}

/// What a loaded model does.
pub enum ModelKind {
    /// Generates text.
    Generate(EngineHandle),
    /// Embeds texts, or scores pairs of them ([`EmbedderHandle::scores_pairs`]).
    Embed(EmbedderHandle),
}

/// Facts about a loaded model.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ModelInfo {
    /// The family, such as `Llama`.
    pub family: String,
    /// Weights in the checkpoint.
    pub parameters: u64,
    /// The format most of the weights are stored in.
    pub quantization: String,
    /// Longest sequence, in tokens.
    pub context_length: usize,
    /// Bytes of the checkpoint's tensors.
    pub size_bytes: u64,
}

/// What the model at `path` would take of the memory on this processor.
///
/// # Errors
/// If the checkpoint can not be read or the options do not fit it.
pub fn plan_memory(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<MemoryPlan, LoadError> {
    let available_bytes = memory::available().map(|bytes| bytes.saturating_sub(options.reserved_bytes));
    // Sizes depend on the processor, not on the threads.
    let cx = Compute::new(1);
    let with_context = |context| options.of_model(context);
    if family::is_encoder(checkpoint)? {
        let context = EncoderSpec::read(checkpoint)?.context_length;
        let footprint = Encoder::footprint(checkpoint, &cx, with_context(context))?;
        let tokens = EmbedderHandle::SLICE_TOKENS.max(context);
        return Ok(MemoryPlan {
            weight_bytes: footprint.weight_bytes as u64,
            kv_bytes: 0,
            kv_pages: 0,
            kv_bytes_per_token: 0,
            step_bytes: (footprint.table_bytes + tokens * footprint.step_bytes_per_token) as u64,
            load_bytes: footprint.load_bytes as u64,
            draft_bytes: 0,
            context,
            available_bytes,
        });
    }
    let spec = family::spec(checkpoint)?;
    let context = options.context.unwrap_or(spec.context_length);
    if context > spec.context_length {
        return Err(LoadError::Context { given: context, limit: spec.context_length });
    }
    let footprint = Decoder::footprint(checkpoint, &cx, with_context(context))?;
    let step_bytes = step_bytes(&footprint, spec.vocab_size, options);
    let page_bytes = KvCache::bytes_per_page(&spec, options.kv_format) as u64;
    if let Some(store) = &options.spill {
        store.check_page(PAGE_TOKENS, page_bytes as usize)?;
    }
    let draft = DraftPlan::of(&spec, context, options)?;
    let (draft_fixed, draft_page) = draft.map_or((0, 0), |draft| (draft.fixed_bytes, draft.page_bytes));
    let fixed = footprint.weight_bytes as u64 + step_bytes + draft_fixed;
    let free = available_bytes.map(|free| free.saturating_sub(fixed));
    // Memory given for the KV cache is for the model's own; what was left is shared with the draft model's.
    let free = free.map(|free| (free as f64 * page_bytes as f64 / (page_bytes + draft_page) as f64) as u64);
    let kv_pages = plan_pages(options, context, page_bytes, free)?;
    Ok(MemoryPlan {
        weight_bytes: footprint.weight_bytes as u64,
        kv_bytes: kv_pages as u64 * page_bytes,
        kv_pages,
        kv_bytes_per_token: page_bytes / PAGE_TOKENS as u64,
        step_bytes,
        load_bytes: footprint.load_bytes as u64,
        draft_bytes: draft_fixed + kv_pages as u64 * draft_page,
        context,
        available_bytes,
    })
}

/// Pages for every sequence at full length, but no more than a third of the memory left, and at least one sequence.
fn plan_pages(options: &LoadOptions, context: usize, page_bytes: u64, free: Option<u64>) -> Result<usize, LoadError> {
    let one_sequence = context.div_ceil(PAGE_TOKENS);
    if let Some(given) = options.kv_memory_bytes {
        let pages = (given / page_bytes) as usize;
        return if pages >= one_sequence {
            Ok(pages)
        } else {
            Err(LoadError::KvMemory { given, pages, context, needed: one_sequence as u64 * page_bytes })
        };
    }
    let wanted = one_sequence * options.engine.max_sequences;
    let affordable = free.map_or(wanted, |free| (free / 3 / page_bytes) as usize);
    Ok(wanted.min(affordable).max(one_sequence))
}

/// Small tables, a full step's buffers, and its logits: a row per sequence, scored position and drafted token, one as the
/// model returned it, and the candidates of sampling (an id and a weight each, and a value).
fn step_bytes(footprint: &Footprint, vocab_size: usize, options: &LoadOptions) -> u64 {
    let EngineConfig { max_sequences, token_budget, max_scored_rows, .. } = options.engine;
    let ahead = options.engine.speculation.rows_per_step() + Speculation::FORCED_ROWS_PER_STEP;
    let rows = (max_sequences + max_scored_rows + ahead).min(token_budget) + 1 + 3;
    let logits = rows * vocab_size * size_of::<f32>();
    let spill = if options.spill.is_some() { SpillStore::BUFFER_BYTES } else { 0 };
    (footprint.table_bytes + token_budget * footprint.step_bytes_per_token + logits + spill) as u64
}

/// Loads the model at `path` and starts it on `compute`, which several models may share.
///
/// `on_plan` sees the memory plan before anything large is allocated.
///
/// # Errors
/// If the file can not be read, the model is not supported, or the plan does not fit the memory.
pub fn load(
    path: &Path,
    compute: &Arc<Compute>,
    options: &LoadOptions,
    on_plan: impl FnOnce(&MemoryPlan),
) -> Result<LoadedModel, LoadError> {
    let checkpoint = Checkpoint::open(path)?;
    let plan = plan_memory(&checkpoint, options)?;
    on_plan(&plan);
    if plan.available_bytes.is_some_and(|available| plan.total_bytes() > available) {
        return Err(LoadError::Memory { plan: Box::new(plan) });
    }
    // The tokeniser and the weights are independent: read them side by side.
    let (tokenizer, kind) = std::thread::scope(|scope| {
        let tokenizer = scope.spawn(|| Tokenizer::from_checkpoint(&checkpoint));
        let model = start(&checkpoint, compute, options, &plan);
        (tokenizer.join(), model)
    });
    let tokenizer = tokenizer.map_err(|_| LoadError::TokenizerPanicked)??;
    let mut adapted = None;
    let kind = match kind? {
        Prepared::Generate(runner, spill) => {
            adapted = Some(Arc::clone(runner.decoder()));
            let drafter = draft::drafter(runner.decoder().spec(), &tokenizer, compute, options, &plan)?;
            let decoder = Some(Arc::new(tokenizer.clone()) as _);
            let engine = Engine::spawn_with(runner, decoder, options.engine.clone(), drafter, spill)?;
            ModelKind::Generate(engine)
        }
        Prepared::Embed(embedder) => ModelKind::Embed(embedder),
    };
    let template = ChatTemplate::from_checkpoint(&checkpoint, &tokenizer)?;
    let suggested_sampling = suggestion::of(&checkpoint);
    let info = info(&checkpoint, plan.context)?;
    let adapters = adapted.map(|decoder| {
        let token_budget = options.engine.token_budget;
        AdapterLoader::new(decoder, checkpoint, compute.level(), token_budget, plan.reserved_bytes())
    });
    Ok(LoadedModel { kind, template, tokenizer, suggested_sampling, info, adapters })
}

enum Prepared {
    Generate(Box<ModelRunner>, Option<Spill>),
    Embed(EmbedderHandle),
}

fn start(
    checkpoint: &Checkpoint,
    compute: &Arc<Compute>,
    options: &LoadOptions,
    plan: &MemoryPlan,
) -> Result<Prepared, LoadError> {
    let load = options.of_model(plan.context);
    if family::is_encoder(checkpoint)? {
        let encoder = Encoder::load(checkpoint, compute, load)?;
        let runner = EncoderRunner::new(encoder, Arc::clone(compute));
        return Ok(Prepared::Embed(EmbedderHandle::spawn(Box::new(runner), options.engine.max_queue)?));
    }
    let decoder = Decoder::load(checkpoint, compute, load)?;
    let runner = ModelRunner::new(decoder, Arc::clone(compute), options.kv_format, plan.kv_pages)?;
    let spill = options.spill.as_ref().map(|store| Spill {
        store: Arc::clone(store),
        fingerprint: spill::fingerprint(
            checkpoint,
            runner.decoder().spec(),
            compute,
            options.kv_format,
            options.quantize,
        ),
    });
    Ok(Prepared::Generate(Box::new(runner), spill))
}

/// Facts about a checkpoint, for people.
///
/// # Errors
/// If its architecture is unknown.
pub fn info(checkpoint: &Checkpoint, context_length: usize) -> Result<ModelInfo, LoadError> {
    let family = match family::is_encoder(checkpoint)? {
        true => EncoderSpec::read(checkpoint)?.family.to_owned(),
        false => family::spec(checkpoint)?.family.to_owned(),
    };
    let (mut parameters, mut size_bytes) = (0, 0);
    let mut by_format: Vec<(WeightFormat, u64)> = Vec::new();
    for tensor in checkpoint.tensors() {
        let values = tensor.num_elements() as u64;
        parameters += values;
        size_bytes += tensor.num_bytes() as u64;
        match by_format.iter_mut().find(|(format, _)| *format == tensor.format) {
            Some((_, sum)) => *sum += values,
            None => by_format.push((tensor.format, values)),
        }
    }
    let quantization = by_format.iter().max_by_key(|(_, sum)| *sum).map_or("", |(format, _)| format.name());
    let mut quantization = quantization.to_owned();
    if let Some(by_another_program) = yantra_model::quantization(checkpoint) {
        parameters += by_another_program.num_values;
        size_bytes += checkpoint.others().map(|tensor| tensor.data.len() as u64).sum::<u64>();
        quantization = by_another_program.label;
    }
    Ok(ModelInfo { family, parameters, quantization, context_length, size_bytes })
}
