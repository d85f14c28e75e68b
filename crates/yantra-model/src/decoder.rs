//! The one decoder: interprets a [`ModelSpec`] over packed weights, for a batch of tokens of many sequences.

mod adapter;
mod check;
mod cold;
mod heads;
mod latent;
mod layer;
mod load;
mod mlp;
pub(crate) mod names;
mod plan;
mod scratch;

use crate::{AttentionSpec, Batch, BlockSpec, KvCache, MlpSpec, ModelError, ModelSpec};
pub use adapter::{Adapter, AdapterSpan};
use adapter::{Changed, DecoderId, LayerAdapters, Site};
use layer::{Attention, Layer, Norm};
pub use mlp::Routing;
pub(crate) use mlp::shape as mlp_shape;
use mlp::{Gated, Mlp};
pub use scratch::Scratch;
use yantra_kernels::{
    Activations, AttentionParams, Compute, KvPages, LinearJob, PackedLinear, RopeTable, WeightFormat, add_assign,
    attention, embed_rows, linear, scale, softcap,
};

/// A decoder-only transformer ready to run.
pub struct Decoder {
    id: DecoderId,
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
    /// What the model is made of.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Longest sequence that can be run, in tokens.
    pub fn max_context(&self) -> usize {
        self.max_context
    }

    /// Bytes of memory of all packed weights: those of experts in a file are not counted.
    pub fn weight_bytes(&self) -> usize {
        let tables = self.positions.iter().chain([&self.embedding]).map(|table| table.data.len());
        self.matrices().filter(|matrix| !matrix.is_in_file()).map(PackedLinear::bytes).chain(tables).sum()
    }

    /// Bytes of the packed weights of one expert of a layer; 0 if it has none.
    pub fn expert_bytes(&self, layer: usize) -> usize {
        self.layers.get(layer).map_or(0, |layer| layer.mlp.expert_bytes())
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
            let adapters = LayerAdapters { spans: batch.adapters, layer: index };
            self.attend(cx, adapters, layer, batch, &mut kv.pages, scratch);
            if spec.block.parallel {
                self.feed_forward(cx, adapters, layer, scratch);
                self.join_attention(cx, adapters, layer, scratch);
            } else {
                self.join_attention(cx, adapters, layer, scratch);
                self.feed_forward(cx, adapters, layer, scratch);
            }
            self.join_feed_forward(cx, adapters, layer, scratch);
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
        adapters: LayerAdapters<'_>,
        layer: &Layer,
        batch: &Batch<'_>,
        kv: &mut KvPages,
        scratch: &mut Scratch,
    ) {
        let AttentionSpec { num_heads, scale, softcap, latent, rope_style, .. } = self.spec.attention;
        let Scratch { hidden, input, query, key, value, attended, latent: latent_scratch, adapters: buffers, .. } =
            scratch;
        self.enter(cx, layer.attention_norm.as_ref(), hidden, input);
        let table = layer.rope.map(|index| &self.ropes[index]);
        match (&layer.attention, &latent) {
            (Attention::Heads(heads), _) => {
                let adapters = (adapters, buffers.between());
                heads.project(cx, &self.spec.attention, table, batch.positions, input, adapters, query, key, value);
            }
            (Attention::Latent(weights), Some(latent)) => {
                let rope = (table, rope_style);
                weights.project(cx, latent, rope, batch.positions, input, query, key, latent_scratch);
            }
            (Attention::Latent(_), None) => unreachable!("weights are loaded as the specification says"),
        }
        kv.store(cx, adapters.layer, key, value, batch.slots);
        let params = AttentionParams {
            window: layer.spec.window,
            sink_tokens: layer.spec.sink_tokens,
            chunk: layer.spec.chunk,
            softcap,
            alibi: self.slopes.as_deref(),
            sinks: layer.sinks.as_deref(),
            ..AttentionParams::new(num_heads, scale)
        };
        attention(cx, &params, query, kv.layer(adapters.layer), batch.sequences, attended);
    }

