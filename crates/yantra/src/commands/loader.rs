//! Loads the models of a server: those of its settings when it starts, others when clients ask for them.

use crate::{
    backend,
    config::{ModelSettings, Settings, default_name},
};
use anyhow::Result;
use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use yantra_engine::{load::LoadOptions, spill::SpillStore};
use yantra_hub::Origin;
use yantra_kernels::Compute;
use yantra_server::{ApiError, ModelLoader, ServedModel};

/// Loads models one after the other; they share one thread pool, because they share the processor.
pub(crate) struct Loader {
    settings: Settings,
    /// All models spill to one directory.
    spill: Option<Arc<SpillStore>>,
    compute: Arc<Compute>,
    /// Held while a model is loaded.
    turn: Mutex<()>,
    /// What each model holds and has not touched yet, in bytes.
    reserved: Mutex<HashMap<String, u64>>,
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Loader {
    pub(crate) fn new(settings: Settings, spill: Option<Arc<SpillStore>>) -> Self {
        let compute = backend::compute(&settings.engine);
        Self { settings, spill, compute, turn: Mutex::default(), reserved: Mutex::default() }
    }

    /// Loads a model beside those that are there.
    pub(crate) fn load_one(&self, model: &ModelSettings) -> Result<ServedModel> {
        let _turn = lock(&self.turn);
        let options = LoadOptions { spill: self.spill.clone(), ..backend::load_options(&model.engine) };
        let before: u64 = lock(&self.reserved).values().sum();
        let mut reserved = before;
        let loaded = backend::load_beside(&model.model, &self.compute, &options, &mut reserved)?;
        lock(&self.reserved).insert(model.name.clone(), reserved.saturating_sub(before));
        let sampling = backend::default_sampling(&model.engine, &loaded);
        Ok(super::serving::served(model, loaded, &sampling))
    }
}

/// What a client may name: a model of the catalogue that is here, or a path below one of `directories`. Which paths there
/// are elsewhere is not told.
fn allowed(model: &str, directories: &[PathBuf]) -> Result<(PathBuf, String), ApiError> {
    let hub = backend::hub().map_err(|error| ApiError::internal(format!("{error:#}")))?;
    let is_path = Path::new(model).exists();
    if !is_path && hub.catalogue().find(model).is_some() {
        let resolved = backend::resolve_model(model);
        return match resolved {
            Ok(resolved) if resolved.origin == Origin::Catalogue => Ok((resolved.path, resolved.name)),
            Ok(_) => Err(not_allowed(model)),
            Err(error) => Err(ApiError::not_found(format!("{error:#}; `yantra pull` fetches models")).at("model")),
        };
    }
    let path = below(Path::new(model), directories).ok_or_else(|| not_allowed(model))?;
    let name = default_name(model);
    Ok((path, name))
}

fn not_allowed(model: &str) -> ApiError {
    let expected = "a model of the catalogue, or the path of one below the server's model_dirs, expected";
    ApiError::invalid_param("model", format_args!("'{model}' given, {expected}")).with_code("model_not_allowed")
}

/// A path with its links followed, if that is below one of the directories.
fn below(path: &Path, directories: &[PathBuf]) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let is_above = |directory: &PathBuf| directory.canonicalize().is_ok_and(|directory| path.starts_with(directory));
    directories.iter().any(is_above).then_some(path)
}

impl ModelLoader for Loader {
    fn check(&self, model: &str) -> Result<String, ApiError> {
        allowed(model, self.settings.server.model_dirs()).map(|(_, name)| name)
    }

    fn load(&self, model: &str, id: &str, aliases: &[String]) -> Result<ServedModel, String> {
        // Links may have changed since it was checked; what is opened is what is checked here.
        let (path, _) = allowed(model, self.settings.server.model_dirs()).map_err(|error| error.message)?;
        let model = match path.to_str() {
            // By its name, for what the catalogue knows of it.
            Some(_) if !Path::new(model).exists() => model,
            Some(path) => path,
            None => return Err("the path is not UTF-8".to_owned()),
        };
        let engine = self.settings.engine.clone();
        let settings = ModelSettings {
            name: id.to_owned(),
            aliases: aliases.to_vec(),
            model: model.to_owned(),
            adapters: Vec::new(),
            engine,
        };
        self.load_one(&settings).map_err(|error| format!("{error:#}"))
    }

    fn adapter_path(&self, path: &str) -> Result<PathBuf, ApiError> {
        let expected = "the path of an adapter below the server's model_dirs expected";
        below(Path::new(path), self.settings.server.model_dirs()).ok_or_else(|| {
            ApiError::invalid_param("lora_path", format_args!("'{path}' given, {expected}"))
                .with_code("model_not_allowed")
        })
    }

    fn unloaded(&self, id: &str) {
        lock(&self.reserved).remove(id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_paths_below_the_directories_are_allowed() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "x").unwrap();
            path
        };
        let (inside, outside) = (make("models/a/m.gguf"), make("models-too/m.gguf"));
        let directories = [root.path().join("models")];
        assert_eq!(below(&inside, &directories), Some(inside.canonicalize().unwrap()));
        for path in [
            &outside,
            &root.path().join("models/../models-too/m.gguf"),
            &root.path().join("models/none.gguf"),
            Path::new(""),
            Path::new("/etc/passwd"),
        ] {
            assert_eq!(below(path, &directories), None, "{}", path.display());
        }
        assert_eq!(below(&inside, &[]), None);
        #[cfg(unix)]
        {
            let link = root.path().join("models/link.gguf");
            std::os::unix::fs::symlink(&outside, &link).unwrap();
            assert_eq!(below(&link, &directories), None, "a link that leads out");
        }
        let error = allowed("/etc/passwd", &directories).unwrap_err();
        assert_eq!((error.status, error.code), (400, Some("model_not_allowed")));
        assert_eq!(
            allowed("/no/such/file", &directories).unwrap_err().message.replace("/no/such/file", "/etc/passwd"),
            error.message
        );
    }
}
