//! `yantra traces`: what a server has kept of requests and answers, exported, searched and deleted, while it runs or not.

use crate::{
    failure::usage,
    output::{bytes, count, print_json, table},
};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    fs::File,
    io::{BufWriter, Write, stdout},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use yantra_api::TraceRecord;
use yantra_server::{trace_record, trace_summary};
use yantra_store::{Store, StoreError, TracesOf};
use yantra_text::{parse_rfc3339, strftime};

const EXAMPLES: &str = "\
Examples:
  yantra serve smollm2-135m --state-dir ./state --traces full
  yantra traces search --state-dir ./state \"refund invoice\"
  yantra traces export --state-dir ./state --since 7d --output traces.jsonl
  yantra traces export --state-dir ./state --format chat > train.jsonl
  yantra traces prune --state-dir ./state --older-than 7d

All of it works while a server uses the directory, too.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  yantra traces export --state-dir ./state > traces.jsonl
  yantra traces export --state-dir ./state --since 2026-11-01 --until 2026-12-01T00:00:00Z --model chat
  yantra traces export --state-dir ./state --since 12h --format chat --output train.jsonl

`jsonl` writes each trace as `GET /v1/traces/{id}` tells it, the oldest first. `chat` writes conversations
with their answers, {\"messages\": [...]}, ready for fine-tuning, and leaves out what is no conversation,
failed, was cut off or is not whole.";

const SEARCH_EXAMPLES: &str = "\
Examples:
  yantra traces search --state-dir ./state refund
  yantra traces search --state-dir ./state '\"late delivery\" invoic*' --since 7d
  yantra traces search --state-dir ./state मंत्र --json

All words have to be there, in the request or in the answer; \"words in quotes\" in their order;
beginnings* go on.";

const PRUNE_EXAMPLES: &str = "\
Examples:
  yantra traces prune --state-dir ./state --older-than 7d
  yantra traces prune --state-dir ./state --older-than 0d      (all of them)

A server prunes by itself, as retention_days and max_bytes of [server.traces] say. The space is used again;
with no server running, it is given back to the system.";

/// Traces read at a time: a server beside us wants the database too.
const PAGE: usize = 64;

/// Export, search and delete what a server has kept of requests and answers
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TracesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Action {
    Export(ExportArgs),
    Search(SearchArgs),
    Prune(PruneArgs),
}

#[derive(Debug, Clone, clap::Args)]
struct Which {
    /// The directory, as `serve --state-dir` gets it
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// Only what came since: so long ago (30m, 12h, 7d, 2w), or a time (2026-11-28, 2026-11-28T10:30:00Z)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what came before
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only what this model was asked
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
}

/// Write traces as JSON lines
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXPORT_EXAMPLES)]
struct ExportArgs {
    #[command(flatten)]
    which: Which,
    /// What a line is
    #[arg(long, value_name = "FORMAT", default_value = "jsonl")]
    format: Format,
    /// File to write to [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The whole trace
    Jsonl,
    /// A conversation for fine-tuning
    Chat,
}

/// Find traces by their words
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = SEARCH_EXAMPLES)]
struct SearchArgs {
    #[command(flatten)]
    which: Which,
    /// The words
    query: String,
    /// How many, those that ended last first
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Delete old traces
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = PRUNE_EXAMPLES)]
struct PruneArgs {
    /// The directory, as `serve --state-dir` gets it
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// Those that came before: so long ago, or a time
    #[arg(long, value_name = "TIME", default_value = "30d")]
    older_than: String,
}

/// Runs the command.
pub(crate) fn run(args: &TracesArgs) -> Result<()> {
    match &args.action {
        Action::Export(args) => export(args),
        Action::Search(args) => search(args),
        Action::Prune(args) => prune(args),
    }
}

impl Which {
    fn of(&self, limit: usize) -> Result<TracesOf> {
        let moment = |name, text: &Option<String>| text.as_deref().map(|text| moment(name, text)).transpose();
        Ok(TracesOf {
            model: self.model.clone(),
            since_ms: moment("since", &self.since)?,
            until_ms: moment("until", &self.until)?,
            limit,
            ..TracesOf::default()
        })
    }
}

/// A time, or one so long ago, in milliseconds since 1970.
fn moment(name: &str, text: &str) -> Result<u64> {
    let wrong =
        || usage(format!("{name} is `{text}`, expected 30m, 12h, 7d or 2w, or a time such as 2026-11-28T10:30:00Z"));
    let unit = |unit: char| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        'w' => Some(604_800),
        _ => None,
    };
    let given = text.char_indices().next_back();
    let ago = given.and_then(|(at, last)| text[..at].parse::<u64>().ok()?.checked_mul(unit(last)?));
    let time = match ago {
        Some(ago) => SystemTime::now().checked_sub(Duration::from_secs(ago)).unwrap_or(UNIX_EPOCH),
        None => parse_rfc3339(text).ok_or_else(wrong)?,
    };
    let ms = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Ok(u64::try_from(ms).unwrap_or(u64::MAX))
}

