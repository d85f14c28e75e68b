//! `yantra bench context`: what a model finds in a long context, by where it stands ("lost in the middle", Liu et al. 2023,
//! arXiv:2307.03172), how well it predicts by position, and what remedies change.
//!
//! A context is a list of short documents, each with a fact of its own, or of keys with values; a question asks for one. All
//! documents at the depths measured are asked for in turn, and each question's answer is scored for every one of them: one
//! matrix of log-probabilities, `[asked, answered]`, from which the share of right choices, its curve over depths, and the
//! effect of remedies that only move or weigh documents follow.

mod chart;
mod documents;
mod measure;
pub(crate) mod position;
mod report;

use crate::{backend, config::RawEngine, failure::usage, output};
use anyhow::{Context as _, Result};
use documents::{Corpus, Task};
use measure::{Positions, Stepper};
use report::{Curve, Outcome, PositionCurve};
use std::path::PathBuf;
use yantra_formats::Checkpoint;
use yantra_model::{Decoder, ModelSpec, RopeScaling};
use yantra_text::{ChatTemplate, Tokenizer};

const EXAMPLES: &str = "\
Examples:
  yantra bench context qwen2.5-coder-1.5b
  yantra bench context qwen2.5-coder-1.5b --length 4096,16384 --samples 5 --svg curve.svg
  yantra bench context smollm2-135m --length 4096 --remedy rope=dynamic:2 --remedy window=1024+4
  yantra bench context smollm2-135m --task keys
  yantra bench context smollm2-135m --length 4096 --text alice.txt      (perplexity by position, too)

Remedies that need no second run are always shown: the order of documents (the best at both ends), a choice among the answers
that documents have, and one whose scores are freed of what a position gives any answer. Others run the model again as it was
not trained: rope=linear:FACTOR, rope=dynamic:FACTOR, rope=yarn:FACTOR stretch its rotary embedding, window=TOKENS+SINKS lets
it see the last tokens and the first ones only.";

/// Measure what a model finds in a long context, by where it stands
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ContextArgs {
    /// Path or catalogue name of the model
    model: String,
    /// What the context is made of: documents with a fact each, or random keys and values of a JSON object
    #[arg(long, value_enum, default_value_t = Task::Documents)]
    task: Task,
    /// Lengths of the context, in tokens
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [2048])]
    length: Vec<usize>,
    /// Depths at which documents are asked for, evenly spread
    #[arg(long, value_name = "N", default_value_t = 11)]
    depths: usize,
    /// Contexts of each length
    #[arg(long, value_name = "N", default_value_t = 3)]
    samples: usize,
    /// Remedies to run the model with, too: rope=KIND:FACTOR, window=TOKENS+SINKS
    #[arg(long, value_name = "REMEDY")]
    remedy: Vec<String>,
    /// Measure how well this text is predicted by position, too
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Seed of names and facts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Draw the curves into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: RawEngine,
}

/// The name of what is measured without a remedy.
const AS_TRAINED: &str = "as trained";

/// How a model is run.
#[derive(Clone, Debug, PartialEq)]
enum Remedy {
    None,
    Rope { kind: String, factor: f32 },
    Window { tokens: usize, sinks: usize },
}

impl Remedy {
    fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            usage(format!("the remedy is `{text}`, expected rope=linear|dynamic|yarn:FACTOR or window=TOKENS+SINKS"))
        };
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        match name {
            "rope" => {
                let (kind, factor) = value.split_once(':').ok_or_else(wrong)?;
                let factor: f32 = factor.parse().map_err(|_| wrong())?;
                let known = ["linear", "dynamic", "yarn"].contains(&kind) && factor > 0.0;
                if known { Ok(Self::Rope { kind: kind.to_owned(), factor }) } else { Err(wrong()) }
            }
            "window" => {
                let (tokens, sinks) = value.split_once('+').unwrap_or((value, "0"));
                let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
                let (tokens, sinks) = (number(tokens)?, number(sinks)?);
                if tokens > 0 { Ok(Self::Window { tokens, sinks }) } else { Err(wrong()) }
            }
            _ => Err(wrong()),
        }
    }

    fn apply(&self, spec: &mut ModelSpec) {
        let original_context = spec.context_length as f32;
        for layer in &mut spec.layers {
            match self {
                Self::None => {}
                Self::Window { tokens, sinks } => {
                    layer.window = Some(layer.window.map_or(*tokens, |window| window.min(*tokens)));
                    layer.sink_tokens = *sinks;
                }
                Self::Rope { kind, factor } => {
                    let Some(rope) = &mut layer.rope else { continue };
                    rope.scaling = scaling(kind, *factor, original_context);
                }
            }
        }
    }
}

