//! Which tensors the destination has, and what of the source they are made of.

use super::{
    PlannedTensor, Recipe, Target,
    kind::Kind,
    layout::Layout,
    part::{Part, by_group, concatenated},
    types::{TypeRules, is_single},
};
use crate::{
    ExpertsSpec, MlpSpec, ModelError, ModelSpec, NormKind, QkNorm, RopeScaling, RopeSpec,
    decoder::{
        mlp_shape,
        names::{Names, Role},
    },
    family::{Family, FusedRows},
    rotary,
    weights::Place,
};
use std::collections::{BTreeSet, HashSet};
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, WeightFormat, dequantize_row};

/// What is written of the tensors, and what is not.
pub(super) struct Plan {
    pub(super) tensors: Vec<PlannedTensor>,
    pub(super) left_out: Vec<String>,
}

/// Tensors that hold nothing that hyper-parameters do not say, by the ends of their names.
const SAID_OTHERWISE: [&str; 8] = [
    ".rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
];

/// Plans all tensors of a model of a `family` for the family of the destination.
pub(super) fn tensors(
    checkpoint: &Checkpoint,
    family: &Family,
    written: &'static Family,
    kind: &'static Kind,
    spec: &ModelSpec,
    rules: &TypeRules,
) -> Result<Plan, ModelError> {
    let names = Names::new(checkpoint, family);
    let target = if matches!(checkpoint, Checkpoint::Gguf(_)) { Target::HuggingFace } else { Target::Gguf };
    let norms = [Role::AttentionNorm, Role::MlpNorm].map(|role| names.layer(0, role));
    let layout = Layout::new(target, kind, written, norms[0] != norms[1]);
    let offset = if target == Target::Gguf { kind.norm_offset } else { -kind.norm_offset };
    let mut planner = Planner { checkpoint, spec, names, layout, kind, rules, offset, tensors: Vec::new() };
    planner.check_rotation()?;
    planner.frequencies();
    planner.globals()?;
    for index in 0..spec.layers.len() {
        planner.layer(index)?;
    }
    let tensors = planner.tensors;
    let used: HashSet<&str> = tensors.iter().flat_map(|tensor| &tensor.sources).map(String::as_str).collect();
    let unused = checkpoint.tensors().map(|tensor| &tensor.name).filter(|name| !used.contains(name.as_str()));
    let left_out: BTreeSet<_> = unused.filter(|name| !SAID_OTHERWISE.iter().any(|end| name.ends_with(end))).collect();
    Ok(Plan { left_out: left_out.into_iter().cloned().collect(), tensors })
}

struct Planner<'a> {
    checkpoint: &'a Checkpoint,
    spec: &'a ModelSpec,
    names: Names<'a>,
    layout: Layout,
    kind: &'static Kind,
    rules: &'a TypeRules,
    /// What is added to the weights of norms.
    offset: f32,
    tensors: Vec<PlannedTensor>,
}

