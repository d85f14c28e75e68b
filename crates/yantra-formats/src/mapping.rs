//! The bytes of a file: memory-mapped, so that a model larger than memory opens at once and its pages are shared between
//! processes. This is the only module of the crate with `unsafe` code.

use crate::FormatError;
use memmap2::Mmap;
use std::{fs::File, ops::Deref, path::Path};

/// How a mapped file is about to be read: a hint to the operating system, without effect where it offers none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessPattern {
    /// No particular order.
    Normal,
    /// From beginning to end, as when weights are repacked: read ahead further, drop pages sooner.
    Sequential,
    /// Here and there, as when single rows of an embedding are looked up: do not read ahead.
    Random,
    /// All of it, soon: start reading now.
    WillNeed,
}

/// The bytes of a file, mapped or held.
#[derive(Debug)]
pub(crate) enum Mapping {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Mapping {
    /// Maps `path`. An empty file gives empty bytes.
    pub(crate) fn open(path: &Path) -> Result<Self, FormatError> {
        let file = File::open(path).map_err(|source| FormatError::io("open", path, source))?;
        let metadata = file.metadata().map_err(|source| FormatError::io("read", path, source))?;
        if metadata.len() == 0 {
            // The operating systems differ in whether an empty file can be mapped.
            return Ok(Self::Owned(Vec::new()));
        }
        #[expect(unsafe_code, reason = "mapping a file is unsafe by nature")]
        // SAFETY: the map is read-only and lives as long as the slices handed out. The remaining hazard, another process
        // changing or cutting the file while it is mapped, is the accepted price of mapping model files (llama.cpp and
        // safetensors pay it too): parsed tables are copied out, and weights are read as plain numbers, for which every
        // bit pattern is valid.
        let map = unsafe { Mmap::map(&file) };
        map.map(Self::Mapped).map_err(|source| FormatError::io("map", path, source))
    }

    /// Passes the hint on. Failure is no error: hints change speed, not results.
    pub(crate) fn advise(&self, pattern: AccessPattern) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            let advice = match pattern {
                AccessPattern::Normal => memmap2::Advice::Normal,
                AccessPattern::Sequential => memmap2::Advice::Sequential,
                AccessPattern::Random => memmap2::Advice::Random,
                AccessPattern::WillNeed => memmap2::Advice::WillNeed,
            };
            let _ = map.advise(advice);
        }
        #[cfg(not(unix))]
        let _ = pattern;
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}
