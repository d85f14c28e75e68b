//! What a decoder will take of the memory; must say of every matrix what [`Decoder::load`] does with it.

use super::{Decoder, MlpSpec, Names, Role};
use crate::{
    LoadOptions, ModelError, ModelSpec, RopeSpec, family,
    footprint::{Footprint, Sizes},
    weights::WeightSource,
};
use yantra_formats::Checkpoint;
use yantra_kernels::Compute;

impl Decoder {
    /// What the decoder of this checkpoint takes on this processor once it is loaded with these options; its
    /// [`Footprint::weight_bytes`] are [`Decoder::weight_bytes`].
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn footprint(checkpoint: &Checkpoint, cx: &Compute, options: LoadOptions) -> Result<Footprint, ModelError> {
        let (family, spec) = family::resolve(checkpoint)?;
        let source = WeightSource::new(checkpoint, options);
        let names = Names::new(checkpoint, family);
        let mut sizes = Sizes::new(&source, cx);
        for index in 0..spec.layers.len() {
            for (role, rows, cols) in matrices(&spec) {
                sizes.matrix(&format!("{}.weight", names.layer(index, role)), rows, cols)?;
            }
        }
        sizes.matrix(&names.head(&source), spec.vocab_size, spec.hidden_size)?;
        let embedding = source.tensor(&names.embedding(), &[spec.vocab_size, spec.hidden_size])?;
        let max_context = options.max_context.unwrap_or(spec.context_length);
        Ok(Footprint {
            weight_bytes: sizes.weight_bytes + embedding.data.len(),
            table_bytes: vector_bytes(checkpoint) + rope_bytes(&spec, max_context),
            step_bytes_per_token: step_bytes_per_token(&spec, &sizes),
            load_bytes: sizes.load_bytes,
        })
    }
}

fn matrices(spec: &ModelSpec) -> [(Role, usize, usize); 7] {
    let MlpSpec::Gated { intermediate_size, .. } = spec.mlp;
    let hidden = spec.hidden_size;
    [
        (Role::Query, spec.query_size(), hidden),
        (Role::Key, spec.kv_size(), hidden),
        (Role::Value, spec.kv_size(), hidden),
        (Role::Output, hidden, spec.query_size()),
        (Role::Gate, intermediate_size, hidden),
        (Role::Up, intermediate_size, hidden),
        (Role::Down, hidden, intermediate_size),
    ]
}

/// Norms and biases are kept in single precision.
fn vector_bytes(checkpoint: &Checkpoint) -> usize {
    let vectors = checkpoint.tensors().filter(|tensor| tensor.shape.len() == 1);
    vectors.map(|tensor| tensor.num_elements() * size_of::<f32>()).sum()
}

/// Cosines and sines of every position, once for each kind of rotation.
fn rope_bytes(spec: &ModelSpec, max_context: usize) -> usize {
    let mut distinct: Vec<RopeSpec> = Vec::new();
    for rope in spec.layers.iter().filter_map(|layer| layer.rope) {
        if !distinct.contains(&rope) {
            distinct.push(rope);
        }
    }
    distinct.iter().map(|rope| max_context * rope.rotary_dim * size_of::<f32>()).sum()
}

/// As [`super::Scratch`] has them.
fn step_bytes_per_token(spec: &ModelSpec, sizes: &Sizes<'_>) -> usize {
    let MlpSpec::Gated { intermediate_size, .. } = spec.mlp;
    let values = 2 * spec.hidden_size + 2 * spec.query_size() + 2 * spec.kv_size();
    let widest = spec.hidden_size.max(spec.query_size());
    values * size_of::<f32>() + sizes.activation_bytes(widest) + sizes.activation_bytes(intermediate_size)
}