impl Planner<'_> {
    /// Rows can be put in the order of another rotation only where all of a head is rotated, and nothing else has that order.
    fn check_rotation(&self) -> Result<(), ModelError> {
        let attention = &self.spec.attention;
        let partial = |rope: &RopeSpec| rope.rotary_dim != attention.head_dim;
        let some_partial = self.spec.layers.iter().filter_map(|layer| layer.rope.as_ref()).any(partial);
        if self.kind.has_neighbours() && (some_partial || attention.qk_norm != QkNorm::None) {
            let feature =
                format!("conversion of {} with heads that are rotated in part or normalised", self.spec.family);
            return Err(ModelError::Unsupported { feature });
        }
        Ok(())
    }

    /// Divisors of rotary frequencies, which GGUF has as tensors.
    fn frequencies(&mut self) {
        let ropes = self.spec.layers.iter().filter_map(|layer| layer.rope.as_ref());
        let scaled = ropes.clone().find(|rope| !matches!(rope.scaling, RopeScaling::None));
        let Some(rope) = scaled.filter(|_| self.layout.is_gguf()).cloned() else { return };
        match &rope.scaling {
            RopeScaling::LongRope { short, long, .. } => {
                self.made("rope_factors_long.weight", long.clone());
                self.made("rope_factors_short.weight", short.clone());
            }
            RopeScaling::Llama3 { .. } => {
                let plain = RopeSpec { scaling: RopeScaling::None, ..rope.clone() };
                let (plain, scaled) = (rotary::frequencies(&plain, 1, &[]).0, rotary::frequencies(&rope, 1, &[]).0);
                self.made(
                    "rope_freqs.weight",
                    plain.iter().zip(scaled).map(|(plain, scaled)| plain / scaled).collect(),
                );
            }
            _ => {}
        }
    }

    fn made(&mut self, name: &str, values: Vec<f32>) {
        self.tensors.push(PlannedTensor {
            name: name.to_owned(),
            shape: vec![values.len()],
            format: WeightFormat::F32,
            sources: Vec::new(),
            done: vec!["made of hyper-parameters"],
            recipe: Recipe::Made(values),
        });
    }

    fn globals(&mut self) -> Result<(), ModelError> {
        let spec = self.spec;
        let hidden = spec.hidden_size;
        let table = |name: String, rows| Place::whole(name.trim_end_matches(".weight"), rows);
        let embedding = table(self.names.embedding(), spec.vocab_size);
        let head = self.names.head(spec);
        if head.name != embedding.name {
            self.rows(format!("{}.weight", self.layout.head()), vec![Part::weight(&head, hidden)], 0.0, Vec::new())?;
        }
        self.rows(
            format!("{}.weight", self.layout.embedding()),
            vec![Part::weight(&embedding, hidden)],
            0.0,
            Vec::new(),
        )?;
        if spec.embedding.learned_positions {
            let positions = table(self.names.positions(), spec.context_length);
            let name = format!("{}.weight", self.layout.positions());
            self.rows(name, vec![Part::weight(&positions, hidden)], 0.0, Vec::new())?;
        }
        if spec.embedding.norm {
            self.norm(self.names.embedding_norm(), self.layout.embedding_norm(), hidden)?;
        }
        self.norm(self.names.output_norm(), self.layout.output_norm(), hidden)
    }

    fn layer(&mut self, index: usize) -> Result<(), ModelError> {
        let (spec, hidden) = (self.spec, self.spec.hidden_size);
        let norms = [
            (spec.block.pre_norms, Role::AttentionNorm),
            (spec.block.post_norms, Role::PostAttentionNorm),
            (spec.block.pre_norms, Role::MlpNorm),
            (spec.block.post_norms, Role::PostMlpNorm),
        ];
        for (_, role) in norms.into_iter().filter(|(wanted, _)| *wanted) {
            let (from, to) = (self.names.layer(index, role), self.layout.layer(index, role));
            if !self.tensors.iter().rev().take(8).any(|tensor| tensor.name == format!("{to}.weight")) {
                self.norm(from, to, hidden)?;
            }
        }
        self.attention(index)?;
        self.matrix(index, Role::Output, [hidden, spec.output_size()])?;
        let matrix = |planner: &mut Self, role| planner.matrix(index, role, mlp_shape(spec, &spec.layers[index], role));
        match spec.layers[index].mlp {
            MlpSpec::Plain { .. } => [Role::Up, Role::Down].into_iter().try_for_each(|role| matrix(self, role)),
            MlpSpec::Gated { .. } => {
                match self.layout.fused_gate(index) {
                    None => [Role::Gate, Role::Up].into_iter().try_for_each(|role| matrix(self, role))?,
                    Some(name) => {
                        let parts = [Role::Gate, Role::Up].map(|role| {
                            let [rows, cols] = mlp_shape(spec, &spec.layers[index], role);
                            Part::weight(&self.names.matrix(spec, index, role, rows), cols)
                        });
                        self.rows(format!("{name}.weight"), concatenated(parts), 0.0, Vec::new())?;
                    }
                }
                matrix(self, Role::Down)
            }
            MlpSpec::Experts(experts) => {
                matrix(self, Role::Router)?;
                self.experts(index, &experts)?;
                let Some(shared) = experts.shared else { return Ok(()) };
                let weighed = shared.weighed.then_some(Role::SharedRouter);
                let roles = [Role::SharedGate, Role::SharedUp, Role::SharedDown].into_iter().chain(weighed);
                roles.into_iter().try_for_each(|role| matrix(self, role))
            }
        }
    }

    fn attention(&mut self, index: usize) -> Result<(), ModelError> {
        let (spec, dim) = (self.spec, self.spec.attention.head_dim);
        let norms = match spec.attention.qk_norm {
            QkNorm::Head => [dim, dim],
            QkNorm::Token => [spec.query_size(), spec.kv_size()],
            QkNorm::None | QkNorm::RotatedHead => [0, 0],
        };
        for (role, len) in [Role::QueryNorm, Role::KeyNorm].into_iter().zip(norms).filter(|(_, len)| *len > 0) {
            self.norm(self.names.layer(index, role), self.layout.layer(index, role), len)?;
        }
        let roles = [(Role::Query, spec.query_size()), (Role::Key, spec.kv_size()), (Role::Value, spec.kv_size())];
        let places = roles.map(|(role, rows)| (role, self.names.matrix(spec, index, role, rows)));
        let weights = places.each_ref().map(|(role, place)| self.rotated(*role, Part::weight(place, spec.hidden_size)));
        let biases = places.each_ref().map(|(role, place)| {
            let bias = Part::bias(place);
            self.checkpoint.tensor(&bias.tensor).is_some().then(|| self.rotated(*role, bias))
        });
        match self.layout.fused_qkv(index) {
            Some((name, order)) => {
                let groups = if order == FusedRows::ByGroup { spec.attention.num_kv_heads } else { 1 };
                self.matrix_of(&name, by_group(&weights, groups))?;
                let [Some(query), Some(key), Some(value)] = biases else { return Ok(()) };
                self.rows(format!("{name}.bias"), by_group(&[query, key, value], groups), 0.0, Vec::new())
            }
            None => {
                for ((role, _), (weight, bias)) in places.into_iter().zip(weights.into_iter().zip(biases)) {
                    let name = self.layout.layer(index, role);
                    let done: Vec<_> =
                        (self.kind.has_neighbours() && role != Role::Value).then_some("permuted").into_iter().collect();
                    self.rows(format!("{name}.weight"), vec![weight], 0.0, done.clone())?;
                    if let Some(bias) = bias {
                        self.rows(format!("{name}.bias"), vec![bias], 0.0, done)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Rows of queries and keys in the order in which the destination rotates them.
    fn rotated(&self, role: Role, part: Part) -> Part {
        let dim = self.spec.attention.head_dim;
        match (self.kind.has_neighbours() && role != Role::Value, self.layout.is_gguf()) {
            (false, _) => part,
            (true, true) => part.halves_to_neighbours(dim),
            (true, false) => part.neighbours_to_halves(dim),
        }
    }

    fn experts(&mut self, index: usize, experts: &ExpertsSpec) -> Result<(), ModelError> {
        let spec = self.spec;
        for role in [Role::ExpertGate, Role::ExpertUp, Role::ExpertDown] {
            let [rows, cols] = mlp_shape(spec, &spec.layers[index], role);
            let part =
                |expert| Part::weight(&self.names.stacked(index, role, (expert, experts.num_experts), rows), cols);
            let parts: Vec<Part> = (0..experts.num_experts).map(part).collect();
            let name = self.layout.layer(index, role);
            if self.layout.is_gguf() {
                let shape = vec![experts.num_experts, rows, cols];
                self.add(format!("{name}.weight"), shape, parts, 0.0, vec!["stacked"])?;
                continue;
            }
            for (expert, part) in parts.into_iter().enumerate() {
                let name = format!("{}.weight", name.replace("{}", &expert.to_string()));
                self.rows(name, vec![part], 0.0, vec!["unstacked"])?;
            }
        }
        Ok(())
    }

    /// A norm: `from` and `to` come without `.weight`.
    fn norm(&mut self, from: String, to: String, len: usize) -> Result<(), ModelError> {
        let done: Vec<_> = (self.offset != 0.0).then_some("offset by one").into_iter().collect();
        self.rows(format!("{to}.weight"), vec![Part::vector(format!("{from}.weight"), len)], self.offset, done)?;
        let bias = format!("{from}.bias");
        if self.spec.norm.kind == NormKind::Layer && self.checkpoint.tensor(&bias).is_some() {
            self.rows(format!("{to}.bias"), vec![Part::vector(bias, len)], 0.0, Vec::new())?;
        }
        Ok(())
    }

    /// A layer's matrix with its bias, if it has one.
    fn matrix(&mut self, index: usize, role: Role, [rows, cols]: [usize; 2]) -> Result<(), ModelError> {
        let place = self.names.matrix(self.spec, index, role, rows);
        let name = self.layout.layer(index, role);
        self.matrix_of(&name, vec![Part::weight(&place, cols)])?;
        let bias = Part::bias(&place);
        if self.checkpoint.tensor(&bias.tensor).is_some() {
            self.rows(format!("{name}.bias"), vec![bias], 0.0, Vec::new())?;
        }
        Ok(())
    }

    /// A matrix by rows or by columns, as the destination has them.
    fn matrix_of(&mut self, name: &str, mut parts: Vec<Part>) -> Result<(), ModelError> {
        let name = format!("{name}.weight");
        let by_columns = parts.iter().any(|part| part.place.transposed);
        let mut done: Vec<_> = by_columns.then_some("transposed").into_iter().collect();
        if parts.len() != 1 || !self.layout.transposed() {
            return self.rows(name, parts, 0.0, done);
        }
        done.push("transposed");
        let part = parts.remove(0);
        let shape = vec![part.cols, part.num_rows()];
        self.add(name, shape, vec![part.clone()], 0.0, done)?;
        if let Some(tensor) = self.tensors.last_mut() {
            tensor.recipe = Recipe::Columns(part);
        }
        Ok(())
    }

    /// Rows one after another: a vector if they are of one value each.
    fn rows(
        &mut self,
        name: String,
        parts: Vec<Part>,
        offset: f32,
        mut done: Vec<&'static str>,
    ) -> Result<(), ModelError> {
        let rows: usize = parts.iter().map(Part::num_rows).sum();
        let cols = parts.first().map_or(0, |part| part.cols);
        let shape = match (rows, cols) {
            (rows, 1) => vec![rows],
            (rows, cols) => vec![rows, cols],
        };
        if parts.len() > 1 {
            done.push("fused");
        } else if let Some(part) = parts.first() {
            let (stored, taken) = (part.place.stored_rows, part.num_rows());
            if taken < stored {
                done.push("split");
            } else if part.place.rows.len() > 1 && !done.contains(&"permuted") {
                done.push("regrouped");
            }
        }
        self.add(name, shape, parts, offset, done)
    }

    fn add(
        &mut self,
        name: String,
        shape: Vec<usize>,
        parts: Vec<Part>,
        offset: f32,
        done: Vec<&'static str>,
    ) -> Result<(), ModelError> {
        let mut formats = Vec::new();
        let mut sources: Vec<String> = Vec::new();
        for part in &parts {
            let view = part.view(self.checkpoint)?;
            if part.place.transposed && !view.format.is_float() {
                let feature = format!("{} in {}, stored by columns", part.tensor, view.format);
                return Err(ModelError::Unsupported { feature });
            }
            formats.push(view.format);
            if sources.last() != Some(&part.tensor) && !sources.contains(&part.tensor) {
                sources.push(part.tensor.clone());
            }
        }
        // Where parts are stored in several types, the widest holds all of them.
        let stored = formats.into_iter().max_by(|a, b| a.bits_per_weight().total_cmp(&b.bits_per_weight()));
        let stored = stored.unwrap_or(WeightFormat::F32);
        let cols = shape.last().copied().unwrap_or(1);
        let format = if self.layout.is_gguf() {
            if is_single(&name, &shape) { WeightFormat::F32 } else { self.rules.in_gguf(&name, cols, stored)? }
        } else {
            self.in_safetensors(&name, &parts, stored, offset)?
        };
        self.tensors.push(PlannedTensor { name, shape, format, sources, done, recipe: Recipe::Rows { parts, offset } });
        Ok(())
    }

    /// The type of a tensor in safetensors: what is in single precision only because GGUF has it so takes the type of the
    /// others, if none of its values changes.
    fn in_safetensors(
        &self,
        name: &str,
        parts: &[Part],
        stored: WeightFormat,
        offset: f32,
    ) -> Result<WeightFormat, ModelError> {
        let source = parts.first().map_or("", |part| part.tensor.as_str());
        let single = parts.iter().all(|part| {
            let vector = [part.num_rows(), part.cols].iter().filter(|len| **len > 1).count() < 2;
            vector || is_single(&part.tensor, &[2, 2])
        });
        if !single || stored != WeightFormat::F32 {
            return self.rules.in_safetensors(name, source, stored);
        }
        let embedding = self.checkpoint.tensor(&self.names.embedding()).map_or(stored, |view| view.format);
        let wanted = self.rules.matrices.unwrap_or(embedding);
        if !wanted.is_float() || wanted == WeightFormat::F32 {
            return Ok(WeightFormat::F32);
        }
        let cx = Compute::new(1);
        for part in parts {
            let exact = part.bytes(&cx, self.checkpoint, WeightFormat::F32, offset)?;
            let narrow = part.bytes(&cx, self.checkpoint, wanted, offset)?;
            let mut values = vec![0.0; part.num_rows() * part.cols];
            dequantize_row(wanted, &narrow, &mut values)?;
            if !values.iter().flat_map(|value| value.to_le_bytes()).eq(exact) {
                return Ok(WeightFormat::F32);
            }
        }
        Ok(wanted)
    }
}
