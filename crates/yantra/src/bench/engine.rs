//! `yantra bench engine`: tokens per second of the forward pass, as `llama-bench` measures them.
//!
//! `pp` reads a prompt in steps of the token budget, `tg` decodes one token per sequence and step. Each test runs after
//! `depth` tokens are in the KV cache and with `batch` sequences side by side. The tests take turns in each repetition,
//! because shared machines drift; medians and half the quartile distance are printed.

use super::statistics::median_and_spread;
use crate::{backend, config::RawEngine, failure::usage, output};
use anyhow::Result;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;
use std::time::Instant;
use yantra_engine::{Batch, StepModel};
use yantra_kernels::AttentionSequence;

const EXAMPLES: &str = "\
Examples:
  yantra bench engine smollm2-135m
  yantra bench engine smollm2-135m --prompt 512,2048 --generate 128 --depth 0,2048
  yantra bench engine gemma3-270m --prompt 0 --generate 64 --batch 1,4,8,16,32 --repeat 3 --json

pp512 reads a prompt of 512 tokens, tg128 decodes 128 tokens; @2048 with 2048 tokens in the cache before; x8 for eight
sequences side by side (tokens of all sequences are counted).";

/// Measure the engine in this process
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EngineArgs {
    /// Path or catalogue name of the model
    model: String,
    /// Prompt lengths; 0 for none
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [512])]
    prompt: Vec<usize>,
    /// Tokens to decode; 0 for none
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [128])]
    generate: Vec<usize>,
    /// Tokens in the cache before
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [0])]
    depth: Vec<usize>,
    /// Sequences side by side
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1])]
    batch: Vec<usize>,
    /// Repetitions of each test
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeat: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: RawEngine,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Prompt,
    Generate,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Test {
    phase: Phase,
    /// Tokens read or decoded per sequence.
    tokens: usize,
    depth: usize,
    batch: usize,
}

impl Test {
    fn name(&self) -> String {
        let phase = if self.phase == Phase::Prompt { "pp" } else { "tg" };
        let depth = if self.depth > 0 { format!("@{}", self.depth) } else { String::new() };
        let batch = if self.batch > 1 { format!(" x{}", self.batch) } else { String::new() };
        format!("{phase}{}{depth}{batch}", self.tokens)
    }
}

#[derive(Debug, Serialize)]
struct Measured {
    name: String,
    #[serde(flatten)]
    test: Test,
    tokens_per_second: f64,
    spread: f64,
    runs: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Outcome<'a> {
    model: &'a str,
    threads: usize,
    cpu_level: String,
    token_budget: usize,
    tests: Vec<Measured>,
}

/// More tokens in one test than any context, and few enough not to be a typing error.
const MAX_TOKENS: usize = 1 << 22;

/// Runs the command.
pub(crate) fn run(args: &EngineArgs) -> Result<()> {
    let tests = tests(args)?;
    let settings = args.engine.clone().over_environment()?;
    let options = backend::load_options(&settings);
    let compute = backend::compute(&settings);
    let longest = tests.iter().map(|test| test.depth + test.tokens).max().unwrap_or(1);
    let widest = tests.iter().map(|test| test.batch).max().unwrap_or(1);
    let mut model = backend::model_runner(&args.model, &compute, &options, widest, longest)?;
    let mut stepper = Stepper::new(&mut model, options.engine.token_budget, widest, longest);
    let runs = measure(&mut stepper, &tests, args.repeat)?;
    let measured = tests.iter().zip(runs).map(|(test, runs)| {
        let (tokens_per_second, spread) = median_and_spread(&runs);
        Measured { name: test.name(), test: *test, tokens_per_second, spread, runs }
    });
    let outcome = Outcome {
        model: &args.model,
        threads: compute.num_threads(),
        cpu_level: compute.level().to_string(),
        token_budget: options.engine.token_budget,
        tests: measured.collect(),
    };
    if args.json {
        return output::print_json(&outcome);
    }
    println!("{}, {} threads, {}\n", outcome.model, outcome.threads, outcome.cpu_level);
    let rows = outcome
        .tests
        .iter()
        .map(|test| vec![test.name.clone(), format!("{:.1}", test.tokens_per_second), format!("± {:.1}", test.spread)]);
    println!("{}", output::table(&["test", "tokens/s", "spread"], rows));
    Ok(())
}

