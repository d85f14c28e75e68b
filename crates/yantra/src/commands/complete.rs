//! `yantra complete`: continue a text, without a chat template.

use super::{constraint::ConstraintArgs, sampling::SamplingArgs};
use crate::{backend, config::RawEngine, failure::usage, output};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    io::{IsTerminal, Read, Write, stdin, stdout},
    sync::mpsc,
};
use yantra_engine::{Event, FinishReason, Request, SamplingParams, TokenLogprobs, Usage};
use yantra_text::{EncodeOptions, Tokenizer};

const EXAMPLES: &str = "\
Examples:
  yantra complete smollm2-135m \"The capital of France is\" -n 16 --temperature 0
  echo \"Once upon a time\" | yantra complete gemma3-270m -n 100 --seed 7
  yantra complete smollm2-135m \"2 + 2 =\" -n 1 --logprobs 5 --json
  yantra complete smollm2-135m \"A user as JSON:\" --json-schema user.schema.json
  yantra complete smollm2-135m \"Is the sky blue?\" --choice yes --choice no";

/// Continue a text with a model in this process
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompleteArgs {
    /// Path or catalogue name of the model
    model: String,
    /// The text to continue; read from standard input when missing or -
    text: Option<String>,
    /// Show the log-probabilities of the tokens and of this many alternatives each
    #[arg(long, value_name = "K")]
    logprobs: Option<usize>,
    /// Read the names of control tokens in the text (as <|im_start|>) as those tokens
    #[arg(long)]
    parse_special: bool,
    /// Print one JSON document instead of streaming the text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    constraint: ConstraintArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: RawEngine,
}

/// As much of standard input as is read: more than any context holds.
const MAX_INPUT_BYTES: u64 = 64 << 20;

/// Runs the command.
pub(crate) fn run(args: &CompleteArgs) -> Result<()> {
    let text = text(args)?;
    let logit_bias = args.sampling.logit_bias()?;
    let constraint = args.constraint.constraint()?;
    let settings = args.engine.clone().over_environment()?;
    let loaded = backend::load(&args.model, &backend::compute(&settings), &backend::load_options(&settings))?;
    let engine = backend::generator(&args.model, &loaded)?;
    let grammar = constraint.map(|constraint| engine.compile(&constraint)).transpose();
    let grammar = grammar.map_err(|error| usage(format!("the grammar cannot be followed: {error}")))?;
    let options = EncodeOptions { add_special: true, parse_special: args.parse_special };
    let prompt = loaded.tokenizer.encode(&text, options)?;
    let (sender, events) = mpsc::channel();
    let sink = move |event: Event| sender.send(event).is_ok();
    let default = SamplingParams {
        logit_bias: logit_bias.into_iter().collect(),
        ..backend::default_sampling(&settings, &loaded)
    };
    engine
        .submit(Request { grammar, ..request(args, prompt, default) }, Box::new(sink))
        .context("the model refuses the request")?;
    let mut reply = Reply::default();
    for event in events {
        match event {
            Event::Token { id, text, logprob, .. } => {
                if !args.json {
                    show(&text)?;
                }
                reply.text.push_str(&text);
                reply.tokens.push((id, logprob));
            }
            Event::Finished { reason, text, .. } => {
                if !args.json {
                    show(&text)?;
                }
                reply.text.push_str(&text);
                reply.finish = Some(reason);
            }
            Event::Done { usage, .. } => {
                reply.usage = usage;
                break;
            }
            Event::Error(error) => return Err(error.into()),
            Event::PromptLogprobs(_) => {}
        }
    }
    if args.json { output::print_json(&reply.json(&loaded.tokenizer)) } else { reply.finish(args, &loaded.tokenizer) }
}

fn text(args: &CompleteArgs) -> Result<String> {
    match args.text.as_deref() {
        Some(text) if text != "-" => return Ok(text.to_owned()),
        None if stdin().is_terminal() => {
            return Err(usage("there is no text: give one after the model or on standard input"));
        }
        _ => {}
    }
    let mut bytes = Vec::new();
    stdin().take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes).context("cannot read standard input")?;
    if bytes.len() as u64 > MAX_INPUT_BYTES {
        bail!("standard input is longer than {}", output::bytes(MAX_INPUT_BYTES));
    }
    let mut text = String::from_utf8(bytes).context("standard input is not UTF-8")?;
    // The newline that `echo` adds is not part of the text.
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

fn request(args: &CompleteArgs, prompt: Vec<u32>, default: SamplingParams) -> Request {
    let sampling = &args.sampling;
    Request {
        prompt,
        max_tokens: sampling.max_tokens.map(|tokens| tokens as usize).or(Some(128)),
        stop: sampling.stop.clone(),
        logprobs: args.logprobs,
        sampling: SamplingParams {
            temperature: sampling.temperature.unwrap_or(default.temperature),
            top_p: sampling.top_p.unwrap_or(default.top_p),
            top_k: sampling.top_k.map_or(default.top_k, |k| k as usize),
            min_p: sampling.min_p.unwrap_or(default.min_p),
            repetition_penalty: sampling.repetition_penalty.unwrap_or(default.repetition_penalty),
            presence_penalty: sampling.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: sampling.frequency_penalty.unwrap_or(default.frequency_penalty),
            seed: sampling.seed,
            ..default
        },
        ..Request::default()
    }
}

fn show(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[derive(Default)]
struct Reply {
    text: String,
    tokens: Vec<(u32, Option<TokenLogprobs>)>,
    finish: Option<FinishReason>,
    usage: Usage,
}

impl Reply {
    fn finish(&self, args: &CompleteArgs, tokenizer: &Tokenizer) -> Result<()> {
        println!();
        if args.logprobs.is_none() {
            return Ok(());
        }
        let piece = |id: u32| format!("{:?}", tokenizer.token_text(id).unwrap_or_default());
        let rows = self.tokens.iter().filter_map(|(id, logprob)| {
            let logprob = logprob.as_ref()?;
            let others: Vec<String> =
                logprob.top.iter().map(|top| format!("{} {:.3}", piece(top.id), top.logprob)).collect();
            Some(vec![piece(*id), format!("{:.3}", logprob.logprob), others.join("  ")])
        });
        println!("\n{}", output::table(&["token", "logprob", "alternatives"], rows));
        Ok(())
    }

    fn json(&self, tokenizer: &Tokenizer) -> Value {
        let piece = |id: u32| tokenizer.token_text(id).unwrap_or_default();
        let reason = match &self.finish {
            Some(FinishReason::Length) => "length",
            Some(FinishReason::Cancelled) => "cancelled",
            _ => "stop",
        };
        let tokens: Vec<Value> = self
            .tokens
            .iter()
            .map(|(id, logprob)| {
                let mut token = json!({"id": id, "text": piece(*id)});
                if let Some(logprob) = logprob {
                    let top = |top: &yantra_engine::TopLogprob| {
                        json!({"id": top.id, "text": piece(top.id), "logprob": top.logprob})
                    };
                    token["logprob"] = json!(logprob.logprob);
                    token["top"] = logprob.top.iter().map(top).collect();
                }
                token
            })
            .collect();
        json!({
            "text": self.text,
            "finish_reason": reason,
            "tokens": tokens,
            "usage": {
                "prompt_tokens": self.usage.prompt_tokens,
                "completion_tokens": self.usage.completion_tokens,
            },
        })
    }
}
