//! `yantra keys`: API keys with names, made, listed and revoked while a server runs.

use crate::{failure::usage, output};
use anyhow::Result;
use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};
use yantra_server::{KeyFile, KeyFileError, Terms};

const EXAMPLES: &str = "\
Examples:
  yantra keys create alice
  yantra keys create batch-jobs --priority -10 --tokens-per-day 5000000
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
        #[command(flatten)]
        terms: TermsArgs,
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

#[derive(Debug, Clone, clap::Args)]
struct TermsArgs {
    /// It may have models loaded and unloaded
    #[arg(long)]
    admin: bool,
    /// How much of an engine it gets beside others
    #[arg(long, value_name = "N", default_value_t = 1)]
    weight: u32,
    /// Priority of its requests, which they may lower themselves; higher goes first [default: any]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Requests it may make in a minute
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Requests it may make in a day
    #[arg(long, value_name = "N")]
    requests_per_day: Option<u64>,
    /// Tokens it may use in a minute, of prompts and answers together
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// Tokens it may use in a day
    #[arg(long, value_name = "N")]
    tokens_per_day: Option<u64>,
}

impl From<&TermsArgs> for Terms {
    fn from(args: &TermsArgs) -> Self {
        Self {
            admin: args.admin,
            weight: args.weight,
            priority: args.priority,
            requests_per_minute: args.requests_per_minute,
            requests_per_day: args.requests_per_day,
            tokens_per_minute: args.tokens_per_minute,
            tokens_per_day: args.tokens_per_day,
        }
    }
}

/// What a key's owner may do, in a few words.
fn told(terms: &Terms) -> String {
    let limits = [
        (terms.requests_per_minute, "requests/min"),
        (terms.requests_per_day, "requests/day"),
        (terms.tokens_per_minute, "tokens/min"),
        (terms.tokens_per_day, "tokens/day"),
    ];
    let limits = limits.into_iter().filter_map(|(limit, unit)| Some(format!("{} {unit}", limit?)));
    let admin = terms.admin.then(|| "admin".to_owned());
    let weight = (terms.weight != 1).then(|| format!("weight {}", terms.weight));
    let priority = terms.priority.map(|priority| format!("priority {priority}"));
    let told: Vec<String> = admin.into_iter().chain(weight).chain(priority).chain(limits).collect();
    if told.is_empty() { "no limits".to_owned() } else { told.join(", ") }
}

/// Runs the command.
pub(crate) fn run(args: &KeysArgs) -> Result<()> {
    let mut file = KeyFile::read(&args.file)?;
    match &args.action {
        Action::Create { name, terms } => {
            let terms = Terms::from(terms);
            terms.check().map_err(usage)?;
            let (_, key) = file.create(name, terms).map_err(|error| match error {
                error @ KeyFileError::Name { .. } => usage(error.to_string()),
                error => error.into(),
            })?;
            file.write(&args.file)?;
            println!("{key}");
        }
        Action::List { json: true } => output::print_json(&file.keys)?,
        Action::List { json: false } => {
            let rows =
                file.keys.iter().map(|key| vec![key.name.clone(), key.id.clone(), ago(key.created), told(&key.terms)]);
            println!("{}", output::table(&["name", "id", "made", "terms"], rows));
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
