//! The one decoder: interprets a [`ModelSpec`] over packed weights, for a batch of tokens of many sequences.

mod check;
mod layer;
pub(crate) mod names;
mod plan;
mod scratch;

use crate::{
    AlibiSpec, AttentionSpec, Batch, BlockSpec, EmbeddingSpec, KvCache, LoadOptions, MlpSpec, ModelError, ModelSpec,
    family, rotary,
    weights::{Linear, WeightSource},
};
use layer::{Layer, Norm};
use names::Names;
pub use scratch::Scratch;
use yantra_formats::Checkpoint;
use yantra_kernels::{
    Activations, AttentionParams, Compute, GatedJob, KvPages, LinearJob, PackedLinear, RopeTable, WeightFormat,
    add_assign, alibi_slopes, attention, clamp, embed_rows, linear, linear_gated, rope, scale, softcap,
};

/// A decoder-only transformer ready to run.
pub struct Decoder {
    spec: ModelSpec,
    embedding: Table,
    positions: Option<Table>,
    embedding_norm: Option<Norm>,
    ropes: Vec<RopeTable>,
    /// How fast the scores of each query head fall with distance, if they do.
    slopes: Option<Vec<f32>>,
    layers: Vec<Layer>,
    output_norm: Norm,
    head: PackedLinear,
    max_context: usize,
}

/// A table of vectors as stored: rows are dequantised as they are looked up.
struct Table {
    format: WeightFormat,
    data: Vec<u8>,
}

impl Decoder {
    /// Reads the specification and packs all weights for the processor.
    ///
    /// # Errors
    /// If the architecture is unknown, a tensor is missing or has another shape, or memory runs out.
    pub fn load(checkpoint: &Checkpoint, cx: &Compute, options: LoadOptions) -> Result<Self, ModelError> {
        let (family, spec) = family::resolve(checkpoint)?;
        let source = WeightSource::new(checkpoint, options)?;
        let names = Names::new(checkpoint, family);
        let max_context = options.max_context.unwrap_or(spec.context_length);
        let specs = spec.layers.iter().map(|layer| layer.rope.as_ref());
        let (ropes, rope_of_layer) = rotary::tables(specs, max_context, &source)?;
        let layers = rope_of_layer.into_iter().enumerate();
        let layers = layers.map(|(index, rope)| Layer::load(&source, cx, &spec, &names, index, rope));
        let hidden = spec.hidden_size;
        let table = |name: &str, rows| {
            let view = source.tensor(name, &[rows, hidden])?;
            Ok::<_, ModelError>(Table { format: view.format, data: view.data.to_vec() })
        };
        let norm = |name: String| Norm::load(&source, spec.norm, &name, hidden);
        let EmbeddingSpec { learned_positions, norm: embedding_norm, .. } = spec.embedding;
        let positions = || table(&format!("{}.weight", names.positions()), spec.context_length);
        Ok(Self {
            embedding: table(&names.embedding(), spec.vocab_size)?,
            positions: learned_positions.then(positions).transpose()?,
            embedding_norm: embedding_norm.then(|| norm(names.embedding_norm())).transpose()?,
            ropes,
            slopes: spec.attention.alibi.map(|alibi| slopes(alibi, spec.attention.num_heads)),
            layers: layers.collect::<Result<_, _>>()?,
            output_norm: norm(names.output_norm())?,
            head: source.matrix(cx, &names.head(&spec), hidden)?,
            max_context,
            spec,
        })
    }

    /// What the model is made of.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Longest sequence that can be run, in tokens.
    pub fn max_context(&self) -> usize {
        self.max_context
    }

    /// Bytes of all packed weights.
    pub fn weight_bytes(&self) -> usize {
        let tables = self.positions.iter().chain([&self.embedding]).map(|table| table.data.len());
        self.matrices().map(PackedLinear::bytes).chain(tables).sum()
    }

    fn matrices(&self) -> impl Iterator<Item = &PackedLinear> {
        self.layers.iter().flat_map(Layer::matrices).chain([&self.head])
    }

    /// Runs the batch: writes its keys and values to `kv` and the logits of `batch.logit_rows` to `logits`
    /// (`[logit_rows, vocab_size]`).
    ///
    /// A token's logits do not depend on what else is in the batch, to the bit.
    ///
    /// # Errors
    /// If the batch names a token outside the vocabulary, a position outside the context or a slot outside the cache.
    pub fn forward(
        &self,
        cx: &Compute,
        batch: &Batch<'_>,
        kv: &mut KvCache,
        scratch: &mut Scratch,
        logits: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        self.check(batch, kv)?;
        let spec = &self.spec;
        scratch.resize(spec, batch.tokens.len());
        self.embed(cx, batch, scratch)?;
        for (index, layer) in self.layers.iter().enumerate() {
            self.attend(cx, index, layer, batch, &mut kv.pages, scratch);
            if spec.block.parallel {
                self.feed_forward(cx, layer, scratch);
                self.join_attention(cx, layer, scratch);
            } else {
                self.join_attention(cx, layer, scratch);
                self.feed_forward(cx, layer, scratch);
            }
            let Scratch { hidden, gated, block, .. } = &mut *scratch;
            self.join(cx, &layer.down, layer.post_mlp_norm.as_ref(), gated, block, hidden);
        }
        logits.resize(batch.logit_rows.len() * spec.vocab_size, 0.0);
        if batch.logit_rows.is_empty() {
            return Ok(());
        }
        let Scratch { hidden, input, .. } = scratch;
        self.output_norm.rows(cx, hidden, batch.logit_rows, input);
        linear(cx, input, &mut [LinearJob { weight: &self.head, bias: None, out: logits, accumulate: false }]);
        if spec.logit_scale != 1.0 {
            scale(cx, logits, spec.logit_scale);
        }
        if let Some(cap) = spec.logit_softcap {
            softcap(cx, logits, cap);
        }
        Ok(())
    }

