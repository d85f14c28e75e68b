//! The matrices that adapters change, and what adapters of both formats call them.

use super::super::{
    heads,
    layer::{self, Attention, Layer},
    mlp::{self, Gated, Mlp},
    names::Names,
};
use crate::{
    MlpSpec, ModelError, ModelSpec, family,
    weights::{Linear, Place},
};
use yantra_formats::{AdapterFile, Checkpoint};
use yantra_kernels::RopeStyle;

/// A matrix of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::decoder) enum Site {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

impl Site {
    pub(super) const COUNT: usize = 7;
    pub(super) const ALL: [Self; Self::COUNT] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// The layer's matrix, if it has it.
    pub(super) fn of(self, layer: &Layer) -> Option<&Linear> {
        let heads = match &layer.attention {
            Attention::Heads(heads) => Some(heads.linears()),
            Attention::Latent(_) => None,
        };
        let (gate, up, down) = match &layer.mlp {
            Mlp::Plain { up, down } => (None, Some(up), Some(down)),
            Mlp::Gated(Gated { gate, up, down }) => (Some(gate), Some(up), Some(down)),
            Mlp::Experts(_) => (None, None, None),
        };
        match self {
            Self::Query => heads.map(|[query, ..]| query),
            Self::Key => heads.map(|[_, key, _]| key),
            Self::Value => heads.map(|[.., value]| value),
            Self::Output => Some(&layer.output),
            Self::Gate => gate,
            Self::Up => up,
            Self::Down => down,
        }
    }
}

/// Where a layer's matrices lie in the checkpoint, by [`Site`].
pub(super) type Places = [Option<Place>; Site::COUNT];

/// The names of one layer's matrices in the checkpoint itself, and in the adapter with the rows of its second matrices.
pub(super) struct LayerSites {
    pub(super) base: Places,
    pub(super) adapter: Places,
}

/// Those of all layers.
pub(super) fn of_layers(checkpoint: &Checkpoint, adapter: &AdapterFile) -> Result<Vec<LayerSites>, ModelError> {
    let (family, spec) = family::resolve(checkpoint)?;
    let base = Names::new(checkpoint, family);
    let base_is_gguf = matches!(checkpoint, Checkpoint::Gguf(_));
    let is_gguf = matches!(adapter, AdapterFile::Gguf(_));
    let foreign = (base_is_gguf != is_gguf).then(|| Names::foreign(checkpoint, family));
    let permuted = foreign.is_some() && family.neighbours_in_gguf;
    let layers = (0..spec.layers.len()).map(|index| {
        let base = places(&spec, &base, index);
        let mut adapter = foreign.as_ref().map_or_else(|| base.clone(), |names| places(&spec, names, index));
        if permuted {
            for site in [Site::Query, Site::Key] {
                adapter[site as usize] = adapter[site as usize].take().map(|place| permute(place, &spec));
            }
        }
        LayerSites { base, adapter }
    });
    Ok(layers.collect())
}

fn places(spec: &ModelSpec, names: &Names<'_>, index: usize) -> Places {
    let mut places: Places = Default::default();
    if spec.attention.latent.is_none() {
        let [query, key, value] = heads::places(spec, names, index);
        for (site, place) in [(Site::Query, query), (Site::Key, key), (Site::Value, value)] {
            places[site as usize] = Some(place);
        }
    }
    places[Site::Output as usize] = Some(layer::output_place(spec, names, index));
    let sites: &[Site] = match spec.layers[index].mlp {
        MlpSpec::Plain { .. } => &[Site::Up, Site::Down],
        MlpSpec::Gated { .. } => &[Site::Gate, Site::Up, Site::Down],
        MlpSpec::Experts(_) => &[],
    };
    if !sites.is_empty() {
        for (site, (place, _)) in sites.iter().zip(mlp::places(spec, names, index)) {
            places[*site as usize] = Some(place);
        }
    }
    places
}

/// The rows of a foreign adapter in the order of the base: pairs that are rotated together are neighbours in GGUF, and half
/// a head apart elsewhere.
fn permute(place: Place, spec: &ModelSpec) -> Place {
    let (head, half) = (spec.attention.head_dim, spec.attention.head_dim / 2);
    let stored: Vec<usize> = place.rows.iter().cloned().flatten().collect();
    let base_is_gguf = spec.attention.rope_style == RopeStyle::Interleaved;
    let source = |row: usize| {
        let (first, at) = (row / head * head, row % head);
        first + if base_is_gguf { at % 2 * half + at / 2 } else { at % half * 2 + at / half }
    };
    let rows = (0..stored.len()).map(|row| stored[source(row)]).map(|row| row..row + 1).collect();
    Place { rows, ..place }
}
