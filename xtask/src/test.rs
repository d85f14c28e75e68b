//! `cargo xtask test`: everything CI runs, step by step, with a summary.
//!
//! A step that fails does not stop the others, so that one run shows everything that is wrong; a step whose
//! preconditions failed is not run. The development build is used throughout: it has overflow checks, shares its
//! artefacts with the tests, and its kernels are optimised all the same.

use crate::{
    clients, console, http, layering,
    server::Server,
    tools::{cargo, find, program, root, run as run_command, yantra},
};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

const CHAT_MODEL: &str = "smollm2-135m";
const EMBEDDING_MODEL: &str = "minilm-l6";
/// Every model that some test reads; 1.5 GB, fetched once.
const MODELS: [&str; 4] = [CHAT_MODEL, EMBEDDING_MODEL, "gemma3-270m", "qwen2.5-coder-1.5b"];
const API_KEY: &str = "test-key-of-xtask";

/// Which steps to run.
#[derive(clap::Args)]
pub(crate) struct TestArgs {
    /// Run only this step; may be given several times
    #[arg(long, value_name = "STEP", value_parser = step_names())]
    only: Vec<String>,
    /// Leave this step out; may be given several times
    #[arg(long, value_name = "STEP", value_parser = step_names())]
    skip: Vec<String>,
}

struct Step {
    name: &'static str,
    what: &'static str,
    /// Steps without whose success this one makes no sense.
    needs: &'static [&'static str],
    run: fn() -> Result<()>,
}

/// In the order they run: cheap ones first, and the console before the server that embeds it.
const STEPS: &[Step] = &[
    Step { name: "fmt", what: "formatting", needs: &[], run: format_check },
    Step { name: "layering", what: "crates depend downwards only", needs: &[], run: layering::check },
    Step { name: "console", what: "console: types, unit tests, build", needs: &[], run: console_tests },
    Step { name: "clippy", what: "lints", needs: &[], run: clippy },
    Step { name: "build", what: "the binary", needs: &[], run: build },
    Step { name: "models", what: "small models", needs: &["build"], run: pull_models },
    Step { name: "rust", what: "unit and integration tests", needs: &[], run: rust_tests },
    Step { name: "doc", what: "examples in the documentation", needs: &[], run: doc_tests },
    Step { name: "browser", what: "console in Chromium", needs: &["console", "build", "models"], run: browser_tests },
    Step { name: "python", what: "OpenAI's Python client", needs: &["build", "models"], run: python_client },
    Step { name: "node", what: "OpenAI's Node client", needs: &["build", "models"], run: node_client },
];

fn step_names() -> clap::builder::PossibleValuesParser {
    STEPS.iter().map(|step| step.name).collect::<Vec<_>>().into()
}

enum Outcome {
    Passed,
    Failed(String),
    Blocked(&'static str),
    LeftOut,
}

/// Runs the steps.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let mut outcomes: Vec<(&Step, Outcome, Duration)> = Vec::new();
    for step in STEPS {
        let wanted = args.only.is_empty() || args.only.iter().any(|name| name == step.name);
        let started = Instant::now();
        let outcome = if !wanted || args.skip.iter().any(|name| name == step.name) {
            Outcome::LeftOut
        } else if let Some(need) = failed_need(step, &outcomes) {
            Outcome::Blocked(need)
        } else {
            println!("\n== {}: {}", step.name, step.what);
            match (step.run)() {
                Ok(()) => Outcome::Passed,
                Err(error) => {
                    eprintln!("{error:#}");
                    Outcome::Failed(format!("{error:#}"))
                }
            }
        };
        outcomes.push((step, outcome, started.elapsed()));
    }
    summary(&outcomes)
}

/// A step left out on purpose does not block: what it makes may be there from before.
fn failed_need(step: &Step, outcomes: &[(&Step, Outcome, Duration)]) -> Option<&'static str> {
    let bad = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Blocked(_));
    step.needs.iter().copied().find(|need| outcomes.iter().any(|(done, outcome, _)| done.name == *need && bad(outcome)))
}

