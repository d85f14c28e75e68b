//! Layer normalisation, with or without a bias.

use crate::{ModelError, weights::WeightSource};
use yantra_kernels::{Compute, layer_norm};

pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl Norm {
    /// `name` comes without `.weight`.
    pub(super) fn load(source: &WeightSource<'_>, name: &str, len: usize, eps: f32) -> Result<Self, ModelError> {
        let weight = source.vector(&format!("{name}.weight"), len)?;
        Ok(Self { weight, bias: source.optional_vector(&format!("{name}.bias"), len)?, eps })
    }

    /// Normalises each row of `x`, `[_, width]`.
    pub(super) fn apply(&self, cx: &Compute, x: &[f32], out: &mut [f32]) {
        let cols = self.weight.len();
        layer_norm(cx, x, &self.weight, self.bias.as_deref(), self.eps, out, x.len() / cols, cols);
    }
}
