//! `yantra keys`: API keys with names, made, listed and revoked while a server runs.

use crate::{failure::usage, output};
use anyhow::Result;
use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};
use yantra_server::{KeyFile, KeyFileError};

const EXAMPLES: &str = "\
Examples:
  yantra keys create alice
  yantra keys list
  yantra keys revoke alice
  yantra serve smollm2-135m --keys-file .yantra/keys.toml

A key is shown once, when it is made; the file keeps its SHA-256. A running server sees changes within a second.";

/// Make, list and revoke the API keys of a server
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct KeysArgs {
    /// The file of keys, as `serve --keys-file` gets it
    #[arg(long, value_name = "FILE", default_value = ".yantra/keys.toml", global = true)]
    file: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Action {
    /// Make a key and print it
    Create {
        /// Whose it is: letters, digits, '-', '_' and '.'
        name: String,
    },
    /// List the keys
    List {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Take a key back
    Revoke {
        /// Its name or its id
        name: String,
    },
}

/// Runs the command.
pub(crate) fn run(args: &KeysArgs) -> Result<()> {
    let mut file = KeyFile::read(&args.file)?;
    match &args.action {
        Action::Create { name } => {
            let (_, key) = file.create(name).map_err(|error| match error {
                error @ KeyFileError::Name { .. } => usage(error.to_string()),
                error => error.into(),
            })?;
            file.write(&args.file)?;
            println!("{key}");
        }
        Action::List { json: true } => output::print_json(&file.keys)?,
        Action::List { json: false } => {
            let rows = file.keys.iter().map(|key| vec![key.name.clone(), key.id.clone(), ago(key.created)]);
            println!("{}", output::table(&["name", "id", "made"], rows));
        }
        Action::Revoke { name } => {
            let Some(key) = file.revoke(name) else {
                let names: Vec<&str> = file.keys.iter().map(|key| key.name.as_str()).collect();
                anyhow::bail!("no key is called `{name}`; there are: {}", names.join(", "));
            };
            file.write(&args.file)?;
            println!("revoked {} ({})", key.name, key.id);
        }
    }
    Ok(())
}

/// How long ago a moment was.
fn ago(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    match now.saturating_sub(seconds) {
        passed @ 0..120 => format!("{passed} s ago"),
        passed @ 120..7200 => format!("{} min ago", passed / 60),
        passed @ 7200..172_800 => format!("{} h ago", passed / 3600),
        passed => format!("{} days ago", passed / 86_400),
    }
}
