//! Matrix products of activations with weights of every format: the operation that takes nearly all the time.
//!
//! Weights are repacked once ([`PackedLinear::pack`]) into tiles of as many rows as the processor's registers have
//! lanes, in about the bytes they have in the file; `layout` says how. Block-quantised weights meet int8 activations,
//! float weights f32 ones; [`crate::Activations`] holds both forms. [`linear`] computes any number of products of the
//! same activations in one fork.
//!
//! Every output element is computed in the same order, whatever the number of tokens, threads or the place in the
//! batch: its bits depend on the weights, its own activations and the CPU level only.

mod dense;
mod epilogue;
mod extract;
mod file;
mod float;
mod gated;
mod grouped;
mod layout;
mod low_rank;
mod pack;
mod quantized;
mod scratch;
pub(crate) mod simd;
#[cfg(test)]
mod tests;

use crate::{Activations, Compute, KernelError, WeightFormat, buffer::Buffer};
pub use dense::{DenseLinear, DenseRows, DenseThen, DenseType, dense};
use epilogue::Epilogue;
pub use file::WeightFile;
use float::FloatUnits;
pub use gated::{GatedJob, linear_gated};
pub use grouped::{GroupedGatedJob, GroupedJob, linear_gated_grouped, linear_grouped};
pub(crate) use layout::GROUP;
use layout::with_layout;
pub use low_rank::{LowRankJob, add_low_rank};
pub(crate) use quantized::Tokens;
use quantized::{Product, Tiles};
use scratch::{Scratch, UNIT_TILES};
use simd::Isa;
use std::{marker::PhantomData, ops::Range};

/// The form of activations that a weight reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationKind {
    /// Single precision, for float weights.
    Float,
    /// Signed bytes with a scale per group of 32, for block-quantised weights.
    Int8,
}

/// A weight matrix `[rows, cols]` (`[out_features, in_features]`) repacked for a CPU level.
pub struct PackedLinear {
    format: WeightFormat,
    rows: usize,
    cols: usize,
    isa: Isa,
    lanes: usize,
    tile_bytes: usize,
    buffer: Buffer,
    in_file: bool,
}

impl PackedLinear {
    /// Packs `rows` rows of `cols` values that lie one after another in `data`, in parallel.
    ///
    /// # Errors
    /// If `cols` is not a whole number of blocks, `data` does not have the size of the matrix, or memory runs out.
    pub fn pack(
        cx: &Compute,
        format: WeightFormat,
        rows: usize,
        cols: usize,
        data: &[u8],
    ) -> Result<Self, KernelError> {
        Self::pack_for(cx, Isa::of(cx.level()), format, rows, cols, data, Buffer::zeroed)
    }

