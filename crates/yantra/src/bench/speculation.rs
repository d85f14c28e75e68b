//! `yantra bench speculation`: what guessing ahead gains where text repeats, and what it costs where nothing does.
//!
//! `edit` asks for a file of code with a class renamed, as editors and agents do: most of the answer stands in the
//! question. `noise` continues random tokens at temperature 1, where hardly any guess can be right. Each is answered
//! plainly and with speculation in turn, by the same engine; the answers must be the same to the token.

use super::statistics::median_and_spread;
use crate::{backend, config::RawEngine, failure::usage, output};
use anyhow::{Context, Result, bail, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;
use serde_json::{Map, json};
use std::{sync::mpsc, time::Instant};
use yantra_engine::{EngineHandle, Event, Request, SamplingParams, SpeculationMethod, load::LoadedModel};
use yantra_text::{ChatInput, EncodeOptions};

const EXAMPLES: &str = "\
Examples:
  yantra bench speculation qwen2.5-coder-1.5b
  yantra bench speculation smollm2-135m --task noise --clients 1,4,16
  yantra bench speculation big.gguf --draft-model small.gguf --json";

/// The file to be edited.
const FILE: &str = include_str!("inventory.py");

const QUESTION: &str = "Rename the class `Inventory` to `Warehouse` and the method `total_cents` to `worth_cents` in this \
                        file, everywhere. Answer with the whole file and nothing else.";

/// Measure what guessing tokens ahead gains and costs
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SpeculationArgs {
    /// Path or catalogue name of the model
    model: String,
    /// What to answer: edit, noise
    #[arg(long, value_name = "TASK", value_delimiter = ',', default_values_t = ["edit".to_owned(), "noise".to_owned()])]
    task: Vec<String>,
    /// Requests at the same time
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 16])]
    clients: Vec<usize>,
    /// Most tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    generate: usize,
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
enum Task {
    Edit,
    Noise,
}

/// Both ways of answering, in tokens per second.
#[derive(Debug, Serialize)]
struct Measured {
    task: Task,
    clients: usize,
    plain: f64,
    plain_spread: f64,
    speculative: f64,
    speculative_spread: f64,
    /// Median of the ratios of neighbouring runs.
    ratio: f64,
    ratio_spread: f64,
    /// Drafted tokens, and those that were right, over all runs.
    drafted: u64,
    accepted: u64,
    plain_runs: Vec<f64>,
    speculative_runs: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Outcome<'a> {
    model: &'a str,
    threads: usize,
    cpu_level: String,
    tests: Vec<Measured>,
}

/// Runs the command.
pub(crate) fn run(args: &SpeculationArgs) -> Result<()> {
    if args.repeat == 0 || args.generate < 2 || args.clients.contains(&0) {
        return Err(usage("--repeat and --clients must be at least 1, --generate at least 2"));
    }
    let tasks = args.task.iter().map(|name| task(name)).collect::<Result<Vec<_>>>()?;
    let mut settings = args.engine.clone().over_environment()?;
    let widest = args.clients.iter().copied().max().unwrap_or(1);
    settings.max_sequences = Some(settings.max_sequences.unwrap_or(16).max(widest));
    let options = backend::load_options(&settings);
    if options.engine.speculation.method == SpeculationMethod::None {
        return Err(usage("--speculate is none: there is nothing to compare plain decoding with"));
    }
    let compute = backend::compute(&settings);
    let loaded = backend::load(&args.model, &compute, &options)?;
    let engine = backend::generator(&args.model, &loaded)?;
    let tests: Vec<(Task, usize)> =
        tasks.iter().flat_map(|&task| args.clients.iter().map(move |&clients| (task, clients))).collect();
    let bar = output::progress((tests.len() * (2 * args.repeat + 1)) as u64, "runs");
    let mut measured = Vec::new();
    for (task, clients) in tests {
        bar.set_message(format!("{task:?} x{clients}").to_lowercase());
        measured.push(measure(&engine, &requests(&loaded, task, clients, args.generate)?, task, args.repeat, &bar)?);
    }
    bar.finish_and_clear();
    let cpu_level = compute.level().to_string();
    show(args, &Outcome { model: &args.model, threads: compute.num_threads(), cpu_level, tests: measured })
}

fn task(name: &str) -> Result<Task> {
    match name {
        "edit" => Ok(Task::Edit),
        "noise" => Ok(Task::Noise),
        _ => Err(usage(format!("the task is `{name}`, expected edit or noise"))),
    }
}

fn show(args: &SpeculationArgs, outcome: &Outcome<'_>) -> Result<()> {
    if args.json {
        return output::print_json(outcome);
    }
    println!("{}, {} threads, {}\n", outcome.model, outcome.threads, outcome.cpu_level);
    let rows = outcome.tests.iter().map(|test| {
        vec![
            format!("{:?} x{}", test.task, test.clients).to_lowercase(),
            format!("{:.1} ± {:.1}", test.plain, test.plain_spread),
            format!("{:.1} ± {:.1}", test.speculative, test.speculative_spread),
            format!("{:.3} ± {:.3}", test.ratio, test.ratio_spread),
            format!("{}/{}", test.accepted, test.drafted),
        ]
    });
    println!("{}", output::table(&["test", "plain tokens/s", "speculative tokens/s", "ratio", "accepted"], rows));
    Ok(())
}

