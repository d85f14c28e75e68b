//! `yantra bench embeddings`: texts per second of an embedding model, through the queue that requests go through.

use super::statistics::median_and_spread;
use crate::{backend, config::RawEngine, failure::usage, output};
use anyhow::{Result, bail};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;
use std::time::Instant;
use yantra_engine::{EmbedderHandle, load::ModelKind};

const EXAMPLES: &str = "\
Examples:
  yantra bench embeddings minilm-l6
  yantra bench embeddings minilm-l6 --texts 64 --tokens 16,64,256 --repeat 10
  yantra bench embeddings minilm-l6 --quantize q8_0 --json";

/// Measure an embedding model in this process
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EmbeddingsArgs {
    /// Path or catalogue name of the model
    model: String,
    /// Texts of a request
    #[arg(long, value_name = "N", default_value_t = 256)]
    texts: usize,
    /// Tokens of each text, the special ones included
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [64])]
    tokens: Vec<usize>,
    /// Repetitions
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeat: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: RawEngine,
}

#[derive(Debug, Serialize)]
struct Measured {
    tokens: usize,
    texts_per_second: f64,
    spread: f64,
    tokens_per_second: f64,
    runs: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Outcome<'a> {
    model: &'a str,
    threads: usize,
    cpu_level: String,
    texts: usize,
    tests: Vec<Measured>,
}

const MAX_TEXTS: usize = 1 << 16;

/// Runs the command.
pub(crate) fn run(args: &EmbeddingsArgs) -> Result<()> {
    if args.texts == 0 || args.texts > MAX_TEXTS || args.repeat == 0 {
        return Err(usage(format!("--texts must be 1 to {MAX_TEXTS}, and --repeat at least 1")));
    }
    let settings = args.engine.clone().over_environment()?;
    let compute = backend::compute(&settings);
    let loaded = backend::load(&args.model, &compute, &backend::load_options(&settings))?;
    let ModelKind::Embed(embedder) = &loaded.kind else {
        bail!("`{}` generates text: `yantra bench engine` measures it", args.model);
    };
    let limit = embedder.context_length();
    if let Some(tokens) = args.tokens.iter().find(|tokens| **tokens == 0 || **tokens > limit) {
        return Err(usage(format!("--tokens has {tokens}, expected 1 to {limit}")));
    }
    let runs = measure(args, embedder, loaded.tokenizer.vocab_size() as u32)?;
    let tests = args.tokens.iter().zip(runs).map(|(&tokens, runs)| {
        let (texts_per_second, spread) = median_and_spread(&runs);
        Measured { tokens, texts_per_second, spread, tokens_per_second: texts_per_second * tokens as f64, runs }
    });
    let outcome = Outcome {
        model: &args.model,
        threads: compute.num_threads(),
        cpu_level: compute.level().to_string(),
        texts: args.texts,
        tests: tests.collect(),
    };
    if args.json {
        return output::print_json(&outcome);
    }
    println!("{}, {} texts, {} threads, {}\n", outcome.model, outcome.texts, outcome.threads, outcome.cpu_level);
    let rows = outcome.tests.iter().map(|test| {
        let speeds = [test.texts_per_second, test.tokens_per_second].map(|speed| format!("{speed:.1}"));
        [vec![test.tokens.to_string()], speeds.to_vec(), vec![format!("± {:.1}", test.spread)]].concat()
    });
    println!("{}", output::table(&["tokens", "texts/s", "tokens/s", "spread"], rows));
    Ok(())
}

/// Texts per second of every run of every length; the first, unmeasured round warms caches and clocks.
fn measure(args: &EmbeddingsArgs, embedder: &EmbedderHandle, vocab_size: u32) -> Result<Vec<Vec<f64>>> {
    let mut random = StdRng::seed_from_u64(0);
    let bar = output::progress((args.tokens.len() * (args.repeat + 1)) as u64, "runs");
    let mut runs = vec![Vec::new(); args.tokens.len()];
    for round in 0..=args.repeat {
        for (&tokens, runs) in args.tokens.iter().zip(&mut runs) {
            let mut text = || (0..tokens).map(|_| random.random_range(0..vocab_size)).collect();
            let texts: Vec<Vec<u32>> = (0..args.texts).map(|_| text()).collect();
            let started = Instant::now();
            embedder.embed(texts)?;
            if round > 0 {
                runs.push(args.texts as f64 / started.elapsed().as_secs_f64());
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(runs)
}