    fn join_attention(&self, cx: &Compute, adapters: LayerAdapters<'_>, layer: &Layer, scratch: &mut Scratch) {
        let Scratch { hidden, input, attended, block, latent: latent_scratch, adapters: buffers, .. } = scratch;
        let values = match (&layer.attention, &self.spec.attention.latent) {
            (Attention::Latent(weights), Some(latent)) => weights.values(cx, latent, attended, latent_scratch),
            _ => attended,
        };
        input.set(cx, values, hidden.len() / self.spec.hidden_size, self.spec.output_size());
        let (norm, changed) =
            (layer.post_attention_norm.as_ref(), Changed { site: Site::Output, base: &layer.output, out: block });
        self.join(cx, changed, norm, input, (adapters, buffers.between()), hidden);
    }

    /// Leaves what the network's last matrix reads in `scratch.gated`, or what experts gave in `scratch.experts`.
    fn feed_forward(&self, cx: &Compute, adapters: LayerAdapters<'_>, layer: &Layer, scratch: &mut Scratch) {
        let Scratch { hidden, input, inner, gated, experts: expert_scratch, adapters: buffers, .. } = scratch;
        self.enter(cx, layer.mlp_norm.as_ref(), hidden, input);
        match (&layer.mlp, layer.spec.mlp) {
            (Mlp::Plain { up, .. }, MlpSpec::Plain { intermediate_size, activation }) => {
                let inner = &mut inner[..input.num_tokens() * intermediate_size];
                linear(cx, input, &mut [up.job(inner)]);
                let changed = Changed { site: Site::Up, base: up, out: &mut *inner };
                adapters.change(cx, input, [changed], buffers.between());
                gated.set_activated(cx, activation, inner, input.num_tokens(), intermediate_size);
            }
            (Mlp::Gated(network), MlpSpec::Gated { activation, .. }) if adapters.touch(&[Site::Gate, Site::Up]) => {
                network.inside_with(cx, activation, input, adapters, buffers, gated);
            }
            (Mlp::Gated(network), MlpSpec::Gated { activation, .. }) => network.inside(cx, activation, input, gated),
            (Mlp::Experts(experts), MlpSpec::Experts(spec)) => {
                let next = self.layers.get(adapters.layer + 1).and_then(|layer| layer.mlp.experts());
                let (place, norm) = ((adapters.layer, &spec, next), layer.mlp_norm.as_ref());
                experts.mix(cx, place, norm, hidden, input, gated, expert_scratch);
            }
            _ => unreachable!("weights are loaded as the specification says"),
        }
    }

    fn join_feed_forward(&self, cx: &Compute, adapters: LayerAdapters<'_>, layer: &Layer, scratch: &mut Scratch) {
        let Scratch { hidden, gated, block, experts, adapters: buffers, .. } = scratch;
        let norm = layer.post_mlp_norm.as_ref();
        match &layer.mlp {
            Mlp::Plain { down, .. } | Mlp::Gated(Gated { down, .. }) => {
                let changed = Changed { site: Site::Down, base: down, out: block };
                self.join(cx, changed, norm, gated, (adapters, buffers.between()), hidden);
            }
            Mlp::Experts(_) => self.join_block(cx, norm, &mut experts.mixed, hidden),
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
        projection: Changed<'_>,
        post_norm: Option<&Norm>,
        input: &Activations,
        adapters: (LayerAdapters<'_>, &mut Vec<f32>),
        hidden: &mut [f32],
    ) {
        let Changed { site, base, out: block } = projection;
        let (adapters, buffer) = adapters;
        let is_changed = adapters.touch(&[site]);
        if !is_changed && post_norm.is_none() && self.spec.block.residual_scale == 1.0 {
            return linear(cx, input, &mut [LinearJob { accumulate: true, ..base.job(hidden) }]);
        }
        linear(cx, input, &mut [base.job(block)]);
        if is_changed {
            adapters.change(cx, input, [Changed { site, base, out: &mut *block }], buffer);
        }
        self.join_block(cx, post_norm, block, hidden);
    }

    fn join_block(&self, cx: &Compute, post_norm: Option<&Norm>, block: &mut [f32], hidden: &mut [f32]) {
        let BlockSpec { residual_scale, .. } = self.spec.block;
        if let Some(norm) = post_norm {
            norm.in_place(cx, block);
        }
        if residual_scale != 1.0 {
            scale(cx, block, residual_scale);
        }
        add_assign(cx, hidden, block);
    }
}