    fn pack_for(
        cx: &Compute,
        isa: Isa,
        format: WeightFormat,
        rows: usize,
        cols: usize,
        data: &[u8],
        allocate: fn(usize, &'static str) -> Result<Buffer, KernelError>,
    ) -> Result<Self, KernelError> {
        let block = format.block_len();
        let row_bytes = format.row_bytes(cols).ok_or(KernelError::Block { cols, format, block })?;
        let expected = rows.saturating_mul(row_bytes);
        if data.len() != expected {
            return Err(KernelError::Shape { what: "bytes of a weight matrix", given: data.len(), expected });
        }
        let what = "packed weights";
        let too_large = KernelError::OutOfMemory { bytes: usize::MAX, what };
        let lanes = isa.lanes();
        let tile_bytes = layout::tile_bytes(format, lanes, cols).ok_or(too_large.clone())?;
        let num_tiles = rows.div_ceil(lanes);
        let bytes = num_tiles.checked_mul(tile_bytes).ok_or(too_large)?;
        let mut buffer = allocate(bytes, what)?;
        if bytes > 0 {
            let source = pack::Source { format, rows, row_bytes, data, lanes, tile_bytes };
            source.pack(cx, buffer.as_mut_slice());
        }
        Ok(Self { format, rows, cols, isa, lanes, tile_bytes, buffer, in_file: false })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format the weights had, and still have in precision.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Bytes that the packed weights take of memory, or of a file.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The form of activations [`linear`] reads for this weight.
    pub fn activation_kind(&self) -> ActivationKind {
        if self.format.is_float() { ActivationKind::Float } else { ActivationKind::Int8 }
    }

    fn num_tiles(&self) -> usize {
        self.rows.div_ceil(self.lanes)
    }

    fn num_units(&self) -> usize {
        self.num_tiles().div_ceil(UNIT_TILES)
    }

    /// Multiply-adds per token of one unit.
    fn unit_work(&self) -> usize {
        UNIT_TILES * self.lanes * self.cols
    }

    /// Fetches what a product reads first of a unit.
    fn fetch(&self, unit: usize) {
        const BYTES: usize = 2 << 10;
        let start = self.buffer.as_ptr().wrapping_add(unit * UNIT_TILES * self.tile_bytes);
        for line in (0..BYTES).step_by(64) {
            crate::simd::Simd::prefetch(crate::simd::Portable::<8>, start.wrapping_add(line));
        }
    }

    /// Rows `units` of the product with tokens `tokens`.
    fn multiply(&self, x: &Activations, tokens: Range<usize>, units: Range<usize>, epilogue: Epilogue<'_>) {
        if self.format.is_float() {
            let rows = &x.float()[tokens.start * self.cols..tokens.end * self.cols];
            self.multiply_floats(rows, tokens.len(), units, epilogue);
        } else {
            self.multiply_quantized(x, tokens, units, epilogue);
        }
    }

    /// Rows `units` of the product of float weights with `x`, `[num_tokens, cols]`.
    fn multiply_floats(&self, x: &[f32], num_tokens: usize, units: Range<usize>, epilogue: Epilogue<'_>) {
        let acc_len = num_tokens * UNIT_TILES * self.lanes;
        scratch::with(float::panel_bytes(self.lanes), acc_len, |scratch| {
            self.multiply_float(x, num_tokens, units, scratch, epilogue);
        });
    }

    fn multiply_float(
        &self,
        x: &[f32],
        num_tokens: usize,
        units: Range<usize>,
        scratch: Scratch<'_>,
        epilogue: Epilogue<'_>,
    ) {
        macro_rules! run {
            ($format:ty) => {
                self.isa.dispatch(FloatUnits::<$format> {
                    weight: self.buffer.as_ptr(),
                    tile_bytes: self.tile_bytes,
                    num_tiles: self.num_tiles(),
                    units,
                    x: x.as_ptr(),
                    cols: self.cols,
                    num_tokens,
                    scratch,
                    epilogue,
                    format: PhantomData,
                })
            };
        }
        match self.format {
            WeightFormat::F16 => run!(float::Half),
            WeightFormat::BF16 => run!(float::Brain),
            _ => run!(float::Single),
        }
    }

    fn multiply_quantized(&self, x: &Activations, tokens: Range<usize>, units: Range<usize>, epilogue: Epilogue<'_>) {
        let weight = Tiles { start: self.buffer.as_ptr(), tile_bytes: self.tile_bytes };
        let num_tiles = self.num_tiles();
        let tiles = units.start * UNIT_TILES..(units.end * UNIT_TILES).min(num_tiles);
        let tokens = x.int8_tokens(tokens);
        let isa = self.isa;
        with_layout!(self.format, Q, C, RUN, PARTS => {
            let layout = PhantomData;
            isa.dispatch(Product::<Q, C, RUN, PARTS> { weight, tiles, tokens, epilogue, fetch: true, layout });
        });
    }
}

/// One product of [`linear`]: `out = x * weight^T`.
pub struct LinearJob<'a> {
    /// The weight, `[rows, cols]`.
    pub weight: &'a PackedLinear,
    /// Added to every token's result, `[rows]`.
    pub bias: Option<&'a [f32]>,
    /// The result, `[num_tokens, rows]`.
    pub out: &'a mut [f32],
    /// Add to `out` instead of overwriting it.
    pub accumulate: bool,
}

/// A job as the threads share it.
#[derive(Clone, Copy)]
struct SharedJob<'a> {
    weight: &'a PackedLinear,
    bias: Option<&'a [f32]>,
    out: *mut f32,
    accumulate: bool,
}

// SAFETY: threads write disjoint rows or tokens of `out`.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Sync for SharedJob<'_> {}

/// Jobs of one fork: a layer's query, key and value, or gate and up, with room to spare.
const JOBS_PER_FORK: usize = 8;

