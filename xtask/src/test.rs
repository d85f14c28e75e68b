//! `cargo xtask test`: everything CI runs, step by step, with a summary.
//!
//! A step that fails does not stop the others, so that one run shows everything that is wrong; a step whose
//! preconditions failed is not run. Tests that read data skip, and say so, where the data is not there; here they must not:
//! `YANTRA_REQUIRE_DATA` names to them what is there (`shared` if `../shared` or `$YANTRA_SHARED` is, `models` once they
//! are pulled), and makes such a skip a failure. Tools that are not part of Rust (`cargo-deny`, `cargo-machete`, `typos`)
//! are run if they are installed, and the summary says which were not. The development build is used throughout: it has overflow checks, shares its
//! artefacts with the tests, and its kernels are optimised all the same.

use crate::{
    budgets, clients, console, http, layering,
    server::Server,
    tools::{cargo, find, program, root, run as run_command, target_directory, yantra},
};
use anyhow::{Context, Result, bail};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

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
    run: fn(&Before) -> Result<Ran>,
}

/// What the steps before have done.
struct Before {
    models_pulled: bool,
}

/// How a step that did not fail went.
enum Ran {
    Whole,
    /// Something of it could not be done here.
    Without(String),
}

/// In the order they run: cheap ones first, and the console before the server that embeds it.
const STEPS: &[Step] = &[
    Step { name: "fmt", what: "formatting", needs: &[], run: |_| whole(format_check()) },
    Step { name: "layering", what: "crates depend downwards only", needs: &[], run: |_| whole(layering::check()) },
    Step {
        name: "deny",
        what: "licences, advisories, unused dependencies, spelling",
        needs: &[],
        run: |_| tool_checks(),
    },
    Step { name: "console", what: "console: types, unit tests, build", needs: &[], run: |_| whole(console_tests()) },
    Step { name: "clippy", what: "lints", needs: &[], run: |_| whole(clippy()) },
    Step { name: "build", what: "the binary", needs: &[], run: |_| whole(build()) },
    Step { name: "models", what: "small models", needs: &["build"], run: |_| whole(pull_models()) },
    Step { name: "rust", what: "unit and integration tests", needs: &[], run: rust_tests },
    Step { name: "budgets", what: "instructions of the kernels", needs: &[], run: |_| kernel_budgets() },
    Step { name: "doc", what: "examples in the documentation", needs: &[], run: |_| whole(doc_tests()) },
    Step {
        name: "browser",
        what: "console in Chromium",
        needs: &["console", "build", "models"],
        run: |_| whole(browser_tests()),
    },
    Step {
        name: "python",
        what: "OpenAI's and Anthropic's Python clients",
        needs: &["build", "models"],
        run: |_| whole(python_client()),
    },
    Step {
        name: "schemathesis",
        what: "the server against its OpenAPI document",
        needs: &["build", "models"],
        run: |_| whole(schemathesis()),
    },
    Step {
        name: "node",
        what: "OpenAI's and Anthropic's Node clients",
        needs: &["build", "models"],
        run: |_| whole(node_client()),
    },
];

fn whole(result: Result<()>) -> Result<Ran> {
    result.map(|()| Ran::Whole)
}

fn step_names() -> clap::builder::PossibleValuesParser {
    STEPS.iter().map(|step| step.name).collect::<Vec<_>>().into()
}

