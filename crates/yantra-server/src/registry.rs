//! The models a server serves: by name and alias, from the moment their loading begins.

use std::sync::{Arc, PoisonError, RwLock};

use yantra_api::{ApiError, LoadState, ModelLoad, SamplingDefaults};
use yantra_engine::load::AdapterLoader;
use yantra_engine::{Adapter, EmbedderHandle, EngineHandle};
use yantra_text::{ChatTemplate, Tokenizer};

/// Seconds after which a client of a loading model should try again.
const LOADING_RETRY_S: u64 = 2;

/// A model that takes requests.
#[derive(Debug, Clone)]
pub struct ServedModel {
    /// Its name.
    pub id: String,
    /// Other names it answers to.
    pub aliases: Vec<String>,
    /// When it was made or loaded, in seconds since 1970.
    pub created: u64,
    /// Who owns it, for `/v1/models`.
    pub owned_by: String,
    /// Of an adapter: the model it belongs to, whose engine it shares.
    pub parent: Option<String>,
    /// What is known of it, for `/v1/models`.
    pub facts: ModelFacts,
    /// What it does.
    pub kind: ModelKind,
}

/// What is known of a model; shown, not used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// `llama`, `qwen2`, …
    pub family: Option<String>,
    /// Number of weights.
    pub parameters: Option<u64>,
    /// Format of most weights.
    pub quantisation: Option<String>,
    /// Size of the model's files.
    pub size_bytes: Option<u64>,
}

/// What a model does.
#[derive(Debug, Clone)]
pub enum ModelKind {
    /// It generates text.
    Generate(Generator),
    /// It embeds text, or scores pairs of texts.
    Embed(Embedder),
}

/// What generating takes.
#[derive(Debug, Clone)]
pub struct Generator {
    /// The engine that runs the model.
    pub engine: EngineHandle,
    /// Its tokeniser.
    pub tokenizer: Tokenizer,
    /// Its chat template; without one it can not chat.
    pub template: Option<ChatTemplate>,
    /// Sampling where a request says nothing.
    pub defaults: SamplingDefaults,
    /// The adapter that requests are computed with.
    pub adapter: Option<Arc<Adapter>>,
    /// Loads adapters of the model, if it can have any.
    pub adapters: Option<AdapterLoader>,
}

/// What embedding takes.
#[derive(Debug, Clone)]
pub struct Embedder {
    /// The running model.
    pub handle: EmbedderHandle,
    /// Its tokeniser.
    pub tokenizer: Tokenizer,
}

/// What a request wants of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Generate,
    Embed,
    /// Telling how near texts are: by their embeddings or, better, by reading them together.
    Rank,
}

impl ModelKind {
    fn does(&self, task: Task) -> bool {
        match self {
            Self::Generate(_) => task == Task::Generate,
            Self::Embed(embedder) => match task {
                Task::Generate => false,
                Task::Embed => !embedder.handle.scores_pairs(),
                Task::Rank => true,
            },
        }
    }

    /// Whether nothing served does the task better.
    fn is_made_for(&self, task: Task) -> bool {
        task == Task::Rank && matches!(self, Self::Embed(embedder) if embedder.handle.scores_pairs())
    }
}

impl Generator {
    /// The longest prompt, in tokens, that leaves room for an answer.
    pub(crate) fn longest_prompt(&self, max_tokens: Option<usize>) -> usize {
        self.engine.context_limit().saturating_sub(usize::from(max_tokens != Some(0)))
    }
}

impl ServedModel {
    /// Most tokens of a request.
    pub(crate) fn context(&self) -> usize {
        match &self.kind {
            ModelKind::Generate(generator) => generator.engine.context_limit(),
            ModelKind::Embed(embedder) => embedder.handle.context_length(),
        }
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        match &self.kind {
            ModelKind::Generate(generator) => &generator.tokenizer,
            ModelKind::Embed(embedder) => &embedder.tokenizer,
        }
    }

    /// The generating part, or a refusal that says what the model is for.
    pub(crate) fn generator(&self) -> Result<&Generator, ApiError> {
        match &self.kind {
            ModelKind::Generate(generator) => Ok(generator),
            ModelKind::Embed(embedder) => {
                let message = match embedder.handle.scores_pairs() {
                    false => format!("'{}' embeds text and does not generate; use /v1/embeddings", self.id),
                    true => format!("'{}' scores pairs of texts and does not generate; use /v1/rerank", self.id),
                };
                Err(ApiError::invalid_param("model", message).with_code("wrong_model_kind"))
            }
        }
    }