/// Computes every job's product with the activations `x`, `[num_tokens, cols]`, in one fork over the pool.
///
/// # Panics
/// If shapes disagree or `x` does not hold the form of activations a weight reads.
pub fn linear(cx: &Compute, x: &Activations, jobs: &mut [LinearJob<'_>]) {
    for job in jobs.iter() {
        assert_eq!(job.weight.cols, x.cols(), "columns of a weight and of its activations");
        assert_eq!(job.out.len(), x.num_tokens() * job.weight.rows, "values of a linear output");
        assert!(job.bias.is_none_or(|bias| bias.len() == job.weight.rows), "values of a linear bias");
        assert!(x.has(job.weight.activation_kind()), "activations were not made for {} weights", job.weight.format);
    }
    if x.num_tokens() == 0 {
        return;
    }
    for jobs in jobs.chunks_mut(JOBS_PER_FORK) {
        let mut shared = [const { None }; JOBS_PER_FORK];
        for (shared, job) in shared.iter_mut().zip(jobs) {
            let (weight, bias, out, accumulate) = (job.weight, job.bias, job.out.as_mut_ptr(), job.accumulate);
            *shared = Some(SharedJob { weight, bias, out, accumulate });
        }
        fork(cx, x, &shared);
    }
}

/// Activation bytes of a chunk: half of a second-level cache.
const CHUNK_BYTES: usize = 256 << 10;
/// Multiply-adds worth a task: about half a microsecond.
const TASK_WORK: usize = 16 << 10;
/// Multiply-adds worth waking other threads for.
const FORK_WORK: usize = 128 << 10;

/// Multiply-adds that work on some tokens counts as, given those for one. A few tokens cost as much as one: the weights
/// have to be read.
fn chunk_work(work_per_token: usize, num_tokens: usize) -> usize {
    work_per_token * num_tokens.min(2 + num_tokens / 2)
}

/// How a fork is cut into tasks: chunks of tokens times ranges of units (pairs of tiles, numbered through all jobs).
struct Split {
    num_tokens: usize,
    tokens_per_chunk: usize,
    num_chunks: usize,
    num_units: usize,
    num_ranges: usize,
}

impl Split {
    /// Chosen for speed only: results do not depend on it.
    fn new(num_threads: usize, x: &Activations, num_units: usize, work_per_token: usize) -> Self {
        let num_tokens = x.num_tokens();
        let most = (CHUNK_BYTES / x.cols().max(1)).clamp(64, 256);
        let mut num_chunks = num_tokens.div_ceil(most);
        // Many threads and few rows: smaller chunks of tokens.
        while num_chunks * num_units < 4 * num_threads && num_tokens.div_ceil(num_chunks) > 32 {
            num_chunks *= 2;
        }
        let tokens_per_chunk = num_tokens.div_ceil(num_chunks);
        let num_chunks = num_tokens.div_ceil(tokens_per_chunk);
        let work = chunk_work(work_per_token, num_tokens);
        let wanted = (work / TASK_WORK).min(num_threads * 8).div_ceil(num_chunks);
        let num_ranges = if num_threads == 1 || work < FORK_WORK { 1 } else { wanted.clamp(1, num_units.max(1)) };
        Self { num_tokens, tokens_per_chunk, num_chunks, num_units, num_ranges }
    }

    /// Runs `task(tokens, units)` for every chunk of tokens and range of units, in parallel.
    fn run(&self, cx: &Compute, task: &(dyn Fn(Range<usize>, Range<usize>) + Sync)) {
        cx.run(self.num_chunks * self.num_ranges, &|index| {
            let (chunk, range) = (index / self.num_ranges, index % self.num_ranges);
            let first = chunk * self.tokens_per_chunk;
            let tokens = first..(first + self.tokens_per_chunk).min(self.num_tokens);
            let bound = |range: usize| range * self.num_units / self.num_ranges;
            task(tokens, bound(range)..bound(range + 1));
        });
    }
}

fn fork(cx: &Compute, x: &Activations, jobs: &[Option<SharedJob<'_>>; JOBS_PER_FORK]) {
    let jobs = || jobs.iter().flatten();
    let num_units = jobs().map(|job| job.weight.num_units()).sum();
    let work = jobs().map(|job| job.weight.num_units() * job.weight.unit_work()).sum();
    let split = Split::new(cx.num_threads(), x, num_units, work);
    split.run(cx, &|tokens, units| {
        let Range { start, end } = units;
        let mut job_start = 0;
        for job in jobs() {
            let job_units = job.weight.num_units();
            let units = start.max(job_start) - job_start..end.min(job_start + job_units).max(job_start) - job_start;
            job_start += job_units;
            if units.is_empty() {
                continue;
            }
            let rows = job.weight.rows;
            let out = job.out.wrapping_add(tokens.start * rows);
            let epilogue = Epilogue { out, stride: rows, rows, bias: job.bias, accumulate: job.accumulate };
            job.weight.multiply(x, tokens.clone(), units, epilogue);
        }
    });
}
