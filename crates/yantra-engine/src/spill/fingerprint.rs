//! What the bits of a page depend on, besides its tokens.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use sha2::{Digest, Sha256};
use yantra_formats::{Checkpoint, RawTensor};
use yantra_kernels::{Compute, KvFormat, WeightFormat};
use yantra_model::{ModelSpec, PAGE_TOKENS};

use super::PageKey;

/// The fingerprint of a model as it is run: every byte of its weights, its shape, how weights and pages are stored, the
/// processor's level and this version. Where one of them differs, so may the bits, and no page is found.
///
/// Reads all weights; on as many threads as compute.
pub fn fingerprint(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    compute: &Compute,
    kv_format: KvFormat,
    quantize: Option<WeightFormat>,
) -> PageKey {
    let mut hash = Sha256::new();
    let level = compute.level().name();
    let version = env!("CARGO_PKG_VERSION");
    hash.update(format!("{version} {level} {kv_format:?} {quantize:?} {PAGE_TOKENS} {spec:?}"));
    for digest in tensor_digests(checkpoint, compute.num_threads()) {
        hash.update(digest);
    }
    PageKey(hash.finalize().into())
}

/// A digest per tensor, in the checkpoint's order.
fn tensor_digests(checkpoint: &Checkpoint, num_threads: usize) -> Vec<[u8; 32]> {
    let mut names: Vec<&str> = checkpoint.tensors().map(|tensor| &*tensor.name).collect();
    let weights = names.len();
    let others: Vec<RawTensor<'_>> = checkpoint.others().collect();
    names.extend(others.iter().map(|tensor| tensor.name));
    let next = AtomicUsize::new(0);
    let digests = Mutex::new(vec![[0; 32]; names.len()]);
    let work = || {
        loop {
            let at = next.fetch_add(1, Relaxed);
            let Some(&name) = names.get(at) else { return };
            let (about, data) = match (checkpoint.tensor(name), others.get(at.wrapping_sub(weights))) {
                (Some(tensor), _) => (format!("{name} {:?} {:?}", tensor.format, tensor.shape), tensor.data),
                // A part of a weight that another program quantised.
                (None, Some(tensor)) => (format!("{name} {} {:?}", tensor.dtype, tensor.shape), tensor.data),
                (None, None) => continue,
            };
            let digest = Sha256::new().chain_update(about).chain_update(data).finalize();
            digests.lock().unwrap_or_else(PoisonError::into_inner)[at] = digest.into();
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..num_threads {
            scope.spawn(work);
        }
        work();
    });
    digests.into_inner().unwrap_or_else(PoisonError::into_inner)
}
