//! The one decoder: interprets a [`ModelSpec`] over packed weights, for a batch of tokens of many sequences.

mod plan;

use crate::{
    AttentionSpec, Batch, KvCache, LayerSpec, LoadOptions, MlpSpec, ModelError, ModelSpec, PAGE_TOKENS,
    family::{self, Family},
    rotary,
    weights::{Linear, WeightSource},
};
use yantra_formats::Checkpoint;
use yantra_kernels::{
    ActivationKind, ActivationKinds, Activations, AttentionParams, Compute, GatedJob, KvPages, LinearJob, PackedLinear,
    RopeTable, WeightFormat, add_assign, attention, embed_rows, linear, linear_gated, rms_norm_in_place, rope, softcap,
};

/// A decoder-only transformer ready to run.
pub struct Decoder {
    spec: ModelSpec,
    embedding: EmbeddingTable,
    ropes: Vec<RopeTable>,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    head: PackedLinear,
    max_context: usize,
}

/// The embedding table as stored: rows are dequantised as they are looked up.
struct EmbeddingTable {
    format: WeightFormat,
    data: Vec<u8>,
}

struct Layer {
    spec: LayerSpec,
    /// Which of the decoder's tables, if any.
    rope: Option<usize>,
    attention_norm: Vec<f32>,
    query: Linear,
    key: Linear,
    value: Linear,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    output: Linear,
    post_attention_norm: Option<Vec<f32>>,
    mlp_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
    post_mlp_norm: Option<Vec<f32>>,
}

/// Intermediate values of a step, kept between steps so that a step allocates nothing.
pub struct Scratch {
    hidden: Vec<f32>,
    input: Activations,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    attended: Vec<f32>,
    gated: Activations,
    block: Vec<f32>,
}

