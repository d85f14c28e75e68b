//! `yantra bench load`: streaming requests against one or several servers, closed or open loop.
//!
//! A closed loop keeps a number of clients busy and finds the throughput; an open loop lets requests arrive as a
//! Poisson process whether the server keeps up or not, and finds the latency at a load. In an open loop time counts
//! from the moment a request was due, so that a stalled server cannot hide its queue (coordinated omission).
//! Several servers take turns within each round, because shared machines drift: their ratio is what holds.

mod drive;
mod measure;
mod prompts;
mod report;

use crate::{env, failure::usage};
use anyhow::{Context, Result};
use drive::{Load, Plan, Stop};
use report::Goodput;
use std::{path::PathBuf, time::Duration};
use yantra_client::{Endpoint, EndpointConfig, Timeouts};

const EXAMPLES: &str = "\
Examples:
  yantra bench load --clients 16 --requests 200
  yantra bench load --url http://127.0.0.1:8080 --url http://127.0.0.1:8081 --clients 16 --requests 96 --rounds 3
  yantra bench load --rate 2.5 --duration 60 --goodput ttft:300 --goodput itl:50
  yantra bench load --prompts questions.jsonl --clients 4 --json
  yantra bench load --url http://127.0.0.1:8080 --url http://127.0.0.1:8080 --api-key \"$A\" --api-key \"$B\" \
    --flood none --flood \"$C=64\"
  yantra bench load --url http://127.0.0.1:8080 --url http://127.0.0.1:8080 --extra-body '{}' --extra-body \
    '{\"response_format\": {\"type\": \"json_object\"}}'

Closed loop (--clients) or open loop (--rate, Poisson arrivals). Each line of a prompts file is {\"prompt\": \"…\"} or
{\"messages\": [{\"role\": \"user\", \"content\": \"…\"}]}, optionally with \"max_tokens\".";

/// Measure a server under load
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LoadArgs {
    /// Server to measure; give several to compare them in turns
    #[arg(long = "url", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    urls: Vec<String>,
    /// Model to ask for, one for all or one per URL; of several with commas between each request asks the next [default:
    /// the first the server lists]
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Closed loop: clients that each send their next request when the last one is answered
    #[arg(long, value_name = "N", default_value_t = 8)]
    clients: usize,
    /// Open loop: requests per second, arriving at random
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "clients")]
    rate: Option<f64>,
    /// Requests in all, per server [default: 64, unless --duration is given]
    #[arg(long, value_name = "N")]
    requests: Option<usize>,
    /// Send requests for this many seconds, per server
    #[arg(long, value_name = "SECONDS", conflicts_with = "requests")]
    duration: Option<f64>,
    /// Turns that each server takes [default: 3 with several servers, 1 with one]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Requests before the measurement, per server
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmup: usize,
    /// Prompt tokens that all requests share (as a system prompt)
    #[arg(long, value_name = "TOKENS", default_value_t = 400)]
    shared_tokens: usize,
    /// Prompt tokens of each request's own
    #[arg(long, value_name = "TOKENS", default_value_t = 60)]
    own_tokens: usize,
    /// Tokens of each reply
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    output_tokens: u32,
    /// Requests from a JSON Lines file instead of synthetic ones, used in turn
    #[arg(long, value_name = "FILE", conflicts_with_all = ["shared_tokens", "own_tokens"])]
    prompts: Option<PathBuf>,
    /// Use /v1/completions: for base models without a chat template
    #[arg(long)]
    completions: bool,
    /// Let the model end its replies early instead of always producing all tokens
    #[arg(long)]
    respect_eos: bool,
    /// Sampling temperature
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Seed of prompts and arrivals
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Fields put into every request, as a JSON object; one for all or one per URL
    #[arg(long = "extra-body", value_name = "JSON")]
    extra_bodies: Vec<String>,
    /// Limit that a good request keeps, in milliseconds: ttft:300, itl:50 (mean of the request) or e2e:5000
    #[arg(long = "goodput", value_name = "METRIC:MS")]
    goodput: Vec<String>,
    /// Give up on a request after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0)]
    timeout: f64,
    /// Key to send; several are used in turn [default: YANTRA_API_KEY]
    #[arg(long = "api-key", value_name = "KEY")]
    api_keys: Vec<String>,
    /// Clients with a key of their own that send as much as they can meanwhile and are not measured; `none` for none; one for
    /// all or one per URL
    #[arg(long = "flood", value_name = "KEY=CLIENTS")]
    floods: Vec<String>,
    /// Allow servers on other machines
    #[arg(long)]
    allow_remote: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// More than any test needs, and few enough for a machine's ports.
const MAX_CLIENTS: usize = 4096;

/// Runs the command.
pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    let (plan, goodput) = plan(args)?;
    // One thread: the load must not take the cores from the server it measures.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let targets = targets(args).await?;
        let requests = prompts::Requests::prepare(args, &targets[0]).await?;
        let mut runs = drive::run(&targets, &requests, &plan).await?;
        let failed_all = runs.iter().all(|run| run.records.iter().all(|record| record.outcome.is_err()));
        let report = report::Report::new(args, &plan, &requests, &mut runs, &goodput);
        if args.json {
            crate::output::print_json(&report)?
        } else {
            print!("{report}")
        }
        if failed_all {
            anyhow::bail!("every request failed: {}", report.first_failure().unwrap_or("none was sent"));
        }
        Ok(())
    })
}

