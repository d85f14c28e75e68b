//! `yantra bench position`: how well models predict beyond the length they were trained for (Press et al. 2022,
//! arXiv:2108.12409), which their positions decide: rotations, biases that fall with distance, learned vectors or nothing.

use super::{
    chart::{self, Panel},
    measure::{Positions, Stepper},
};
use crate::{backend, config::RawEngine, failure::usage, output};
use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use std::path::{Path, PathBuf};
use yantra_formats::Checkpoint;
use yantra_model::{Decoder, ModelSpec};
use yantra_text::{EncodeOptions, Tokenizer};

const EXAMPLES: &str = "\
Examples:
  yantra bench position ./rotary ./alibi --text book.txt --length 2048
  yantra bench position smollm2-135m gemma3-270m --text book.txt --length 16384 --windows 1 --svg positions.svg

Each model reads windows of the text that are as long as --length, which may be more than it was trained for; where one has
a vector of each position, no more can be asked of it. Perplexities of models with different tokenisers do not compare; their
growth does.";

/// Compare how models predict beyond the length they were trained for
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PositionArgs {
    /// Paths or catalogue names of the models
    #[arg(required = true)]
    models: Vec<String>,
    /// Text that is read
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of a window [default: twice what the first model was trained for]
    #[arg(long, value_name = "TOKENS")]
    length: Option<usize>,
    /// Windows that are read, one after another
    #[arg(long, value_name = "N", default_value_t = 4)]
    windows: usize,
    /// Draw the curves into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: RawEngine,
}

/// A model's perplexity by position.
#[derive(Serialize)]
struct Curve {
    model: String,
    positions: &'static str,
    trained: usize,
    windows: usize,
    /// The ends of the ranges of positions.
    bounds: Vec<usize>,
    perplexities: Vec<f64>,
    /// Mean loss beyond the length trained for less that of the last range within it, where there are both.
    growth: Option<f64>,
}

/// Runs the command.
pub(crate) fn run(args: &PositionArgs) -> Result<()> {
    if args.windows == 0 || args.length.is_some_and(|length| length < 64) {
        return Err(usage(format!(
            "{} windows of {:?} tokens, expected 1 or more of 64 or more",
            args.windows, args.length
        )));
    }
    let text = std::fs::read_to_string(&args.text).with_context(|| format!("cannot read {}", args.text.display()))?;
    let bar = output::progress((args.models.len() * args.windows) as u64, "windows");
    let (mut length, mut curves) = (args.length, Vec::new());
    for model in &args.models {
        let path = backend::resolve(model)?;
        let curve =
            measure(args, &path, &text, &mut length, &bar).with_context(|| format!("cannot measure {model}"))?;
        curves.push(Curve { model: model.clone(), ..curve });
    }
    bar.finish_and_clear();
    if let Some(file) = &args.svg {
        std::fs::write(file, picture(&curves)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.json {
        return output::print_json(&curves);
    }
    let number = |value: &f64| if *value < 1e4 { format!("{value:.1}") } else { format!("{value:.1e}") };
    let rows = curves.iter().map(|curve| {
        let start = [curve.model.clone(), curve.positions.to_owned(), curve.trained.to_string()];
        let growth = curve.growth.map_or_else(|| "-".to_owned(), |growth| format!("{:.2}x", growth.exp()));
        start.into_iter().chain(curve.perplexities.iter().map(number)).chain([growth]).collect()
    });
    let bounds = curves.first().map(|curve| curve.bounds.iter().map(ToString::to_string).collect()).unwrap_or_default();
    let bounds: Vec<String> = bounds;
    let header = ["model", "positions", "trained for"].into_iter();
    let header: Vec<&str> = header.chain(bounds.iter().map(String::as_str)).chain(["beyond"]).collect();
    println!(
        "perplexity of {} up to each position, and how much larger it is beyond the length trained for\n",
        args.text.display()
    );
    println!("{}", output::table(&header, rows));
    Ok(())
}

fn measure(
    args: &PositionArgs,
    path: &Path,
    text: &str,
    length: &mut Option<usize>,
    bar: &indicatif::ProgressBar,
) -> Result<Curve> {
    let checkpoint = Checkpoint::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let spec = yantra_model::family::spec(&checkpoint)?;
    let length = *length.get_or_insert(2 * spec.context_length);
    if spec.embedding.learned_positions && length > spec.context_length {
        bail!("it has vectors for {} positions, fewer than the length of {length}", spec.context_length);
    }
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
    let tokens = tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false })?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let own = length - usize::from(bos.is_some());
    let windows = tokens.chunks_exact(own).take(args.windows);
    let windows: Vec<Vec<u32>> =
        windows.map(|window| bos.into_iter().chain(window.iter().copied()).collect()).collect();
    if windows.is_empty() {
        bail!("the text has {} tokens, fewer than the length of {length}", tokens.len());
    }
    let settings = args.engine.clone().over_environment()?;
    let (compute, options) = (backend::compute(&settings), backend::load_options(&settings));
    let decoder = Decoder::load(&checkpoint, &compute, options.of_model(length))?;
    let mut stepper = Stepper::new(decoder, compute, options.kv_format, length, 0)?;
    let mut sums: Option<Positions> = None;
    for window in &windows {
        let found = stepper.predict(window)?;
        match &mut sums {
            None => sums = Some(found),
            Some(sums) => sums.losses.iter_mut().zip(found.losses).for_each(|(sum, loss)| *sum += loss),
        }
        bar.inc(1);
    }
    let Positions { bounds, losses } = sums.context("no window was read")?;
    let losses: Vec<f64> = losses.into_iter().map(|loss| loss / windows.len() as f64).collect();
    Ok(Curve {
        model: String::new(),
        positions: positions(&spec),
        trained: spec.context_length,
        windows: windows.len(),
        growth: growth(&bounds, &losses, spec.context_length),
        bounds,
        perplexities: losses.iter().map(|loss| loss.exp()).collect(),
    })
}

