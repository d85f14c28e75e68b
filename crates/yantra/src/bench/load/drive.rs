//! The closed and the open loop, round by round, server by server.

use super::{
    Flood, Target,
    measure::{self, Record},
    prompts::Requests,
};
use anyhow::Result;
use futures_util::{StreamExt, stream::FuturesUnordered};
use indicatif::ProgressBar;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    cell::Cell,
    convert::Infallible,
    time::{Duration, Instant},
};

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Load {
    /// Each client sends its next request when the last one is answered.
    Closed { clients: usize },
    /// Requests arrive as a Poisson process of this many per second.
    Open { rate: f64 },
}

/// When a server has had enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stop {
    Requests(usize),
    After(Duration),
}

/// The whole measurement.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) load: Load,
    pub(crate) stop: Stop,
    pub(crate) rounds: usize,
    pub(crate) warmup: usize,
    pub(crate) seed: u64,
}

/// Everything measured of one server.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) records: Vec<Record>,
    /// Time in which requests of this server were in flight, all rounds.
    pub(crate) busy: Duration,
    /// The same, round by round, with the tokens produced: how much the machine drifts.
    pub(crate) rounds: Vec<Round>,
}

/// One server's turn in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) seconds: f64,
    pub(crate) output_tokens: u64,
}

/// Open-loop requests in flight beyond which new ones are held back: memory, not a server's queue, ends here.
const MAX_IN_FLIGHT: usize = 4096;

/// How long before a measurement a flood begins, and how long after one its end takes.
const FLOOD_PAUSE: Duration = Duration::from_secs(1);

/// Runs the plan against every target.
pub(crate) async fn run(targets: &[Target], requests: &Requests, plan: &Plan) -> Result<Vec<Run>> {
    for target in targets {
        warm_up(target, requests, plan).await?;
    }
    let mut runs: Vec<Run> = targets.iter().map(|_| Run::default()).collect();
    let total = match plan.stop {
        Stop::Requests(count) => count * targets.len(),
        Stop::After(_) => 0,
    };
    let bar = crate::output::progress(total as u64, "requests");
    for round in 0..plan.rounds {
        for (target, run) in targets.iter().zip(&mut runs) {
            let turn = Turn { target, requests, plan, round, bar: &bar };
            let (records, elapsed) = tokio::select! {
                measured = turn.measured() => measured,
                never = turn.flood() => match never {},
            };
            if target.flood.is_some() {
                tokio::time::sleep(FLOOD_PAUSE).await;
            }
            let tokens = records.iter().filter_map(|record| Some(record.outcome.as_ref().ok()?.output_tokens)).sum();
            run.rounds.push(Round { seconds: elapsed.as_secs_f64(), output_tokens: tokens });
            run.busy += elapsed;
            run.records.extend(records);
        }
    }
    bar.finish_and_clear();
    Ok(runs)
}

/// Requests that fill caches and find out early that a server refuses everything.
async fn warm_up(target: &Target, requests: &Requests, plan: &Plan) -> Result<()> {
    for number in 0..plan.warmup as u64 {
        // Numbers from the far end, so that no measured request finds its own prompt cached.
        let body = target.body(requests, u64::MAX / 4 - number);
        let record = measure::request(target.endpoint(number), requests.path(), &body, Instant::now()).await;
        if let Err(failure) = record.outcome {
            anyhow::bail!("the first request to {} failed: {}", target.endpoint(number).root(), failure.message);
        }
    }
    Ok(())
}

/// One server's part of one round.
struct Turn<'a> {
    target: &'a Target,
    requests: &'a Requests,
    plan: &'a Plan,
    round: usize,
    bar: &'a ProgressBar,
}

