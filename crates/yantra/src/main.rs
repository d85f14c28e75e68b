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
mod output;
mod suggest;

use clap::Parser;
use std::{io::IsTerminal, process::ExitCode};

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let filter = env::log_filter().unwrap_or_else(|| cli.default_log_filter().to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| "warn".into());
    let colours = std::io::stderr().is_terminal() && !env::no_color();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    match cli.run() {
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