fn scaling(kind: &str, factor: f32, original_context: f32) -> RopeScaling {
    match kind {
        "linear" => RopeScaling::Linear { factor },
        "dynamic" => RopeScaling::Dynamic { factor, original_context },
        _ => RopeScaling::Yarn {
            factor,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context,
            truncate: true,
            attention_factor: 0.1 * factor.max(1.0).ln() + 1.0,
        },
    }
}

/// Runs the command.
pub(crate) fn run(args: &ContextArgs) -> Result<()> {
    if args.depths < 3 || args.samples == 0 || args.length.iter().any(|length| *length < 256) {
        let message = format!(
            "{} depths, {} samples and lengths of {:?}, expected 3 or more, 1 or more, and 256 tokens or more",
            args.depths, args.samples, args.length
        );
        return Err(usage(message));
    }
    let remedies = args.remedy.iter().map(|remedy| Ok((remedy.clone(), Remedy::parse(remedy)?)));
    let remedies: Vec<(String, Remedy)> =
        std::iter::once(Ok((AS_TRAINED.to_owned(), Remedy::None))).chain(remedies).collect::<Result<_>>()?;
    let path = backend::resolve(&args.model)?;
    let checkpoint = Checkpoint::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
    let template = ChatTemplate::from_checkpoint(&checkpoint, &tokenizer)?;
    let text = args
        .text
        .as_ref()
        .map(|file| std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())));
    let text = text.transpose()?;
    let corpus = Corpus { tokenizer: &tokenizer, template: template.as_ref(), task: args.task, seed: args.seed };
    let settings = args.engine.clone().over_environment()?;
    let (compute, options) = (backend::compute(&settings), backend::load_options(&settings));
    let longest = args.length.iter().copied().max().unwrap_or(0) + measure::ROOM;
    let steps = remedies.len() * args.length.len() * (args.samples * (1 + args.depths) + usize::from(text.is_some()));
    let bar = output::progress(steps as u64, "contexts and questions");
    let mut outcome = Outcome { model: args.model.clone(), curves: Vec::new(), positions: Vec::new() };
    for (name, remedy) in &remedies {
        let decoder =
            Decoder::load_adapted(&checkpoint, &compute, options.of_model(longest), |spec| remedy.apply(spec));
        let decoder = decoder.with_context(|| format!("cannot load {}", path.display()))?;
        let mut stepper = Stepper::new(decoder, compute.clone(), options.kv_format, longest, args.depths)?;
        for &length in &args.length {
            let mut curve = Curve::new(name, length, args.depths);
            for sample in 0..args.samples {
                let context = corpus.context(length, sample as u64, args.depths)?;
                curve.add(&stepper.ask(&context, &bar)?);
            }
            outcome.curves.push(curve);
        }
        if let Some(text) = &text {
            for &length in &args.length {
                let Positions { bounds, losses } = stepper.predict(&corpus.tokens(text, length)?)?;
                outcome.positions.push(PositionCurve { remedy: name.clone(), length, bounds, losses });
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    if let Some(file) = &args.svg {
        std::fs::write(file, chart::of_depths(&outcome)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.json { output::print_json(&outcome.json()) } else { outcome.print() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_are_read_or_refused() {
        let rope = Remedy::Rope { kind: "yarn".to_owned(), factor: 4.0 };
        assert_eq!(Remedy::parse("rope=yarn:4").ok(), Some(rope));
        assert_eq!(Remedy::parse("window=1024+4").ok(), Some(Remedy::Window { tokens: 1024, sinks: 4 }));
        assert_eq!(Remedy::parse("window=64").ok(), Some(Remedy::Window { tokens: 64, sinks: 0 }));
        for wrong in ["rope", "rope=yarn", "rope=magic:2", "rope=yarn:0", "window=0+4", "window=x", "sinks=4"] {
            let error = Remedy::parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains(&format!("the remedy is `{wrong}`, expected rope=")), "{error}");
        }
    }
}
