//! `yantra perplexity`: how well a model predicts a text.
//!
//! Two definitions, because both are in use and they are not comparable. The default cuts the tokens into independent
//! windows and scores every token after the first of each. `--second-half` does as `llama-perplexity` does: each window
//! begins with the begin-of-sequence token where the model wants one, and only tokens of the second half are scored.

use crate::{backend, config::RawEngine, output};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{collections::VecDeque, path::PathBuf, sync::mpsc, time::Instant};
use yantra_engine::{EngineHandle, Event, Request};
use yantra_text::{EncodeOptions, Tokenizer};

const EXAMPLES: &str = "\
Examples:
  yantra perplexity smollm2-135m --file alice.txt
  yantra perplexity smollm2-135m --file alice.txt --window 512 --tokens 8192 --json
  yantra perplexity gemma3-270m --file alice.txt --second-half

Windows are independent and every token after the first of each window is scored, without special tokens. With
--second-half, as llama-perplexity: windows begin with the begin-of-sequence token where the model wants one, and only
the second half of each is scored. With --stride, windows overlap and only tokens that no earlier window scored count.";

/// Measure how well a model predicts a text
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PerplexityArgs {
    /// Path or catalogue name of the model
    model: String,
    /// The text
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Tokens per window
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    window: usize,
    /// Tokens from the start of one window to the next [default: the window]
    #[arg(long, value_name = "TOKENS", conflicts_with = "second_half")]
    stride: Option<usize>,
    /// Use only this many tokens of the text
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// As llama-perplexity: score only the second half of each window
    #[arg(long)]
    second_half: bool,
    /// Print JSON instead of a sentence
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: RawEngine,
}

#[derive(Debug, Serialize)]
struct Outcome {
    model: String,
    perplexity: f64,
    /// Standard error of the perplexity, from the spread of the tokens' log-probabilities.
    standard_error: f64,
    tokens_scored: usize,
    windows: usize,
    window: usize,
    stride: usize,
    second_half: bool,
    seconds: f64,
}

/// Windows in flight: enough to keep the engine busy while results are read.
const IN_FLIGHT: usize = 2;

/// Runs the command.
pub(crate) fn run(args: &PerplexityArgs) -> Result<()> {
    let stride = args.stride.unwrap_or(args.window);
    if args.window < 2 || stride == 0 || stride > args.window {
        let message = format!(
            "the window is {} and the stride {stride}, expected a window above 1 and a stride of 1 to the window",
            args.window
        );
        return Err(crate::failure::usage(message));
    }
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let mut engine = args.engine.clone();
    engine.context = Some(engine.context.unwrap_or(args.window).max(args.window));
    engine.max_sequences = engine.max_sequences.or(Some(IN_FLIGHT));
    let settings = engine.over_environment()?;
    let mut options = backend::load_options(&settings);
    // Every row is scored here, so the logits of a whole step are wanted at once; nothing is shared between windows.
    options.engine.max_scored_rows = options.engine.token_budget;
    options.engine.prefix_cache = false;
    let loaded = backend::load(&args.model, &backend::compute(&settings), &options)?;
    let handle = backend::generator(&args.model, &loaded)?;
    let windows = windows(args, stride, &text, &loaded.tokenizer)?;
    let started = Instant::now();
    let scores = score(&handle, &windows)?;
    let outcome = outcome(args, stride, windows.len(), &scores, started.elapsed().as_secs_f64());
    if args.json {
        return output::print_json(&outcome);
    }
    println!(
        "perplexity {:.4} ± {:.4} over {} tokens in {} windows of {} ({:.1} s)",
        outcome.perplexity,
        outcome.standard_error,
        outcome.tokens_scored,
        outcome.windows,
        args.window,
        outcome.seconds
    );
    Ok(())
}

/// A window and the first of its tokens that is scored.
#[derive(Debug, PartialEq)]
struct Window {
    tokens: Vec<u32>,
    first_scored: usize,
}

fn windows(args: &PerplexityArgs, stride: usize, text: &str, tokenizer: &Tokenizer) -> Result<Vec<Window>> {
    let add_special = args.second_half;
    let mut tokens = tokenizer.encode(text, EncodeOptions { add_special, parse_special: false })?;
    tokens.truncate(args.tokens.unwrap_or(usize::MAX));
    let bos = tokenizer.bos().filter(|bos| add_special && tokens.first() == Some(bos));
    let windows = if args.second_half {
        second_halves(&tokens, args.window, bos)
    } else {
        every_token(&tokens, args.window, stride)
    };
    if windows.is_empty() {
        bail!("the text has {} tokens, fewer than one window of {}", tokens.len(), args.window);
    }
    Ok(windows)
}

/// Windows of which each token is scored by the first window that sees it with a token before it. A last, shorter
/// window is used as well, so that no token of the text is left out.
fn every_token(tokens: &[u32], window: usize, stride: usize) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut scored_upto = 0;
    for start in (0..tokens.len()).step_by(stride) {
        let end = (start + window).min(tokens.len());
        let first_scored = scored_upto.max(start + 1) - start;
        if first_scored < end - start {
            windows.push(Window { tokens: tokens[start..end].to_vec(), first_scored });
        }
        scored_upto = end;
        if end == tokens.len() {
            break;
        }
    }
    windows
}

