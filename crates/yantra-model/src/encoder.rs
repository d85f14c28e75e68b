//! The one encoder: BERT-style embedding models (Devlin et al., 2019; Reimers and Gurevych, 2019).
//!
//! Texts of any lengths are laid end to end, so that no work goes to padding; attention is the decoder's kernel
//! without the causal mask, over pages that hold one group of texts. A group is a few texts that go through all layers
//! on one thread: its activations stay in that thread's cache, and a batch costs one fork. Where there are too few groups
//! for the threads, each operation is divided instead.

mod matrix;

use crate::{
    LoadOptions, ModelError,
    family::ENCODERS,
    footprint::{Footprint, Sizes},
    kv::PAGE_TOKENS,
    parameters::{Parameters, key},
    weights::{Place, WeightSource},
};
use matrix::{Input, Matrix};
use std::{
    ops::Range,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};
use yantra_formats::Checkpoint;
use yantra_kernels::{
    AttentionParams, AttentionSequence, Compute, DenseRows, DenseThen, DenseType, KvFormat, KvLayout, KvPages,
    attention, l2_normalize, layer_norm,
};

pub use matrix::EncoderDtype;

/// Tokens of a group at most, unless it is one long text: its activations and some weights fit a second-level cache.
const GROUP_TOKENS: usize = 160;
/// Tokens of a group at least: fewer would read the weights too often.
const MIN_GROUP_TOKENS: usize = 48;

/// How the token vectors of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all tokens.
    Mean,
    /// The vector of the first token.
    Cls,
}

/// A BERT-style encoder as data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncoderSpec {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream and of the embedding.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Longest text, in tokens.
    pub context_length: usize,
    /// Added to the variance in layer normalisation.
    pub norm_eps: f32,
    /// How token vectors are pooled.
    pub pooling: Pooling,
    /// Whether the result is scaled to unit length.
    pub normalize: bool,
}

/// A text-embedding model ready to run.
pub struct Encoder {
    spec: EncoderSpec,
    /// Word embeddings, `[vocab_size, hidden_size]`.
    words: Vec<f32>,
    /// Position embeddings with that of token type 0 added, `[at least context_length, hidden_size]`.
    positions: Vec<f32>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    /// What matrices multiply in, unless they are as the checkpoint has them.
    dense: Option<DenseType>,
    /// Buffers that no thread is using.
    scratch: Mutex<Vec<Scratch>>,
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

struct Layer {
    query: Matrix,
    key: Matrix,
    value: Matrix,
    output: Matrix,
    attention_norm: Norm,
    up: Matrix,
    down: Matrix,
    output_norm: Norm,
}

/// Buffers of a group. They keep their sizes: large ones would otherwise be mapped and cleared for every group.
struct Scratch {
    pages: KvPages,
    num_pages: usize,
    input: Input,
    /// `[num_tokens, hidden_size]` each.
    hidden: Vec<f32>,
    sums: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    /// `[num_tokens, intermediate_size]`
    inner: Vec<f32>,
}

impl Encoder {
    /// Reads the specification and packs all weights for the processor.
    ///
    /// # Errors
    /// If the checkpoint is no encoder, a tensor is missing or has another shape, or memory runs out.
    pub fn load(checkpoint: &Checkpoint, cx: &Compute, options: LoadOptions) -> Result<Self, ModelError> {
        let spec = EncoderSpec::read(checkpoint)?;
        let source = WeightSource::new(checkpoint, options)?;
        let names = Names::new(checkpoint, &source);
        let hidden = spec.hidden_size;
        let table = |name: &str, rows: usize| source.table(&format!("{name}.weight"), rows, hidden);
        let positions = names.global("position_embd", "embeddings.position_embeddings");
        let mut positions = source.rows_of(&format!("{positions}.weight"), hidden)?;
        let types = names.global("token_types", "embeddings.token_type_embeddings");
        let types = source.rows_of(&format!("{types}.weight"), hidden)?;
        for row in positions.chunks_exact_mut(hidden) {
            row.iter_mut().zip(&types).for_each(|(value, of_type)| *value += of_type);
        }
        let dense = matrix::dense_type(&source, cx.level(), &names.layer(0, "attn_q", "attention.self.query"));
        let layers = (0..spec.num_layers).map(|index| Layer::load(&source, cx, &spec, &names, dense, index));
        Ok(Self {
            words: table(&names.global("token_embd", "embeddings.word_embeddings"), spec.vocab_size)?,
            positions,
            embedding_norm: Norm::load(&source, &names.global("token_embd_norm", "embeddings.LayerNorm"), hidden)?,
            layers: layers.collect::<Result<_, _>>()?,
            dense,
            scratch: Mutex::new(Vec::new()),
            spec,
        })
    }