fn summary(outcomes: &[(&Step, Outcome, Duration)]) -> Result<()> {
    println!("\n== summary");
    let mut failed = Vec::new();
    let mut total = Duration::ZERO;
    for (step, outcome, time) in outcomes {
        total += *time;
        let (word, detail) = match outcome {
            Outcome::Passed => ("passed", String::new()),
            Outcome::Failed(error) => ("FAILED", error.lines().next().unwrap_or_default().to_owned()),
            Outcome::Blocked(need) => ("not run", format!("`{need}` failed")),
            Outcome::LeftOut => ("left out", String::new()),
        };
        if matches!(outcome, Outcome::Failed(_) | Outcome::Blocked(_)) {
            failed.push(step.name);
        }
        println!(
            "{:10} {word:9} {:7.1} s  {}",
            step.name,
            time.as_secs_f64(),
            if detail.is_empty() { step.what } else { &detail }
        );
    }
    println!("{:10} {:9} {:7.1} s", "total", "", total.as_secs_f64());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn format_check() -> Result<()> {
    run_command(&mut cargo(&["fmt", "--all", "--check"]))
}

fn console_tests() -> Result<()> {
    if !root().join("console/package.json").is_file() {
        bail!("there is no console/package.json");
    }
    console::unit_tests()?;
    console::build()
}

fn clippy() -> Result<()> {
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
    run_command(&mut cargo(&args))
}

fn build() -> Result<()> {
    run_command(&mut cargo(&["build", "--locked", "--package", "yantra"]))
}

fn pull_models() -> Result<()> {
    let binary = yantra("debug")?;
    MODELS.iter().try_for_each(|model| run_command(&mut program(&binary, &["pull", model], &root())))
}

fn rust_tests() -> Result<()> {
    if find("cargo-nextest").is_some() {
        return run_command(&mut cargo(&["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]));
    }
    println!("cargo-nextest is not installed; `cargo test` does the same, with less parallelism");
    run_command(&mut cargo(&["test", "--workspace", "--locked", "--no-fail-fast", "--lib", "--bins", "--tests"]))
}

fn doc_tests() -> Result<()> {
    run_command(&mut cargo(&["test", "--workspace", "--locked", "--doc"]))
}

/// Small settings: these servers run beside whatever else the machine does.
fn server(name: &str, extra: &[&str]) -> Result<Server> {
    let args = [&[CHAT_MODEL, EMBEDDING_MODEL, "--context", "2048", "--max-sequences", "4"], extra].concat();
    Server::start(&yantra("debug")?, http::free_port()?, &args, name)
}

fn browser_tests() -> Result<()> {
    console::browser_tests(&server("browser", &[])?.url())
}

fn with_target(name: &str, test: fn(&clients::Target<'_>) -> Result<()>) -> Result<()> {
    let server = server(name, &["--api-key", API_KEY])?;
    let target = clients::Target {
        url: &server.url(),
        api_key: API_KEY,
        chat_model: CHAT_MODEL,
        embedding_model: EMBEDDING_MODEL,
    };
    test(&target)
}

fn python_client() -> Result<()> {
    with_target("python", clients::python)
}

fn node_client() -> Result<()> {
    with_target("node", clients::node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_need_only_earlier_ones() {
        for (position, step) in STEPS.iter().enumerate() {
            for need in step.needs {
                assert!(STEPS[..position].iter().any(|earlier| earlier.name == *need), "{} needs {need}", step.name);
            }
        }
    }

    #[test]
    fn a_failure_blocks_what_needs_it() {
        let step = |name| STEPS.iter().find(|step| step.name == name);
        let (Some(build), Some(models)) = (step("build"), step("models")) else { unreachable!("both are steps") };
        let failed = vec![(build, Outcome::Failed("no".into()), Duration::ZERO)];
        assert_eq!(failed_need(models, &failed), Some("build"));
        let left_out = vec![(build, Outcome::LeftOut, Duration::ZERO)];
        assert_eq!(failed_need(models, &left_out), None);
    }
}
