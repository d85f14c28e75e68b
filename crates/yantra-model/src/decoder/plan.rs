//! What a decoder will take of the memory; must say of every matrix what [`Decoder::load`] does with it.

use super::{Decoder, latent::LatentScratch, layer, mlp::ExpertScratch, names::Names};
use crate::{
    LoadOptions, ModelError, ModelSpec, family,
    footprint::{Footprint, Sizes},
    quantized::is_part,
    rotary,
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
    pub fn footprint(checkpoint: &Checkpoint, cx: &Compute, options: LoadOptions<'_>) -> Result<Footprint, ModelError> {
        let (family, spec) = family::resolve(checkpoint)?;
        let source = WeightSource::new(checkpoint, options)?;
        let names = Names::new(checkpoint, family);
        let mut sizes = Sizes::new(&source, cx);
        for index in 0..spec.layers.len() {
            layer::count(&mut sizes, &source, &spec, &names, index)?;
        }
        sizes.matrix(&names.head(&spec), spec.hidden_size)?;
        let table = |name: &str, rows| source.tensor(name, &[rows, spec.hidden_size]).map(|view| view.data.len());
        let mut tables = table(&names.embedding(), spec.vocab_size)?;
        if spec.embedding.learned_positions {
            tables += table(&format!("{}.weight", names.positions()), spec.context_length)?;
        }
        let max_context = options.max_context.unwrap_or(spec.context_length);
        Ok(Footprint {
            weight_bytes: sizes.weight_bytes + tables,
            table_bytes: vector_bytes(checkpoint) + rotary::table_bytes(spec.layers.iter(), max_context),
            step_bytes_per_token: step_bytes_per_token(&spec, &sizes),
            load_bytes: sizes.load_bytes,
        })
    }
}

/// Norms and biases are kept in single precision.
fn vector_bytes(checkpoint: &Checkpoint) -> usize {
    let vectors = checkpoint.tensors().filter(|tensor| tensor.shape.len() == 1 && !is_part(&tensor.name));
    vectors.map(|tensor| tensor.num_elements() * size_of::<f32>()).sum()
}

/// As [`super::Scratch`] has them.
fn step_bytes_per_token(spec: &ModelSpec, sizes: &Sizes<'_>) -> usize {
    let values = 2 * spec.hidden_size + spec.query_size() + spec.attended_size() + 2 * spec.kv_size();
    let widest = spec.hidden_size.max(spec.output_size());
    let inner = spec.layers.iter().map(|layer| layer.mlp.intermediate_size()).max().unwrap_or(0);
    let experts = spec.experts().map(|experts| {
        let activations = sizes.activation_bytes(spec.hidden_size) + sizes.activation_bytes(experts.intermediate_size);
        ExpertScratch::bytes_per_token(&experts, spec.hidden_size) + experts.top_k * activations
    });
    let latent = spec.attention.latent.map_or(0, |latent| LatentScratch::bytes_per_token(spec, &latent, sizes));
    (values + spec.plain_width()) * size_of::<f32>()
        + sizes.activation_bytes(widest)
        + sizes.activation_bytes(inner)
        + experts.max().unwrap_or(0)
        + latent
}
