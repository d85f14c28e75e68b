//! What was measured, as a table or JSON.

use super::{
    LoadArgs,
    drive::{Load, Plan, Run, Stop},
    measure::Timing,
    prompts::Requests,
};
use crate::{
    bench::statistics::{Distribution, median_and_spread},
    failure::usage,
    output::{milliseconds, table},
};
use anyhow::Result;
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// A limit that a good request keeps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Goodput {
    metric: Metric,
    limit_ms: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Metric {
    Ttft,
    Itl,
    E2e,
}

impl Goodput {
    /// `ttft:300`
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let wrong = || usage(format!("--goodput is `{text}`, expected ttft:MS, itl:MS or e2e:MS, as ttft:300"));
        let (name, limit) = text.split_once(':').ok_or_else(wrong)?;
        let metric = match name {
            "ttft" => Metric::Ttft,
            "itl" => Metric::Itl,
            "e2e" => Metric::E2e,
            _ => return Err(wrong()),
        };
        let limit_ms: f64 = limit.parse().map_err(|_| wrong())?;
        if limit_ms.is_finite() && limit_ms > 0.0 { Ok(Self { metric, limit_ms }) } else { Err(wrong()) }
    }

    fn kept_by(&self, timing: &Timing) -> bool {
        let value = match self.metric {
            Metric::Ttft => timing.first_token_ms,
            Metric::Itl => timing.per_token_ms().unwrap_or(0.0),
            Metric::E2e => timing.total_ms,
        };
        value <= self.limit_ms
    }
}

/// The whole report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    load: String,
    prompts: String,
    output_tokens_wanted: u32,
    rounds: usize,
    seed: u64,
    goodput_limits: Vec<Goodput>,
    servers: Vec<Server>,
}

/// One server's figures. Times are in milliseconds.
#[derive(Debug, Serialize)]
struct Server {
    url: String,
    requests: usize,
    succeeded: usize,
    failed: BTreeMap<String, Failed>,
    seconds: f64,
    requests_per_second: f64,
    output_tokens_per_second: f64,
    /// Output tokens per second of the middle round, and half the distance between the quartiles.
    round_median: f64,
    round_spread: f64,
    output_tokens: u64,
    prompt_tokens: u64,
    /// Prompt tokens that the server found in its prefix cache, and their share; null where it does not say.
    cached_prompt_tokens: Option<u64>,
    prefix_hit_rate: Option<f64>,
    /// Whether token counts are the server's (otherwise: pieces of the stream).
    usage_given: bool,
    ttft_ms: Option<Distribution>,
    inter_token_ms: Option<Distribution>,
    per_output_token_ms: Option<Distribution>,
    end_to_end_ms: Option<Distribution>,
    good_requests_per_second: Option<f64>,
    good_fraction: Option<f64>,
    /// Output tokens per second relative to the first server, median over rounds.
    ratio_to_first: Option<f64>,
}

/// Failures of one kind.
#[derive(Debug, Serialize)]
struct Failed {
    count: usize,
    example: String,
}

impl Report {
    /// Sums up all runs.
    pub(crate) fn new(
        args: &LoadArgs,
        plan: &Plan,
        requests: &Requests,
        runs: &mut [Run],
        goodput: &[Goodput],
    ) -> Self {
        let mut servers: Vec<Server> =
            args.urls.iter().zip(&*runs).map(|(url, run)| Server::new(url, run, goodput)).collect();
        for (position, server) in servers.iter_mut().enumerate().skip(1) {
            server.ratio_to_first = ratio(&runs[position], &runs[0]);
        }
        Self {
            load: describe(plan),
            prompts: requests.description.clone(),
            output_tokens_wanted: args.output_tokens,
            rounds: plan.rounds,
            seed: plan.seed,
            goodput_limits: goodput.to_vec(),
            servers,
        }
    }

    /// The first failure's words.
    pub(crate) fn first_failure(&self) -> Option<&str> {
        self.servers.iter().flat_map(|server| server.failed.values()).map(|failed| &*failed.example).next()
    }
}

fn describe(plan: &Plan) -> String {
    let load = match plan.load {
        Load::Closed { clients } => format!("closed loop of {clients} clients"),
        Load::Open { rate } => format!("open loop, Poisson arrivals at {rate}/s"),
    };
    let stop = match plan.stop {
        Stop::Requests(count) => format!("{count} requests"),
        Stop::After(limit) => format!("{} s", limit.as_secs_f64()),
    };
    format!("{load}, {stop} in {} round(s), {} warm-up", plan.rounds, plan.warmup)
}