    /// The embedding part, or a refusal that says what the model is for.
    pub(crate) fn embedder(&self) -> Result<&Embedder, ApiError> {
        let embedder = self.ranker()?;
        if embedder.handle.scores_pairs() {
            let message =
                format!("'{}' scores pairs of texts and does not embed; use /v1/rerank or /v1/score", self.id);
            return Err(ApiError::invalid_param("model", message).with_code("wrong_model_kind"));
        }
        Ok(embedder)
    }

    /// What tells how near texts are, or a refusal that says what the model is for.
    pub(crate) fn ranker(&self) -> Result<&Embedder, ApiError> {
        match &self.kind {
            ModelKind::Embed(embedder) => Ok(embedder),
            ModelKind::Generate(_) => {
                let message = format!("'{}' generates text and does not embed", self.id);
                Err(ApiError::invalid_param("model", message).with_code("wrong_model_kind"))
            }
        }
    }
}

/// A model can not be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Two models would answer to the same name.
    #[error("two models would answer to the name '{name}'")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A name is empty or not printable.
    #[error("'{name}' is no name for a model: 1 to 256 printable characters without spaces expected")]
    BadName {
        /// The name.
        name: String,
    },
}

#[derive(Debug, Clone)]
enum State {
    Loading { progress: f32, message: Option<String> },
    Ready(Arc<ServedModel>),
    Failed { message: String },
    Unloading,
}

#[derive(Debug)]
struct Entry {
    id: String,
    aliases: Vec<String>,
    state: State,
}

impl Entry {
    fn answers_to(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }

    /// Of an adapter: the model it belongs to.
    fn parent(&self) -> Option<&str> {
        match &self.state {
            State::Ready(model) => model.parent.as_deref(),
            _ => None,
        }
    }
}

/// All models, ready or not. Shared between the server and whoever loads models.
#[derive(Debug, Default)]
pub struct Registry {
    entries: RwLock<Vec<Entry>>,
}

impl Registry {
    /// Announces a model that is going to be loaded; until then requests for it are answered with 503.
    ///
    /// # Errors
    /// A name is taken or no name.
    pub fn announce(&self, id: &str, aliases: &[String]) -> Result<(), RegistryError> {
        let state = State::Loading { progress: 0.0, message: None };
        self.put(Entry { id: id.to_owned(), aliases: aliases.to_vec(), state }, |_| true)
    }

    /// As [`Registry::announce`], but never in place of a model that is there or on its way.
    pub(crate) fn announce_new(&self, id: &str, aliases: &[String]) -> Result<(), RegistryError> {
        let state = State::Loading { progress: 0.0, message: None };
        let entry = Entry { id: id.to_owned(), aliases: aliases.to_vec(), state };
        self.put(entry, |old| matches!(old, State::Failed { .. }))
    }

