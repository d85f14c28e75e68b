//! The formats weights are stored in: plain floats and the block-quantised formats of GGUF.
//!
//! A quantised row is a whole number of blocks; a block holds `block_len` values in `block_bytes` bytes. Layouts follow
//! the GGUF specification (ggml's `ggml-common.h`).

use crate::KernelError;
use std::{fmt, str::FromStr};

/// How the values of a weight matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, missing_docs, reason = "the field's own names")]
pub enum WeightFormat {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

impl WeightFormat {
    /// Every format, its name, the values in a block and the bytes of a block.
    const TABLE: [(Self, &'static str, usize, usize); 16] = [
        (Self::F32, "f32", 1, 4),
        (Self::F16, "f16", 1, 2),
        (Self::BF16, "bf16", 1, 2),
        (Self::Q4_0, "q4_0", 32, 18),
        (Self::Q4_1, "q4_1", 32, 20),
        (Self::Q5_0, "q5_0", 32, 22),
        (Self::Q5_1, "q5_1", 32, 24),
        (Self::Q8_0, "q8_0", 32, 34),
        (Self::Q2_K, "q2_k", 256, 84),
        (Self::Q3_K, "q3_k", 256, 110),
        (Self::Q4_K, "q4_k", 256, 144),
        (Self::Q5_K, "q5_k", 256, 176),
        (Self::Q6_K, "q6_k", 256, 210),
        (Self::IQ4_NL, "iq4_nl", 32, 18),
        (Self::IQ4_XS, "iq4_xs", 256, 136),
        (Self::MXFP4, "mxfp4", 32, 17),
    ];

    /// Every format.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::TABLE.iter().map(|row| row.0)
    }

    fn entry(self) -> &'static (Self, &'static str, usize, usize) {
        // The table lists every variant in declaration order (checked by a test).
        &Self::TABLE[self as usize]
    }

    /// The name used in commands and reports, in lower case.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// Values in one block (1 for plain floats).
    pub fn block_len(self) -> usize {
        self.entry().2
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.entry().3
    }

    /// Bytes of a row of `cols` values; `None` if `cols` is not a whole number of blocks or the size overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let blocks = cols / self.block_len();
        cols.is_multiple_of(self.block_len()).then(|| blocks.checked_mul(self.block_bytes())).flatten()
    }

    /// Whether values are stored as plain floats.
    pub fn is_float(self) -> bool {
        self.block_len() == 1
    }

    /// Mean bits per value.
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = KernelError;

    fn from_str(text: &str) -> Result<Self, KernelError> {
        let found = Self::TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(text));
        found.map(|row| row.0).ok_or_else(|| KernelError::UnknownFormat { given: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_declaration_order() {
        for format in WeightFormat::all() {
            assert_eq!(format.entry().0, format);
            assert_eq!(format.name().parse(), Ok(format));
        }
    }
}