/// The median over rounds of this server's speed relative to the other's in the same round.
fn ratio(run: &Run, first: &Run) -> Option<f64> {
    let speed = |round: &super::drive::Round| round.output_tokens as f64 / round.seconds;
    let ratios: Vec<f64> = run
        .rounds
        .iter()
        .zip(&first.rounds)
        .map(|(own, other)| speed(own) / speed(other))
        .filter(|ratio| ratio.is_finite())
        .collect();
    (!ratios.is_empty()).then(|| median_and_spread(&ratios).0)
}

/// Prompt tokens, those of them that the server had cached, and their share: of the answers that tell.
fn prefix_hits(timings: &[&Timing]) -> (u64, Option<u64>, Option<f64>) {
    let all = timings.iter().filter_map(|timing| timing.prompt_tokens).sum();
    let told = timings.iter().filter_map(|timing| Some((timing.prompt_tokens?, timing.cached_tokens?)));
    let (prompt, cached) = told.fold((0, 0), |(prompt, cached), answer| (prompt + answer.0, cached + answer.1));
    if prompt == 0 { (all, None, None) } else { (all, Some(cached), Some(cached as f64 / prompt as f64)) }
}

impl Server {
    fn new(url: &str, run: &Run, goodput: &[Goodput]) -> Self {
        let seconds = run.busy.as_secs_f64();
        let timings: Vec<&Timing> = run.records.iter().filter_map(|record| record.outcome.as_ref().ok()).collect();
        let mut failed: BTreeMap<String, Failed> = BTreeMap::new();
        for failure in run.records.iter().filter_map(|record| record.outcome.as_ref().err()) {
            let entry = failed
                .entry(failure.reason.clone())
                .or_insert_with(|| Failed { count: 0, example: failure.message.clone() });
            entry.count += 1;
        }
        let output_tokens: u64 = timings.iter().map(|timing| timing.output_tokens).sum();
        let speeds: Vec<f64> = run.rounds.iter().map(|round| round.output_tokens as f64 / round.seconds).collect();
        let (round_median, round_spread) = median_and_spread(&speeds);
        let (prompt_tokens, cached_prompt_tokens, prefix_hit_rate) = prefix_hits(&timings);
        let good = timings.iter().filter(|timing| goodput.iter().all(|limit| limit.kept_by(timing))).count();
        let wants_goodput = !goodput.is_empty();
        let all = |value: fn(&Timing) -> f64| Distribution::of(timings.iter().map(|timing| value(timing)).collect());
        Self {
            url: url.to_owned(),
            requests: run.records.len(),
            succeeded: timings.len(),
            failed,
            seconds,
            requests_per_second: timings.len() as f64 / seconds,
            output_tokens_per_second: output_tokens as f64 / seconds,
            round_median,
            round_spread,
            output_tokens,
            prompt_tokens,
            cached_prompt_tokens,
            prefix_hit_rate,
            usage_given: timings.iter().all(|timing| timing.usage_given),
            ttft_ms: all(|timing| timing.first_token_ms),
            inter_token_ms: Distribution::of(timings.iter().flat_map(|timing| timing.gaps_ms.clone()).collect()),
            per_output_token_ms: Distribution::of(timings.iter().filter_map(|timing| timing.per_token_ms()).collect()),
            end_to_end_ms: all(|timing| timing.total_ms),
            good_requests_per_second: wants_goodput.then(|| good as f64 / seconds),
            good_fraction: wants_goodput.then(|| good as f64 / run.records.len().max(1) as f64),
            ratio_to_first: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}; {} output tokens\n", self.load, self.prompts, self.output_tokens_wanted)?;
        let rows = self.servers.iter().map(|server| {
            let failed: usize = server.failed.values().map(|failed| failed.count).sum();
            let ratio = server.ratio_to_first.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}x"));
            let cached = server.prefix_hit_rate.map_or_else(|| "-".to_owned(), |part| format!("{:.1} %", part * 100.0));
            let good = server.good_fraction.map_or_else(
                || "-".to_owned(),
                |part| format!("{:.2} ({:.0} %)", server.good_requests_per_second.unwrap_or(0.0), part * 100.0),
            );
            vec![
                server.url.clone(),
                format!("{:.2}", server.requests_per_second),
                format!("{:.1}", server.output_tokens_per_second),
                format!("{}/{}", server.succeeded, server.requests),
                failed.to_string(),
                cached,
                good,
                ratio,
            ]
        });
        let header = ["server", "requests/s", "output tok/s", "answered", "failed", "prefix hits", "good/s", "ratio"];
        writeln!(f, "{}\n", table(&header, rows))?;
        let mut rows = Vec::new();
        for server in &self.servers {
            let metrics = [
                ("time to first token", server.ttft_ms),
                ("between pieces", server.inter_token_ms),
                ("per output token", server.per_output_token_ms),
                ("end to end", server.end_to_end_ms),
            ];
            for (name, distribution) in metrics {
                let Some(d) = distribution else { continue };
                let values = [d.p50, d.p90, d.p99, d.max, d.mean].map(milliseconds);
                let label = if self.servers.len() > 1 { format!("{} {name}", server.url) } else { name.to_owned() };
                rows.push([vec![label], values.to_vec()].concat());
            }
        }
        writeln!(f, "{}", table(&["latency", "p50", "p90", "p99", "max", "mean"], rows))?;
        self.servers.iter().try_for_each(|server| server.write_notes(f))
    }
}

