//! Adapters of a running model: read and packed on whatever thread asks, while the engine goes on.
//!
//! The engine knows of adapters only by the requests that carry them ([`crate::Request::adapter`]), so nothing is swapped
//! in and nothing waits: an adapter is there once it is loaded, and gone once nobody holds it.

use super::memory;
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use yantra_formats::{AdapterFile, Checkpoint, FormatError};
use yantra_kernels::{Compute, CpuLevel};
use yantra_model::{Adapter, Decoder, ModelError};

/// An error of loading an adapter.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The files.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It does not fit the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It does not fit the memory.
    #[error("an adapter of {needed} bytes does not fit in the {free} bytes that are free")]
    Memory {
        /// What it takes.
        needed: u64,
        /// What is left, less what is promised to the model.
        free: u64,
    },
}

/// Loads adapters of one model; cheap to clone.
#[derive(Clone)]
pub struct AdapterLoader {
    inner: Arc<Inner>,
}

struct Inner {
    decoder: Arc<Decoder>,
    checkpoint: Checkpoint,
    level: CpuLevel,
    /// Tokens of the largest step.
    token_budget: usize,
    /// What was free when the model was loaded, less what was promised to it, if the system tells.
    free_bytes: Option<u64>,
    /// Those that may still be there.
    loaded: Mutex<Vec<Weak<Adapter>>>,
}

impl std::fmt::Debug for AdapterLoader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdapterLoader").field("model", &self.inner.checkpoint.path()).finish_non_exhaustive()
    }
}

impl AdapterLoader {
    /// Adapters of `decoder`, which was loaded from `checkpoint`; `promised` bytes of the free memory are its own.
    pub fn new(
        decoder: Arc<Decoder>,
        checkpoint: Checkpoint,
        level: CpuLevel,
        token_budget: usize,
        promised: u64,
    ) -> Self {
        let free_bytes = memory::available().map(|free| free.saturating_sub(promised));
        let loaded = Mutex::default();
        Self { inner: Arc::new(Inner { decoder, checkpoint, level, token_budget, free_bytes, loaded }) }
    }

    /// Loads the adapter at `path`, a PEFT directory or a GGUF file.
    ///
    /// # Errors
    /// If it can not be read, does not fit the model, or there is no memory for it.
    pub fn load(&self, path: &Path) -> Result<Arc<Adapter>, AdapterError> {
        let Inner { decoder, checkpoint, level, loaded, .. } = &*self.inner;
        let file = AdapterFile::open(path)?;
        // At most four bytes a weight.
        let weights: usize = file.tensors().map(|tensor| tensor.num_elements() * size_of::<f32>()).sum();
        self.check_memory(weights as u64)?;
        // One thread of its own: those of the engine's pool are in the middle of a step.
        let compute = Compute::with_level(1, *level).map_err(ModelError::from)?;
        let adapter = Arc::new(decoder.load_adapter(checkpoint, &file, &compute)?);
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|adapter| adapter.strong_count() > 0);
        loaded.push(Arc::downgrade(&adapter));
        Ok(adapter)
    }

    /// Bytes that all adapters take which are loaded or still in use, with the buffers of their steps.
    pub fn bytes(&self) -> u64 {
        let Inner { decoder, token_budget, loaded, .. } = &*self.inner;
        let loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let adapters: Vec<_> = loaded.iter().filter_map(Weak::upgrade).collect();
        let Some(rank) = adapters.iter().map(|adapter| adapter.rank()).max() else { return 0 };
        let weights: usize = adapters.iter().map(|adapter| adapter.bytes()).sum();
        (weights + token_budget * decoder.adapter_step_bytes(rank)) as u64
    }

    fn check_memory(&self, needed: u64) -> Result<(), AdapterError> {
        // The model's promise may be kept by now or not: what it was made of must hold both, and what there is the new one.
        let left = self.inner.free_bytes.map(|free| free.saturating_sub(self.bytes()));
        match left.into_iter().chain(memory::available()).min() {
            Some(free) if free < needed => Err(AdapterError::Memory { needed, free }),
            _ => Ok(()),
        }
    }
}
