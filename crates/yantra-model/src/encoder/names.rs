//! Where an encoder's tensors lie in a checkpoint.

use crate::{
    EncoderSpec, MlpSpec,
    weights::{Place, WeightSource},
};
use std::iter;

/// Tensor names of a family in one of the two formats, without `.weight` or `.bias`.
///
/// A name given for several parts is one tensor, which has the rows of one part after those of the other.
#[derive(Clone, Copy)]
pub(crate) struct EncoderNames {
    /// What stands before all names but the head's where the encoder is a part of a larger model.
    pub(crate) prefix: &'static str,
    pub(crate) words: &'static str,
    pub(crate) positions: &'static str,
    pub(crate) token_types: &'static str,
    pub(crate) embedding_norm: &'static str,
    /// After the last layer, of families that have one.
    pub(crate) output_norm: &'static str,
    /// The list of layers; the names that follow are below one of them.
    pub(crate) layers: &'static str,
    /// Query, key and value.
    pub(crate) projections: [&'static str; 3],
    pub(crate) output: &'static str,
    pub(crate) attention_norm: &'static str,
    /// What is activated, and what it is multiplied with if there is a gate.
    pub(crate) inner: &'static [&'static str],
    pub(crate) down: &'static str,
    pub(crate) mlp_norm: &'static str,
    pub(crate) head: HeadNames,
}

/// Names of a head that gives a score.
#[derive(Clone, Copy)]
pub(crate) struct HeadNames {
    pub(crate) dense: &'static str,
    pub(crate) norm: &'static str,
    pub(crate) output: &'static str,
}

/// The names of one checkpoint.
pub(super) struct Names {
    names: EncoderNames,
    prefix: &'static str,
}

impl Names {
    pub(super) fn new(source: &WeightSource<'_>, names: EncoderNames) -> Self {
        let prefix = names.prefix_in(|name| source.has(name));
        Self { names, prefix }
    }

    pub(super) fn head(&self) -> HeadNames {
        self.names.head
    }

    /// A tensor of the whole model.
    pub(super) fn global(&self, name: fn(&EncoderNames) -> &'static str) -> String {
        format!("{}{}", self.prefix, name(&self.names))
    }

    /// A tensor of a layer.
    pub(super) fn layer(&self, index: usize, name: fn(&EncoderNames) -> &'static str) -> String {
        self.below(index, name(&self.names))
    }

    fn below(&self, index: usize, name: &str) -> String {
        format!("{}{}.{index}.{name}", self.prefix, self.names.layers)
    }

    /// Matrices of a layer with their columns: query, key, value, output, those inside the network, and its last.
    pub(super) fn matrices(&self, spec: &EncoderSpec, index: usize) -> Vec<(Place, usize)> {
        let EncoderNames { projections, output, inner, down, .. } = self.names;
        let (hidden, width) = (spec.hidden_size, spec.layers[index].mlp.intermediate_size());
        let gated = matches!(spec.layers[index].mlp, MlpSpec::Gated { .. });
        let inner = &inner[..1 + usize::from(gated)];
        let parts = |names: &[&str], rows| -> Vec<(Place, usize)> {
            (0..names.len()).map(|part| (self.part(index, names, part, rows), hidden)).collect()
        };
        let mut all = parts(&projections, hidden);
        all.extend(parts(&[output], hidden));
        all.extend(parts(inner, width));
        all.push((Place::whole(&self.below(index, down), hidden), width));
        all
    }

    /// The rows of one of `names`, each of which has so many, in the tensor that may hold others of them, too.
    fn part(&self, index: usize, names: &[&str], part: usize, rows: usize) -> Place {
        let same = |other: &&&str| **other == names[part];
        let before = names[..part].iter().filter(same).count() * rows;
        let stored_rows = names.iter().filter(same).count() * rows;
        let own = iter::once(before..before + rows).collect();
        Place { stored_rows, rows: own, ..Place::whole(&self.below(index, names[part]), rows) }
    }
}

impl EncoderNames {
    /// The prefix, if there is a table of words with it.
    fn prefix_in(&self, has: impl Fn(&str) -> bool) -> &'static str {
        let prefixed = !self.prefix.is_empty() && has(&format!("{}{}.weight", self.prefix, self.words));
        if prefixed { self.prefix } else { "" }
    }

    /// The name of a tensor of the whole model, in a checkpoint that `has` tensors.
    pub(crate) fn find(&self, has: impl Fn(&str) -> bool, name: &str) -> String {
        format!("{}{name}.weight", self.prefix_in(has))
    }
}
