//! `cargo xtask`: what a fresh machine needs, in one command each.
//!
//! `demo` builds everything, fetches a model and serves it; `test` runs everything CI runs; `budgets` counts what kernels
//! cost; `peers` measures other engines beside ours; `layering` checks which crate depends on which. Nothing is installed globally: Python and Node packages live in the user's cache directory.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program speaks through them")]

mod budgets;
mod clients;
mod console;
mod demo;
mod http;
mod layering;
mod peers;
mod server;
mod test;
mod tools;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Set up, show and test Yantra
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything, fetch the default model, serve it and ask it a question
    #[command(after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --check    (stop after the answer)")]
    Demo(demo::DemoArgs),
    /// Run everything CI runs
    #[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --only fmt --only clippy\n  \
                            cargo xtask test --skip browser")]
    Test(test::TestArgs),
    /// Compare the instructions of the main kernels with their budgets
    #[command(after_help = "Examples:\n  cargo xtask budgets\n  cargo xtask budgets --all\n  \
                            cargo xtask budgets --update    (after a change that is meant to cost or save some)")]
    Budgets(budgets::BudgetsArgs),
    /// Measure Yantra beside other engines: one table, one chart
    #[command(after_help = peers::EXAMPLES)]
    Peers(peers::PeersArgs),
    /// Check that crates depend on each other downwards only
    Layering,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Budgets(args) => budgets::run(&args),
        Command::Peers(args) => peers::run(&args),
        Command::Layering => layering::check().map(|()| println!("the layers hold")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
