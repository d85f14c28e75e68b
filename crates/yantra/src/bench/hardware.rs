//! `yantra bench hardware`: what this processor and its memory can do at most, by which kernels are judged.
//!
//! Arithmetic is the best of many short runs: it has a peak. Memory bandwidth is shared with whoever else runs on the
//! machine and drifts: the median and the best of several passes are given.

use super::statistics::median_and_spread;
use crate::{failure::usage, output};
use anyhow::{Context, Result};
use serde::Serialize;
use std::time::{Duration, Instant};
use yantra_kernels::{Arithmetic, Compute, ReadBuffer, multiply_adds};

const EXAMPLES: &str = "\
Examples:
  yantra bench hardware
  yantra bench hardware --threads 8 --json
  yantra bench hardware --memory 16,1024

A multiply-add counts as two operations. Decoding reads every weight once a token: memory bandwidth divided
by the size of the weights is the most tokens per second. Reading a prompt does two operations for each
weight and token.";

/// Measure what the processor and its memory can do
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HardwareArgs {
    /// Threads to measure with, besides one [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Sizes of the buffers that are read, in MiB
    #[arg(long, value_name = "MIB", value_delimiter = ',', default_values_t = [1, 16, 128, 512])]
    memory: Vec<usize>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    processor: String,
    cpu_level: String,
    threads: usize,
    memory_read: Vec<Memory>,
    arithmetic: Vec<Peak>,
}

/// Gigabytes (10⁹) per second.
#[derive(Debug, Serialize)]
struct Memory {
    mebibytes: usize,
    one_thread: Bandwidth,
    all_threads: Bandwidth,
}

#[derive(Debug, Serialize)]
struct Bandwidth {
    median_gb_per_second: f64,
    best_gb_per_second: f64,
}

/// Billions of operations per second; absent where the processor has no such instruction.
#[derive(Debug, Serialize)]
struct Peak {
    arithmetic: &'static str,
    one_thread_gop_per_second: Option<f64>,
    all_threads_gop_per_second: Option<f64>,
}

const MAX_MEBIBYTES: usize = 64 << 10;
const MAX_THREADS: usize = 1024;
/// How long each figure is measured.
const TIME: Duration = Duration::from_millis(250);
/// Rounds of an arithmetic run: some ten milliseconds.
const ROUNDS: usize = 1 << 20;

const ARITHMETIC: [(Arithmetic, &str); 3] =
    [(Arithmetic::Int8, "int8"), (Arithmetic::Bf16, "bf16"), (Arithmetic::F32, "f32")];

/// Runs the command.
pub(crate) fn run(args: &HardwareArgs) -> Result<()> {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = args.threads.unwrap_or(available);
    if threads == 0 || threads > MAX_THREADS {
        return Err(usage(format!("--threads is {threads}, expected 1 to {MAX_THREADS}")));
    }
    if let Some(size) = args.memory.iter().find(|size| **size == 0 || **size > MAX_MEBIBYTES) {
        return Err(usage(format!("--memory has {size}, expected 1 to {MAX_MEBIBYTES} MiB")));
    }
    let (one, all) = (Compute::new(1), Compute::new(threads));
    let bar = output::progress((args.memory.len() + ARITHMETIC.len()) as u64, "measuring");
    let mut memory_read = Vec::new();
    for &mebibytes in &args.memory {
        let buffer = buffer(mebibytes)?;
        memory_read.push(Memory {
            mebibytes,
            one_thread: bandwidth(&one, &buffer),
            all_threads: bandwidth(&all, &buffer),
        });
        bar.inc(1);
    }
    let mut arithmetic = Vec::new();
    for (kind, name) in ARITHMETIC {
        arithmetic.push(Peak {
            arithmetic: name,
            one_thread_gop_per_second: peak(&one, kind),
            all_threads_gop_per_second: peak(&all, kind),
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    let report = Report {
        processor: processor(),
        cpu_level: all.level().to_string(),
        threads: all.num_threads(),
        memory_read,
        arithmetic,
    };
    if args.json { output::print_json(&report) } else { print(&report) }
}

fn buffer(mebibytes: usize) -> Result<ReadBuffer> {
    ReadBuffer::new(mebibytes << 20).with_context(|| format!("no memory for a buffer of {mebibytes} MiB"))
}

fn bandwidth(cx: &Compute, buffer: &ReadBuffer) -> Bandwidth {
    // A pass over little memory is too short for the clock.
    let passes = ((8 << 20) / buffer.bytes()).max(1);
    let bytes = (passes * buffer.bytes()) as f64;
    let speeds = measure(|| {
        (0..passes).for_each(|_| buffer.read(cx));
        bytes
    });
    Bandwidth { median_gb_per_second: median_and_spread(&speeds).0, best_gb_per_second: best(&speeds) }
}

fn peak(cx: &Compute, kind: Arithmetic) -> Option<f64> {
    multiply_adds(cx, kind, ROUNDS / 16)?;
    Some(best(&measure(|| multiply_adds(cx, kind, ROUNDS).unwrap_or(0) as f64)))
}

/// Billions per second of what `run` says it did, for each of at least three runs.
fn measure(mut run: impl FnMut() -> f64) -> Vec<f64> {
    let started = Instant::now();
    let mut speeds = Vec::new();
    while speeds.len() < 3 || started.elapsed() < TIME {
        let run_started = Instant::now();
        let done = run();
        speeds.push(done / run_started.elapsed().as_secs_f64() / 1e9);
    }
    speeds
}

fn best(speeds: &[f64]) -> f64 {
    speeds.iter().copied().fold(0.0, f64::max)
}

/// The processor's name, if the system tells.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

fn print(report: &Report) -> Result<()> {
    println!("{}, {}, {} threads\n", report.processor, report.cpu_level, report.threads);
    let all = format!("{} threads", report.threads);
    let both = |bandwidth: &Bandwidth| {
        format!("{:.1} (best {:.1})", bandwidth.median_gb_per_second, bandwidth.best_gb_per_second)
    };
    let rows = report.memory_read.iter().map(|memory| {
        vec![format!("read {} MiB", memory.mebibytes), both(&memory.one_thread), both(&memory.all_threads)]
    });
    println!("{}\n", output::table(&["GB/s", "1 thread", &all], rows));
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    let rows = report.arithmetic.iter().map(|peak| {
        let (one, all) = (peak.one_thread_gop_per_second, peak.all_threads_gop_per_second);
        vec![peak.arithmetic.to_owned(), number(one), number(all)]
    });
    println!("{}", output::table(&["Gop/s", "1 thread", &all], rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn figures_are_positive() {
        let cx = Compute::new(2);
        let bandwidth = bandwidth(&cx, &buffer(1).unwrap());
        assert!(bandwidth.best_gb_per_second >= bandwidth.median_gb_per_second);
        assert!(bandwidth.median_gb_per_second > 0.0);
        assert!(peak(&cx, Arithmetic::F32).unwrap() > 0.0);
    }
}
