//! The one encoder: BERT-style embedding models (Devlin et al., 2019; Reimers and Gurevych, 2019).
//!
//! Texts of any lengths are laid end to end, so that no work goes to padding; attention is the decoder's kernel
//! without the causal mask, over pages that hold one batch.

use crate::{
    LoadOptions, ModelError,
    family::ENCODERS,
    footprint::{Footprint, Sizes},
    kv::PAGE_TOKENS,
    parameters::{Parameters, key},
    weights::{Linear, WeightSource},
};
use std::sync::Mutex;
use yantra_formats::Checkpoint;
use yantra_kernels::{
    ActivationFn, ActivationKind, ActivationKinds, Activations, AttentionParams, AttentionSequence, Compute, KvFormat,
    KvLayout, KvPages, activate, add_assign, attention, l2_normalize, layer_norm, linear,
};

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
    scratch: Mutex<Option<Scratch>>,
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    output_norm: Norm,
}

struct Scratch {
    pages: KvPages,
    num_pages: usize,
    input: Activations,
}

impl Encoder {
    /// Reads the specification and packs all weights for the processor.
    ///
    /// # Errors
    /// If the checkpoint is no encoder, a tensor is missing or has another shape, or memory runs out.
    pub fn load(checkpoint: &Checkpoint, cx: &Compute, options: LoadOptions) -> Result<Self, ModelError> {
        let spec = EncoderSpec::read(checkpoint)?;
        let source = WeightSource::new(checkpoint, options);
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
        let layers = (0..spec.num_layers).map(|index| Layer::load(&source, cx, &spec, &names, index));
        Ok(Self {
            words: table(&names.global("token_embd", "embeddings.word_embeddings"), spec.vocab_size)?,
            positions,
            embedding_norm: Norm::load(&source, &names.global("token_embd_norm", "embeddings.LayerNorm"), hidden)?,
            layers: layers.collect::<Result<_, _>>()?,
            scratch: Mutex::new(None),
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
        let source = WeightSource::new(checkpoint, options);
        let names = Names::new(checkpoint, &source);
        let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
        let mut sizes = Sizes::new(&source, cx);
        for index in 0..spec.num_layers {
            for (gguf, hugging_face, rows, cols) in [
                ("attn_q", "attention.self.query", hidden, hidden),
                ("attn_k", "attention.self.key", hidden, hidden),
                ("attn_v", "attention.self.value", hidden, hidden),
                ("attn_output", "attention.output.dense", hidden, hidden),
                ("ffn_up", "intermediate.dense", inner, hidden),
                ("ffn_down", "output.dense", hidden, inner),
            ] {
                sizes.matrix(&format!("{}.weight", names.layer(index, gguf, hugging_face)), rows, cols)?;
            }
        }
        let positions = names.global("position_embd", "embeddings.position_embeddings");
        let positions = source.tensor_rows(&format!("{positions}.weight"));
        let vectors = checkpoint.tensors().filter(|tensor| tensor.shape.len() == 1);
        // Query, key, value, what attention gives, a block, the sums, and the pages' keys and values; and the MLP's.
        let values = 9 * hidden + inner;
        Ok(Footprint {
            weight_bytes: sizes.weight_bytes + (spec.vocab_size + positions) * hidden * size_of::<f32>(),
            table_bytes: vectors.map(|tensor| tensor.num_elements() * size_of::<f32>()).sum(),
            step_bytes_per_token: values * size_of::<f32>() + sizes.activation_bytes(hidden.max(inner)),
            load_bytes: sizes.load_bytes,
        })
    }

    /// Bytes of all packed weights and embedding tables.
    pub fn weight_bytes(&self) -> usize {
        let matrices = self.layers.iter().flat_map(|layer| {
            [&layer.query, &layer.key, &layer.value, &layer.output, &layer.up, &layer.down].map(|l| l.weight.bytes())
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
        let num_tokens = texts.iter().map(|text| text.len()).sum();
        let mut paging = Paging::default();
        texts.iter().for_each(|text| paging.push(text.len()));
        let sequences: Vec<_> = paging.sequences().collect();
        let mut kept = self.scratch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let scratch = self.scratch_for(&mut kept, paging.num_pages)?;
        let mut hidden = self.embed_tokens(cx, texts, num_tokens);
        for layer in &self.layers {
            self.run_layer(cx, layer, scratch, &paging.slots, &sequences, &mut hidden);
        }
        Ok(sequences.iter().map(|sequence| self.pool(cx, &hidden, sequence)).collect())
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

    fn scratch_for<'a>(&self, kept: &'a mut Option<Scratch>, num_pages: usize) -> Result<&'a mut Scratch, ModelError> {
        let large_enough = kept.take().filter(|scratch| scratch.num_pages >= num_pages);
        let scratch = match large_enough {
            Some(scratch) => scratch,
            None => {
                let num_pages = num_pages.next_power_of_two();
                let layout = KvLayout {
                    num_kv_heads: self.spec.num_heads,
                    head_dim: self.spec.hidden_size / self.spec.num_heads,
                    page_tokens: PAGE_TOKENS,
                    format: KvFormat::F32,
                };
                let pages = KvPages::new(layout, num_pages)?;
                Scratch { pages, num_pages, input: Activations::new(self.activation_kinds()) }
            }
        };
        Ok(kept.insert(scratch))
    }

    fn activation_kinds(&self) -> ActivationKinds {
        let mut kinds = ActivationKinds { float: false, int8: false };
        for linear in self.layers.iter().flat_map(|layer| [&layer.query, &layer.output, &layer.up, &layer.down]) {
            match linear.weight.activation_kind() {
                ActivationKind::Float => kinds.float = true,
                ActivationKind::Int8 => kinds.int8 = true,
            }
        }
        kinds
    }

    fn embed_tokens(&self, cx: &Compute, texts: &[&[u32]], num_tokens: usize) -> Vec<f32> {
        let width = self.spec.hidden_size;
        let mut sums = vec![0.0; num_tokens * width];
        let tokens = texts.iter().flat_map(|text| text.iter().enumerate());
        for (row, (position, token)) in sums.chunks_exact_mut(width).zip(tokens) {
            let word = &self.words[*token as usize * width..][..width];
            let place = &self.positions[position * width..][..width];
            for ((value, word), place) in row.iter_mut().zip(word).zip(place) {
                *value = word + place;
            }
        }
        let mut hidden = vec![0.0; sums.len()];
        self.embedding_norm.apply(cx, &sums, &mut hidden, self.spec.norm_eps);
        hidden
    }

    fn run_layer(
        &self,
        cx: &Compute,
        layer: &Layer,
        scratch: &mut Scratch,
        slots: &[u32],
        sequences: &[AttentionSequence<'_>],
        hidden: &mut [f32],
    ) {
        let EncoderSpec { hidden_size, intermediate_size, num_heads, norm_eps, .. } = self.spec;
        let num_tokens = slots.len();
        let Scratch { pages, input, .. } = scratch;
        let new = |width: usize| vec![0.0; num_tokens * width];
        let (mut query, mut key, mut value) = (new(hidden_size), new(hidden_size), new(hidden_size));
        input.set(cx, hidden, num_tokens, hidden_size);
        linear(cx, input, &mut [layer.query.job(&mut query), layer.key.job(&mut key), layer.value.job(&mut value)]);
        pages.store(cx, &key, &value, slots);
        let scale = ((hidden_size / num_heads) as f32).sqrt().recip();
        let params = AttentionParams { num_heads, scale, window: None, softcap: None, causal: false };
        let mut attended = new(hidden_size);
        attention(cx, &params, &query, pages, sequences, &mut attended);
        input.set(cx, &attended, num_tokens, hidden_size);
        let mut block = new(hidden_size);
        linear(cx, input, &mut [layer.output.job(&mut block)]);
        add_assign(cx, &mut block, hidden);
        layer.attention_norm.apply(cx, &block, hidden, norm_eps);

        let mut inner = new(intermediate_size);
        input.set(cx, hidden, num_tokens, hidden_size);
        linear(cx, input, &mut [layer.up.job(&mut inner)]);
        activate(cx, ActivationFn::Gelu, &mut inner);
        input.set(cx, &inner, num_tokens, intermediate_size);
        linear(cx, input, &mut [layer.down.job(&mut block)]);
        add_assign(cx, &mut block, hidden);
        layer.output_norm.apply(cx, &block, hidden, norm_eps);
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
        index: usize,
    ) -> Result<Self, ModelError> {
        let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
        let name = |gguf, hugging_face| names.layer(index, gguf, hugging_face);
        let matrix = |gguf, hugging_face, rows, cols| source.linear(cx, &name(gguf, hugging_face), rows, cols);
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
