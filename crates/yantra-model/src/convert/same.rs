//! Whether the destination means the same model, by reading it as any checkpoint is read.

use super::Conversion;
use crate::{
    ExpertsSpec, LayerSpec, MlpSpec, ModelError, ModelSpec, RopeScaling, RopeSpec, family, rotary,
    weights::{LoadOptions, WeightSource},
};
use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};
use yantra_formats::Checkpoint;

/// Relative difference of settings that went through another form: a root and its square, a quotient and its product.
const TOLERANCE: f64 = 1e-5;

/// A name for a hollow model, which goes with it.
struct Hollow(PathBuf);

impl Hollow {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(env::temp_dir().join(format!("yantra-convert-{}-{number}", std::process::id())))
    }
}

impl Drop for Hollow {
    fn drop(&mut self) {
        let path: &Path = &self.0;
        // A file that can not be removed is a hole of no size.
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
}

/// What the destination means otherwise than the source, whose specification is given.
pub(super) fn changes(conversion: &Conversion<'_>, before: &ModelSpec) -> Result<Vec<String>, ModelError> {
    let hollow = Hollow::new();
    conversion.write_hollow(&hollow.0)?;
    let written = Checkpoint::open(&hollow.0)?;
    let after = family::spec(&written)?;
    let mut changes = Changes::default();
    changes.of_model(before, &after);
    if before.layers.len() == after.layers.len() {
        for (index, (before_layer, after_layer)) in before.layers.iter().zip(&after.layers).enumerate() {
            changes.of_layer(index, before_layer, after_layer);
            let same = same_rotation(
                (conversion.checkpoint, before_layer.rope.as_ref()),
                (&written, after_layer.rope.as_ref()),
                before.context_length,
            )?;
            if !same {
                changes.add(index, "rotary embedding", &before_layer.rope, &after_layer.rope);
            }
        }
    }
    Ok(changes.found)
}

#[derive(Default)]
struct Changes {
    found: Vec<String>,
}

impl Changes {
    fn compare<T: fmt::Debug + PartialEq>(&mut self, what: &str, before: T, after: T) {
        if before != after {
            self.found.push(format!("{what}: {before:?} becomes {after:?}"));
        }
    }

    fn number(&mut self, what: &str, before: f32, after: f32) {
        if !close(before, after) {
            self.found.push(format!("{what}: {before} becomes {after}"));
        }
    }

    /// A setting of one layer; of the layers that it changes in, the first is named.
    fn add<T: fmt::Debug>(&mut self, layer: usize, what: &str, before: &T, after: &T) {
        let start = format!("{what} of layer ");
        if !self.found.iter().any(|change| change.starts_with(&start)) {
            self.found.push(format!("{start}{layer}: {before:?} becomes {after:?}"));
        }
    }

    fn of_model(&mut self, before: &ModelSpec, after: &ModelSpec) {
        let (ours, theirs) = (&before.attention, &after.attention);
        self.compare("vocabulary", before.vocab_size, after.vocab_size);
        self.compare("hidden size", before.hidden_size, after.hidden_size);
        self.compare("context length", before.context_length, after.context_length);
        self.compare("layers", before.layers.len(), after.layers.len());
        self.compare("learned positions", before.embedding.learned_positions, after.embedding.learned_positions);
        self.compare("norm of embeddings", before.embedding.norm, after.embedding.norm);
        self.number("factor on embeddings", before.embedding.scale, after.embedding.scale);
        self.compare("norm", before.norm.kind, after.norm.kind);
        self.number("epsilon of norms", before.norm.eps, after.norm.eps);
        self.compare("norms before blocks", before.block.pre_norms, after.block.pre_norms);
        self.compare("norms after blocks", before.block.post_norms, after.block.post_norms);
        self.compare("blocks side by side", before.block.parallel, after.block.parallel);
        self.number("factor on blocks", before.block.residual_scale, after.block.residual_scale);
        self.compare("heads", ours.num_heads, theirs.num_heads);
        self.compare("key/value heads", ours.num_kv_heads, theirs.num_kv_heads);
        self.compare("width of a head", ours.head_dim, theirs.head_dim);
        self.number("factor on scores", ours.scale, theirs.scale);
        self.compare("latent attention", ours.latent, theirs.latent);
        self.compare("norm of queries and keys", ours.qk_norm, theirs.qk_norm);
        self.compare("bound on queries, keys and values", ours.clip, theirs.clip);
        self.compare("soft cap on scores", ours.softcap, theirs.softcap);
        self.compare("linear biases", ours.alibi, theirs.alibi);
        self.compare("attention sinks", ours.sinks, theirs.sinks);
        self.number("factor on logits", before.logit_scale, after.logit_scale);
        self.compare("soft cap on logits", before.logit_softcap, after.logit_softcap);
    }

    fn of_layer(&mut self, index: usize, before: &LayerSpec, after: &LayerSpec) {
        if before.window != after.window {
            self.add(index, "window", &before.window, &after.window);
        }
        let same = match (before.mlp, after.mlp) {
            (MlpSpec::Experts(before), MlpSpec::Experts(after)) => {
                close(before.scale, after.scale) && before == ExpertsSpec { scale: before.scale, ..after }
            }
            (before, after) => before == after,
        };
        if !same {
            self.add(index, "feed-forward network", &before.mlp, &after.mlp);
        }
    }
}

fn close(before: f32, after: f32) -> bool {
    let (before, after) = (f64::from(before), f64::from(after));
    (before - after).abs() <= TOLERANCE * before.abs().max(after.abs())
}

/// Whether angles are the same in short contexts and in the longest.
fn same_rotation(
    (before_in, before): (&Checkpoint, Option<&RopeSpec>),
    (after_in, after): (&Checkpoint, Option<&RopeSpec>),
    context: usize,
) -> Result<bool, ModelError> {
    let (before, after) = match (before, after) {
        (Some(before), Some(after)) => (before, after),
        (before, after) => return Ok(before.is_none() == after.is_none()),
    };
    for length in [1, context] {
        let (ours, our_factor) = frequencies(before_in, before, length)?;
        let (theirs, their_factor) = frequencies(after_in, after, length)?;
        let same = ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(ours, theirs)| close(*ours, *theirs));
        if !same || !close(our_factor, their_factor) {
            return Ok(false);
        }
    }
    // A base that depends on the length is something else wherever lengths lie between.
    let dynamic = |rope: &RopeSpec| matches!(rope.scaling, RopeScaling::Dynamic { .. });
    Ok(dynamic(before) == dynamic(after))
}

fn frequencies(checkpoint: &Checkpoint, rope: &RopeSpec, length: usize) -> Result<(Vec<f32>, f32), ModelError> {
    let source = WeightSource::new(checkpoint, LoadOptions::default())?;
    let stored = match rope.scaling {
        RopeScaling::Stored => source.vector("rope_freqs.weight", rope.rotary_dim / 2)?,
        _ => Vec::new(),
    };
    Ok(rotary::frequencies(rope, length, &stored))
}
