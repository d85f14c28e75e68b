//! Multi-head latent attention (DeepSeek-AI 2024, arXiv:2405.04434), absorbed: what is kept of a token is one narrow vector,
//! and the matrices that would make every head's key and value of it are applied to queries and to what heads saw.

use super::{
    layer::Norm,
    names::{Names, Role},
};
use crate::{
    LatentSpec, ModelError, ModelSpec,
    footprint::Sizes,
    weights::{Linear, Place, WeightSource},
};
use yantra_kernels::{
    ActivationKinds, Activations, Compute, GroupedJob, PackedLinear, RopeStyle, RopeTable, WeightFormat, linear,
    linear_grouped, rope,
};

/// The matrices around latent attention.
pub(super) struct Latent {
    /// From the residual stream to the narrow vector of queries, if there is one.
    query_down: Option<(Linear, Norm)>,
    /// From there to all heads' queries, `[num_heads, nope_dim + rope_dim]`.
    query: Linear,
    /// To what is kept: `[kv_rank + rope_dim]`.
    kv_down: Linear,
    kv_norm: Norm,
    /// Of each head: from the part of its query that is not rotated to what meets the kept vector, `[kv_rank, nope_dim]`.
    key_up: Vec<PackedLinear>,
    /// Of each head: from the sum of kept vectors to its value, `[value_dim, kv_rank]`.
    value_up: Vec<PackedLinear>,
}

/// Buffers of latent attention; they grow to the largest batch seen.
pub(super) struct LatentScratch {
    /// The narrow vector of queries, as it is made and as it is read.
    narrow: Vec<f32>,
    narrow_input: Activations,
    /// Queries before their matrices are applied, `[num_tokens, num_heads, nope_dim + rope_dim]`.
    raw: Vec<f32>,
    /// What is kept, before it is normalised and rotated, `[num_tokens, kv_rank + rope_dim]`.
    compressed: Vec<f32>,
    /// The rotated parts of queries and keys.
    rotated: Vec<f32>,
    /// One part of all heads, head by head, and what a head's matrix makes of it.
    by_head: Vec<f32>,
    by_head_input: Activations,
    by_head_output: Vec<f32>,
}

impl LatentScratch {
    pub(super) fn new(kinds: ActivationKinds) -> Self {
        Self {
            narrow: Vec::new(),
            narrow_input: Activations::new(kinds),
            raw: Vec::new(),
            compressed: Vec::new(),
            rotated: Vec::new(),
            by_head: Vec::new(),
            by_head_input: Activations::new(kinds),
            by_head_output: Vec::new(),
        }
    }

    /// Bytes for each token of a step.
    pub(super) fn bytes_per_token(spec: &ModelSpec, latent: &LatentSpec, sizes: &Sizes<'_>) -> usize {
        let LatentSpec { query_rank, kv_rank, nope_dim, rope_dim, value_dim } = *latent;
        let (heads, narrow) = (spec.attention.num_heads, query_rank.unwrap_or(0));
        let widest = heads * nope_dim.max(kv_rank).max(value_dim);
        let values = narrow + heads * (nope_dim + 2 * rope_dim) + kv_rank + rope_dim + 2 * widest;
        values * size_of::<f32>() + sizes.activation_bytes(narrow) + sizes.activation_bytes(widest)
    }
}

impl Latent {
    pub(super) fn load(
        source: &WeightSource<'_>,
        cx: &Compute,
        spec: &ModelSpec,
        latent: &LatentSpec,
        names: &Names<'_>,
        index: usize,
    ) -> Result<Self, ModelError> {
        let linear = |role| {
            let [rows, cols] = shape(spec, latent, role);
            source.linear(cx, &Place::whole(&names.layer(index, role), rows), cols)
        };
        let norm = |role, len| Norm::load(source, spec.norm, &names.layer(index, role), len);
        let query_down = latent
            .query_rank
            .map(|rank| Ok::<_, ModelError>((linear(Role::QueryDown)?, norm(Role::QueryDownNorm, rank)?)));
        let [key_up, value_up] =
            [Role::KeyUp, Role::ValueUp].map(|role| per_head(source, cx, spec, latent, names, index, role));
        Ok(Self {
            query_down: query_down.transpose()?,
            query: linear(query_role(latent))?,
            kv_down: linear(Role::KvDown)?,
            kv_norm: norm(Role::KvDownNorm, latent.kv_rank)?,
            key_up: key_up?,
            value_up: value_up?,
        })
    }

