//! `cargo xtask peers`: Yantra beside other engines, on the same machine, models and shapes, in the same minutes.
//!
//! Peers come from package registries and are built for this processor ([`setup`]). In each round every engine is measured
//! once at every case, one process at a time, the first of a case another one each round: what else happens on a machine
//! then meets all of them. Every measurement is kept ([`state`]), so a run that was stopped goes on. The processor's and
//! the memory's own speeds are measured beside each case, and each figure's share of them is told.

mod cases;
mod chart;
mod measure;
mod report;
mod setup;
mod state;
mod statistics;

use crate::tools::{self, cargo, output, program, root, target_directory, yantra};
use anyhow::{Context, Result, bail};
use cases::{CASES, Case, Engine, Work};
use measure::Bench;
use setup::{Given, Peers};
use state::{Run, Setting, State};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, UNIX_EPOCH},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask peers                       everything: about an hour and a half on two cores, after building the peers
  cargo xtask peers --quick --only qwen   one round of the cases whose name contains `qwen`
  cargo xtask peers --only prompt --rounds 9
  cargo xtask peers --report              the table of what is measured so far
  cargo xtask peers --report --publish    the same, and the table and chart into docs/

Stopped (Ctrl-C), the same command goes on where it was.";

/// What to measure, with what.
#[derive(clap::Args)]
pub(crate) struct PeersArgs {
    /// Only the cases whose name contains this; may be given several times
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Rounds in which the engines take turns [default: 5, or 1 with --quick]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Runs of a measurement, whose median is taken [default: 3, or 1 with --quick]
    #[arg(long, value_name = "N")]
    repeat: Option<usize>,
    /// Fewer rounds, runs and requests; kept apart from full results
    #[arg(long)]
    quick: bool,
    /// Peers to measure beside Yantra
    #[arg(long = "peer", value_name = "NAME", default_values = ["llama.cpp", "ik_llama.cpp"])]
    peers: Vec<Engine>,
    /// Another peer; transformers takes some gigabytes
    #[arg(long = "with", value_name = "NAME")]
    with: Vec<Engine>,
    /// Threads of every engine [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Begin anew instead of going on with what is measured
    #[arg(long)]
    fresh: bool,
    /// Measure nothing; print what is there
    #[arg(long)]
    report: bool,
    /// Write the table and the chart to docs/
    #[arg(long, conflicts_with = "quick")]
    publish: bool,
    /// Use this virtual environment instead of making one
    #[arg(long, value_name = "DIR")]
    venv: Option<PathBuf>,
    /// Use this `llama-server` instead of building one
    #[arg(long, value_name = "FILE")]
    llama_server: Option<PathBuf>,
    /// Use this library of ik_llama.cpp instead of building one
    #[arg(long, value_name = "FILE")]
    ik_library: Option<PathBuf>,
    /// Use this `yantra` instead of building a release
    #[arg(long, value_name = "FILE")]
    yantra: Option<PathBuf>,
}

/// Measured runs of a process.
const REPEAT: usize = 3;
const ROUNDS: usize = 5;

/// Runs the command.
pub(crate) fn run(args: &PeersArgs) -> Result<()> {
    let directory = target_directory()?.join("peers");
    let path = directory.join(if args.quick { "quick.json" } else { "results.json" });
    if args.report {
        return finish(args, &State::read(path)?, &directory);
    }
    let cases = wanted_cases(&args.only)?;
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { ROUNDS });
    let repeat = args.repeat.unwrap_or(if args.quick { 1 } else { REPEAT });
    if rounds == 0 || repeat == 0 || args.threads == Some(0) {
        bail!("--rounds, --repeat and --threads must be at least 1");
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let ours = our_binary(args)?;
    let models = cases.iter().map(|case| case.model.name).collect::<std::collections::BTreeSet<_>>();
    models.iter().try_for_each(|model| tools::run(&mut program(&ours, &["pull", model], &root())))?;
    let peers = prepare(args, &cases)?;
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let bench =
        Bench { yantra: &ours, peers: &peers, threads: args.threads.unwrap_or(available), repeat, quick: args.quick };
    eprintln!("measuring what the hardware can do");
    let (_, processor) = bench.roofs("", 0)?;
    let setting = Setting { processor, threads: bench.threads, repeat: bench.repeat, yantra: identity(&ours)? };
    let mut state = State::open(path, setting, args.fresh)?;
    measure_all(&bench, &cases, rounds, &mut state)?;
    finish(args, &state, &directory)?;
    for missing in &peers.missing {
        eprintln!("not measured: {missing}");
    }
    Ok(())
}

