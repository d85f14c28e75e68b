//! What this processor can do at most: multiply-adds on values in registers, and reads of memory.
//!
//! Kernels are measured against these ("roofline": Williams et al., 2009). Both run over the pool that kernels run on, at
//! its level, and only do the work: the caller takes the time.

use crate::{
    Compute, CpuLevel, KernelError,
    buffer::Buffer,
    linear::simd::{Isa, Operation, Simd},
    simd::{Simd as FloatSimd, simd_dispatch},
};
use std::hint::black_box;

/// Pieces of the work per thread, so that a thread that comes late delays nobody.
const TASKS_PER_THREAD: usize = 8;

/// Sums that are under way at once: more than an instruction's latency times how many start in a cycle.
const NARROW_SUMS: usize = 6;
const WIDE_SUMS: usize = 12;

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// Unsigned by signed bytes, as block-quantised weights meet activations.
    Int8,
    /// Pairs of bfloat16 into single precision, where the processor has the instruction.
    Bf16,
    /// Single precision, fused where the level has it.
    F32,
}

/// Does about `rounds` rounds of independent multiply-adds on each thread.
///
/// Gives the operations done over all threads, a multiply-add counting as two; `None` if the level has no such instruction.
pub fn multiply_adds(cx: &Compute, arithmetic: Arithmetic, rounds: usize) -> Option<u64> {
    let isa = Isa::of(cx.level());
    let has_it = arithmetic != Arithmetic::Bf16 || cx.level() == CpuLevel::Avx512Bf16;
    let rounds = rounds.div_ceil(TASKS_PER_THREAD);
    let per_round = has_it.then(|| match arithmetic {
        Arithmetic::Int8 => isa.dispatch(Bytes { rounds: 0 }).0,
        Arithmetic::Bf16 => pairs(cx.level(), 0).0,
        Arithmetic::F32 => singles(cx.level(), 0).0,
    })?;
    let tasks = cx.num_threads() * TASKS_PER_THREAD;
    cx.run(tasks, &|_| {
        black_box(match arithmetic {
            Arithmetic::Int8 => isa.dispatch(Bytes { rounds }),
            Arithmetic::Bf16 => pairs(cx.level(), rounds),
            Arithmetic::F32 => singles(cx.level(), rounds),
        });
    });
    Some((tasks * rounds * per_round) as u64)
}

/// Memory to read, laid out as packed weights are: huge pages, all of them written to.
pub struct ReadBuffer(Buffer);

impl ReadBuffer {
    /// Memory of `bytes` bytes.
    ///
    /// # Errors
    /// If there is not that much.
    pub fn new(bytes: usize) -> Result<Self, KernelError> {
        let mut buffer = Buffer::zeroed(bytes, "a buffer to read")?;
        buffer.as_mut_slice().fill(1);
        Ok(Self(buffer))
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Reads all of it once, each thread a part at a time, and does next to nothing with it.
    pub fn read(&self, cx: &Compute) {
        let (bytes, isa) = (self.0.as_slice(), Isa::of(cx.level()));
        let part = bytes.len().div_ceil(cx.num_threads() * TASKS_PER_THREAD).next_multiple_of(CACHE_LINE);
        cx.run(bytes.len().div_ceil(part.max(1)), &|index| {
            let end = ((index + 1) * part).min(bytes.len());
            black_box(isa.dispatch(Read { bytes: &bytes[index * part..end] }));
        });
    }
}

const CACHE_LINE: usize = 64;
/// How far ahead memory is fetched, in bytes: what the hardware fetches by itself ends with a page.
const AHEAD: usize = 2048;

/// Bytes that are read; gives the bits that any of them has, four bytes to a lane, in the first lanes' sum.
struct Read<'a> {
    bytes: &'a [u8],
}

