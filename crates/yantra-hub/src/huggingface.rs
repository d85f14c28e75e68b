//! Models on Hugging Face: which files of a repository make a model, and how they get here.
//!
//! Files lie in Hugging Face's own cache (`$HF_HOME`, else `~/.cache/huggingface`), shared with Python programs. The
//! `hf-hub` crate stands behind [`HubSource`], so that the choice of files is tested without a network.

use crate::{HubError, HubReference, Phase, Progress, ProgressUpdate, cache::hash_file, environment};
use hf_hub::{
    Repo, RepoType,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Somewhere repositories come from.
pub trait HubSource: Send + Sync {
    /// The paths of all files of a repository.
    ///
    /// # Errors
    /// If the repository can not be reached or does not exist.
    fn list(&self, reference: &HubReference) -> Result<Vec<String>, HubError>;

    /// Downloads a file, unless it is there already, and gives its path.
    ///
    /// # Errors
    /// If the file can not be had or is damaged.
    fn fetch(&self, reference: &HubReference, file: &str, progress: &dyn Progress) -> Result<PathBuf, HubError>;
}

/// The files of a repository that make a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// What to download.
    pub files: Vec<String>,
    /// The file to open; of a directory, its `config.json`.
    pub entry: String,
    /// Whether the directory of `entry` is what to open.
    pub is_directory: bool,
}

/// Chooses from a repository's `files`. With `wanted` a GGUF file by name or by a part of it that only one has; without,
/// the safetensors model if there is one, else the only GGUF model, else the one in Q4_K_M, the usual choice.
///
/// # Errors
/// If nothing fits, or several do; the message lists them.
pub fn select_files(reference: &HubReference, files: &[String]) -> Result<Selection, HubError> {
    let repository = || reference.repository.clone();
    let models: Vec<&String> = files.iter().filter(|name| is_first_gguf(name)).collect();
    if let Some(wanted) = &reference.file {
        let fitting: Vec<&String> = match models.iter().find(|name| **name == wanted) {
            Some(exact) => vec![exact],
            None => models.iter().copied().filter(|name| contains_ignoring_case(name, wanted)).collect(),
        };
        return match fitting.as_slice() {
            [model] => Ok(gguf_selection(files, model)),
            [] => Err(HubError::NoSuchFile {
                repository: repository(),
                wanted: wanted.clone(),
                found: summary(if models.is_empty() { files.iter().collect() } else { models }),
            }),
            _ => Err(HubError::Ambiguous { repository: repository(), found: summary(fitting) }),
        };
    }
    let has = |name: &str| files.iter().any(|file| file == name);
    if has("config.json") && (has("model.safetensors") || has("model.safetensors.index.json")) {
        let files = files.iter().filter(|name| is_model_file(name)).cloned().collect();
        return Ok(Selection { files, entry: "config.json".to_owned(), is_directory: true });
    }
    let usual: Vec<&String> = models.iter().copied().filter(|name| contains_ignoring_case(name, "q4_k_m")).collect();
    match (models.as_slice(), usual.as_slice()) {
        ([model], _) | (_, [model]) => Ok(gguf_selection(files, model)),
        ([], _) => Err(HubError::NoModel { repository: repository(), found: summary(files.iter().collect()) }),
        _ => Err(HubError::Ambiguous { repository: repository(), found: summary(models) }),
    }
}

fn contains_ignoring_case(text: &str, part: &str) -> bool {
    text.to_ascii_lowercase().contains(&part.to_ascii_lowercase())
}

/// The number and count of a part of a split GGUF (`…-00001-of-00003.gguf`), with what stands before them.
fn split_of(name: &str) -> Option<(&str, &str, &str)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some((prefix, number, count))
}

/// Whether a file is the only or first of a GGUF model; projectors for images (`mmproj`) are no models.
fn is_first_gguf(name: &str) -> bool {
    let is_gguf = name.ends_with(".gguf") && !contains_ignoring_case(name, "mmproj");
    is_gguf && split_of(name).is_none_or(|(_, number, _)| number == "00001")
}

/// A GGUF model with all its parts.
fn gguf_selection(files: &[String], model: &str) -> Selection {
    let parts = match split_of(model) {
        None => vec![model.to_owned()],
        Some((prefix, _, count)) => {
            let is_part = |name: &&String| split_of(name).is_some_and(|other| (other.0, other.2) == (prefix, count));
            files.iter().filter(is_part).cloned().collect()
        }
    };
    Selection { files: parts, entry: model.to_owned(), is_directory: false }
}