impl Decoder {
    /// Reads the specification and packs all weights for the processor.
    ///
    /// # Errors
    /// If the architecture is unknown, a tensor is missing or has another shape, or memory runs out.
    pub fn load(checkpoint: &Checkpoint, cx: &Compute, options: LoadOptions) -> Result<Self, ModelError> {
        let (family, spec) = family::resolve(checkpoint)?;
        let source = WeightSource::new(checkpoint, options);
        let names = Names::new(checkpoint, family);
        let max_context = options.max_context.unwrap_or(spec.context_length);
        let (ropes, rope_of_layer) = rotary::tables(spec.layers.iter().map(|layer| layer.rope), max_context, &source)?;
        let layers = spec.layers.iter().zip(rope_of_layer).enumerate();
        let layers = layers.map(|(i, (layer, rope))| Layer::load(&source, cx, &spec, *layer, rope, &names, i));
        let layers = layers.collect::<Result<_, _>>()?;
        let table = source.tensor(&names.embedding(), &[spec.vocab_size, spec.hidden_size])?;
        Ok(Self {
            embedding: EmbeddingTable { format: table.format, data: table.data.to_vec() },
            ropes,
            layers,
            output_norm: norm_weights(&source, &spec, &names.global("output_norm", "norm"))?,
            head: source.matrix(cx, &names.head(&source), spec.vocab_size, spec.hidden_size)?,
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
        let layers = self.layers.iter().flat_map(Layer::matrices).map(|linear| linear.weight.bytes());
        layers.sum::<usize>() + self.head.bytes() + self.embedding.data.len()
    }

    /// Buffers for [`Decoder::forward`]; they grow to the largest batch seen.
    pub fn scratch(&self) -> Scratch {
        let matrices = self.layers.iter().flat_map(Layer::matrices).map(|linear| &linear.weight);
        let mut kinds = ActivationKinds { float: false, int8: false };
        for matrix in matrices.chain([&self.head]) {
            match matrix.activation_kind() {
                ActivationKind::Float => kinds.float = true,
                ActivationKind::Int8 => kinds.int8 = true,
            }
        }
        Scratch {
            hidden: Vec::new(),
            input: Activations::new(kinds),
            query: Vec::new(),
            key: Vec::new(),
            value: Vec::new(),
            attended: Vec::new(),
            gated: Activations::new(kinds),
            block: Vec::new(),
        }
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
        let num_tokens = batch.tokens.len();
        scratch.resize(spec, num_tokens);
        let table = &self.embedding;
        let (width, scale) = (spec.hidden_size, spec.embedding_scale);
        embed_rows(cx, table.format, &table.data, width, batch.tokens, scale, &mut scratch.hidden)?;
        for (index, layer) in self.layers.iter().enumerate() {
            self.attend(cx, index, layer, batch, &mut kv.pages, scratch);
            self.feed_forward(cx, layer, num_tokens, scratch);
        }
        logits.resize(batch.logit_rows.len() * spec.vocab_size, 0.0);
        if batch.logit_rows.is_empty() {
            return Ok(());
        }
        let Scratch { hidden, input, .. } = scratch;
        input.set_rms_norm_rows(cx, hidden, batch.logit_rows, &self.output_norm, spec.norm.eps, spec.hidden_size);
        let job = LinearJob { weight: &self.head, bias: None, out: logits, accumulate: false };
        linear(cx, input, &mut [job]);
        if let Some(cap) = spec.logit_softcap {
            softcap(cx, logits, cap);
        }
        Ok(())
    }

    fn attend(
        &self,
        cx: &Compute,
        index: usize,
        layer: &Layer,
        batch: &Batch<'_>,
        kv: &mut KvPages,
        scratch: &mut Scratch,
    ) {
        let spec = &self.spec;
        let AttentionSpec { num_heads, num_kv_heads, head_dim, scale, softcap, rope_style, .. } = spec.attention;
        let num_tokens = batch.tokens.len();
        let Scratch { hidden, input, query, key, value, attended, block, .. } = scratch;
        input.set_rms_norm(cx, hidden, &layer.attention_norm, spec.norm.eps, num_tokens, spec.hidden_size);
        linear(cx, input, &mut [layer.query.job(query), layer.key.job(key), layer.value.job(value)]);
        if let (Some(query_norm), Some(key_norm)) = (&layer.query_norm, &layer.key_norm) {
            rms_norm_in_place(cx, query, query_norm, spec.norm.eps, num_tokens * num_heads, head_dim);
            rms_norm_in_place(cx, key, key_norm, spec.norm.eps, num_tokens * num_kv_heads, head_dim);
        }
        if let Some(table) = layer.rope.map(|index| &self.ropes[index]) {
            rope(cx, table, rope_style, query, num_heads, head_dim, batch.positions);
            rope(cx, table, rope_style, key, num_kv_heads, head_dim, batch.positions);
        }
        kv.store(cx, index, key, value, batch.slots);
        let params = AttentionParams { window: layer.spec.window, softcap, ..AttentionParams::new(num_heads, scale) };
        attention(cx, &params, query, kv.layer(index), batch.sequences, attended);
        input.set(cx, attended, num_tokens, spec.query_size());
        self.join(cx, &layer.output, layer.post_attention_norm.as_deref(), input, block, hidden);
    }

    fn feed_forward(&self, cx: &Compute, layer: &Layer, num_tokens: usize, scratch: &mut Scratch) {
        let spec = &self.spec;
        let MlpSpec::Gated { activation, .. } = spec.mlp;
        let Scratch { hidden, input, gated, block, .. } = scratch;
        input.set_rms_norm(cx, hidden, &layer.mlp_norm, spec.norm.eps, num_tokens, spec.hidden_size);
        let job = GatedJob {
            gate: &layer.gate.weight,
            gate_bias: layer.gate.bias.as_deref(),
            up: &layer.up.weight,
            up_bias: layer.up.bias.as_deref(),
            function: activation,
        };
        linear_gated(cx, input, job, gated);
        self.join(cx, &layer.down, layer.post_mlp_norm.as_deref(), gated, block, hidden);
    }

    /// Adds a block's output projection to the residual stream, normalised first where the family asks for it.
    fn join(
        &self,
        cx: &Compute,
        projection: &Linear,
        post_norm: Option<&[f32]>,
        input: &Activations,
        block: &mut [f32],
        hidden: &mut [f32],
    ) {
        match post_norm {
            None => linear(cx, input, &mut [LinearJob { accumulate: true, ..projection.job(hidden) }]),
            Some(weight) => {
                linear(cx, input, &mut [projection.job(block)]);
                let width = self.spec.hidden_size;
                rms_norm_in_place(cx, block, weight, self.spec.norm.eps, block.len() / width, width);
                add_assign(cx, hidden, block);
            }
        }
    }

    fn check(&self, batch: &Batch<'_>, kv: &KvCache) -> Result<(), ModelError> {
        let num_tokens = batch.tokens.len();
        let invalid = |message: String| Err(ModelError::Batch { message });
        if batch.positions.len() != num_tokens || batch.slots.len() != num_tokens {
            let (positions, slots) = (batch.positions.len(), batch.slots.len());
            return invalid(format!("{num_tokens} tokens, {positions} positions and {slots} slots"));
        }
        if let Some(token) = batch.tokens.iter().find(|token| **token as usize >= self.spec.vocab_size) {
            return invalid(format!("token {token} is outside the vocabulary of {}", self.spec.vocab_size));
        }
        if let Some(position) = batch.positions.iter().find(|position| **position as usize >= self.max_context) {
            return invalid(format!("position {position} is outside the context of {}", self.max_context));
        }
        let num_slots = kv.num_pages() * PAGE_TOKENS;
        if let Some(slot) = batch.slots.iter().find(|slot| **slot as usize >= num_slots) {
            return invalid(format!("slot {slot} is outside the cache of {num_slots}"));
        }
        if let Some(row) = batch.logit_rows.iter().find(|row| **row as usize >= num_tokens) {
            return invalid(format!("logits of token {row} wanted of a batch of {num_tokens}"));
        }
        let mut next = 0;
        for sequence in batch.sequences {
            let pages = sequence.context_len.div_ceil(PAGE_TOKENS);
            let in_cache = sequence.pages.iter().all(|page| (*page as usize) < kv.num_pages());
            if sequence.query_start != next
                || sequence.query_len > sequence.context_len
                || sequence.pages.len() < pages
                || !in_cache
            {
                return invalid(format!("inconsistent sequence {sequence:?}"));
            }
            next += sequence.query_len;
        }
        if next == num_tokens { Ok(()) } else { invalid(format!("sequences cover {next} of {num_tokens} tokens")) }
    }
}

impl Layer {
    fn load(
        source: &WeightSource<'_>,
        cx: &Compute,
        spec: &ModelSpec,
        layer: LayerSpec,
        rope: Option<usize>,
        names: &Names,
        index: usize,
    ) -> Result<Self, ModelError> {
        let MlpSpec::Gated { intermediate_size, .. } = spec.mlp;
        let (hidden, head_dim) = (spec.hidden_size, spec.attention.head_dim);
        let name = |role: Role| names.layer(index, role);
        let matrix = |role, rows, cols| source.linear(cx, &name(role), rows, cols);
        let norm = |role, len: usize| -> Result<Vec<f32>, ModelError> {
            let mut weights = source.vector(&format!("{}.weight", name(role)), len)?;
            weights.iter_mut().for_each(|weight| *weight += spec.norm.weight_offset);
            Ok(weights)
        };
        let optional_norm = |wanted: bool, role, len| wanted.then(|| norm(role, len)).transpose();
        Ok(Self {
            spec: layer,
            rope,
            attention_norm: norm(Role::AttentionNorm, hidden)?,
            query: matrix(Role::Query, spec.query_size(), hidden)?,
            key: matrix(Role::Key, spec.kv_size(), hidden)?,
            value: matrix(Role::Value, spec.kv_size(), hidden)?,
            query_norm: optional_norm(spec.attention.qk_norm, Role::QueryNorm, head_dim)?,
            key_norm: optional_norm(spec.attention.qk_norm, Role::KeyNorm, head_dim)?,
            output: matrix(Role::Output, hidden, spec.query_size())?,
            post_attention_norm: optional_norm(spec.post_norms, Role::PostAttentionNorm, hidden)?,
            mlp_norm: norm(Role::MlpNorm, hidden)?,
            gate: matrix(Role::Gate, intermediate_size, hidden)?,
            up: matrix(Role::Up, intermediate_size, hidden)?,
            down: matrix(Role::Down, hidden, intermediate_size)?,
            post_mlp_norm: optional_norm(spec.post_norms, Role::PostMlpNorm, hidden)?,
        })
    }

    fn matrices(&self) -> [&Linear; 7] {
        [&self.query, &self.key, &self.value, &self.output, &self.gate, &self.up, &self.down]
    }
}

fn norm_weights(source: &WeightSource<'_>, spec: &ModelSpec, name: &str) -> Result<Vec<f32>, ModelError> {
    let mut weights = source.vector(name, spec.hidden_size)?;
    weights.iter_mut().for_each(|weight| *weight += spec.norm.weight_offset);
    Ok(weights)
}

impl Scratch {
    fn resize(&mut self, spec: &ModelSpec, num_tokens: usize) {
        self.hidden.resize(num_tokens * spec.hidden_size, 0.0);
        self.query.resize(num_tokens * spec.query_size(), 0.0);
        self.key.resize(num_tokens * spec.kv_size(), 0.0);
        self.value.resize(num_tokens * spec.kv_size(), 0.0);
        self.attended.resize(num_tokens * spec.query_size(), 0.0);
        self.block.resize(num_tokens * spec.hidden_size, 0.0);
    }
}

/// The part a tensor plays in a layer.
#[derive(Clone, Copy)]
enum Role {
    AttentionNorm,
    Query,
    Key,
    Value,
    QueryNorm,
    KeyNorm,
    Output,
    PostAttentionNorm,
    MlpNorm,
    Gate,
    Up,
    Down,
    PostMlpNorm,
}

/// Tensor names of the checkpoint's format.
struct Names {
    gguf: bool,
    /// What precedes the names of a Hugging Face checkpoint.
    prefix: &'static str,
    /// The matrix that gives the logits; many checkpoints use the embedding for it.
    head: &'static str,
    family: &'static Family,
}

impl Names {
    fn new(checkpoint: &Checkpoint, family: &'static Family) -> Self {
        match checkpoint {
            Checkpoint::Gguf(_) => Self { gguf: true, prefix: "", head: "output.weight", family },
            Checkpoint::HuggingFace(_) => {
                let (prefix, head) = family::hugging_face_names(checkpoint);
                Self { gguf: false, prefix, head, family }
            }
        }
    }

    fn embedding(&self) -> String {
        self.global("token_embd", "embed_tokens")
    }

    fn head(&self, source: &WeightSource<'_>) -> String {
        if source.has(self.head) { self.head.to_owned() } else { self.embedding() }
    }

    fn global(&self, gguf: &str, hugging_face: &str) -> String {
        if self.gguf { format!("{gguf}.weight") } else { format!("{}{hugging_face}.weight", self.prefix) }
    }

    /// The name without `.weight` or `.bias`.
    fn layer(&self, index: usize, role: Role) -> String {
        let norms = &self.family.norms;
        let (gguf, hugging_face) = match role {
            Role::AttentionNorm => ("attn_norm", "input_layernorm"),
            Role::Query => ("attn_q", "self_attn.q_proj"),
            Role::Key => ("attn_k", "self_attn.k_proj"),
            Role::Value => ("attn_v", "self_attn.v_proj"),
            Role::QueryNorm => ("attn_q_norm", "self_attn.q_norm"),
            Role::KeyNorm => ("attn_k_norm", "self_attn.k_norm"),
            Role::Output => ("attn_output", "self_attn.o_proj"),
            Role::PostAttentionNorm => ("post_attention_norm", norms.after_attention),
            Role::MlpNorm => ("ffn_norm", norms.before_mlp),
            Role::Gate => ("ffn_gate", "mlp.gate_proj"),
            Role::Up => ("ffn_up", "mlp.up_proj"),
            Role::Down => ("ffn_down", "mlp.down_proj"),
            Role::PostMlpNorm => ("post_ffw_norm", norms.after_mlp),
        };
        if self.gguf { format!("blk.{index}.{gguf}") } else { format!("{}layers.{index}.{hugging_face}", self.prefix) }
    }
}