impl Operation for Read<'_> {
    type Output = f32;

    #[inline(always)]
    #[expect(unsafe_code, reason = "loads of whole registers")]
    fn run<S: Simd>(self, s: S) -> f32 {
        const AT_ONCE: usize = 4;
        let step = AT_ONCE * 4 * S::LANES;
        let mut seen = [s.zero(); AT_ONCE];
        for chunk in self.bytes.chunks_exact(step) {
            let from = chunk.as_ptr();
            for line in 0..step.div_ceil(CACHE_LINE) {
                s.prefetch(from.wrapping_add(AHEAD + line * CACHE_LINE));
            }
            for (i, seen) in seen.iter_mut().enumerate() {
                // SAFETY: the chunk has `AT_ONCE` registers of bytes.
                *seen = s.or(*seen, unsafe { s.load_int(from.add(i * 4 * S::LANES)) });
            }
        }
        let all = s.or(s.or(seen[0], seen[1]), s.or(seen[2], seen[3]));
        s.float().reduce_add(s.to_float(all))
    }
}

/// Operations of a round, and a value that depends on all of them.
type Done = (usize, f32);

/// Byte products, as the kernels of block-quantised weights do them at this level.
struct Bytes {
    rounds: usize,
}

impl Operation for Bytes {
    type Output = Done;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Done {
        if S::LANES == 16 { bytes::<S, WIDE_SUMS>(s, self.rounds) } else { bytes::<S, NARROW_SUMS>(s, self.rounds) }
    }
}

#[inline(always)]
fn bytes<S: Simd, const SUMS: usize>(s: S, rounds: usize) -> Done {
    // Different factors: equal sums would be computed once.
    let mut factors = [s.zero(); SUMS];
    for (i, factor) in factors.iter_mut().enumerate() {
        *factor = s.splat_byte(black_box(i as u8));
    }
    let mut sums = [s.zero(); SUMS];
    let mut unsigned = s.splat_byte(black_box(3));
    for _ in 0..rounds {
        // Not known to be the same as in the last round: products of it are not moved out of the loop.
        unsigned = s.pin(unsigned);
        for i in 0..SUMS {
            sums[i] = s.dot_u8(sums[i], unsigned, factors[i]);
        }
    }
    let mut total = s.zero();
    for sum in sums {
        total = s.add_i32(total, s.widen(sum));
    }
    (SUMS * S::LANES * 8, s.float().reduce_add(s.to_float(total)))
}

simd_dispatch! {
    fn pairs(rounds: usize) -> Done = pairs_body;
    fn singles(rounds: usize) -> Done = singles_body;
}

#[inline(always)]
fn pairs_body<S: FloatSimd>(s: S, rounds: usize) -> Done {
    let mut factors = [s.splat_pair(0); WIDE_SUMS];
    for (i, factor) in factors.iter_mut().enumerate() {
        // 1.0 and a little more.
        *factor = s.splat_pair(black_box(0x3f80_3f80 + i as u32));
    }
    let other = s.splat_pair(black_box(0x3f80_3f80));
    let mut sums = [s.splat(0.0); WIDE_SUMS];
    for _ in 0..rounds {
        for i in 0..WIDE_SUMS {
            sums[i] = s.dot_pairs(factors[i], other, sums[i]);
        }
    }
    (WIDE_SUMS * S::LANES * 4, total(s, sums))
}

#[inline(always)]
fn singles_body<S: FloatSimd>(s: S, rounds: usize) -> Done {
    if S::WIDE { singles_of::<S, WIDE_SUMS>(s, rounds) } else { singles_of::<S, NARROW_SUMS>(s, rounds) }
}

#[inline(always)]
fn singles_of<S: FloatSimd, const SUMS: usize>(s: S, rounds: usize) -> Done {
    let mut factors = [s.splat(0.0); SUMS];
    for (i, factor) in factors.iter_mut().enumerate() {
        *factor = s.splat(black_box(0.5 + i as f32 / 64.0));
    }
    let other = s.splat(black_box(0.5));
    let mut sums = [s.splat(0.0); SUMS];
    for _ in 0..rounds {
        for i in 0..SUMS {
            // A sum that is a factor stays below one.
            sums[i] = s.fma(sums[i], factors[i], other);
        }
    }
    (SUMS * S::LANES * 2, total(s, sums))
}

