//! Running a decoder on whole token sequences, and finding the files that tests need.

use std::path::PathBuf;
use yantra_formats::Checkpoint;
use yantra_kernels::{AttentionSequence, Compute, KvFormat, log_sum_exp};
use yantra_model::{Batch, Decoder, KvCache, LoadOptions, PAGE_TOKENS, Scratch};

/// A decoder with its cache, for one sequence at a time.
pub(crate) struct Runner {
    pub(crate) decoder: Decoder,
    pub(crate) compute: Compute,
    pub(crate) kv: KvCache,
    scratch: Scratch,
}

impl Runner {
    pub(crate) fn load(path: &std::path::Path, kv: KvFormat, context: usize) -> Self {
        Self::with_compute(path, kv, context, Compute::new(2))
    }

    pub(crate) fn with_compute(path: &std::path::Path, kv: KvFormat, context: usize, compute: Compute) -> Self {
        let checkpoint = Checkpoint::open(path).unwrap();
        let options = LoadOptions { max_context: Some(context), ..LoadOptions::default() };
        Self::with_options(&checkpoint, kv, context, options, compute)
    }

    pub(crate) fn with_options(
        checkpoint: &Checkpoint,
        kv: KvFormat,
        context: usize,
        options: LoadOptions<'_>,
        compute: Compute,
    ) -> Self {
        let decoder = Decoder::load(checkpoint, &compute, options).unwrap();
        let kv = KvCache::new(decoder.spec(), kv, context.div_ceil(PAGE_TOKENS)).unwrap();
        let scratch = decoder.scratch();
        Self { decoder, compute, kv, scratch }
    }

    /// Feeds `tokens` at `start..` of the one sequence; returns the logits of the rows from `first_row` on.
    pub(crate) fn feed(&mut self, tokens: &[u32], start: usize, first_row: usize) -> Vec<f32> {
        // Pages in descending order: a page table that is not the identity.
        let pages: Vec<u32> = (0..self.kv.num_pages() as u32).rev().collect();
        self.step(&[Span { tokens, start, pages: &pages }], first_row)
    }

    /// Feeds tokens of several sequences at once; returns the logits of the rows from `first_row` on.
    pub(crate) fn step(&mut self, spans: &[Span<'_>], first_row: usize) -> Vec<f32> {
        let (mut tokens, mut positions, mut slots, mut sequences) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for span in spans {
            let end = span.start + span.tokens.len();
            sequences.push(AttentionSequence {
                query_start: tokens.len(),
                query_len: span.tokens.len(),
                context_len: end,
                pages: span.pages,
            });
            tokens.extend_from_slice(span.tokens);
            positions.extend(span.start as u32..end as u32);
            slots.extend((span.start..end).map(|position| {
                let page = span.pages[position / PAGE_TOKENS] as usize;
                (page * PAGE_TOKENS + position % PAGE_TOKENS) as u32
            }));
        }
        let rows: Vec<u32> = (first_row as u32..tokens.len() as u32).collect();
        let (tokens, positions, slots) = (&tokens, &positions, &slots);
        let batch = Batch { tokens, positions, slots, sequences: &sequences, logit_rows: &rows, adapters: &[] };
        let mut logits = Vec::new();
        self.decoder.forward(&self.compute, &batch, &mut self.kv, &mut self.scratch, &mut logits).unwrap();
        logits
    }
}

/// Some tokens of a sequence, the first of them at `start`, and the pages that it is kept in.
pub(crate) struct Span<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) start: usize,
    pub(crate) pages: &'a [u32],
}

/// The shared test data, if it lies beside the project.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("YANTRA_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    found(root.join(path), "shared")
}

/// A file of the model cache, if it has been pulled.
pub(crate) fn model(path: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("YANTRA_MODELS").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        Some(cache?.join("yantra/models"))
    })?;
    found(cache.join(path), "models")
}

/// The path, if there is something. Where there is not, a test of it skips, and says so; unless `YANTRA_REQUIRE_DATA` asks
/// for this `kind` of data (`shared`, `models`, both with a comma between, or `1` for all), which makes it fail.
fn found(path: PathBuf, kind: &str) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var("YANTRA_REQUIRE_DATA").unwrap_or_default();
    let is_required = required.split(',').any(|word| word == kind || word == "1");
    assert!(!is_required, "{} is not there, and YANTRA_REQUIRE_DATA={required}", path.display());
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

pub(crate) fn log_probability(row: &[f32], token: u32) -> f64 {
    f64::from(row[token as usize]) - f64::from(log_sum_exp(row))
}