impl Turn<'_> {
    /// This round's share of the requests, and the number of the first of them.
    fn share(&self) -> (u64, u64) {
        let (round, rounds) = (self.round as u64, self.plan.rounds as u64);
        match self.plan.stop {
            Stop::Requests(count) => {
                let upto = |round: u64| count as u64 * round / rounds;
                (upto(round), upto(round + 1) - upto(round))
            }
            // Far enough apart that rounds never repeat a prompt.
            Stop::After(_) => (round << 32, u64::MAX),
        }
    }

    fn time_is_up(&self, started: Instant) -> bool {
        matches!(self.plan.stop, Stop::After(limit) if started.elapsed() >= limit / self.plan.rounds as u32)
    }

    /// All records, and how long it took.
    async fn measured(&self) -> (Vec<Record>, Duration) {
        if self.target.flood.is_some() {
            tokio::time::sleep(FLOOD_PAUSE).await;
        }
        let started = Instant::now();
        let records = match self.plan.load {
            Load::Closed { clients } => self.closed(clients, started).await,
            Load::Open { rate } => self.open(rate, started).await,
        };
        (records, started.elapsed())
    }

    /// Keeps the server busy for as long as it is asked to.
    async fn flood(&self) -> Infallible {
        let Some(Flood { endpoint, clients }) = &self.target.flood else { return std::future::pending().await };
        let next = Cell::new((1 << 62) + ((self.round as u64) << 32));
        let client = async || -> Infallible {
            loop {
                let body = self.target.body(self.requests, next.replace(next.get() + 1));
                if measure::request(endpoint, self.requests.path(), &body, Instant::now()).await.outcome.is_err() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        let mut running: FuturesUnordered<_> = (0..*clients).map(|_| client()).collect();
        match running.next().await {
            Some(never) => match never {},
            None => std::future::pending().await,
        }
    }

    async fn one(&self, number: u64, due: Instant) -> Record {
        let body = self.target.body(self.requests, number);
        let record = measure::request(self.target.endpoint(number), self.requests.path(), &body, due).await;
        self.bar.inc(1);
        record
    }

    async fn closed(&self, clients: usize, started: Instant) -> Vec<Record> {
        let (first, share) = self.share();
        let next = Cell::new(0);
        let client = async || {
            let mut records = Vec::new();
            while next.get() < share && !self.time_is_up(started) {
                let number = next.replace(next.get() + 1);
                let record = self.one(first + number, Instant::now()).await;
                let failed = record.outcome.is_err();
                records.push(record);
                if failed {
                    // A server that refuses at once must not be asked thousands of times a second.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            records
        };
        let mut running: FuturesUnordered<_> = (0..clients).map(|_| client()).collect();
        let mut records = Vec::new();
        while let Some(part) = running.next().await {
            records.extend(part);
        }
        records
    }

    async fn open(&self, rate: f64, started: Instant) -> Vec<Record> {
        let (first, share) = self.share();
        let mut random = StdRng::seed_from_u64(self.plan.seed.wrapping_add(self.round as u64));
        let mut running = FuturesUnordered::new();
        let mut records = Vec::new();
        let mut due = started;
        let mut sent = 0;
        loop {
            let more = sent < share && !self.time_is_up(started);
            if !more && running.is_empty() {
                return records;
            }
            let may_send = more && running.len() < MAX_IN_FLIGHT;
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.into()), if may_send => {
                    running.push(self.one(first + sent, due));
                    sent += 1;
                    due += exponential(&mut random, rate);
                }
                Some(record) = running.next(), if !running.is_empty() => records.push(record),
            }
        }
    }
}

/// The time to the next arrival of a Poisson process: exponentially distributed with mean `1 / rate`.
fn exponential(random: &mut StdRng, rate: f64) -> Duration {
    let uniform: f64 = random.random_range(f64::MIN_POSITIVE..1.0);
    Duration::from_secs_f64((-uniform.ln() / rate).min(3600.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_the_mean_and_the_spread_of_a_poisson_process() {
        let mut random = StdRng::seed_from_u64(1);
        let gaps: Vec<f64> = (0..20_000).map(|_| exponential(&mut random, 4.0).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 0.25).abs() < 0.01, "{mean}");
        assert!((variance.sqrt() - 0.25).abs() < 0.01, "an exponential's deviation is its mean: {}", variance.sqrt());
    }
}
