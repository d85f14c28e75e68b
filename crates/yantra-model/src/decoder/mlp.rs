//! The feed-forward block: with a gate, without one, or a mixture of gated experts.

use super::{
    adapter::{AdapterScratch, Changed, LayerAdapters, Site},
    cold::ColdExperts,
    layer::Norm,
    names::{Names, Role},
};
use crate::{
    ExpertsSpec, LayerSpec, MlpSpec, ModelError, ModelSpec,
    weights::{Linear, Place, WeightSource},
};
use yantra_kernels::{
    ActivationFn, ActivationKinds, Activations, Compute, GatedJob, GroupedGatedJob, GroupedJob, PackedLinear, Router,
    SortedAssignments, linear, linear_gated, linear_gated_grouped, linear_grouped, route, scale_rows,
    scatter_add_weighted, sigmoid,
};

/// The weights of a feed-forward block.
pub(super) enum Mlp {
    Plain { up: Linear, down: Linear },
    Gated(Gated),
    Experts(Box<Experts>),
}

/// `down(activation(gate(x)) * up(x))`.
pub(super) struct Gated {
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

/// A router and its experts.
pub(super) struct Experts {
    router: Linear,
    choice_bias: Option<Vec<f32>>,
    experts: Vec<Gated>,
    shared: Option<Gated>,
    shared_router: Option<Linear>,
}

/// Buffers of a mixture; they grow to the largest batch seen.
pub(super) struct ExpertScratch {
    /// Logits of every expert, `[num_tokens, num_experts]`; then of the shared one.
    logits: Vec<f32>,
    /// The experts of each token and their weights, `[num_tokens, top_k]`.
    chosen: Vec<u32>,
    weights: Vec<f32>,
    sorted: SortedAssignments,
    /// What experts read and what their last matrices read, sorted by expert.
    input: Activations,
    gated: Activations,
    /// What experts give, sorted by expert.
    rows: Vec<f32>,
    /// The sum of all, `[num_tokens, hidden_size]`.
    pub(super) mixed: Vec<f32>,
    /// What was chosen so far, if somebody wants to know.
    pub(super) log: Option<Vec<Routing>>,
    cold: ColdExperts,
    /// Empty between layers; their memory is kept.
    gated_jobs: Vec<GroupedGatedJob<'static>>,
    jobs: Vec<GroupedJob<'static>>,
}

/// Which experts the tokens of a layer went to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    /// The layer.
    pub layer: usize,
    /// Experts it has.
    pub num_experts: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// The experts of every token so far, `[num_tokens, top_k]`.
    pub chosen: Vec<u32>,
    /// Their weights.
    pub weights: Vec<f32>,
}