/// `llama-perplexity`'s windows: whole ones only, the first token replaced by the begin-of-sequence token, and the
/// tokens after the middle one scored.
fn second_halves(tokens: &[u32], window: usize, bos: Option<u32>) -> Vec<Window> {
    tokens
        .chunks_exact(window)
        .map(|chunk| {
            let mut tokens = chunk.to_vec();
            tokens[0] = bos.unwrap_or(tokens[0]);
            Window { tokens, first_scored: window / 2 + 1 }
        })
        .collect()
}

/// The natural-log probabilities of all scored tokens.
fn score(engine: &EngineHandle, windows: &[Window]) -> Result<Vec<f64>> {
    let bar = output::progress(windows.len() as u64, "windows");
    let mut scores = Vec::new();
    let mut running: VecDeque<(mpsc::Receiver<Event>, usize)> = VecDeque::new();
    let mut waiting = windows.iter();
    loop {
        while running.len() < IN_FLIGHT
            && let Some(window) = waiting.next()
        {
            let (sender, events) = mpsc::channel();
            let request = Request {
                prompt: window.tokens.clone(),
                max_tokens: Some(0),
                prompt_logprobs: true,
                logprobs: Some(0),
                ..Request::default()
            };
            engine.submit(request, Box::new(move |event: Event| sender.send(event).is_ok()))?;
            running.push_back((events, window.first_scored));
        }
        let Some((events, first_scored)) = running.pop_front() else { break };
        scores.extend(window_scores(&events, first_scored)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(scores)
}

fn window_scores(events: &mpsc::Receiver<Event>, first_scored: usize) -> Result<Vec<f64>> {
    let mut scores = Vec::new();
    for event in events {
        match event {
            Event::PromptLogprobs(tokens) => {
                let scored = tokens.into_iter().skip(first_scored);
                let logprob = |token: Option<yantra_engine::TokenLogprobs>| token.map(|token| f64::from(token.logprob));
                let all: Option<Vec<f64>> = scored.map(logprob).collect();
                scores = all.context("the engine left a token without a score")?;
            }
            Event::Error(error) => return Err(error.into()),
            Event::Done { .. } if scores.is_empty() => bail!("the engine gave no scores for a window"),
            Event::Done { .. } => return Ok(scores),
            Event::Token { .. } | Event::Finished { .. } => {}
        }
    }
    bail!("the engine stopped")
}

fn outcome(args: &PerplexityArgs, stride: usize, windows: usize, scores: &[f64], seconds: f64) -> Outcome {
    let (perplexity, standard_error) = perplexity(scores);
    Outcome {
        model: args.model.clone(),
        perplexity,
        standard_error,
        tokens_scored: scores.len(),
        windows,
        window: args.window,
        stride,
        second_half: args.second_half,
        seconds,
    }
}

/// `exp` of the mean negative log-probability, and its standard error (delta method).
fn perplexity(scores: &[f64]) -> (f64, f64) {
    let count = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    let perplexity = (-mean).exp();
    (perplexity, perplexity * (variance / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(windows: &[Window]) -> Vec<u32> {
        windows.iter().flat_map(|window| window.tokens[window.first_scored..].to_vec()).collect()
    }

    #[test]
    fn every_token_after_the_first_of_each_window_is_scored_once() {
        let tokens: Vec<u32> = (0..10).collect();
        let windows = every_token(&tokens, 4, 4);
        assert_eq!(scored(&windows), [1, 2, 3, 5, 6, 7, 9]);
        assert_eq!(scored(&every_token(&tokens, 4, 2)), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(scored(&every_token(&tokens, 4, 1)), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(scored(&every_token(&tokens[..9], 4, 4)), [1, 2, 3, 5, 6, 7]);
        assert_eq!(every_token(&tokens[..1], 4, 4), []);
        // 8192 tokens in windows of 512 score 8176, as the reference values say.
        assert_eq!(scored(&every_token(&vec![0; 8192], 512, 512)).len(), 8176);
    }

    #[test]
    fn second_halves_are_those_of_llama_perplexity() {
        let tokens: Vec<u32> = (10..23).collect();
        let windows = second_halves(&tokens, 6, Some(1));
        assert_eq!(windows[1], Window { tokens: vec![1, 17, 18, 19, 20, 21], first_scored: 4 });
        // Its count per window of n is n - n/2 - 1.
        assert_eq!(scored(&windows), [14, 15, 20, 21]);
    }

    #[test]
    fn perplexity_of_a_fair_die_is_its_sides() {
        let (value, error) = perplexity(&[(1.0_f64 / 6.0).ln(); 50]);
        assert!((value - 6.0).abs() < 1e-9 && error < 1e-9);
    }
}
