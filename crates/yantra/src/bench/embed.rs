//! `yantra bench embed`: sentences per second of an embedding model, by what its matrices multiply in.
//!
//! Sentences are random tokens of random lengths around the one asked for, the same for every type; they go through the
//! embedding thread in slices, as a server's do. The types take turns in each repetition, because shared machines drift;
//! medians and half the quartile distance are printed, and the smallest cosine with the vectors in f32.

use super::statistics::median_and_spread;
use crate::{
    backend,
    config::{RawEngine, parse_dtype},
    failure::usage,
    output,
};
use anyhow::Result;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;
use std::{sync::Arc, time::Instant};
use yantra_engine::{EmbedderHandle, load::LoadOptions};
use yantra_kernels::Compute;
use yantra_model::{EncoderDtype, EncoderSpec};

const EXAMPLES: &str = "\
Examples:
  yantra bench embed minilm-l6
  yantra bench embed minilm-l6 --dtype f32,bf16,int8 --sentences 256 --tokens 64
  yantra bench embed minilm-l6 --dtype int8 --tokens 200 --repeat 9 --json

Lengths are from three quarters to five quarters of --tokens. Tokenising is not measured.";

/// Measure an embedding model in this process
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EmbedArgs {
    /// Path or catalogue name of the model
    model: String,
    /// What the model multiplies in: auto, f32, bf16 or int8; several take turns
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_values_t = ["auto".to_owned()])]
    dtype: Vec<String>,
    /// Sentences of a run
    #[arg(long, value_name = "N", default_value_t = 256)]
    sentences: usize,
    /// Tokens of a sentence, in the mean
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    tokens: usize,
    /// Repetitions of each run
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
    /// As asked for, and what it came to.
    dtype: String,
    computed_in: &'static str,
    sentences_per_second: f64,
    spread: f64,
    tokens_per_second: f64,
    /// With the vectors in f32.
    smallest_cosine: f64,
    runs: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Outcome<'a> {
    model: &'a str,
    threads: usize,
    cpu_level: String,
    sentences: usize,
    tokens: usize,
    tests: Vec<Measured>,
}

/// More tokens in one run than anybody waits for.
const MAX_TOKENS: usize = 1 << 22;

