//! The commands and what they have in common.

use crate::{bench, commands, log::Log};
use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  yantra pull smollm2-135m                  Fetch a small model
  yantra serve smollm2-135m                 OpenAI-compatible API and console at http://127.0.0.1:8080
  yantra chat smollm2-135m                  Talk to it here
  yantra chat http://127.0.0.1:8080         Talk to a server
  yantra bench load --clients 16            Put a server under load

Settings come from flags, then the TOML file (--config or YANTRA_CONFIG), then YANTRA_… environment variables.
Exit codes: 0 done, 1 failed, 2 wrong use.";

/// Run language models: serve them, chat with them, measure them
#[derive(Debug, Parser)]
#[command(name = "yantra", version = env!("YANTRA_VERSION"), after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(commands::serve::ServeArgs),
    Chat(commands::chat::ChatArgs),
    Complete(commands::complete::CompleteArgs),
    Pull(commands::pull::PullArgs),
    Inspect(commands::inspect::InspectArgs),
    Convert(commands::convert::ConvertArgs),
    Keys(commands::keys::KeysArgs),
    Traces(commands::traces::TracesArgs),
    Perplexity(commands::perplexity::PerplexityArgs),
    /// Measure speed: of models in this process, of a server under load, or of the hardware
    #[command(subcommand)]
    Bench(Bench),
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  yantra completions bash > ~/.local/share/bash-completion/completions/yantra\n  \
                            yantra completions zsh > ~/.zfunc/_yantra"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    Engine(bench::engine::EngineArgs),
    Hardware(bench::hardware::HardwareArgs),
    Embed(bench::embed::EmbedArgs),
    Load(bench::load::LoadArgs),
    Speculation(bench::speculation::SpeculationArgs),
    Context(bench::context::ContextArgs),
    Position(bench::context::position::PositionArgs),
    Tools(bench::tools::ToolsArgs),
}

impl Cli {
    /// Only a server tells what it does as it goes; the other commands print results.
    pub(crate) fn default_log_filter(&self) -> &'static str {
        if matches!(self.command, Command::Serve(_)) { "info" } else { "warn" }
    }

    /// Runs the command.
    pub(crate) fn run(self, log: &Log) -> Result<()> {
        match self.command {
            Command::Serve(args) => commands::serve::run(args, log),
            Command::Chat(args) => commands::chat::run(&args),
            Command::Complete(args) => commands::complete::run(&args),
            Command::Pull(args) => commands::pull::run(&args),
            Command::Inspect(args) => commands::inspect::run(&args),
            Command::Convert(args) => commands::convert::run(&args),
            Command::Keys(args) => commands::keys::run(&args),
            Command::Traces(args) => commands::traces::run(&args),
            Command::Perplexity(args) => commands::perplexity::run(&args),
            Command::Bench(Bench::Engine(args)) => bench::engine::run(&args),
            Command::Bench(Bench::Hardware(args)) => bench::hardware::run(&args),
            Command::Bench(Bench::Embed(args)) => bench::embed::run(&args),
            Command::Bench(Bench::Load(args)) => bench::load::run(&args),
            Command::Bench(Bench::Speculation(args)) => bench::speculation::run(&args),
            Command::Bench(Bench::Context(args)) => bench::context::run(&args),
            Command::Bench(Bench::Position(args)) => bench::context::position::run(&args),
            Command::Bench(Bench::Tools(args)) => bench::tools::run(&args),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "yantra", &mut script);
                Ok(std::io::Write::write_all(&mut std::io::stdout(), &script)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