    pub(super) fn matrices(&self) -> impl Iterator<Item = &PackedLinear> {
        let down = self.query_down.iter().map(|(linear, _)| &linear.weight);
        down.chain([&self.query.weight, &self.kv_down.weight]).chain(&self.key_up).chain(&self.value_up)
    }

    /// Makes queries, `[num_tokens, num_heads, kv_rank + rope_dim]`, and keys, `[num_tokens, kv_rank + rope_dim]`, of the
    /// normalised residual stream.
    #[expect(clippy::too_many_arguments, reason = "the operands of a block")]
    pub(super) fn project(
        &self,
        cx: &Compute,
        latent: &LatentSpec,
        (table, style): (Option<&RopeTable>, RopeStyle),
        positions: &[u32],
        input: &Activations,
        query: &mut [f32],
        key: &mut [f32],
        scratch: &mut LatentScratch,
    ) {
        let LatentSpec { kv_rank, nope_dim, rope_dim, .. } = *latent;
        let (num_tokens, num_heads) = (input.num_tokens(), self.key_up.len());
        let LatentScratch { narrow, narrow_input, raw, compressed, rotated, by_head, by_head_input, by_head_output } =
            scratch;
        raw.resize(num_tokens * num_heads * (nope_dim + rope_dim), 0.0);
        compressed.resize(num_tokens * (kv_rank + rope_dim), 0.0);
        match &self.query_down {
            None => linear(cx, input, &mut [self.query.job(raw), self.kv_down.job(compressed)]),
            Some((down, norm)) => {
                narrow.resize(num_tokens * down.weight.rows(), 0.0);
                linear(cx, input, &mut [down.job(narrow), self.kv_down.job(compressed)]);
                norm.all(cx, narrow, narrow_input);
                linear(cx, narrow_input, &mut [self.query.job(raw)]);
            }
        }
        // What is kept: the normalised vector, then the rotated part.
        by_head.resize(num_tokens * kv_rank, 0.0);
        rotated.resize(num_tokens * rope_dim, 0.0);
        copy_parts(compressed, (kv_rank + rope_dim, 0), by_head, (kv_rank, 0), kv_rank);
        copy_parts(compressed, (kv_rank + rope_dim, kv_rank), rotated, (rope_dim, 0), rope_dim);
        self.kv_norm.in_place(cx, by_head);
        if let Some(table) = table {
            rope(cx, table, style, rotated, 1, rope_dim, positions);
        }
        copy_parts(by_head, (kv_rank, 0), key, (kv_rank + rope_dim, 0), kv_rank);
        copy_parts(rotated, (rope_dim, 0), key, (kv_rank + rope_dim, kv_rank), rope_dim);
        // Queries: the rotated part, and the other one through each head's matrix.
        rotated.resize(num_tokens * num_heads * rope_dim, 0.0);
        copy_parts(raw, (nope_dim + rope_dim, nope_dim), rotated, (rope_dim, 0), rope_dim);
        if let Some(table) = table {
            rope(cx, table, style, rotated, num_heads, rope_dim, positions);
        }
        copy_parts(rotated, (rope_dim, 0), query, (kv_rank + rope_dim, kv_rank), rope_dim);
        by_head.resize(num_heads * num_tokens * nope_dim, 0.0);
        for (head, rows) in by_head.chunks_exact_mut((num_tokens * nope_dim).max(1)).enumerate() {
            let start = head * (nope_dim + rope_dim);
            copy_parts(&raw[start..], (num_heads * (nope_dim + rope_dim), 0), rows, (nope_dim, 0), nope_dim);
        }
        by_head_input.set(cx, by_head, num_heads * num_tokens, nope_dim);
        by_head_output.resize(num_heads * num_tokens * kv_rank, 0.0);
        multiply_by_head(cx, &self.key_up, by_head_input, by_head_output);
        for (head, rows) in by_head_output.chunks_exact((num_tokens * kv_rank).max(1)).enumerate() {
            let start = head * (kv_rank + rope_dim);
            copy_parts(rows, (kv_rank, 0), &mut query[start..], (num_heads * (kv_rank + rope_dim), 0), kv_rank);
        }
    }