/// Whether a file of a safetensors repository is needed to run the model.
fn is_model_file(name: &str) -> bool {
    const NAMES: [&str; 13] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "chat_template.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "vocab.txt",
    ];
    let is_shard = name.starts_with("model-") && name.ends_with(".safetensors") && !name.contains('/');
    let is_module = name.split_once('/').is_some_and(|(folder, file)| {
        // 1_Pooling/config.json and the like.
        file == "config.json" && folder.starts_with(|first: char| first.is_ascii_digit())
    });
    let is_template = name.starts_with("additional_chat_templates/") && name.ends_with(".jinja");
    NAMES.contains(&name) || is_shard || is_module || is_template
}

/// "a, b, c and 4 more".
fn summary(names: Vec<&String>) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "no files".to_owned(),
        count if count > SHOWN => format!("{shown} and {} more", count - SHOWN),
        _ => shown,
    }
}

/// Hugging Face itself, or the mirror named by `$HF_ENDPOINT`.
#[derive(Clone, Copy, Debug, Default)]
pub struct HuggingFace;

impl HuggingFace {
    fn repository(reference: &HubReference) -> Result<ApiRepo, HubError> {
        const RETRIES: usize = 3;
        let mut builder = ApiBuilder::from_env().with_progress(false).with_retries(RETRIES);
        if let Some(token) = environment::hugging_face_token() {
            builder = builder.with_token(Some(token));
        }
        let api = builder.with_user_agent("yantra", env!("CARGO_PKG_VERSION")).build();
        Ok(api.map_err(|error| unreachable_hub(reference, &error))?.repo(repo(reference)))
    }
}

fn repo(reference: &HubReference) -> Repo {
    let name = reference.repository.clone();
    match &reference.revision {
        Some(revision) => Repo::with_revision(name, RepoType::Model, revision.clone()),
        None => Repo::model(name),
    }
}

impl HubSource for HuggingFace {
    fn list(&self, reference: &HubReference) -> Result<Vec<String>, HubError> {
        let info = Self::repository(reference)?.info().map_err(|error| unreachable_hub(reference, &error))?;
        Ok(info.siblings.into_iter().map(|sibling| sibling.rfilename).collect())
    }

    fn fetch(&self, reference: &HubReference, file: &str, progress: &dyn Progress) -> Result<PathBuf, HubError> {
        if let Some(path) = hf_hub::Cache::from_env().repo(repo(reference)).get(file) {
            return Ok(path);
        }
        let repository = Self::repository(reference)?;
        let watcher = Watcher { progress, file, done: 0, total: 0, told: Instant::now() };
        let path = repository.download_with_progress(file, watcher);
        let path = path.map_err(|error| unreachable_hub(reference, &error))?;
        check_blob(&path, file, progress)?;
        Ok(path)
    }
}

/// Large files are named by their SHA-256 in Hugging Face's cache, so they can be held against it.
fn check_blob(path: &Path, file: &str, progress: &dyn Progress) -> Result<(), HubError> {
    let blob = fs::canonicalize(path).map_err(HubError::io("read", path))?;
    let name = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let found = hash_file(&blob, file, progress)?;
    if found != name {
        // Otherwise the damaged file would be taken for the right one next time.
        let _ = fs::remove_file(path);
        let _ = fs::remove_file(&blob);
        return Err(HubError::Hash { path: path.to_owned(), expected: name.to_owned(), found });
    }
    Ok(())
}

fn unreachable_hub(reference: &HubReference, error: &ApiError) -> HubError {
    let problem = error.to_string();
    let hint = if problem.contains("401") || problem.contains("403") {
        " (the repository may not exist, or need a login: set HF_TOKEN or run `huggingface-cli login`)"
    } else if problem.contains("404") {
        " (no such repository, revision or file)"
    } else {
        " (is there a network? `yantra pull` of a catalogue name uses pip instead, and any local path works without)"
    };
    HubError::HuggingFace { repository: reference.repository.clone(), problem, hint }
}

/// Passes hf-hub's progress on, not more often than someone could see.
struct Watcher<'a> {
    progress: &'a dyn Progress,
    file: &'a str,
    done: u64,
    total: u64,
    told: Instant,
}

impl Watcher<'_> {
    fn tell(&mut self) {
        self.told = Instant::now();
        let (bytes_done, bytes_total) = (self.done, self.total);
        let update = ProgressUpdate { phase: Phase::Downloading, item: self.file, bytes_done, bytes_total };
        self.progress.update(&update);
    }
}

impl hf_hub::api::Progress for Watcher<'_> {
    fn init(&mut self, size: usize, _: &str) {
        self.total = size as u64;
        self.tell();
    }

    fn update(&mut self, size: usize) {
        const INTERVAL: Duration = Duration::from_millis(100);
        self.done += size as u64;
        if self.told.elapsed() >= INTERVAL {
            self.tell();
        }
    }

    fn finish(&mut self) {
        self.tell();
    }
}