    /// What the encoder of this checkpoint takes on this processor once it is loaded with these options; its
    /// [`Footprint::weight_bytes`] are [`Encoder::weight_bytes`].
    ///
    /// # Errors
    /// As [`Encoder::load`].
    pub fn footprint(checkpoint: &Checkpoint, cx: &Compute, options: LoadOptions) -> Result<Footprint, ModelError> {
        let spec = EncoderSpec::read(checkpoint)?;
        let source = WeightSource::new(checkpoint, options)?;
        let names = Names::new(checkpoint, &source);
        let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
        let mut sizes = Sizes::new(&source, cx);
        let dense = matrix::dense_type(&source, cx.level(), &names.layer(0, "attn_q", "attention.self.query"));
        for index in 0..spec.num_layers {
            for (gguf, hugging_face, rows, cols) in [
                ("attn_q", "attention.self.query", hidden, hidden),
                ("attn_k", "attention.self.key", hidden, hidden),
                ("attn_v", "attention.self.value", hidden, hidden),
                ("attn_output", "attention.output.dense", hidden, hidden),
                ("ffn_up", "intermediate.dense", inner, hidden),
                ("ffn_down", "output.dense", hidden, inner),
            ] {
                let name = names.layer(index, gguf, hugging_face);
                match dense {
                    Some(dense) => sizes.dense(dense, &format!("{name}.weight"), rows, cols)?,
                    None => sizes.matrix(&Place::whole(&name, rows), cols)?,
                }
            }
        }
        let positions = names.global("position_embd", "embeddings.position_embeddings");
        let positions = source.tensor_rows(&format!("{positions}.weight"));
        let vectors = checkpoint.tensors().filter(|tensor| tensor.shape.len() == 1);
        // The residual stream, sums, query, key, value, and the pages' keys and values, not all full; and the MLP's.
        let values = 9 * hidden + inner;
        Ok(Footprint {
            weight_bytes: sizes.weight_bytes + (spec.vocab_size + positions) * hidden * size_of::<f32>(),
            table_bytes: vectors.map(|tensor| tensor.num_elements() * size_of::<f32>()).sum(),
            step_bytes_per_token: values * size_of::<f32>()
                + sizes.activation_bytes(hidden.max(inner))
                + dense.map_or(0, |dense| DenseRows::bytes_per_token(dense, hidden.max(inner))),
            load_bytes: sizes.load_bytes,
        })
    }

    /// Bytes of all packed weights and embedding tables.
    pub fn weight_bytes(&self) -> usize {
        let matrices = self.layers.iter().flat_map(|layer| {
            [&layer.query, &layer.key, &layer.value, &layer.output, &layer.up, &layer.down].map(Matrix::bytes)
        });
        matrices.sum::<usize>() + (self.words.len() + self.positions.len()) * size_of::<f32>()
    }

    /// What the model is made of.
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// Embeds texts given as token ids (special tokens included): one vector of `hidden_size` per text.
    ///
    /// # Errors
    /// If a text is empty, longer than the context or has a token outside the vocabulary, or memory runs out.
    pub fn embed(&self, cx: &Compute, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.check(texts)?;
        let groups = groups(texts, cx.num_threads());
        if groups.len() < cx.num_threads() {
            let vectors = groups.into_iter().map(|group| self.embed_group(cx, &texts[group]));
            return Ok(vectors.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect());
        }
        let results: Vec<OnceLock<_>> = groups.iter().map(|_| OnceLock::new()).collect();
        cx.run(groups.len(), &|group| {
            results[group].get_or_init(|| self.embed_group(cx, &texts[groups[group].clone()]));
        });
        // Every task has run, or its panic was raised above.
        let vectors = results.into_iter().filter_map(OnceLock::into_inner).collect::<Result<Vec<_>, _>>()?;
        Ok(vectors.into_iter().flatten().collect())
    }

    /// What matrices multiply in: `None` if as the checkpoint has them.
    pub fn dense_type(&self) -> Option<DenseType> {
        self.dense
    }