/// A server and the model to ask there.
pub(crate) struct Target {
    /// One for each key.
    endpoints: Vec<Endpoint>,
    /// Several with commas between are asked in turn.
    pub(crate) model: String,
    /// Another tenant's clients.
    pub(crate) flood: Option<Flood>,
    /// Fields put into every request.
    extra: serde_json::Map<String, serde_json::Value>,
}

/// Clients that keep a server busy and are not measured.
pub(crate) struct Flood {
    pub(crate) endpoint: Endpoint,
    pub(crate) clients: usize,
}

impl Target {
    /// The server, as the request of this number asks it.
    pub(crate) fn endpoint(&self, number: u64) -> &Endpoint {
        &self.endpoints[number as usize % self.endpoints.len()]
    }

    /// The body of the request of this number.
    pub(crate) fn body(&self, requests: &prompts::Requests, number: u64) -> serde_json::Value {
        let count = self.model.split(',').count() as u64;
        let model = self.model.split(',').nth((number % count) as usize).unwrap_or(&self.model);
        let mut body = requests.body(number, model);
        if let Some(body) = body.as_object_mut() {
            body.extend(self.extra.clone());
        }
        body
    }
}

fn plan(args: &LoadArgs) -> Result<(Plan, Vec<Goodput>)> {
    if args.clients == 0 || args.clients > MAX_CLIENTS {
        return Err(usage(format!("--clients is {}, expected 1 to {MAX_CLIENTS}", args.clients)));
    }
    let load = match args.rate {
        Some(rate) if rate.is_finite() && rate > 0.0 && rate <= 10_000.0 => Load::Open { rate },
        Some(rate) => return Err(usage(format!("--rate is {rate}, expected requests per second above 0"))),
        None => Load::Closed { clients: args.clients },
    };
    let stop = match (args.duration, args.requests) {
        (Some(seconds), _) if seconds.is_finite() && seconds > 0.0 => Stop::After(Duration::from_secs_f64(seconds)),
        (Some(seconds), _) => return Err(usage(format!("--duration is {seconds}, expected seconds above 0"))),
        (None, Some(0)) => return Err(usage("--requests is 0, expected at least 1")),
        (None, requests) => Stop::Requests(requests.unwrap_or(64)),
    };
    let rounds = args.rounds.unwrap_or(if args.urls.len() > 1 { 3 } else { 1 });
    if rounds == 0 || matches!(stop, Stop::Requests(requests) if requests < rounds) {
        return Err(usage(format!("--rounds is {rounds}, expected 1 to the number of requests")));
    }
    let goodput = args.goodput.iter().map(|limit| Goodput::parse(limit)).collect::<Result<_>>()?;
    Ok((Plan { load, stop, rounds, warmup: args.warmup, seed: args.seed }, goodput))
}

