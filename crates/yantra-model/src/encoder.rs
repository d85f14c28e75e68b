//! The one encoder: interprets an [`EncoderSpec`] over packed weights, for texts whose tokens all see one another.
//!
//! Texts of any lengths are laid end to end, so that no work goes to padding; attention is the decoder's kernel
//! without the causal mask, over pages that hold one group of texts. A group is a few texts that go through all layers
//! on one thread: its activations stay in that thread's cache, and a batch costs one fork. Where there are too few groups
//! for the threads, each operation is divided instead.

mod embeddings;
mod groups;
mod head;
mod layer;
mod matrix;
mod names;
mod norm;
mod spec;

use crate::{
    LoadOptions, ModelError,
    family::encoders,
    footprint::{Footprint, Sizes},
    kv::PAGE_TOKENS,
    rotary,
    weights::WeightSource,
};
use embeddings::Embeddings;
use groups::{Paging, groups};
use head::Head;
use layer::Layer;
use matrix::{Input, Matrix};
use names::Names;
use norm::Norm;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use yantra_formats::Checkpoint;
use yantra_kernels::{
    ActivationFn, AttentionParams, AttentionSequence, Compute, DenseRows, DenseThen, DenseType, KvFormat, KvLayout,
    KvPages, RopeStyle, RopeTable, activate, activate_gated, attention, l2_normalize, rope,
};

pub use matrix::EncoderDtype;
pub(crate) use names::{EncoderNames, HeadNames};
pub use spec::{EncoderSpec, HeadActivation, NormPlacement, OutputSpec, Pooling, PositionSpec, ScoreSpec};

/// A text as token ids (special tokens included), or two that are read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderText<'a> {
    /// Its tokens.
    pub tokens: &'a [u32],
    /// Where the tokens of the second text begin, which are of type 1; the length of all where there is one text.
    pub second: usize,
}

impl<'a> From<&'a [u32]> for EncoderText<'a> {
    fn from(tokens: &'a [u32]) -> Self {
        Self { tokens, second: tokens.len() }
    }
}

/// An embedding model or a reranker ready to run.
pub struct Encoder {
    spec: EncoderSpec,
    embeddings: Embeddings,
    ropes: Vec<RopeTable>,
    layers: Vec<Layer>,
    /// After the last layer, where blocks are normalised before.
    output_norm: Option<Norm>,
    head: Option<Head>,
    /// What matrices multiply in, unless they are as the checkpoint has them.
    dense: Option<DenseType>,
    /// Buffers that no thread is using.
    scratch: Mutex<Vec<Scratch>>,
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
    /// As `inner`, where there is a gate.
    gated: Vec<f32>,
}