impl ExpertScratch {
    pub(super) fn new(kinds: ActivationKinds) -> Self {
        let (input, gated) = (Activations::new(kinds), Activations::new(kinds));
        let (sorted, chosen) = (SortedAssignments::default(), Vec::new());
        let (logits, weights, rows, mixed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (cold, gated_jobs, jobs) = (ColdExperts::default(), Vec::new(), Vec::new());
        Self { logits, chosen, weights, sorted, input, gated, rows, mixed, log: None, cold, gated_jobs, jobs }
    }

    /// Writes down what was chosen in a layer.
    fn note(&mut self, layer: usize, spec: &ExpertsSpec) {
        let Some(log) = &mut self.log else { return };
        let known = log.iter().position(|routing| routing.layer == layer);
        let known = known.unwrap_or_else(|| {
            let ExpertsSpec { num_experts, top_k, .. } = *spec;
            log.push(Routing { layer, num_experts, top_k, ..Routing::default() });
            log.len() - 1
        });
        log[known].chosen.extend_from_slice(&self.chosen);
        log[known].weights.extend_from_slice(&self.weights);
    }

    /// Bytes for each token of a step, but for activations.
    pub(super) fn bytes_per_token(spec: &ExpertsSpec, hidden_size: usize) -> usize {
        let ExpertsSpec { num_experts, top_k, .. } = *spec;
        (num_experts + (2 + 2 + hidden_size) * top_k + hidden_size) * size_of::<f32>()
    }
}

impl Mlp {
    pub(super) fn load(
        source: &WeightSource<'_>,
        cx: &Compute,
        spec: &ModelSpec,
        names: &Names<'_>,
        index: usize,
    ) -> Result<Self, ModelError> {
        let layer = &spec.layers[index];
        let matrix = |role| {
            let [rows, cols] = shape(spec, layer, role);
            source.linear(cx, &names.matrix(spec, index, role, rows), cols)
        };
        let gated =
            |gate, up, down| Ok::<_, ModelError>(Gated { gate: matrix(gate)?, up: matrix(up)?, down: matrix(down)? });
        let experts = match layer.mlp {
            MlpSpec::Plain { .. } => return Ok(Self::Plain { up: matrix(Role::Up)?, down: matrix(Role::Down)? }),
            MlpSpec::Gated { .. } => return gated(Role::Gate, Role::Up, Role::Down).map(Self::Gated),
            MlpSpec::Experts(experts) => experts,
        };
        let part = |expert: usize, role| {
            let [rows, cols] = shape(spec, layer, role);
            source.expert(cx, &names.stacked(index, role, (expert, experts.num_experts), rows), cols)
        };
        let expert = |expert| {
            let [gate, up] = [part(expert, Role::ExpertGate)?, part(expert, Role::ExpertUp)?];
            Ok::<_, ModelError>(Gated { gate, up, down: part(expert, Role::ExpertDown)? })
        };
        let bias = || source.vector(&names.choice_bias(index), experts.num_experts);
        let shared = || gated(Role::SharedGate, Role::SharedUp, Role::SharedDown);
        let weighed = experts.shared.is_some_and(|shared| shared.weighed);
        Ok(Self::Experts(Box::new(Experts {
            router: matrix(Role::Router)?,
            choice_bias: experts.choice_bias.then(bias).transpose()?,
            experts: (0..experts.num_experts).map(expert).collect::<Result<_, _>>()?,
            shared: experts.shared.map(|_| shared()).transpose()?,
            shared_router: weighed.then(|| matrix(Role::SharedRouter)).transpose()?,
        })))
    }

    /// The mixture, if it is one.
    pub(super) fn experts(&self) -> Option<&Experts> {
        if let Self::Experts(experts) = self { Some(experts) } else { None }
    }

    /// Bytes of one of the experts, if there are any.
    pub(super) fn expert_bytes(&self) -> usize {
        let expert = self.experts().and_then(|mixture| mixture.experts.first());
        expert.map_or(0, |expert| expert.matrices().map(PackedLinear::bytes).sum())
    }

    pub(super) fn matrices(&self) -> Box<dyn Iterator<Item = &PackedLinear> + '_> {
        match self {
            Self::Plain { up, down } => Box::new([&up.weight, &down.weight].into_iter()),
            Self::Gated(gated) => Box::new(gated.matrices()),
            Self::Experts(mixture) => {
                let Experts { router, experts, shared, shared_router, .. } = &**mixture;
                let routers = [router].into_iter().chain(shared_router).map(|linear| &linear.weight);
                Box::new(routers.chain(experts.iter().chain(shared).flat_map(Gated::matrices)))
            }
        }
    }
}

/// Where a block's matrices lie, with their columns; those of experts at the end.
pub(super) fn places(spec: &ModelSpec, names: &Names<'_>, index: usize) -> Vec<(Place, usize)> {
    let layer = &spec.layers[index];
    let place = |role| {
        let [rows, cols] = shape(spec, layer, role);
        (names.matrix(spec, index, role, rows), cols)
    };
    let experts = match layer.mlp {
        MlpSpec::Plain { .. } => return [Role::Up, Role::Down].map(place).into(),
        MlpSpec::Gated { .. } => return [Role::Gate, Role::Up, Role::Down].map(place).into(),
        MlpSpec::Experts(experts) => experts,
    };
    let of_expert = |expert| {
        [Role::ExpertGate, Role::ExpertUp, Role::ExpertDown].map(|role| {
            let [rows, cols] = shape(spec, layer, role);
            (names.stacked(index, role, (expert, experts.num_experts), rows), cols)
        })
    };
    let shared = experts.shared.map(|_| [Role::SharedGate, Role::SharedUp, Role::SharedDown].map(place));
    let weighed = experts.shared.filter(|shared| shared.weighed).map(|_| place(Role::SharedRouter));
    let routers = [place(Role::Router)].into_iter().chain(weighed);
    routers.chain(shared.into_iter().flatten()).chain((0..experts.num_experts).flat_map(of_expert)).collect()
}