fn wanted_cases(only: &[String]) -> Result<Vec<&'static Case>> {
    let wanted = |case: &&Case| only.is_empty() || only.iter().any(|part| case.name.contains(part.as_str()));
    let cases: Vec<&Case> = CASES.iter().filter(wanted).collect();
    if cases.is_empty() {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        bail!("no case has {} in its name; there are {}", only.join(" or "), names.join(", "));
    }
    Ok(cases)
}

fn our_binary(args: &PeersArgs) -> Result<PathBuf> {
    if let Some(path) = &args.yantra {
        return path.canonicalize().with_context(|| format!("there is no {}", path.display()));
    }
    tools::run(&mut cargo(&["build", "--release", "--locked", "--package", "yantra"]))?;
    yantra("release")
}

/// What tells one build from another.
fn identity(binary: &Path) -> Result<String> {
    let version = output(&mut program(binary, &["--version"], &root()))?;
    let modified = fs::metadata(binary)?.modified()?.duration_since(UNIX_EPOCH)?.as_secs();
    Ok(format!("{}, built at {modified}", version.trim()))
}

fn prepare(args: &PeersArgs, cases: &[&Case]) -> Result<Peers> {
    let mut wanted: Vec<Engine> = args.peers.iter().chain(&args.with).copied().collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted.retain(|engine| cases.iter().any(|case| engine.does(case.work)));
    let serves = cases.iter().any(|case| matches!(case.work, Work::Serve { .. }));
    let given = Given {
        venv: args.venv.as_deref(),
        ik_library: args.ik_library.as_deref(),
        llama_server: args.llama_server.as_deref(),
    };
    let peers = setup::prepare(&wanted, serves, &given)?;
    for missing in &peers.missing {
        eprintln!("cannot have {missing}");
    }
    Ok(peers)
}

/// Engines of a case, ours among them; another one begins each round.
fn turns(peers: &Peers, case: &Case, round: usize) -> Vec<Engine> {
    let has_server = |engine: Engine| engine != Engine::LlamaCpp || peers.llama_server.is_some();
    let can =
        |engine: &Engine| engine.does(case.work) && (!matches!(case.work, Work::Serve { .. }) || has_server(*engine));
    let mut engines: Vec<Engine> =
        std::iter::once(Engine::Yantra).chain(peers.engines.iter().copied()).filter(can).collect();
    let count = engines.len();
    engines.rotate_left(round % count.max(1));
    engines
}

fn measure_all(bench: &Bench<'_>, cases: &[&Case], rounds: usize, state: &mut State) -> Result<()> {
    check_peers(bench, cases, state)?;
    let mut steps = Vec::new();
    for round in 0..rounds {
        for case in cases {
            steps.extend(turns(bench.peers, case, round).into_iter().map(|engine| (round, *case, engine)));
        }
    }
    let before = steps.len();
    steps.retain(|(round, case, engine)| !state.results.has(case.name, *engine, *round));
    eprintln!("{} measurements, {} of them done before", before, before - steps.len());
    let mut progress = Progress::new(steps.len());
    for (round, case, engine) in steps {
        let has_roof = !matches!(case.work, Work::Serve { .. });
        if has_roof && state.results.roofs_of(case.name, round).is_none() {
            state.results.roofs.push(bench.roofs(case.name, round)?.0);
            state.save()?;
        }
        progress.begin(&format!("round {} of {rounds}, {}, {}", round + 1, case.name, engine.name()));
        match bench.measure(case, engine) {
            Ok(measured) => {
                progress.end(&format!("{} {}", report::number(measured.value), case.work.unit()));
                if let Some(version) = measured.version {
                    state.results.versions.insert(engine, version);
                }
                let run =
                    Run { case: case.name.to_owned(), engine, round, value: measured.value, serving: measured.serving };
                state.results.runs.push(run);
                state.save()?;
            }
            // Ours must work; a peer that does not has no figure, and the next run tries again.
            Err(error) if engine == Engine::Yantra => return Err(error),
            Err(error) => progress.end(&format!("failed: {error:#}")),
        }
    }
    Ok(())
}