    /// Takes a model out of service; with it the model, unless it has failed. It is gone with [`Registry::remove`].
    pub(crate) fn begin_unloading(&self, name: &str) -> Result<(String, Option<Arc<ServedModel>>), ApiError> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let available: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        let entry = entries.iter_mut().find(|entry| entry.answers_to(name));
        let entry = entry.ok_or_else(|| ApiError::model_not_found(name, &available))?;
        if entry.parent().is_some() {
            let message = format!("'{name}' is an adapter; /v1/unload_lora_adapter unloads it");
            return Err(ApiError::invalid_param("model", message).with_code("wrong_model_kind"));
        }
        let conflict = |what: &str| {
            let message = format!("the model '{name}' is {what}; it can be unloaded only once it is there");
            Err(ApiError::conflict("model_busy", message).at("model"))
        };
        let model = match &entry.state {
            State::Loading { .. } => return conflict("still loading"),
            State::Unloading => return conflict("being unloaded already"),
            State::Ready(model) => Some(Arc::clone(model)),
            State::Failed { .. } => None,
        };
        entry.state = State::Unloading;
        Ok((entry.id.clone(), model))
    }

    /// Forgets a model and its adapters.
    pub(crate) fn remove(&self, id: &str) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| entry.id != id && entry.parent() != Some(id));
    }

    /// Registers an adapter of a model that takes requests.
    ///
    /// # Errors
    /// A name is taken, or no name.
    pub fn ready_adapter(&self, adapter: ServedModel) -> Result<(), RegistryError> {
        let (id, aliases) = (adapter.id.clone(), adapter.aliases.clone());
        self.put(Entry { id, aliases, state: State::Ready(Arc::new(adapter)) }, |old| {
            matches!(old, State::Failed { .. })
        })
    }

    /// Forgets an adapter: requests that run keep it.
    pub(crate) fn remove_adapter(&self, name: &str) -> Result<(), ApiError> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = entries.iter().position(|entry| entry.id == name && entry.parent().is_some()) else {
            let adapters: Vec<String> =
                entries.iter().filter(|entry| entry.parent().is_some()).map(|entry| entry.id.clone()).collect();
            return Err(ApiError::model_not_found(name, &adapters).at("lora_name"));
        };
        entries.remove(at);
        Ok(())
    }

    /// Registers a model that takes requests; replaces the entry of the same id, if there is one.
    ///
    /// # Errors
    /// A name is taken by another model, or no name.
    pub fn ready(&self, model: ServedModel) -> Result<(), RegistryError> {
        let (id, aliases) = (model.id.clone(), model.aliases.clone());
        self.put(Entry { id, aliases, state: State::Ready(Arc::new(model)) }, |_| true)
    }

    /// Tells how far an announced model is, from 0 to 1, and what is being done.
    pub fn progress(&self, id: &str, progress: f32, message: impl Into<String>) {
        self.update(id, State::Loading { progress: progress.clamp(0.0, 1.0), message: Some(message.into()) });
    }

    /// Tells that a model could not be loaded, or does not work any more.
    pub fn failed(&self, id: &str, message: impl Into<String>) {
        self.update(id, State::Failed { message: message.into() });
    }

    /// Every model's state but adapters', in the order of registration.
    #[must_use]
    pub fn states(&self) -> Vec<ModelLoad> {
        self.read(|entries| entries.iter().filter(|entry| entry.parent().is_none()).map(load_of).collect())
    }

    /// The model of this name.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<ServedModel>, ApiError> {
        self.read(|entries| match entries.iter().find(|entry| entry.answers_to(name)) {
            None => {
                Err(ApiError::model_not_found(name, &entries.iter().map(|entry| entry.id.clone()).collect::<Vec<_>>()))
            }
            Some(Entry { state: State::Ready(model), .. }) => Ok(Arc::clone(model)),
            Some(Entry { state: State::Loading { .. }, id, .. }) => Err(ApiError::model_loading(id, LOADING_RETRY_S)),
            Some(Entry { state: State::Failed { message }, id, .. }) => Err(ApiError::model_unavailable(id, message)),
            Some(Entry { state: State::Unloading, id, .. }) => Err(ApiError::model_unloading(id)),
        })
    }

    /// The model of this name; without a name the only one there is.
    pub(crate) fn find_or_only(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        if let Some(name) = name {
            return self.find(name);
        }
        let is_model = |entry: &&Entry| entry.parent().is_none();
        let names: Vec<String> =
            self.read(|entries| entries.iter().filter(is_model).map(|entry| entry.id.clone()).collect());
        match names.as_slice() {
            [only] => self.find(only),
            names => Err(needed(names)),
        }
    }

    /// The model of this name; without a name the only one that does this.
    pub(crate) fn find_for(&self, name: Option<&str>, task: Task) -> Result<Arc<ServedModel>, ApiError> {
        if let Some(name) = name {
            return self.find(name);
        }
        // What a model does is known once it is loaded.
        let can = |entry: &&Entry| match &entry.state {
            State::Ready(model) => model.kind.does(task) && model.parent.is_none(),
            State::Loading { .. } | State::Failed { .. } => true,
            State::Unloading => false,
        };
        let (names, loading) = self.read(|entries| {
            let best = |entry: &&Entry| matches!(&entry.state, State::Ready(model) if model.kind.is_made_for(task));
            let mut candidates: Vec<&Entry> = entries.iter().filter(can).collect();
            if candidates.iter().any(best) {
                candidates.retain(best);
            }
            let loading = candidates.iter().find(|entry| matches!(entry.state, State::Loading { .. }));
            let names: Vec<String> = candidates.iter().map(|entry| entry.id.clone()).collect();
            (names, loading.map(|entry| entry.id.clone()))
        });
        match (names.as_slice(), loading) {
            ([only], _) => self.find(only),
            (_, Some(loading)) => Err(ApiError::model_loading(&loading, LOADING_RETRY_S)),
            (names, None) => Err(needed(names)),
        }
    }

    /// The models that take requests, without adapters.
    pub(crate) fn all_ready(&self) -> Vec<Arc<ServedModel>> {
        self.with_adapters().into_iter().filter(|model| model.parent.is_none()).collect()
    }

    /// The models that take requests, and their adapters.
    pub(crate) fn with_adapters(&self) -> Vec<Arc<ServedModel>> {
        self.read(|entries| {
            let ready = |entry: &Entry| match &entry.state {
                State::Ready(model) => Some(Arc::clone(model)),
                _ => None,
            };
            entries.iter().filter_map(ready).collect()
        })
    }

    /// Puts a model in, in place of the one of its name if that `gives_way`.
    fn put(&self, new: Entry, gives_way: fn(&State) -> bool) -> Result<(), RegistryError> {
        for name in std::iter::once(&new.id).chain(&new.aliases) {
            let printable = name.chars().all(|c| !c.is_whitespace() && !c.is_control());
            if name.is_empty() || name.len() > 256 || !printable {
                return Err(RegistryError::BadName { name: name.clone() });
            }
        }
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        for other in entries.iter().filter(|entry| entry.id != new.id) {
            let mut names = std::iter::once(&new.id).chain(&new.aliases);
            if let Some(name) = names.find(|name| other.answers_to(name)) {
                return Err(RegistryError::NameTaken { name: name.clone() });
            }
        }
        match entries.iter_mut().find(|entry| entry.id == new.id) {
            Some(entry) if !gives_way(&entry.state) => return Err(RegistryError::NameTaken { name: new.id }),
            Some(entry) => *entry = new,
            None => entries.push(new),
        }
        Ok(())
    }

    fn update(&self, id: &str, state: State) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.iter_mut().find(|entry| entry.id == id) {
            entry.state = state;
        }
    }

    fn read<T>(&self, f: impl FnOnce(&[Entry]) -> T) -> T {
        f(&self.entries.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which model is meant must be said.
fn needed(names: &[String]) -> ApiError {
    let message = match names {
        [] => "no model that is served does this".to_owned(),
        names => format!("needed when not exactly one model could be meant; available: {}", names.join(", ")),
    };
    ApiError::invalid_param("model", message).with_code("missing_parameter")
}

fn load_of(entry: &Entry) -> ModelLoad {
    let (state, progress, message) = match &entry.state {
        State::Loading { progress, message } => (LoadState::Loading, *progress, message.clone()),
        State::Failed { message } => (LoadState::Failed, 0.0, Some(message.clone())),
        State::Unloading => (LoadState::Draining, 1.0, None),
        State::Ready(model) => match &model.kind {
            ModelKind::Generate(generator) if !generator.engine.is_accepting() => (LoadState::Draining, 1.0, None),
            ModelKind::Generate(generator) if !generator.engine.stats().healthy => {
                (LoadState::Failed, 1.0, Some("forward passes keep failing".to_owned()))
            }
            _ => (LoadState::Ready, 1.0, None),
        },
    };
    ModelLoad { model: entry.id.clone(), state, progress, message }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_unique_and_states_tell_the_progress() {
        let registry = Registry::default();
        registry.announce("a", &["x".to_owned()]).unwrap();
        let taken = RegistryError::NameTaken { name: "x".to_owned() };
        assert_eq!(registry.announce("b", &["x".to_owned()]), Err(taken));
        assert!(matches!(registry.announce("", &[]), Err(RegistryError::BadName { .. })));
        assert!(matches!(registry.announce("a b", &[]), Err(RegistryError::BadName { .. })));

        let error = registry.find("x").unwrap_err();
        assert_eq!((error.status, error.code, error.retry_after_s), (503, Some("model_loading"), Some(2)));
        registry.progress("a", 0.5, "packing weights");
        assert_eq!(registry.states()[0].progress, 0.5);
        registry.failed("a", "no such file");
        let error = registry.find("a").unwrap_err();
        assert_eq!(error.message, "the model 'a' is not available: no such file");
        let error = registry.find("nope").unwrap_err();
        assert_eq!((error.status, error.message.as_str()), (404, "the model 'nope' does not exist; available: a"));
    }
}