#[inline(always)]
fn total<S: FloatSimd, const SUMS: usize>(s: S, sums: [S::Vector; SUMS]) -> f32 {
    let mut total = s.splat(0.0);
    for sum in sums {
        total = s.add(total, sum);
    }
    s.reduce_add(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn operations_are_counted() {
        for level in CpuLevel::supported() {
            let cx = Compute::with_level(2, level).unwrap();
            let int8 = multiply_adds(&cx, Arithmetic::Int8, 800).unwrap();
            let f32 = multiply_adds(&cx, Arithmetic::F32, 800).unwrap();
            // Two threads, 800 rounds; vectors of 1, 8 or 16 lanes (eight for bytes without any), four bytes in each.
            let (float_lanes, byte_lanes, sums) = match level {
                CpuLevel::Scalar => (1, 8, 6),
                CpuLevel::Avx2 | CpuLevel::Neon => (8, 8, 6),
                _ => (16, 16, 12),
            };
            assert_eq!(int8, 2 * 800 * sums * byte_lanes * 8, "{level}");
            assert_eq!(f32, 2 * 800 * sums * float_lanes * 2, "{level}");
            let bf16 = multiply_adds(&cx, Arithmetic::Bf16, 800);
            assert_eq!(bf16, (level == CpuLevel::Avx512Bf16).then_some(2 * 800 * 12 * 16 * 4), "{level}");
        }
    }

    #[test]
    fn the_work_is_really_done() {
        for level in CpuLevel::supported() {
            // The fixed point of x -> x * f + 0.5 is 0.5 / (1 - f), reached after many rounds; f = 0.5 + i / 64.
            let (_, value) = singles(level, 1000);
            let sums = if level == CpuLevel::Scalar || !cfg!(target_arch = "x86_64") || level == CpuLevel::Avx2 {
                6
            } else {
                12
            };
            let lanes = if level == CpuLevel::Scalar {
                1.0
            } else if sums == 6 {
                8.0
            } else {
                16.0
            };
            let expected: f32 = (0..sums).map(|i| 0.5 / (0.5 - i as f32 / 64.0)).sum::<f32>() * lanes;
            assert!((value - expected).abs() < expected * 1e-5, "{level}: {value}, expected {expected}");
            // Each of three rounds adds four products 3 * i in every lane.
            let (_, bytes) = Isa::of(level).dispatch(Bytes { rounds: 3 });
            let (sums, lanes) = if sums == 12 { (12, 16) } else { (6, 8) };
            let expected: i32 = (0..sums).map(|i| 3 * 4 * 3 * i).sum::<i32>() * lanes;
            assert_eq!(bytes, expected as f32, "{level}");
        }
    }

    #[test]
    fn all_of_the_memory_is_read() {
        for level in CpuLevel::supported() {
            let isa = Isa::of(level);
            let mut bytes = vec![0_u8; 4096];
            assert_eq!(isa.dispatch(Read { bytes: &bytes }), 0.0, "{level}");
            // A set bit counts once, wherever it is.
            for place in [0, 1023, 2040, 4095] {
                bytes[place] = 1;
                let lane_value = 1 << (8 * (place % 4));
                assert_eq!(isa.dispatch(Read { bytes: &bytes }), lane_value as f32, "{level}, {place}");
                bytes[place] = 0;
            }
        }
        let cx = Compute::new(2);
        for size in [0, 1, 63, 100_000] {
            let buffer = ReadBuffer::new(size).unwrap();
            assert_eq!(buffer.bytes(), size);
            buffer.read(&cx);
        }
    }
}