    fn embed_group(&self, cx: &Compute, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut paging = Paging::default();
        texts.iter().for_each(|text| paging.push(text.len()));
        let sequences: Vec<_> = paging.sequences().collect();
        let mut scratch = self.take_scratch(cx, paging.num_pages)?;
        scratch.resize(&self.spec, paging.slots.len());
        self.embed_tokens(cx, texts, &mut scratch);
        for layer in &self.layers {
            self.run_layer(cx, layer, &mut scratch, &paging.slots, &sequences);
        }
        let vectors = sequences.iter().map(|sequence| self.pool(cx, &scratch.hidden, sequence)).collect();
        self.idle_scratch().push(scratch);
        Ok(vectors)
    }

    fn check(&self, texts: &[&[u32]]) -> Result<(), ModelError> {
        for (index, text) in texts.iter().enumerate() {
            let message = if text.is_empty() || text.len() > self.spec.context_length {
                format!("text {index} has {} tokens, from 1 to {} are possible", text.len(), self.spec.context_length)
            } else if let Some(token) = text.iter().find(|token| **token as usize >= self.spec.vocab_size) {
                format!("text {index} has token {token}, outside the vocabulary of {}", self.spec.vocab_size)
            } else {
                continue;
            };
            return Err(ModelError::Batch { message });
        }
        Ok(())
    }

    fn idle_scratch(&self) -> MutexGuard<'_, Vec<Scratch>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Buffers that nobody uses, with at least so many pages.
    fn take_scratch(&self, cx: &Compute, num_pages: usize) -> Result<Scratch, ModelError> {
        let idle = self.idle_scratch().pop();
        if let Some(scratch) = idle.filter(|scratch| scratch.num_pages >= num_pages) {
            return Ok(scratch);
        }
        let num_pages = num_pages.next_power_of_two();
        let format = if self.dense.is_some() { KvFormat::preferred(cx.level()) } else { KvFormat::F32 };
        let head_dim = self.spec.hidden_size / self.spec.num_heads;
        let layout = KvLayout::new(self.spec.num_heads, head_dim, PAGE_TOKENS, format);
        let matrices = self.layers.iter().flat_map(|layer| [&layer.query, &layer.output, &layer.up, &layer.down]);
        Ok(Scratch {
            pages: KvPages::new(&[layout], num_pages)?,
            num_pages,
            input: Input::new(cx.level(), self.dense, matrices),
            hidden: Vec::new(),
            sums: Vec::new(),
            query: Vec::new(),
            key: Vec::new(),
            value: Vec::new(),
            inner: Vec::new(),
        })
    }

    fn embed_tokens(&self, cx: &Compute, texts: &[&[u32]], scratch: &mut Scratch) {
        let width = self.spec.hidden_size;
        let tokens = texts.iter().flat_map(|text| text.iter().enumerate());
        for (row, (position, token)) in scratch.sums.chunks_exact_mut(width).zip(tokens) {
            let word = &self.words[*token as usize * width..][..width];
            let place = &self.positions[position * width..][..width];
            for ((value, word), place) in row.iter_mut().zip(word).zip(place) {
                *value = word + place;
            }
        }
        self.embedding_norm.apply(cx, &scratch.sums, &mut scratch.hidden, self.spec.norm_eps);
    }