fn requests(loaded: &LoadedModel, task: Task, clients: usize, max_tokens: usize) -> Result<Vec<Request>> {
    let base = Request { max_tokens: Some(max_tokens), ..Request::default() };
    match task {
        Task::Edit => {
            let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
            let prompt = edit_prompt(loaded)?;
            Ok(vec![Request { prompt, sampling, ..base }; clients])
        }
        Task::Noise => {
            let mut random = StdRng::seed_from_u64(0);
            let vocab_size = loaded.tokenizer.vocab_size() as u32;
            let noise = (0..clients as u64).map(|seed| Request {
                prompt: (0..64).map(|_| random.random_range(0..vocab_size)).collect(),
                sampling: SamplingParams { seed: Some(seed), ..SamplingParams::default() },
                ignore_eos: true,
                ..base.clone()
            });
            Ok(noise.collect())
        }
    }
}

fn edit_prompt(loaded: &LoadedModel) -> Result<Vec<u32>> {
    let text = format!("{QUESTION}\n\n```python\n{FILE}```\n");
    let Some(template) = &loaded.template else {
        let options = EncodeOptions { add_special: true, parse_special: false };
        return Ok(loaded.tokenizer.encode(&format!("{text}\nThe edited file:\n\n```python\n"), options)?);
    };
    let messages = json!([{"role": "user", "content": text}]);
    let input = ChatInput { messages: &messages, tools: None, add_generation_prompt: true, extra: &Map::new() };
    Ok(template.encode(&input, &loaded.tokenizer, false)?)
}

fn measure(
    engine: &EngineHandle,
    requests: &[Request],
    task: Task,
    repeat: usize,
    bar: &indicatif::ProgressBar,
) -> Result<Measured> {
    let plain: Vec<Request> = requests.iter().map(|it| Request { max_draft: Some(0), ..it.clone() }).collect();
    // The first, unmeasured round also leaves the prompts in the prefix cache: decoding is what is measured.
    let (expected, _) = answer(engine, &plain)?;
    bar.inc(1);
    let before = engine.stats();
    let (mut plain_runs, mut speculative_runs) = (Vec::new(), Vec::new());
    for _ in 0..repeat {
        for (requests, runs) in [(&plain[..], &mut plain_runs), (requests, &mut speculative_runs)] {
            let (answers, speed) = answer(engine, requests)?;
            ensure!(answers == expected, "an answer differs from that of plain decoding: this is a bug");
            runs.push(speed);
            bar.inc(1);
        }
    }
    let after = engine.stats();
    let ratios: Vec<f64> = speculative_runs.iter().zip(&plain_runs).map(|(a, b)| a / b).collect();
    let ((plain, plain_spread), (ratio, ratio_spread)) = (median_and_spread(&plain_runs), median_and_spread(&ratios));
    let (speculative, speculative_spread) = median_and_spread(&speculative_runs);
    Ok(Measured {
        task,
        clients: requests.len(),
        plain,
        plain_spread,
        speculative,
        speculative_spread,
        ratio,
        ratio_spread,
        drafted: after.draft_tokens - before.draft_tokens,
        accepted: after.accepted_draft_tokens - before.accepted_draft_tokens,
        plain_runs,
        speculative_runs,
    })
}

/// The tokens of all answers, and how many came per second from the first one on.
fn answer(engine: &EngineHandle, requests: &[Request]) -> Result<(Vec<Vec<u32>>, f64)> {
    let (sender, events) = mpsc::channel();
    for (client, request) in requests.iter().enumerate() {
        let sender = sender.clone();
        let sink = move |event: Event| sender.send((client, Instant::now(), event)).is_ok();
        engine.submit(request.clone(), Box::new(sink)).context("the model refuses the request")?;
    }
    drop(sender);
    let mut answers = vec![Vec::new(); requests.len()];
    let (mut first, mut last) = (None, Instant::now());
    for (client, when, event) in events {
        match event {
            Event::Token { id, .. } => {
                first.get_or_insert(when);
                last = when;
                answers[client].push(id);
            }
            Event::Error(error) => return Err(error.into()),
            Event::PromptLogprobs(_) | Event::Finished { .. } | Event::Done { .. } => {}
        }
    }
    let tokens: usize = answers.iter().map(Vec::len).sum();
    let Some(first) = first.filter(|_| tokens > requests.len()) else {
        bail!("the model answers with {tokens} tokens: there is no speed to measure");
    };
    Ok((answers, (tokens - requests.len()) as f64 / (last - first).as_secs_f64()))
}