impl Encoder {
    /// Reads the specification and packs all weights for the processor.
    ///
    /// # Errors
    /// If the checkpoint is no encoder, a tensor is missing or has another shape, or memory runs out.
    pub fn load(checkpoint: &Checkpoint, cx: &Compute, options: LoadOptions<'_>) -> Result<Self, ModelError> {
        let (family, spec) = encoders::resolve(checkpoint)?;
        let source = WeightSource::new(checkpoint, options)?;
        let names = Names::new(&source, family.names(matches!(checkpoint, Checkpoint::Gguf(_))));
        let specs = spec.layers.iter().map(|layer| layer.rope.as_ref());
        let (ropes, rope_of_layer) = rotary::tables(specs, spec.context_length, &source)?;
        let dense = matrix::dense_type(&source, cx.level(), &names.layer(0, |it| it.projections[0]));
        let layers = rope_of_layer.into_iter().enumerate();
        let layers = layers.map(|(index, rope)| Layer::load(&source, cx, &spec, &names, dense, index, rope));
        let output_norm = || Norm::load(&source, &names.global(|it| it.output_norm), spec.hidden_size, spec.norm_eps);
        let head = match spec.output {
            OutputSpec::Embedding { .. } => None,
            OutputSpec::Score(score) => Some(Head::load(&source, cx, &spec, score, &names)?),
        };
        Ok(Self {
            embeddings: Embeddings::load(&source, &spec, &names)?,
            ropes,
            layers: layers.collect::<Result<_, _>>()?,
            output_norm: (spec.norms == NormPlacement::Pre).then(output_norm).transpose()?,
            head,
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
    pub fn footprint(checkpoint: &Checkpoint, cx: &Compute, options: LoadOptions<'_>) -> Result<Footprint, ModelError> {
        let (family, spec) = encoders::resolve(checkpoint)?;
        let source = WeightSource::new(checkpoint, options)?;
        let names = Names::new(&source, family.names(matches!(checkpoint, Checkpoint::Gguf(_))));
        let (hidden, inner) = (spec.hidden_size, spec.inner_size());
        let mut sizes = Sizes::new(&source, cx);
        let dense = matrix::dense_type(&source, cx.level(), &names.layer(0, |it| it.projections[0]));
        for (place, cols) in (0..spec.layers.len()).flat_map(|index| names.matrices(&spec, index)) {
            match dense {
                Some(dense) => sizes.dense(dense, &place, cols)?,
                None => sizes.matrix(&place, cols)?,
            }
        }
        let step_bytes = sizes.activation_bytes(hidden.max(inner))
            + dense.map_or(0, |dense| DenseRows::bytes_per_token(dense, hidden.max(inner)));
        if spec.scores_pairs() {
            Head::count(&mut sizes, &spec, &names)?;
        }
        let vectors = checkpoint.tensors().filter(|tensor| tensor.shape.len() == 1);
        let vector_bytes: usize = vectors.map(|tensor| tensor.num_elements() * size_of::<f32>()).sum();
        // The residual stream, sums, query, key, value, and the pages' keys and values, not all full; and the MLP's.
        let values = 9 * hidden + inner * if spec.is_gated() { 2 } else { 1 };
        Ok(Footprint {
            weight_bytes: sizes.weight_bytes + Embeddings::num_values(&source, &spec, &names) * size_of::<f32>(),
            table_bytes: vector_bytes + rotary::table_bytes(spec.layers.iter(), spec.context_length),
            step_bytes_per_token: values * size_of::<f32>() + step_bytes,
            load_bytes: sizes.load_bytes,
        })
    }

    /// Bytes of all packed weights and embedding tables.
    pub fn weight_bytes(&self) -> usize {
        let matrices = self.layers.iter().flat_map(Layer::matrices).map(Matrix::bytes);
        matrices.sum::<usize>() + self.embeddings.bytes() + self.head.as_ref().map_or(0, Head::bytes)
    }

    /// What the model is made of.
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// What becomes of texts given as token ids (special tokens included): of each a vector of
    /// [`EncoderSpec::dimensions`], which is one number where the model scores pairs.
    ///
    /// # Errors
    /// If a text is empty, longer than the context or has a token outside the vocabulary, or memory runs out.
    pub fn embed(&self, cx: &Compute, texts: &[EncoderText<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
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

    fn embed_group(&self, cx: &Compute, texts: &[EncoderText<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut paging = Paging::default();
        texts.iter().for_each(|text| paging.push(text.tokens.len()));
        let sequences: Vec<_> = paging.sequences().collect();
        let mut scratch = self.take_scratch(cx, paging.num_pages)?;
        scratch.resize(&self.spec, paging.slots.len());
        self.embeddings.apply(cx, texts, &mut scratch.sums, &mut scratch.hidden);
        for layer in &self.layers {
            self.attend(cx, layer, &mut scratch, &paging, &sequences);
            self.feed_forward(cx, layer, &mut scratch);
        }
        if let Some(norm) = &self.output_norm {
            norm.apply(cx, &scratch.hidden, &mut scratch.sums);
            std::mem::swap(&mut scratch.hidden, &mut scratch.sums);
        }
        let pooled: Vec<_> = sequences.iter().map(|sequence| self.pool(&scratch.hidden, sequence)).collect();
        self.idle_scratch().push(scratch);
        Ok(self.finish(cx, pooled))
    }

    fn check(&self, texts: &[EncoderText<'_>]) -> Result<(), ModelError> {
        for (index, text) in texts.iter().map(|text| text.tokens).enumerate() {
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
        let layout = KvLayout::new(self.spec.num_heads, self.spec.head_dim(), PAGE_TOKENS, format);
        Ok(Scratch {
            pages: KvPages::new(&[layout], num_pages)?,
            num_pages,
            input: Input::new(cx.level(), self.dense, self.layers.iter().flat_map(Layer::matrices)),
            hidden: Vec::new(),
            sums: Vec::new(),
            query: Vec::new(),
            key: Vec::new(),
            value: Vec::new(),
            inner: Vec::new(),
            gated: Vec::new(),
        })
    }

    /// Adds to the residual stream what each token's heads saw.
    fn attend(
        &self,
        cx: &Compute,
        layer: &Layer,
        scratch: &mut Scratch,
        paging: &Paging,
        sequences: &[AttentionSequence<'_>],
    ) {
        let EncoderSpec { hidden_size, num_heads, norms, .. } = self.spec;
        let head_dim = self.spec.head_dim();
        let num_tokens = paging.slots.len();
        let Scratch { pages, input, hidden, sums, query, key, value, .. } = scratch;
        match &layer.attention_norm {
            Some(norm) if norms == NormPlacement::Pre => {
                norm.apply(cx, hidden, sums);
                input.set(cx, sums, num_tokens, hidden_size);
            }
            _ => input.set(cx, hidden, num_tokens, hidden_size),
        }
        for (matrix, out) in [(&layer.query, &mut *query), (&layer.key, key), (&layer.value, value)] {
            matrix.multiply(cx, input, out, DenseThen::Store);
        }
        if let Some(table) = layer.rope.map(|index| &self.ropes[index]) {
            for x in [&mut *query, key] {
                rope(cx, table, RopeStyle::HalfSplit, x, num_heads, head_dim, &paging.positions);
            }
        }
        pages.store(cx, 0, key, value, &paging.slots);
        let scale = (head_dim as f32).sqrt().recip();
        let params = AttentionParams { causal: false, window: layer.window, ..AttentionParams::new(num_heads, scale) };
        attention(cx, &params, query, pages.layer(0), sequences, sums);
        input.set(cx, sums, num_tokens, hidden_size);
        layer.output.multiply(cx, input, hidden, DenseThen::Add);
    }

    /// Adds to the residual stream what the feed-forward network makes of it.
    fn feed_forward(&self, cx: &Compute, layer: &Layer, scratch: &mut Scratch) {
        let EncoderSpec { hidden_size, norms, .. } = self.spec;
        let Scratch { input, hidden, sums, inner, gated, .. } = scratch;
        let num_tokens = hidden.len() / hidden_size;
        let before = match norms {
            NormPlacement::Pre => Some(&layer.mlp_norm),
            NormPlacement::Post => layer.attention_norm.as_ref(),
        };
        if let Some(norm) = before {
            norm.apply(cx, hidden, sums);
        }
        input.set(cx, sums, num_tokens, hidden_size);
        match (&layer.gated, layer.activation) {
            (None, ActivationFn::Gelu) => layer.up.multiply(cx, input, inner, DenseThen::Gelu),
            (None, activation) => {
                layer.up.multiply(cx, input, inner, DenseThen::Store);
                activate(cx, activation, inner);
            }
            (Some(matrix), activation) => {
                layer.up.multiply(cx, input, inner, DenseThen::Store);
                matrix.multiply(cx, input, gated, DenseThen::Store);
                activate_gated(cx, activation, inner, gated);
            }
        }
        input.set(cx, inner, num_tokens, inner.len() / num_tokens);
        match norms {
            NormPlacement::Pre => layer.down.multiply(cx, input, hidden, DenseThen::Add),
            NormPlacement::Post => {
                layer.down.multiply(cx, input, sums, DenseThen::Add);
                layer.mlp_norm.apply(cx, sums, hidden);
            }
        }
    }

    fn pool(&self, hidden: &[f32], sequence: &AttentionSequence<'_>) -> Vec<f32> {
        let width = self.spec.hidden_size;
        let rows = &hidden[sequence.query_start * width..][..sequence.query_len * width];
        let mut pooled = vec![0.0; width];
        let rows = match self.spec.pooling() {
            Pooling::Mean => rows,
            Pooling::Cls => &rows[..width],
        };
        for row in rows.chunks_exact(width) {
            pooled.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        let count = (rows.len() / width) as f32;
        pooled.iter_mut().for_each(|value| *value /= count);
        pooled
    }

    /// What becomes of pooled texts.
    fn finish(&self, cx: &Compute, mut pooled: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        if let Some(head) = &self.head {
            return head.scores(cx, &pooled.concat()).into_iter().map(|score| vec![score]).collect();
        }
        if matches!(self.spec.output, OutputSpec::Embedding { normalize: true, .. }) {
            let width = self.spec.hidden_size;
            pooled.iter_mut().for_each(|vector| l2_normalize(cx, vector, 1, width));
        }
        pooled
    }
}

impl Scratch {
    fn resize(&mut self, spec: &EncoderSpec, num_tokens: usize) {
        for buffer in [&mut self.hidden, &mut self.sums, &mut self.query, &mut self.key, &mut self.value] {
            buffer.resize(num_tokens * spec.hidden_size, 0.0);
        }
        self.inner.resize(num_tokens * spec.inner_size(), 0.0);
        self.gated.resize(if spec.is_gated() { num_tokens * spec.inner_size() } else { 0 }, 0.0);
    }
}