/// Rows and columns of a matrix of the block.
pub(crate) fn shape(spec: &ModelSpec, layer: &LayerSpec, role: Role) -> [usize; 2] {
    let hidden = spec.hidden_size;
    let (inner, num_experts, shared) = match layer.mlp {
        MlpSpec::Plain { intermediate_size, .. } | MlpSpec::Gated { intermediate_size, .. } => {
            (intermediate_size, 0, 0)
        }
        MlpSpec::Experts(experts) => {
            let shared = experts.shared.map_or(0, |shared| shared.intermediate_size);
            (experts.intermediate_size, experts.num_experts, shared)
        }
    };
    match role {
        Role::Router => [num_experts, hidden],
        Role::SharedRouter => [1, hidden],
        Role::SharedGate | Role::SharedUp => [shared, hidden],
        Role::SharedDown => [hidden, shared],
        Role::Down | Role::ExpertDown => [hidden, inner],
        _ => [inner, hidden],
    }
}

impl Gated {
    fn matrices(&self) -> impl Iterator<Item = &PackedLinear> {
        [&self.gate, &self.up, &self.down].into_iter().map(|linear| &linear.weight)
    }

    fn job(&self, function: ActivationFn) -> GatedJob<'_> {
        GatedJob {
            gate: &self.gate.weight,
            gate_bias: self.gate.bias.as_deref(),
            up: &self.up.weight,
            up_bias: self.up.bias.as_deref(),
            function,
        }
    }

    /// Leaves what the last matrix reads in `out`.
    pub(super) fn inside(&self, cx: &Compute, function: ActivationFn, input: &Activations, out: &mut Activations) {
        linear_gated(cx, input, self.job(function), out);
    }

    /// As [`Self::inside`] with adapters: they need both products before these are joined.
    pub(super) fn inside_with(
        &self,
        cx: &Compute,
        function: ActivationFn,
        input: &Activations,
        adapters: LayerAdapters<'_>,
        scratch: &mut AdapterScratch,
        out: &mut Activations,
    ) {
        let (num_tokens, rows) = (input.num_tokens(), self.up.weight.rows());
        let (gate, up, buffer) = scratch.gated(num_tokens * rows);
        linear(cx, input, &mut [self.gate.job(gate), self.up.job(up)]);
        let products = [
            Changed { site: Site::Gate, base: &self.gate, out: &mut *gate },
            Changed { site: Site::Up, base: &self.up, out: &mut *up },
        ];
        adapters.change(cx, input, products, buffer);
        out.set_gated(cx, function, gate, up, num_tokens, rows);
    }
}

impl Experts {
    pub(super) fn len(&self) -> usize {
        self.experts.len()
    }

    fn are_in_file(&self) -> bool {
        self.experts.first().is_some_and(|expert| expert.up.weight.is_in_file())
    }

    /// Has the system read an expert.
    pub(super) fn will_need(&self, expert: usize) {
        self.experts[expert].matrices().for_each(PackedLinear::will_need);
    }

    /// Leaves the sum of what each token's experts gave in `scratch.mixed`. `input` is the normalised residual stream
    /// `hidden`; `gated` is a buffer.
    #[expect(clippy::too_many_arguments, reason = "the operands of a block")]
    pub(super) fn mix(
        &self,
        cx: &Compute,
        (layer, spec, next): (usize, &ExpertsSpec, Option<&Self>),
        norm: Option<&Norm>,
        hidden: &[f32],
        input: &Activations,
        gated: &mut Activations,
        scratch: &mut ExpertScratch,
    ) {
        let num_tokens = input.num_tokens();
        let width = hidden.len() / num_tokens.max(1);
        self.choose(cx, spec, input, scratch);
        scratch.note(layer, spec);
        if self.are_in_file() {
            scratch.cold.read_ahead(layer, (&scratch.chosen, spec.top_k), self, next);
        }
        scratch.mixed.resize(hidden.len(), 0.0);
        match &self.shared {
            Some(shared) => self.share(cx, spec, shared, input, gated, scratch),
            None => scratch.mixed.fill(0.0),
        }
        let ExpertScratch { weights, sorted, input, gated, rows, mixed, gated_jobs, jobs, .. } = scratch;
        rows.resize(num_tokens * spec.top_k * width, 0.0);
        match norm {
            _ if spec.weighs_input => weighed_input(cx, norm, hidden, weights, sorted, rows, input),
            Some(norm) => norm.rows(cx, hidden, sorted.tokens(), input),
            None => input.set_rows(cx, hidden, sorted.tokens(), width),
        }
        let mut inside: Vec<GroupedGatedJob<'_>> = recycle(std::mem::take(gated_jobs));
        inside.extend(sorted.used().map(|(expert, tokens)| {
            let gated = self.experts[expert].job(spec.activation);
            GroupedGatedJob { gated, tokens }
        }));
        linear_gated_grouped(cx, input, &inside, gated);
        *gated_jobs = recycle(inside);
        let mut rest = &mut rows[..];
        let mut outside: Vec<GroupedJob<'_>> = recycle(std::mem::take(jobs));
        outside.extend(sorted.used().map(|(expert, tokens)| {
            let down = &self.experts[expert].down;
            let (out, after) = std::mem::take(&mut rest).split_at_mut(tokens.len() * width);
            rest = after;
            GroupedJob { weight: &down.weight, tokens, bias: down.bias.as_deref(), out }
        }));
        linear_grouped(cx, gated, &mut outside);
        *jobs = recycle(outside);
        if spec.weighs_input {
            weights.fill(1.0);
        }
        scatter_add_weighted(cx, sorted, rows, weights, width, mixed);
    }