fn tests(args: &EngineArgs) -> Result<Vec<Test>> {
    if args.repeat == 0 || args.batch.contains(&0) {
        return Err(usage("--repeat and --batch must be at least 1"));
    }
    let mut tests = Vec::new();
    for &batch in &args.batch {
        for &depth in &args.depth {
            let of = |phase, tokens: &[usize]| -> Vec<Test> {
                let given = tokens.iter().filter(|tokens| **tokens > 0);
                given.map(|&tokens| Test { phase, tokens, depth, batch }).collect()
            };
            tests.extend(of(Phase::Prompt, &args.prompt));
            tests.extend(of(Phase::Generate, &args.generate));
        }
    }
    if tests.is_empty() {
        return Err(usage("there is nothing to measure: --prompt and --generate are both 0"));
    }
    if let Some(test) = tests.iter().find(|test| (test.depth + test.tokens).saturating_mul(test.batch) > MAX_TOKENS) {
        return Err(usage(format!("{} takes more than {MAX_TOKENS} tokens", test.name())));
    }
    Ok(tests)
}

/// Tokens per second of every run of every test; the first, unmeasured round warms caches and clocks.
fn measure(stepper: &mut Stepper<'_>, tests: &[Test], repeat: usize) -> Result<Vec<Vec<f64>>> {
    let bar = output::progress((tests.len() * (repeat + 1)) as u64, "runs");
    let mut runs = vec![Vec::new(); tests.len()];
    for round in 0..=repeat {
        for (test, runs) in tests.iter().zip(&mut runs) {
            bar.set_message(test.name());
            let speed = stepper.run(test)?;
            if round > 0 {
                runs.push(speed);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(runs)
}

/// Steps a model by hand: every sequence has its own fixed pages.
struct Stepper<'a> {
    model: &'a mut dyn StepModel,
    token_budget: usize,
    pages: Vec<Vec<u32>>,
    logits: Vec<f32>,
    random: StdRng,
}

impl<'a> Stepper<'a> {
    fn new(model: &'a mut dyn StepModel, token_budget: usize, sequences: usize, num_tokens: usize) -> Self {
        let per_sequence = num_tokens.div_ceil(model.page_tokens()) as u32;
        let pages = (0..sequences as u32).map(|i| (i * per_sequence..(i + 1) * per_sequence).collect()).collect();
        Self { model, token_budget, pages, logits: Vec::new(), random: StdRng::seed_from_u64(0) }
    }

    /// Tokens per second of one test.
    fn run(&mut self, test: &Test) -> Result<f64> {
        for sequence in 0..test.batch {
            self.read(sequence, 0, test.depth)?;
        }
        let started = Instant::now();
        match test.phase {
            Phase::Prompt => {
                for sequence in 0..test.batch {
                    self.read(sequence, test.depth, test.tokens)?;
                }
            }
            Phase::Generate => {
                for position in test.depth..test.depth + test.tokens {
                    self.decode(test.batch, position)?;
                }
            }
        }
        Ok((test.batch * test.tokens) as f64 / started.elapsed().as_secs_f64())
    }

    fn token(&mut self) -> u32 {
        let vocab_size = self.model.vocab_size() as u32;
        self.random.random_range(0..vocab_size)
    }

    fn slot(&self, sequence: usize, position: usize) -> u32 {
        let page_tokens = self.model.page_tokens();
        self.pages[sequence][position / page_tokens] * page_tokens as u32 + (position % page_tokens) as u32
    }

    /// Reads `count` tokens of one sequence from `start` on, a token budget at a time; the last one gives logits.
    fn read(&mut self, sequence: usize, start: usize, count: usize) -> Result<()> {
        let end = start + count;
        let mut position = start;
        while position < end {
            let upto = (position + self.token_budget).min(end);
            let tokens: Vec<u32> = (position..upto).map(|_| self.token()).collect();
            let positions: Vec<u32> = (position as u32..upto as u32).collect();
            let slots: Vec<u32> = (position..upto).map(|position| self.slot(sequence, position)).collect();
            let pages_used = upto.div_ceil(self.model.page_tokens());
            let span = AttentionSequence {
                query_start: 0,
                query_len: tokens.len(),
                context_len: upto,
                pages: &self.pages[sequence][..pages_used],
            };
            let last = [tokens.len() as u32 - 1];
            let batch = Batch {
                tokens: &tokens,
                positions: &positions,
                slots: &slots,
                sequences: &[span],
                logit_rows: if upto == end { &last } else { &[] },
                adapters: &[],
            };
            self.model.forward(&batch, &mut self.logits)?;
            position = upto;
        }
        Ok(())
    }

    /// Decodes one token of each sequence at `position`.
    fn decode(&mut self, batch: usize, position: usize) -> Result<()> {
        let tokens: Vec<u32> = (0..batch).map(|_| self.token()).collect();
        let positions = vec![position as u32; batch];
        let slots: Vec<u32> = (0..batch).map(|sequence| self.slot(sequence, position)).collect();
        let rows: Vec<u32> = (0..batch as u32).collect();
        let pages_used = (position + 1).div_ceil(self.model.page_tokens());
        let spans: Vec<AttentionSequence<'_>> = (0..batch)
            .map(|sequence| AttentionSequence {
                query_start: sequence,
                query_len: 1,
                context_len: position + 1,
                pages: &self.pages[sequence][..pages_used],
            })
            .collect();
        let step = Batch {
            tokens: &tokens,
            positions: &positions,
            slots: &slots,
            sequences: &spans,
            logit_rows: &rows,
            adapters: &[],
        };
        self.model.forward(&step, &mut self.logits)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use yantra_engine::EngineError;

    /// Checks that every step is one the engine could have made, and counts tokens.
    #[derive(Default)]
    struct Checking {
        written: std::collections::HashMap<u32, u32>,
        tokens: usize,
        rows: usize,
    }

    impl StepModel for Checking {
        fn vocab_size(&self) -> usize {
            7
        }
        fn max_context(&self) -> usize {
            64
        }
        fn page_tokens(&self) -> usize {
            4
        }
        fn num_pages(&self) -> usize {
            64
        }
        fn copy_page(&mut self, _: u32, _: u32) {}

        fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), EngineError> {
            for (position, slot) in batch.positions.iter().zip(batch.slots) {
                self.written.insert(*slot, *position);
            }
            let spans: usize = batch.sequences.iter().map(|sequence| sequence.query_len).sum();
            assert_eq!(spans, batch.tokens.len());
            for sequence in batch.sequences {
                for position in 0..sequence.context_len {
                    let slot = sequence.pages[position / 4] * 4 + (position % 4) as u32;
                    assert_eq!(self.written.get(&slot), Some(&(position as u32)), "the cache holds the context");
                }
            }
            self.tokens += batch.tokens.len();
            self.rows += batch.logit_rows.len();
            logits.resize(batch.logit_rows.len() * 7, 0.0);
            Ok(())
        }
    }

    #[test]
    fn every_step_is_a_valid_one() {
        let mut model = Checking::default();
        let mut stepper = Stepper::new(&mut model, 5, 3, 20);
        let test = |phase, batch| Test { phase, tokens: 9, depth: 11, batch };
        assert!(stepper.run(&test(Phase::Prompt, 2)).unwrap() > 0.0);
        assert!(stepper.run(&test(Phase::Generate, 3)).unwrap() > 0.0);
        assert_eq!(model.tokens, 2 * 20 + 3 * 20);
        assert_eq!(model.rows, 2 * 2 + 3 + 3 * 9);
    }

    #[test]
    fn names_are_those_of_llama_bench() {
        let test = Test { phase: Phase::Generate, tokens: 128, depth: 2048, batch: 8 };
        assert_eq!(test.name(), "tg128@2048 x8");
    }
}