async fn targets(args: &LoadArgs) -> Result<Vec<Target>> {
    if args.models.len() > 1 && args.models.len() != args.urls.len() {
        let message = format!("{} models for {} URLs; give one, or one per URL", args.models.len(), args.urls.len());
        return Err(usage(message));
    }
    if !args.timeout.is_finite() || args.timeout <= 0.0 || args.timeout > 1e6 {
        return Err(usage(format!("--timeout is {}, expected seconds above 0", args.timeout)));
    }
    let limit = Duration::from_secs_f64(args.timeout);
    let timeouts = Timeouts { first_byte: limit, idle: limit, ..Timeouts::default() };
    let mut targets = Vec::new();
    for (position, url) in args.urls.iter().enumerate() {
        let with_key = |key: Option<String>| {
            let config = EndpointConfig { timeouts, ..EndpointConfig::new(url).with_api_key(key) };
            Endpoint::new(&config).map_err(|error| usage(error.to_string()))
        };
        let endpoints: Vec<Endpoint> = match args.api_keys.as_slice() {
            [] => vec![with_key(env::api_key())?],
            keys => keys.iter().map(|key| with_key(Some(key.clone()))).collect::<Result<_>>()?,
        };
        if !endpoints[0].is_loopback() && !args.allow_remote {
            return Err(usage(format!("{url} is not on this machine; a load test of others needs --allow-remote")));
        }
        let model = match args.models.get(position).or(args.models.first()) {
            Some(model) => model.clone(),
            None => first_model(&endpoints[0]).await?,
        };
        let extra = extra_body(args, position)?;
        let flood = match flood(args, position)? {
            Some((key, clients)) => Some(Flood { endpoint: with_key(Some(key))?, clients }),
            None => None,
        };
        targets.push(Target { endpoints, model, flood, extra });
    }
    Ok(targets)
}

/// The key and the number of the clients that flood one of the URLs.
fn flood(args: &LoadArgs, position: usize) -> Result<Option<(String, usize)>> {
    let floods = &args.floods;
    if floods.len() > 1 && floods.len() != args.urls.len() {
        return Err(usage(format!("{} floods for {} URLs; give one, or one per URL", floods.len(), args.urls.len())));
    }
    let Some(text) = floods.get(position).or(floods.first()).filter(|text| *text != "none") else { return Ok(None) };
    let parsed = text.rsplit_once('=').and_then(|(key, clients)| Some((key.to_owned(), clients.parse().ok()?)));
    match parsed {
        Some((key, clients)) if (1..=MAX_CLIENTS).contains(&clients) => Ok(Some((key, clients))),
        _ => Err(usage(format!("--flood is `{text}`, expected KEY=CLIENTS with 1 to {MAX_CLIENTS} clients, or none"))),
    }
}

/// What is put into every request to one of the URLs.
fn extra_body(args: &LoadArgs, position: usize) -> Result<serde_json::Map<String, serde_json::Value>> {
    let bodies = &args.extra_bodies;
    if bodies.len() > 1 && bodies.len() != args.urls.len() {
        let message = format!("{} extra bodies for {} URLs; give one, or one per URL", bodies.len(), args.urls.len());
        return Err(usage(message));
    }
    let Some(text) = bodies.get(position).or(bodies.first()) else { return Ok(serde_json::Map::new()) };
    serde_json::from_str(text)
        .map_err(|error| usage(format!("--extra-body is `{text}`, expected a JSON object: {error}")))
}

async fn first_model(endpoint: &Endpoint) -> Result<String> {
    let models = endpoint.models().await.with_context(|| format!("cannot ask {} for its models", endpoint.root()))?;
    let first = models.iter().find(|model| model.generates_text());
    Ok(first.with_context(|| format!("{} offers no model that generates text", endpoint.root()))?.id.clone())
}