/// What tells a model where tokens are.
fn positions(spec: &ModelSpec) -> &'static str {
    let rotary = spec.layers.iter().filter(|layer| layer.rope.is_some()).count();
    match (spec.attention.alibi.is_some(), spec.embedding.learned_positions, rotary) {
        (true, ..) => "ALiBi",
        (false, true, _) => "learned",
        (false, false, 0) => "none",
        (false, false, count) if count == spec.layers.len() => "rotary",
        _ => "rotary in part",
    }
}

/// The mean loss of ranges that begin at `trained` or later, less that of the last one that ends there or earlier.
fn growth(bounds: &[usize], losses: &[f64], trained: usize) -> Option<f64> {
    let within = bounds.iter().rposition(|bound| *bound <= trained)?;
    let starts = std::iter::once(&0).chain(bounds);
    let beyond: Vec<f64> = starts.zip(losses).filter(|(start, _)| **start >= trained).map(|(_, loss)| *loss).collect();
    (!beyond.is_empty()).then(|| beyond.iter().sum::<f64>() / beyond.len() as f64 - losses[within])
}

/// Perplexities over positions, on a scale of their logarithms between powers of two.
fn picture(curves: &[Curve]) -> String {
    let all = || curves.iter().flat_map(|curve| &curve.perplexities).map(|value| value.log2());
    let (low, high) = (all().fold(f64::INFINITY, f64::min).floor(), all().fold(0.0, f64::max).ceil());
    let span = (high - low).max(1.0);
    let step = (span / 6.0).ceil().max(1.0);
    let ticks = (0..).map(|index| f64::from(index) * step).take_while(|at| *at <= span);
    let longest = curves.iter().filter_map(|curve| curve.bounds.last()).max().copied().unwrap_or(1);
    let lines = curves.iter().map(|curve| {
        let at = |bound: &usize| *bound as f64 / longest as f64;
        let share = |value: &f64| (value.log2() - low) / span;
        let points = curve.bounds.iter().map(at).zip(curve.perplexities.iter().map(share));
        (format!("{} ({})", curve.model, curve.positions), points.collect())
    });
    let panel = Panel {
        title: "Perplexity by position".to_owned(),
        y: ticks.map(|at| (at / span, format!("{:.0}", (low + at).exp2()))).collect(),
        x: [0, 1, 2, 3, 4].map(|part| (f64::from(part) / 4.0, (longest * part as usize / 4).to_string())).to_vec(),
        x_title: "position",
        lines: lines.collect(),
    };
    chart::svg("Perplexity by position", &[panel])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_from_the_last_range_within_to_those_beyond() {
        let (bounds, losses) = ([10, 20, 30, 40], [5.0, 3.0, 4.0, 6.0]);
        assert_eq!(growth(&bounds, &losses, 20), Some(2.0));
        assert_eq!(growth(&bounds, &losses, 25), Some(3.0), "a range that is partly beyond is neither");
        assert_eq!(growth(&bounds, &losses, 40), None);
        assert_eq!(growth(&bounds, &losses, 5), None);
    }
}