impl Server {
    fn write_notes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (reason, failed) in &self.failed {
            writeln!(f, "\n{}: {} failed, {reason}: {}", self.url, failed.count, failed.example)?;
        }
        if !self.usage_given && self.succeeded > 0 {
            writeln!(f, "\n{} gives no usage: its output tokens are pieces of the stream.", self.url)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::bench::load::measure::{Failure, Record};
    use std::time::Duration;

    fn timing(first_token_ms: f64, gaps_ms: &[f64]) -> Timing {
        Timing {
            first_token_ms,
            gaps_ms: gaps_ms.to_vec(),
            total_ms: first_token_ms + gaps_ms.iter().sum::<f64>(),
            prompt_tokens: Some(10),
            cached_tokens: Some(5),
            output_tokens: 1 + gaps_ms.len() as u64,
            usage_given: true,
        }
    }

    #[test]
    fn goodput_counts_requests_that_keep_every_limit() {
        let failure = Failure { reason: "HTTP 429".into(), message: "busy".into() };
        let outcomes = [Ok(timing(100.0, &[10.0, 20.0])), Ok(timing(400.0, &[10.0])), Err(failure)];
        let run = Run {
            records: outcomes.into_iter().map(|outcome| Record { outcome }).collect(),
            busy: Duration::from_secs(2),
            rounds: vec![super::super::drive::Round { seconds: 2.0, output_tokens: 5 }],
        };
        let limits = [Goodput::parse("ttft:300").unwrap(), Goodput::parse("itl:15").unwrap()];
        let server = Server::new("u", &run, &limits);
        assert_eq!((server.requests, server.succeeded, server.failed["HTTP 429"].count), (3, 2, 1));
        assert_eq!(server.good_requests_per_second, Some(0.5));
        assert!((server.good_fraction.unwrap() - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!((server.requests_per_second, server.output_tokens_per_second), (1.0, 2.5));
        assert_eq!(server.inter_token_ms.unwrap().max, 20.0);
        assert_eq!(server.per_output_token_ms.unwrap().p50, 12.5);
        assert_eq!(
            (server.prompt_tokens, server.cached_prompt_tokens, server.prefix_hit_rate),
            (20, Some(10), Some(0.5))
        );
    }

    #[test]
    fn prefix_hits_are_those_of_answers_that_tell() {
        let silent = Timing { cached_tokens: None, ..timing(1.0, &[]) };
        let missed = Timing { cached_tokens: Some(0), ..timing(1.0, &[]) };
        assert_eq!(prefix_hits(&[&silent]), (10, None, None));
        assert_eq!(prefix_hits(&[&silent, &missed]), (20, Some(0), Some(0.0)));
        assert_eq!(prefix_hits(&[&silent, &missed, &timing(1.0, &[])]), (30, Some(5), Some(0.25)));
    }

    #[test]
    fn limits_are_checked() {
        for wrong in ["ttft", "ttft:", "ttft:-1", "ttfb:3", "e2e:nan"] {
            assert!(Goodput::parse(wrong).is_err(), "{wrong}");
        }
    }
}
