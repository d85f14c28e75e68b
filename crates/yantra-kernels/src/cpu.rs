//! What the processor can do, found once at run time.
//!
//! Every operation has a scalar specification and, for the levels below, faster versions. A level is chosen when a
//! [`crate::Compute`] is made and never by compile-time features, so that one binary runs everywhere.

use crate::KernelError;
use std::{fmt, str::FromStr};

/// An instruction-set level that kernels are written for, slowest first on each architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CpuLevel {
    /// Portable Rust: the specification every other level is tested against.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL, without VNNI.
    Avx512,
    /// x86-64 with AVX-512 and VNNI.
    Avx512Vnni,
    /// x86-64 with AVX-512, VNNI and BF16.
    Avx512Bf16,
    /// AArch64 with NEON.
    Neon,
}

impl CpuLevel {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Scalar, "scalar"),
        (Self::Avx2, "avx2"),
        (Self::Avx512, "avx512"),
        (Self::Avx512Vnni, "avx512vnni"),
        (Self::Avx512Bf16, "avx512bf16"),
        (Self::Neon, "neon"),
    ];

    /// The fastest level this processor supports.
    pub fn detect() -> Self {
        let fastest = Self::ALL.iter().rev().find(|(level, _)| level.is_supported());
        fastest.map_or(Self::Scalar, |(level, _)| *level)
    }

    /// Every level this processor supports, slowest first.
    pub fn supported() -> Vec<Self> {
        Self::ALL.iter().map(|(level, _)| *level).filter(|level| level.is_supported()).collect()
    }

    /// Whether this processor can run kernels of this level.
    pub fn is_supported(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Self::Avx512.is_supported() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512Vnni.is_supported() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            _ => false,
        }
    }

    /// The level's name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(level, _)| *level == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for CpuLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CpuLevel {
    type Err = KernelError;

    fn from_str(text: &str) -> Result<Self, KernelError> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(level, _)| *level).ok_or_else(|| KernelError::UnknownCpuLevel { given: text.to_owned() })
    }
}