enum Outcome {
    Passed,
    /// Passed without what is named.
    PassedWithout(String),
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
            match (step.run)(&Before { models_pulled: passed("models", &outcomes) }) {
                Ok(Ran::Whole) => Outcome::Passed,
                Ok(Ran::Without(what)) => Outcome::PassedWithout(what),
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

fn passed(name: &str, outcomes: &[(&Step, Outcome, Duration)]) -> bool {
    outcomes.iter().any(|(done, outcome, _)| done.name == name && matches!(outcome, Outcome::Passed))
}

fn summary(outcomes: &[(&Step, Outcome, Duration)]) -> Result<()> {
    println!("\n== summary");
    let mut failed = Vec::new();
    let mut total = Duration::ZERO;
    for (step, outcome, time) in outcomes {
        total += *time;
        let (word, detail) = match outcome {
            Outcome::Passed => ("passed", String::new()),
            Outcome::PassedWithout(what) => ("passed", format!("{}; left out: {what}", step.what)),
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

/// What tests must not do without: see the head of this file.
fn required_data(before: &Before) -> String {
    let shared = std::env::var_os("YANTRA_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let kinds = [("shared", shared.is_dir()), ("models", before.models_pulled)];
    kinds.iter().filter(|(_, is_there)| *is_there).map(|(kind, _)| *kind).collect::<Vec<_>>().join(",")
}

fn rust_tests(before: &Before) -> Result<Ran> {
    let required = required_data(before);
    println!("tests may not skip for want of: {}", if required.is_empty() { "nothing" } else { &required });
    let args: &[&str] = if find("cargo-nextest").is_some() {
        &["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]
    } else {
        println!("cargo-nextest is not installed; `cargo test` does the same, with less parallelism");
        &["test", "--workspace", "--locked", "--no-fail-fast", "--lib", "--bins", "--tests"]
    };
    whole(run_command(cargo(args).env("YANTRA_REQUIRE_DATA", required)))
}

/// Checks by tools that are not part of Rust. None is installed here: building them takes longer than all tests.
fn tool_checks() -> Result<Ran> {
    type Check = fn() -> Result<Ran>;
    const TOOLS: [(&str, Check); 3] = [
        ("cargo-deny", deny),
        ("cargo-machete", || whole(run_command(&mut program("cargo-machete", &[], &root())))),
        ("typos", || whole(run_command(&mut program("typos", &[], &root())))),
    ];
    let (mut left_out, mut failed) = (Vec::new(), Vec::new());
    for (tool, check) in TOOLS {
        if find(tool).is_none() {
            println!("{tool} is not installed: left out (`cargo install --locked {}`)", package(tool));
            left_out.push(tool.to_owned());
            continue;
        }
        match check() {
            Ok(Ran::Whole) => {}
            Ok(Ran::Without(what)) => left_out.push(what),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    Ok(if left_out.is_empty() { Ran::Whole } else { Ran::Without(left_out.join(", ")) })
}

/// Advisories are kept on GitHub, which not every machine reaches; the rest of `cargo deny check` needs no network.
fn deny() -> Result<Ran> {
    run_command(&mut cargo(&["deny", "check", "bans", "licenses", "sources"]))?;
    let output = cargo(&["deny", "check", "advisories"]).output().context("cannot start `cargo deny`")?;
    let said = String::from_utf8_lossy(&output.stderr);
    eprint!("{said}");
    match output.status.success() {
        true => Ok(Ran::Whole),
        false if said.contains("failed to fetch advisory database") => {
            Ok(Ran::Without("advisories (no network)".into()))
        }
        false => bail!("`cargo deny check advisories` failed ({})", output.status),
    }
}

/// The package that installs a tool.
fn package(tool: &str) -> &str {
    if tool == "typos" { "typos-cli" } else { tool }
}

fn kernel_budgets() -> Result<Ran> {
    Ok(budgets::check(false)?.map_or(Ran::Whole, |why| {
        println!("{why}");
        Ran::Without(why)
    }))
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
    let state = target_directory()?.join("xtask/browser-state");
    // Of an earlier run there may be traces, which are not those that are looked for.
    if state.exists() {
        std::fs::remove_dir_all(&state)?;
    }
    console::browser_tests(&server("browser", &["--state-dir", &state.to_string_lossy(), "--traces", "full"])?.url())
}

fn with_target(name: &str, test: fn(&clients::Target<'_>) -> Result<()>) -> Result<()> {
    let state = target_directory()?.join("xtask").join(format!("{name}-state"));
    let server = server(name, &["--api-key", API_KEY, "--state-dir", &state.to_string_lossy(), "--traces", "full"])?;
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

fn schemathesis() -> Result<()> {
    with_target("schemathesis", clients::schemathesis)
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