    fn choose(&self, cx: &Compute, spec: &ExpertsSpec, input: &Activations, scratch: &mut ExpertScratch) {
        let ExpertsSpec { num_experts, top_k, scoring, groups, normalize, scale, .. } = *spec;
        let num_tokens = input.num_tokens();
        let ExpertScratch { logits, chosen, weights, sorted, .. } = scratch;
        logits.resize(num_tokens * num_experts, 0.0);
        chosen.resize(num_tokens * top_k, 0);
        weights.resize(num_tokens * top_k, 0.0);
        linear(cx, input, &mut [self.router.job(logits)]);
        let choice_bias = self.choice_bias.as_deref();
        let router = Router { num_experts, top_k, scoring, choice_bias, groups, normalize, scale };
        route(cx, &router, logits, chosen, weights);
        sorted.sort(chosen, top_k, num_experts);
    }

    /// Leaves what the expert of all tokens gives in `scratch.mixed`.
    fn share(
        &self,
        cx: &Compute,
        spec: &ExpertsSpec,
        shared: &Gated,
        input: &Activations,
        gated: &mut Activations,
        scratch: &mut ExpertScratch,
    ) {
        let ExpertScratch { logits, mixed, .. } = scratch;
        shared.inside(cx, spec.activation, input, gated);
        linear(cx, gated, &mut [shared.down.job(mixed)]);
        if let Some(router) = &self.shared_router {
            logits.resize(input.num_tokens(), 0.0);
            linear(cx, input, &mut [router.job(logits)]);
            sigmoid(logits);
            scale_rows(cx, mixed, logits);
        }
    }
}

/// Empties a list for another lifetime of what is in it, keeping its memory: collecting in place does.
fn recycle<A, B>(mut list: Vec<A>) -> Vec<B> {
    list.clear();
    list.into_iter().map(|_| unreachable!("the list is empty")).collect()
}

/// Leaves what experts read in `out`, each row multiplied by its assignment's weight.
fn weighed_input(
    cx: &Compute,
    norm: Option<&Norm>,
    hidden: &[f32],
    weights: &[f32],
    sorted: &SortedAssignments,
    rows: &mut [f32],
    out: &mut Activations,
) {
    let width = rows.len() / weights.len().max(1);
    for (&token, row) in sorted.tokens().iter().zip(rows.chunks_exact_mut(width)) {
        row.copy_from_slice(&hidden[token as usize * width..][..width]);
    }
    if let Some(norm) = norm {
        norm.in_place(cx, rows);
    }
    for (weight, &place) in weights.iter().zip(sorted.places()) {
        rows[place as usize * width..][..width].iter_mut().for_each(|value| *value *= weight);
    }
    out.set(cx, rows, weights.len(), width);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emptied_lists_keep_their_memory() {
        let mut list: Vec<&str> = Vec::with_capacity(100);
        list.push("what they hold is dropped");
        let emptied: Vec<&'static str> = recycle(list);
        assert!(emptied.is_empty() && emptied.capacity() == 100);
    }
}