    fn embed(&self, cx: &Compute, batch: &Batch<'_>, scratch: &mut Scratch) -> Result<(), ModelError> {
        let Scratch { hidden, block, .. } = scratch;
        let (width, table) = (self.spec.hidden_size, &self.embedding);
        embed_rows(cx, table.format, &table.data, width, batch.tokens, self.spec.embedding.scale, hidden)?;
        if let Some(table) = &self.positions {
            embed_rows(cx, table.format, &table.data, width, batch.positions, 1.0, block)?;
            add_assign(cx, hidden, block);
        }
        if let Some(norm) = &self.embedding_norm {
            norm.in_place(cx, hidden);
        }
        Ok(())
    }

    /// Leaves what each token's heads saw in `scratch.attended`.
    fn attend(
        &self,
        cx: &Compute,
        index: usize,
        layer: &Layer,
        batch: &Batch<'_>,
        kv: &mut KvPages,
        scratch: &mut Scratch,
    ) {
        let AttentionSpec { num_heads, num_kv_heads, head_dim, scale, softcap, rope_style, clip, .. } =
            self.spec.attention;
        let Scratch { hidden, input, query, key, value, attended, .. } = scratch;
        self.enter(cx, layer.attention_norm.as_ref(), hidden, input);
        linear(cx, input, &mut [layer.query.job(query), layer.key.job(key), layer.value.job(value)]);
        if let Some(bound) = clip {
            [&mut *query, key, value].into_iter().for_each(|values| clamp(cx, values, bound));
        }
        if let (Some(query_norm), Some(key_norm)) = (&layer.query_norm, &layer.key_norm) {
            query_norm.in_place(cx, query);
            key_norm.in_place(cx, key);
        }
        if let Some(table) = layer.rope.map(|index| &self.ropes[index]) {
            rope(cx, table, rope_style, query, num_heads, head_dim, batch.positions);
            rope(cx, table, rope_style, key, num_kv_heads, head_dim, batch.positions);
        }
        kv.store(cx, index, key, value, batch.slots);
        let params = AttentionParams {
            window: layer.spec.window,
            softcap,
            alibi: self.slopes.as_deref(),
            sinks: layer.sinks.as_deref(),
            ..AttentionParams::new(num_heads, scale)
        };
        attention(cx, &params, query, kv.layer(index), batch.sequences, attended);
    }

    fn join_attention(&self, cx: &Compute, layer: &Layer, scratch: &mut Scratch) {
        let Scratch { hidden, input, attended, block, .. } = scratch;
        input.set(cx, attended, hidden.len() / self.spec.hidden_size, self.spec.query_size());
        self.join(cx, &layer.output, layer.post_attention_norm.as_ref(), input, block, hidden);
    }

    /// Leaves what the network's last matrix reads in `scratch.gated`.
    fn feed_forward(&self, cx: &Compute, layer: &Layer, scratch: &mut Scratch) {
        let Scratch { hidden, input, inner, gated, .. } = scratch;
        self.enter(cx, layer.mlp_norm.as_ref(), hidden, input);
        match (layer.spec.mlp, &layer.gate) {
            (MlpSpec::Gated { activation: function, .. }, Some(gate)) => {
                let (gate, gate_bias) = (&gate.weight, gate.bias.as_deref());
                let (up, up_bias) = (&layer.up.weight, layer.up.bias.as_deref());
                linear_gated(cx, input, GatedJob { gate, gate_bias, up, up_bias, function }, gated);
            }
            (
                MlpSpec::Plain { intermediate_size, activation } | MlpSpec::Gated { intermediate_size, activation },
                _,
            ) => {
                let inner = &mut inner[..input.num_tokens() * intermediate_size];
                linear(cx, input, &mut [layer.up.job(inner)]);
                gated.set_activated(cx, activation, inner, input.num_tokens(), intermediate_size);
            }
        }
    }

    /// What a block's first matrices read of the residual stream.
    fn enter(&self, cx: &Compute, norm: Option<&Norm>, hidden: &[f32], input: &mut Activations) {
        match norm {
            Some(norm) => norm.all(cx, hidden, input),
            None => input.set(cx, hidden, hidden.len() / self.spec.hidden_size, self.spec.hidden_size),
        }
    }

    /// Adds a block's output projection to the residual stream, normalised or scaled first where the family asks for it.
    fn join(
        &self,
        cx: &Compute,
        projection: &Linear,
        post_norm: Option<&Norm>,
        input: &Activations,
        block: &mut [f32],
        hidden: &mut [f32],
    ) {
        let BlockSpec { residual_scale, .. } = self.spec.block;
        if post_norm.is_none() && residual_scale == 1.0 {
            return linear(cx, input, &mut [LinearJob { accumulate: true, ..projection.job(hidden) }]);
        }
        linear(cx, input, &mut [projection.job(block)]);
        if let Some(norm) = post_norm {
            norm.in_place(cx, block);
        }
        if residual_scale != 1.0 {
            scale(cx, block, residual_scale);
        }
        add_assign(cx, hidden, block);
    }
}

fn slopes(alibi: AlibiSpec, num_heads: usize) -> Vec<f32> {
    let mut slopes = alibi_slopes(num_heads, alibi.max_bias);
    slopes.iter_mut().for_each(|slope| *slope *= alibi.scale);
    slopes
}
