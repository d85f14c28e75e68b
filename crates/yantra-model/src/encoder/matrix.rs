//! The matrices of an encoder: as the checkpoint has them, or rounded for dense products.

use crate::{
    ModelError,
    weights::{Linear, Place, WeightSource},
};
use std::str::FromStr;
use yantra_kernels::{
    ActivationFn, ActivationKind, ActivationKinds, Activations, Compute, CpuLevel, DenseLinear, DenseRows, DenseThen,
    DenseType, LinearJob, activate, dense, linear,
};

/// What the matrices of an encoder multiply in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncoderDtype {
    /// bfloat16 where the processor multiplies it and the checkpoint has float weights that are not to be quantised;
    /// else as [`EncoderDtype::F32`].
    #[default]
    Auto,
    /// Weights as they are stored; float ones meet activations in single precision.
    F32,
    /// Weights and activations rounded to bfloat16.
    Bf16,
    /// Weights and activations rounded to signed bytes, with a scale per row of weights and per 128 values of a token.
    Int8,
}

impl EncoderDtype {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Auto, "auto"), (Self::F32, "f32"), (Self::Bf16, "bf16"), (Self::Int8, "int8")];

    /// The name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(dtype, _)| *dtype == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for EncoderDtype {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        let found = Self::ALL.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        found.map(|(dtype, _)| *dtype).ok_or_else(|| ModelError::Unsupported {
            feature: format!("type `{text}` of an embedding model (expected auto, f32, bf16 or int8)"),
        })
    }
}

/// What the matrices become, of which `name` is one; `None`: they stay as they are.
pub(super) fn dense_type(source: &WeightSource<'_>, level: CpuLevel, name: &str) -> Option<DenseType> {
    match source.options().encoder_dtype {
        EncoderDtype::F32 => None,
        EncoderDtype::Bf16 => Some(DenseType::Bf16),
        EncoderDtype::Int8 => Some(DenseType::Int8),
        EncoderDtype::Auto => {
            let is_float = source.stored_format(&format!("{name}.weight")).is_some_and(|format| format.is_float());
            let wanted = is_float && source.options().quantize.is_none();
            (wanted && DenseType::Bf16.is_native(level)).then_some(DenseType::Bf16)
        }
    }
}

/// A matrix with its bias.
pub(super) enum Matrix {
    Packed(Linear),
    Dense(DenseLinear),
}

impl Matrix {
    pub(super) fn load(
        source: &WeightSource<'_>,
        cx: &Compute,
        dense: Option<DenseType>,
        place: &Place,
        cols: usize,
    ) -> Result<Self, ModelError> {
        let Some(dense) = dense else { return source.linear(cx, place, cols).map(Self::Packed) };
        let (values, bias) = (source.floats(cx, place, cols)?, source.bias(place)?);
        Ok(Self::Dense(DenseLinear::pack(cx.level(), dense, place.num_rows(), cols, &values, bias.as_deref())?))
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Packed(linear) => linear.weight.bytes(),
            Self::Dense(weight) => weight.bytes(),
        }
    }

    /// The product with `input`, `[num_tokens, rows]`, and what comes `then`.
    pub(super) fn multiply(&self, cx: &Compute, input: &Input, out: &mut [f32], then: DenseThen) {
        match (self, input) {
            (Self::Dense(weight), Input::Dense(x)) => dense(cx, x, weight, out, then),
            (Self::Packed(Linear { weight, bias }), Input::Packed(x)) => {
                let accumulate = then == DenseThen::Add;
                linear(cx, x, &mut [LinearJob { weight, bias: bias.as_deref(), out: &mut *out, accumulate }]);
                if then == DenseThen::Gelu {
                    activate(cx, ActivationFn::Gelu, out);
                }
            }
            _ => unreachable!("all matrices of an encoder are loaded alike"),
        }
    }
}

/// Activations in the form that all matrices of the encoder read.
pub(super) enum Input {
    Packed(Activations),
    Dense(DenseRows),
}

impl Input {
    pub(super) fn new<'a>(
        level: CpuLevel,
        dense: Option<DenseType>,
        matrices: impl Iterator<Item = &'a Matrix>,
    ) -> Self {
        if let Some(dense) = dense {
            return Self::Dense(DenseRows::new(level, dense));
        }
        let mut kinds = ActivationKinds { float: false, int8: false };
        for matrix in matrices {
            let Matrix::Packed(linear) = matrix else { continue };
            match linear.weight.activation_kind() {
                ActivationKind::Float => kinds.float = true,
                ActivationKind::Int8 => kinds.int8 = true,
            }
        }
        Self::Packed(Activations::new(kinds))
    }

    /// Takes `x`, `[num_tokens, cols]`.
    pub(super) fn set(&mut self, cx: &Compute, x: &[f32], num_tokens: usize, cols: usize) {
        match self {
            Self::Packed(input) => input.set(cx, x, num_tokens, cols),
            Self::Dense(input) => input.set(cx, x, num_tokens, cols),
        }
    }
}
