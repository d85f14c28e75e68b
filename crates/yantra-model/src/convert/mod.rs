//! Checkpoints from one format into the other.
//!
//! Nothing here knows of a family what running it does not know, too: tensors are found by the names and places that the
//! decoder finds them by, and the hyper-parameters that are written come from the [`ModelSpec`](crate::ModelSpec) that was read. What
//! formats differ in beyond names is a table (`kind`). Before anything is written, the destination's head is read again as
//! any checkpoint is, and must mean the same model: what the format can not express is found there, whatever it is.
//!
//! What is written is what llama.cpp's converter (`convert_hf_to_gguf.py`) writes: the same names, the same rows in the same
//! order, vectors and routers in single precision.

mod config;
mod kind;
mod layout;
mod metadata;
mod part;
mod plan;
mod same;
mod types;
mod write;

pub use types::TypeRules;
pub use write::Extra;

use crate::{ModelError, family};
use kind::Kind;
use part::Part;
use serde_json::Value;
use yantra_formats::{Checkpoint, Metadata};
use yantra_kernels::{Compute, WeightFormat};

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A GGUF file.
    Gguf,
    /// A directory with `config.json` and safetensors.
    HuggingFace,
}

/// What is to be written of a checkpoint.
#[derive(Debug)]
pub struct Conversion<'a> {
    checkpoint: &'a Checkpoint,
    settings: Settings,
    tensors: Vec<PlannedTensor>,
    left_out: Vec<String>,
    changes: Vec<String>,
}

#[derive(Debug)]
enum Settings {
    Gguf(Metadata),
    HuggingFace(Value),
}

/// A tensor of the destination.
#[derive(Debug)]
pub struct PlannedTensor {
    /// Its name there.
    pub name: String,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// Its type.
    pub format: WeightFormat,
    /// The tensors it is made of; none if it is made of hyper-parameters.
    pub sources: Vec<String>,
    /// What is done to them on the way.
    pub done: Vec<&'static str>,
    recipe: Recipe,
}

#[derive(Debug)]
enum Recipe {
    /// Rows one after another, something being added to every value.
    Rows { parts: Vec<Part>, offset: f32 },
    /// The only part, by columns.
    Columns(Part),
    /// Values that are at hand.
    Made(Vec<f32>),
}

impl PlannedTensor {
    /// Bytes it takes.
    pub fn num_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() / self.format.block_len() * self.format.block_bytes()
    }

    /// Makes it, and hands it out piece by piece.
    fn make(
        &self,
        cx: &Compute,
        checkpoint: &Checkpoint,
        mut out: impl FnMut(&[u8]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        match &self.recipe {
            Recipe::Rows { parts, offset } => {
                parts.iter().try_for_each(|part| out(&part.bytes(cx, checkpoint, self.format, *offset)?))
            }
            Recipe::Columns(part) => {
                let bytes = part.bytes(cx, checkpoint, self.format, 0.0)?;
                out(&part::transposed(&bytes, part.num_rows(), part.cols, self.format.block_bytes()))
            }
            Recipe::Made(values) => out(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()),
        }
    }
}

impl<'a> Conversion<'a> {
    /// Plans the conversion of a checkpoint.
    ///
    /// # Errors
    /// If the checkpoint is in that format already, its family is not in the other, or a tensor is missing or can not have
    /// the type asked for.
    pub fn plan(checkpoint: &'a Checkpoint, target: Target, rules: &TypeRules) -> Result<Self, ModelError> {
        let already = match (checkpoint, target) {
            (Checkpoint::Gguf(_), Target::Gguf) => Some("a GGUF file"),
            (Checkpoint::HuggingFace(_), Target::HuggingFace) => Some("a Hugging Face directory"),
            _ => None,
        };
        if let Some(already) = already {
            let message = format!(
                "'{}' is {already} already: it can be converted to the other format",
                checkpoint.path().display()
            );
            return Err(ModelError::Convert { message });
        }
        let (family, spec) = family::resolve(checkpoint)?;
        let (kind, written) = Kind::of(checkpoint, family, &spec)?;
        let plan::Plan { tensors, left_out } = plan::tensors(checkpoint, family, written, kind, &spec, rules)?;
        let settings = match target {
            Target::Gguf => Settings::Gguf(metadata::of(checkpoint, family, kind, &spec, &tensors)?),
            Target::HuggingFace => Settings::HuggingFace(config::of(checkpoint, kind, &spec, &tensors)?),
        };
        let mut conversion = Self { checkpoint, settings, tensors, left_out, changes: Vec::new() };
        conversion.changes = same::changes(&conversion, &spec)?;
        Ok(conversion)
    }

    /// The tensors that will be written, in order.
    pub fn tensors(&self) -> &[PlannedTensor] {
        &self.tensors
    }

    /// Tensors of the source that have no place in the destination.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// What the destination can not express and so means otherwise: settings with their values before and after.
    pub fn changes(&self) -> &[String] {
        &self.changes
    }

    /// Bytes of all tensors.
    pub fn num_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.num_bytes() as u64).sum()
    }
}