    /// Makes each head's value, `[num_tokens, num_heads, value_dim]`, of what it saw, `[num_tokens, num_heads, kv_rank]`.
    pub(super) fn values<'s>(
        &self,
        cx: &Compute,
        latent: &LatentSpec,
        attended: &[f32],
        scratch: &'s mut LatentScratch,
    ) -> &'s [f32] {
        let LatentSpec { kv_rank, value_dim, .. } = *latent;
        let num_heads = self.value_up.len();
        let num_tokens = attended.len() / (num_heads * kv_rank);
        let LatentScratch { raw, by_head, by_head_input, by_head_output, .. } = scratch;
        by_head.resize(attended.len(), 0.0);
        for (head, rows) in by_head.chunks_exact_mut((num_tokens * kv_rank).max(1)).enumerate() {
            copy_parts(&attended[head * kv_rank..], (num_heads * kv_rank, 0), rows, (kv_rank, 0), kv_rank);
        }
        by_head_input.set(cx, by_head, num_heads * num_tokens, kv_rank);
        by_head_output.resize(num_heads * num_tokens * value_dim, 0.0);
        multiply_by_head(cx, &self.value_up, by_head_input, by_head_output);
        raw.resize(num_tokens * num_heads * value_dim, 0.0);
        for (head, rows) in by_head_output.chunks_exact((num_tokens * value_dim).max(1)).enumerate() {
            copy_parts(rows, (value_dim, 0), &mut raw[head * value_dim..], (num_heads * value_dim, 0), value_dim);
        }
        raw
    }
}

/// Counts what [`Latent::load`] makes.
pub(super) fn count(
    sizes: &mut Sizes<'_>,
    source: &WeightSource<'_>,
    spec: &ModelSpec,
    latent: &LatentSpec,
    names: &Names<'_>,
    index: usize,
) -> Result<(), ModelError> {
    let down = latent.query_rank.map(|_| Role::QueryDown);
    for role in down.into_iter().chain([query_role(latent), Role::KvDown]) {
        let [rows, cols] = shape(spec, latent, role);
        sizes.matrix(&Place::whole(&names.layer(index, role), rows), cols)?;
    }
    for role in [Role::KeyUp, Role::ValueUp] {
        let [rows, cols] = shape(spec, latent, role);
        for head in 0..spec.attention.num_heads {
            if names.has(&names.layer(index, role)) {
                sizes.matrix(&names.stacked(index, role, (head, spec.attention.num_heads), rows), cols)?;
            } else {
                let place = Place::whole(&names.layer(index, Role::KvUp), shape(spec, latent, Role::KvUp)[0]);
                let stored = source.stored(&place, latent.kv_rank)?.format();
                sizes.made(made_format(source, stored, cols), rows, cols)?;
            }
        }
    }
    Ok(())
}

fn query_role(latent: &LatentSpec) -> Role {
    if latent.query_rank.is_some() { Role::QueryUp } else { Role::Query }
}