/// Sizes of the models, and whether each peer computes the right thing with them: once.
fn check_peers(bench: &Bench<'_>, cases: &[&Case], state: &mut State) -> Result<()> {
    for case in cases {
        let model = case.model.name;
        if !state.results.sizes.contains_key(model) {
            state.results.sizes.insert(model.to_owned(), bench.sizes(model)?);
        }
        if matches!(case.work, Work::Embed { .. } | Work::Serve { .. }) {
            continue;
        }
        for &engine in bench.peers.engines.iter().filter(|engine| engine.does(case.work)) {
            if state.results.check(engine, model).is_some() {
                continue;
            }
            eprint!("does {} compute {model} right? ", engine.name());
            match bench.check(engine, model) {
                Ok(check) => {
                    eprintln!("{}", if check.is_wrong() { "not in batches: its figures are marked" } else { "yes" });
                    state.results.checks.entry(engine).or_default().insert(model.to_owned(), check);
                }
                Err(error) => eprintln!("not known: {error:#}"),
            }
        }
    }
    state.save()
}

/// Lines on standard error: how far, and how long it will take.
struct Progress {
    total: usize,
    done: usize,
    started: Instant,
}

impl Progress {
    fn new(total: usize) -> Self {
        Self { total, done: 0, started: Instant::now() }
    }

    fn begin(&self, what: &str) {
        eprint!("[{}/{}{}] {what}: ", self.done + 1, self.total, self.left());
    }

    fn end(&mut self, result: &str) {
        self.done += 1;
        eprintln!("{result}");
    }

    fn left(&self) -> String {
        if self.done == 0 {
            return String::new();
        }
        let each = self.started.elapsed() / self.done as u32;
        let left = each * (self.total - self.done) as u32;
        format!(", {} min left", left.saturating_add(Duration::from_secs(59)).as_secs() / 60)
    }
}

/// Prints the table, and leaves it and the chart where they belong.
fn finish(args: &PeersArgs, state: &State, directory: &Path) -> Result<()> {
    let results = &state.results;
    let rows = report::rows(results);
    if rows.is_empty() {
        bail!("nothing is measured yet");
    }
    let table = report::markdown(results);
    println!("{table}");
    let caption = format!(
        "{}, {} threads; longer is faster; per cent: share of what the hardware allows",
        results.setting.processor, results.setting.threads
    );
    let picture = chart::svg(&rows, &caption);
    let mut files = vec![(directory.join("peers.md"), &table), (directory.join("peers.svg"), &picture)];
    let page = format!("# Yantra beside other engines\n\n![Chart of the figures](peers.svg)\n\n{table}");
    if args.publish {
        let missing: Vec<&str> = CASES
            .iter()
            .filter(|case| !rows.iter().any(|row| row.case.name == case.name))
            .map(|case| case.name)
            .collect();
        if !missing.is_empty() {
            bail!("not published, because these are not measured: {}", missing.join(", "));
        }
        files.extend([(root().join("docs/peers.md"), &page), (root().join("docs/peers.svg"), &picture)]);
    }
    for (path, text) in files {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("written to {}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cases_by_parts_of_their_names() {
        assert_eq!(wanted_cases(&[]).unwrap().len(), CASES.len());
        let names: Vec<&str> =
            wanted_cases(&["qwen".into(), "embed".into()]).unwrap().iter().map(|case| case.name).collect();
        assert_eq!(names, ["qwen-prompt-256", "qwen-generate-32", "minilm-embed-256"]);
        let error = wanted_cases(&["llama-7b".into()]).unwrap_err().to_string();
        assert!(error.contains("llama-7b") && error.contains("qwen-prompt-256"), "{error}");
    }

    #[test]
    fn everybody_begins_once() {
        let mut peers = Peers {
            python: PathBuf::new(),
            ik_library: None,
            llama_server: None,
            engines: vec![Engine::LlamaCpp, Engine::IkLlamaCpp],
            missing: Vec::new(),
        };
        let first = |round| turns(&peers, &CASES[0], round)[0];
        assert_eq!(
            [first(0), first(1), first(2), first(3)],
            [Engine::Yantra, Engine::LlamaCpp, Engine::IkLlamaCpp, Engine::Yantra]
        );
        let served = CASES.iter().find(|case| matches!(case.work, Work::Serve { .. })).unwrap();
        assert_eq!(turns(&peers, served, 0), [Engine::Yantra]);
        peers.llama_server = Some("llama-server".into());
        assert_eq!(turns(&peers, served, 0), [Engine::Yantra, Engine::LlamaCpp]);
    }
}