    fn run_layer(
        &self,
        cx: &Compute,
        layer: &Layer,
        scratch: &mut Scratch,
        slots: &[u32],
        sequences: &[AttentionSequence<'_>],
    ) {
        let EncoderSpec { hidden_size, intermediate_size, num_heads, norm_eps, .. } = self.spec;
        let num_tokens = slots.len();
        let Scratch { pages, input, hidden, sums, query, key, value, inner, .. } = scratch;
        input.set(cx, hidden, num_tokens, hidden_size);
        for (matrix, out) in [(&layer.query, &mut *query), (&layer.key, key), (&layer.value, value)] {
            matrix.multiply(cx, input, out, DenseThen::Store);
        }
        pages.store(cx, 0, key, value, slots);
        let scale = ((hidden_size / num_heads) as f32).sqrt().recip();
        let params = AttentionParams { causal: false, ..AttentionParams::new(num_heads, scale) };
        attention(cx, &params, query, pages.layer(0), sequences, sums);
        input.set(cx, sums, num_tokens, hidden_size);
        layer.output.multiply(cx, input, hidden, DenseThen::Add);
        layer.attention_norm.apply(cx, hidden, sums, norm_eps);

        input.set(cx, sums, num_tokens, hidden_size);
        layer.up.multiply(cx, input, inner, DenseThen::Gelu);
        input.set(cx, inner, num_tokens, intermediate_size);
        layer.down.multiply(cx, input, sums, DenseThen::Add);
        layer.output_norm.apply(cx, sums, hidden, norm_eps);
    }

    fn pool(&self, cx: &Compute, hidden: &[f32], sequence: &AttentionSequence<'_>) -> Vec<f32> {
        let width = self.spec.hidden_size;
        let rows = &hidden[sequence.query_start * width..][..sequence.query_len * width];
        let mut pooled = vec![0.0; width];
        let rows = match self.spec.pooling {
            Pooling::Mean => rows,
            Pooling::Cls => &rows[..width],
        };
        for row in rows.chunks_exact(width) {
            pooled.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        let count = (rows.len() / width) as f32;
        pooled.iter_mut().for_each(|value| *value /= count);
        if self.spec.normalize {
            l2_normalize(cx, &mut pooled, 1, width);
        }
        pooled
    }
}

/// Consecutive texts that go through the layers together, by their places: several for each thread if there are enough.
fn groups(texts: &[&[u32]], num_threads: usize) -> Vec<Range<usize>> {
    let num_tokens: usize = texts.iter().map(|text| text.len()).sum();
    let most = (num_tokens / (4 * num_threads)).clamp(MIN_GROUP_TOKENS, GROUP_TOKENS);
    let mut groups = Vec::new();
    let (mut first, mut tokens) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        if index > first && tokens + text.len() > most {
            groups.push(first..index);
            (first, tokens) = (index, 0);
        }
        tokens += text.len();
    }
    if first < texts.len() {
        groups.push(first..texts.len());
    }
    groups
}

impl Scratch {
    fn resize(&mut self, spec: &EncoderSpec, num_tokens: usize) {
        for buffer in [&mut self.hidden, &mut self.sums, &mut self.query, &mut self.key, &mut self.value] {
            buffer.resize(num_tokens * spec.hidden_size, 0.0);
        }
        self.inner.resize(num_tokens * spec.intermediate_size, 0.0);
    }
}

impl EncoderSpec {
    /// Reads the hyper-parameters of a checkpoint.
    ///
    /// # Errors
    /// If the checkpoint is no encoder, or a hyper-parameter is missing or not supported.
    pub fn read(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let p = Parameters::new(checkpoint)?;
        if !ENCODERS.contains(&p.architecture()) {
            let architecture = p.architecture().to_owned();
            return Err(ModelError::WrongKind {
                architecture,
                found: "a text generator",
                expected: "an embedding model",
            });
        }
        if let Some(activation) = p.text(key("", "hidden_act"))?.filter(|name| *name != "gelu") {
            return Err(ModelError::Unsupported { feature: format!("encoder activation '{activation}'") });
        }
        if let Some(kind) = p.text(key("", "position_embedding_type"))?.filter(|kind| *kind != "absolute") {
            return Err(ModelError::Unsupported { feature: format!("position embedding '{kind}'") });
        }
        let hidden_size = p.required_count(key("embedding_length", "hidden_size"))?;
        let num_heads = p.required_count(key("attention.head_count", "num_attention_heads"))?;
        if hidden_size % num_heads != 0 {
            let message = format!("{num_heads} heads do not divide the width {hidden_size}");
            return Err(ModelError::Parameter { key: "num_attention_heads".to_owned(), message });
        }
        let words = if p.is_gguf() { &["token_embd.weight"][..] } else { &EMBEDDING_NAMES[..] };
        let words = match words.iter().find_map(|name| checkpoint.tensor(name)) {
            Some(words) => words,
            None => checkpoint.require(EMBEDDING_NAMES[0])?,
        };
        Ok(Self {
            vocab_size: words.shape.first().copied().unwrap_or(0),
            hidden_size,
            intermediate_size: p.required_count(key("feed_forward_length", "intermediate_size"))?,
            num_layers: p.required_count(key("block_count", "num_hidden_layers"))?,
            num_heads,
            context_length: context_length(checkpoint, &p)?,
            norm_eps: p.real(key("attention.layer_norm_epsilon", "layer_norm_eps"))?.unwrap_or(1e-12),
            pooling: pooling(checkpoint, &p)?,
            normalize: true,
        })
    }
}

const EMBEDDING_NAMES: [&str; 2] = ["embeddings.word_embeddings.weight", "bert.embeddings.word_embeddings.weight"];

/// The position table's length, or less if the model was tuned on shorter texts (`sentence_bert_config.json`).
fn context_length(checkpoint: &Checkpoint, p: &Parameters<'_>) -> Result<usize, ModelError> {
    let positions = p.required_count(key("context_length", "max_position_embeddings"))?;
    let Checkpoint::HuggingFace(directory) = checkpoint else { return Ok(positions) };
    let config = directory.read_json("sentence_bert_config.json")?;
    let tuned = config.map(|config| config.find::<usize>("max_seq_length")).transpose()?.flatten();
    Ok(tuned.map_or(positions, |tuned| tuned.min(positions)))
}

/// GGUF records `pooling_type` (1 mean, 2 CLS); sentence-transformers directories have `1_Pooling/config.json`.
fn pooling(checkpoint: &Checkpoint, p: &Parameters<'_>) -> Result<Pooling, ModelError> {
    let unsupported = |feature: String| Err(ModelError::Unsupported { feature });
    match checkpoint {
        Checkpoint::Gguf(_) => match p.count(key("pooling_type", ""))? {
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

impl Norm {
    fn load(source: &WeightSource<'_>, name: &str, len: usize) -> Result<Self, ModelError> {
        let weight = source.vector(&format!("{name}.weight"), len)?;
        Ok(Self { weight, bias: source.vector(&format!("{name}.bias"), len)? })
    }

    fn apply(&self, cx: &Compute, x: &[f32], out: &mut [f32], eps: f32) {
        let cols = self.weight.len();
        layer_norm(cx, x, &self.weight, Some(&self.bias), eps, out, x.len() / cols, cols);
    }
}

impl Layer {
    fn load(
        source: &WeightSource<'_>,
        cx: &Compute,
        spec: &EncoderSpec,
        names: &Names,
        dense: Option<DenseType>,
        index: usize,
    ) -> Result<Self, ModelError> {
        let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
        let name = |gguf, hugging_face| names.layer(index, gguf, hugging_face);
        let matrix =
            |gguf, hugging_face, rows, cols| Matrix::load(source, cx, dense, &name(gguf, hugging_face), rows, cols);
        let norm = |gguf, hugging_face| Norm::load(source, &name(gguf, hugging_face), hidden);
        Ok(Self {
            query: matrix("attn_q", "attention.self.query", hidden, hidden)?,
            key: matrix("attn_k", "attention.self.key", hidden, hidden)?,
            value: matrix("attn_v", "attention.self.value", hidden, hidden)?,
            output: matrix("attn_output", "attention.output.dense", hidden, hidden)?,
            attention_norm: norm("attn_output_norm", "attention.output.LayerNorm")?,
            up: matrix("ffn_up", "intermediate.dense", inner, hidden)?,
            down: matrix("ffn_down", "output.dense", hidden, inner)?,
            output_norm: norm("layer_output_norm", "output.LayerNorm")?,
        })
    }
}

/// Tensor names of the checkpoint's format, without `.weight` or `.bias`.
struct Names {
    gguf: bool,
    prefix: &'static str,
}

impl Names {
    fn new(checkpoint: &Checkpoint, source: &WeightSource<'_>) -> Self {
        let prefix = if source.has(EMBEDDING_NAMES[1]) { "bert." } else { "" };
        Self { gguf: matches!(checkpoint, Checkpoint::Gguf(_)), prefix }
    }

    fn global(&self, gguf: &str, hugging_face: &str) -> String {
        if self.gguf { gguf.to_owned() } else { format!("{}{hugging_face}", self.prefix) }
    }

    fn layer(&self, index: usize, gguf: &str, hugging_face: &str) -> String {
        if self.gguf {
            format!("blk.{index}.{gguf}")
        } else {
            format!("{}encoder.layer.{index}.{hugging_face}", self.prefix)
        }
    }
}

/// Pages and slots of texts laid one after another.
#[derive(Default)]
struct Paging {
    pages: Vec<u32>,
    /// First page, first token and length of each text.
    spans: Vec<(usize, usize, usize)>,
    slots: Vec<u32>,
    num_pages: usize,
}

impl Paging {
    fn push(&mut self, len: usize) {
        let first_slot = self.num_pages * PAGE_TOKENS;
        self.spans.push((self.num_pages, self.slots.len(), len));
        self.slots.extend((first_slot..first_slot + len).map(|slot| slot as u32));
        let after = self.num_pages + len.div_ceil(PAGE_TOKENS);
        self.pages.extend((self.num_pages..after).map(|page| page as u32));
        self.num_pages = after;
    }

    fn sequences(&self) -> impl Iterator<Item = AttentionSequence<'_>> {
        self.spans.iter().map(|(first_page, query_start, len)| AttentionSequence {
            query_start: *query_start,
            query_len: *len,
            context_len: *len,
            pages: &self.pages[*first_page..first_page + len.div_ceil(PAGE_TOKENS)],
        })
    }
}