fn shape(spec: &ModelSpec, latent: &LatentSpec, role: Role) -> [usize; 2] {
    let LatentSpec { query_rank, kv_rank, nope_dim, rope_dim, value_dim } = *latent;
    let (heads, hidden) = (spec.attention.num_heads, spec.hidden_size);
    match role {
        Role::QueryDown => [query_rank.unwrap_or(0), hidden],
        Role::QueryUp => [heads * (nope_dim + rope_dim), query_rank.unwrap_or(0)],
        Role::Query => [heads * (nope_dim + rope_dim), hidden],
        Role::KvDown => [kv_rank + rope_dim, hidden],
        Role::KvUp => [heads * (nope_dim + value_dim), kv_rank],
        Role::KeyUp => [kv_rank, nope_dim],
        _ => [value_dim, kv_rank],
    }
}

/// The matrices of each head for keys or for values: as they are stored, or out of the one that makes both.
fn per_head(
    source: &WeightSource<'_>,
    cx: &Compute,
    spec: &ModelSpec,
    latent: &LatentSpec,
    names: &Names<'_>,
    index: usize,
    role: Role,
) -> Result<Vec<PackedLinear>, ModelError> {
    let num_heads = spec.attention.num_heads;
    let [rows, cols] = shape(spec, latent, role);
    if names.has(&names.layer(index, role)) {
        let head = |head| source.matrix(cx, &names.stacked(index, role, (head, num_heads), rows), cols);
        return (0..num_heads).map(head).collect();
    }
    let LatentSpec { kv_rank, nope_dim, value_dim, .. } = *latent;
    let stored_rows = shape(spec, latent, Role::KvUp)[0];
    let place = Place::whole(&names.layer(index, Role::KvUp), stored_rows);
    let stored = source.stored(&place, kv_rank)?.format();
    let all = source.floats(cx, &place, kv_rank)?;
    let head = |head: usize| {
        let start = head * (nope_dim + value_dim);
        let values: Vec<f32> = if role == Role::KeyUp {
            let row = |rank: usize| (start..start + nope_dim).map(move |row| row * kv_rank + rank);
            (0..kv_rank).flat_map(row).map(|index| all[index]).collect()
        } else {
            all[(start + nope_dim) * kv_rank..][..value_dim * kv_rank].to_vec()
        };
        source.pack_floats(cx, made_format(source, stored, cols), rows, cols, &values)
    };
    (0..num_heads).map(head).collect()
}

/// What a head's matrices are kept in, when they are made of one that is stored so: quantised blocks lie along the wrong
/// axis, so those become half precision.
fn made_format(source: &WeightSource<'_>, stored: WeightFormat, cols: usize) -> WeightFormat {
    let float = if stored.is_float() { stored } else { WeightFormat::F16 };
    source.target(float, cols).unwrap_or(float)
}

/// Multiplies the rows of each head, `[num_heads, num_tokens, cols]`, by its matrix.
fn multiply_by_head(cx: &Compute, weights: &[PackedLinear], input: &Activations, out: &mut [f32]) {
    let num_tokens = input.num_tokens() / weights.len();
    let len = weights.first().map_or(0, PackedLinear::rows) * num_tokens;
    let outs = out.chunks_exact_mut(len.max(1));
    let jobs = weights.iter().zip(outs).enumerate().map(|(head, (weight, out))| {
        let tokens = head * num_tokens..(head + 1) * num_tokens;
        GroupedJob { weight, tokens, bias: None, out }
    });
    linear_grouped(cx, input, &mut jobs.collect::<Vec<_>>());
}

/// Copies `len` values of each row: rows are so many values apart, and the part begins at an offset in them.
fn copy_parts(
    from: &[f32],
    (from_stride, from_start): (usize, usize),
    to: &mut [f32],
    (to_stride, to_start): (usize, usize),
    len: usize,
) {
    for (from, to) in from.chunks(from_stride).zip(to.chunks_mut(to_stride)) {
        to[to_start..to_start + len].copy_from_slice(&from[from_start..from_start + len]);
    }
}