/// Runs the command.
pub(crate) fn run(args: &EmbedArgs) -> Result<()> {
    if args.sentences == 0 || args.tokens == 0 || args.repeat == 0 {
        return Err(usage("--sentences, --tokens and --repeat must be at least 1"));
    }
    if args.sentences.saturating_mul(args.tokens) > MAX_TOKENS {
        return Err(usage(format!("{} x {} are more than {MAX_TOKENS} tokens", args.sentences, args.tokens)));
    }
    let dtypes = args.dtype.iter().map(|name| parse_dtype(name)).collect::<Result<Vec<_>>>()?;
    let settings = args.engine.clone().over_environment()?;
    let compute = backend::compute(&settings);
    let options = backend::load_options(&settings);
    let load = |dtype| Candidate::load(&args.model, &compute, &options, dtype);
    let exact = load(EncoderDtype::F32)?;
    let texts = sentences(&exact.spec, args.sentences, args.tokens)?;
    let expected = exact.embedder.embed(texts.clone())?;
    let mut candidates = dtypes.into_iter().map(load).collect::<Result<Vec<_>>>()?;
    let bar = output::progress((candidates.len() * (args.repeat + 1)) as u64, "runs");
    // The first, unmeasured round warms caches and clocks.
    for round in 0..=args.repeat {
        for candidate in &mut candidates {
            bar.set_message(candidate.dtype.name());
            candidate.measure(&texts, &expected, round > 0)?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let tokens = texts.iter().map(Vec::len).sum();
    let outcome = Outcome {
        model: &args.model,
        threads: compute.num_threads(),
        cpu_level: compute.level().to_string(),
        sentences: texts.len(),
        tokens,
        tests: candidates.into_iter().map(|candidate| candidate.measured(texts.len(), tokens)).collect(),
    };
    if args.json {
        return output::print_json(&outcome);
    }
    println!("{}, {} threads, {}", outcome.model, outcome.threads, outcome.cpu_level);
    println!("{} sentences of {:.1} tokens\n", texts.len(), tokens as f64 / texts.len() as f64);
    let rows = outcome.tests.iter().map(|test| {
        vec![
            test.dtype.clone(),
            test.computed_in.to_owned(),
            format!("{:.1}", test.sentences_per_second),
            format!("± {:.1}", test.spread),
            format!("{:.0}", test.tokens_per_second),
            format!("{:.6}", test.smallest_cosine),
        ]
    });
    let heads = ["type", "computed in", "sentences/s", "spread", "tokens/s", "smallest cosine with f32"];
    println!("{}", output::table(&heads, rows));
    Ok(())
}

/// Random tokens; lengths from three quarters to five quarters of `tokens`, within the model's context.
fn sentences(spec: &EncoderSpec, count: usize, tokens: usize) -> Result<Vec<Vec<u32>>> {
    let (shortest, longest) = ((tokens * 3 / 4).max(1), tokens + tokens / 4);
    if longest > spec.context_length {
        let limit = spec.context_length;
        return Err(usage(format!(
            "sentences of up to {longest} tokens are wanted, but the model reads at most {limit}"
        )));
    }
    let mut random = StdRng::seed_from_u64(0);
    let sentence = |_| {
        let len = random.random_range(shortest..=longest);
        (0..len).map(|_| random.random_range(0..spec.vocab_size as u32)).collect()
    };
    Ok((0..count).map(sentence).collect())
}

/// A model of one type and its runs.
struct Candidate {
    dtype: EncoderDtype,
    computed_in: &'static str,
    embedder: EmbedderHandle,
    spec: EncoderSpec,
    /// Seconds.
    runs: Vec<f64>,
    smallest_cosine: f64,
}

impl Candidate {
    fn load(model: &str, compute: &Arc<Compute>, options: &LoadOptions, dtype: EncoderDtype) -> Result<Self> {
        let options = LoadOptions { encoder_dtype: dtype, ..options.clone() };
        let (embedder, spec, computed_in) = backend::embedder(model, compute, &options)?;
        Ok(Self { dtype, computed_in, embedder, spec, runs: Vec::new(), smallest_cosine: 1.0 })
    }

    fn measure(&mut self, texts: &[Vec<u32>], expected: &[Vec<f32>], counts: bool) -> Result<()> {
        let texts = texts.to_vec();
        let started = Instant::now();
        let vectors = self.embedder.embed(texts)?;
        let seconds = started.elapsed().as_secs_f64();
        if counts {
            self.runs.push(seconds);
        }
        let cosines = vectors.iter().zip(expected).map(|(found, expected)| cosine(found, expected));
        self.smallest_cosine = cosines.fold(self.smallest_cosine, f64::min);
        Ok(())
    }

    fn measured(self, sentences: usize, tokens: usize) -> Measured {
        let runs: Vec<f64> = self.runs.iter().map(|seconds| sentences as f64 / seconds).collect();
        let (sentences_per_second, spread) = median_and_spread(&runs);
        Measured {
            dtype: self.dtype.name().to_owned(),
            computed_in: self.computed_in,
            sentences_per_second,
            spread,
            tokens_per_second: sentences_per_second * tokens as f64 / sentences as f64,
            smallest_cosine: self.smallest_cosine,
            runs,
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use yantra_model::{NormPlacement, OutputSpec, Pooling, PositionSpec};

    #[test]
    fn sentences_are_as_asked_for() {
        let spec = EncoderSpec {
            family: "BERT",
            vocab_size: 7,
            hidden_size: 4,
            num_heads: 1,
            context_length: 80,
            positions: PositionSpec::Rotary,
            token_types: 0,
            norm_eps: 1e-12,
            norms: NormPlacement::Post,
            layers: Vec::new(),
            output: OutputSpec::Embedding { pooling: Pooling::Mean, normalize: true },
        };
        let texts = sentences(&spec, 500, 64).unwrap();
        let lengths = || texts.iter().map(Vec::len);
        assert_eq!((lengths().min(), lengths().max()), (Some(48), Some(80)));
        assert!((lengths().sum::<usize>() as f64 / 500.0 - 64.0).abs() < 2.0);
        assert!(texts.iter().flatten().all(|token| *token < 7));
        assert!(sentences(&spec, 1, 65).unwrap_err().to_string().contains("at most 80"));
        assert_eq!(sentences(&spec, 2, 1).unwrap().iter().map(Vec::len).max(), Some(1));
    }
}