/// What came of an export.
#[derive(Debug, Default)]
struct Exported {
    written: u64,
    not_conversations: u64,
    not_whole: u64,
}

fn export(args: &ExportArgs) -> Result<()> {
    let store = Store::open_beside(&args.which.state_dir)?;
    let of = args.which.of(PAGE)?;
    let exported = match &args.output {
        None => write_all(&store, of, args.format, &mut BufWriter::new(stdout().lock()))?,
        Some(path) => {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            let written = write_all(&store, of, args.format, &mut BufWriter::new(file));
            written.with_context(|| format!("cannot write {}", path.display()))?
        }
    };
    let Exported { written, not_conversations, not_whole } = exported;
    let mut told = format!("exported {written}");
    if args.format == Format::Chat {
        told += &format!(
            "; skipped {not_conversations} that are no conversations, {not_whole} that failed or were cut off"
        );
    }
    eprintln!("{told}");
    Ok(())
}

fn write_all(store: &Store, of: TracesOf, format: Format, out: &mut impl Write) -> Result<Exported> {
    let mut of = TracesOf { ascending: true, ..of };
    let mut exported = Exported::default();
    loop {
        // What came after may have been deleted meanwhile; what was before it was written.
        let Some(page) = store.whole_traces(&of)? else {
            anyhow::bail!("the traces were pruned while they were exported; try again");
        };
        of.after = page.items.last().map(|trace| trace.summary.id.clone());
        for trace in page.items {
            let record = trace_record(trace);
            let line = match format {
                Format::Jsonl => Some(serde_json::to_value(&record)?),
                Format::Chat => conversation(&record, &mut exported),
            };
            if let Some(line) = line {
                serde_json::to_writer(&mut *out, &line)?;
                out.write_all(b"\n")?;
                exported.written += 1;
            }
        }
        if !page.has_more {
            break;
        }
    }
    out.flush()?;
    Ok(exported)
}

/// A line to learn from, if the trace has one.
fn conversation(record: &TraceRecord, exported: &mut Exported) -> Option<Value> {
    let TraceRecord { summary, input, output, .. } = record;
    if !matches!(&*summary.endpoint, "/v1/chat/completions" | "/v1/messages" | "/v1/responses") {
        exported.not_conversations += 1;
        return None;
    }
    // An answer that was cut off would teach a model to stop in the middle.
    let is_cut = summary.finish_reasons.first().is_some_and(|reason| reason == "length");
    let output = output.as_ref().filter(|_| summary.state == "done" && !is_cut);
    let example = output.and_then(|output| yantra_api::training_example(&summary.endpoint, input, output));
    exported.not_whole += u64::from(example.is_none());
    example
}

fn search(args: &SearchArgs) -> Result<()> {
    let store = Store::open_beside(&args.which.state_dir)?;
    let of = TracesOf { query: Some(args.query.clone()), ..args.which.of(args.limit)? };
    let found = store.traces(&of)?.map(|page| page.items).unwrap_or_default();
    let found: Vec<_> = found.into_iter().map(trace_summary).collect();
    if args.json {
        return print_json(&found);
    }
    if found.is_empty() {
        println!("nothing found");
        return Ok(());
    }
    let rows = found.into_iter().map(|trace| {
        let came = UNIX_EPOCH + Duration::try_from_secs_f64(trace.created).unwrap_or_default();
        let tokens = |tokens: usize| count(tokens as u64);
        vec![
            trace.request_id,
            strftime(came, "%Y-%m-%d %H:%M"),
            trace.model,
            tokens(trace.usage.prompt_tokens),
            tokens(trace.usage.completion_tokens),
            trace.snippet,
        ]
    });
    println!("{}", table(&["request", "when (UTC)", "model", "in", "out", "what"], rows));
    Ok(())
}

fn prune(args: &PruneArgs) -> Result<()> {
    let before_ms = moment("older-than", &args.older_than)?;
    let beside = Store::open_beside(&args.state_dir)?;
    let mut deleted = 0;
    loop {
        match beside.prune_traces(before_ms, u64::MAX)? {
            0 => break,
            some => deleted += some,
        }
    }
    let left = bytes(beside.trace_bytes()?);
    drop(beside);
    println!("deleted {deleted} traces; {left} are left");
    match Store::open(&args.state_dir) {
        Ok(store) => store.compact()?,
        Err(StoreError::InUse { .. }) => eprintln!("the file keeps its size: a server is using it"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_given_or_so_long_ago() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        for (text, seconds) in [("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600), ("0s", 0)] {
            let given = moment("since", text).unwrap();
            assert!(given.abs_diff(now - seconds * 1000) < 5000, "{text}: {given}");
        }
        // From `date -u -d 2026-11-28T10:30:00Z +%s`.
        assert_eq!(moment("since", "2026-11-28T10:30:00Z").unwrap(), 1_795_861_800_000);
        assert_eq!(moment("since", "99999999999w").unwrap(), 0);
        for wrong in ["", "7", "d", "-7d", "7y", "yesterday", "2026-13-01"] {
            let error = moment("since", wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("since is `{wrong}`")), "{error}");
        }
    }
}
