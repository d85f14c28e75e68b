//! From a checkpoint to a decoder.

use super::{
    Decoder, Table,
    adapter::DecoderId,
    layer::{Layer, Norm},
    names::Names,
};
use crate::{AlibiSpec, EmbeddingSpec, LoadOptions, ModelError, ModelSpec, family, rotary, weights::WeightSource};
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, alibi_slopes};

impl Decoder {
    /// Reads the specification and packs all weights for the processor.
    ///
    /// # Errors
    /// If the architecture is unknown, a tensor is missing or has another shape, or memory runs out.
    pub fn load(checkpoint: &Checkpoint, cx: &Compute, options: LoadOptions<'_>) -> Result<Self, ModelError> {
        Self::load_adapted(checkpoint, cx, options, |_| ())
    }

    /// [`Decoder::load`] of another model than the checkpoint describes, to see what a choice does: `adapt` may change
    /// windows, rotations and factors, but no shapes.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn load_adapted(
        checkpoint: &Checkpoint,
        cx: &Compute,
        options: LoadOptions<'_>,
        adapt: impl FnOnce(&mut ModelSpec),
    ) -> Result<Self, ModelError> {
        let (family, mut spec) = family::resolve(checkpoint)?;
        adapt(&mut spec);
        let source = WeightSource::new(checkpoint, options)?.with_expert_file()?;
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
            id: DecoderId::new(),
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
}

fn slopes(alibi: AlibiSpec, num_heads: usize) -> Vec<f32> {
    let mut slopes = alibi_slopes(num_heads, alibi.max_bias);
    slopes.iter_mut().for_each(|slope| *slope *= alibi.scale);
    slopes
}
