//! The `yantra` command: serve, chat, complete, pull, inspect, measure.
//!
//! Each command is one module under `commands` or `bench` with its flags, its examples and its `run`. What they share
//! of the libraries below goes through `backend`; environment variables are read in `env` and nowhere else.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program speaks through them")]

mod backend;
mod bench;
mod cli;
mod commands;
mod config;
mod env;
mod failure;
mod log;
mod output;
mod suggest;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let log = log::Log::start(cli.default_log_filter());
    match cli.run(&log) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that went away (`yantra … | head`) is no failure of ours.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(broken))
}
