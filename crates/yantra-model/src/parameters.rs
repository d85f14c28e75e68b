//! Hyper-parameters of a checkpoint under one roof: GGUF metadata and Hugging Face `config.json`.

use crate::ModelError;
use std::borrow::Cow;
use yantra_formats::{Array, Checkpoint, Metadata, Value, hf::Config};

/// Largest count believed: no model has dimensions, layers or contexts near it.
const MAX_COUNT: u32 = 1 << 28;

/// Where a parameter is found: its GGUF key (without the architecture prefix) and its `config.json` key.
///
/// An empty name means that the format does not record the parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    gguf: &'static str,
    hugging_face: &'static str,
}

/// Short form of [`Key`].
pub(crate) const fn key(gguf: &'static str, hugging_face: &'static str) -> Key {
    Key { gguf, hugging_face }
}

/// What a `config.json` means where it leaves a key out: the defaults of the family's class in transformers.
pub(crate) type Defaults = &'static [(&'static str, f64)];

/// Other names in `config.json`: ours, theirs.
pub(crate) type Aliases = &'static [(&'static str, &'static str)];

/// Typed access to the hyper-parameters of a checkpoint.
pub(crate) struct Parameters<'a> {
    checkpoint: &'a Checkpoint,
    architecture: String,
    source: Source<'a>,
    aliases: Aliases,
    defaults: Defaults,
}

enum Source<'a> {
    Gguf(&'a Metadata),
    /// The part of `config.json` that tells of the text model.
    HuggingFace(Cow<'a, Config>),
}

impl<'a> Parameters<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint) -> Result<Self, ModelError> {
        let (architecture, source) = match checkpoint {
            Checkpoint::Gguf(file) => {
                let metadata = file.metadata();
                (metadata.get_str("general.architecture")?.to_owned(), Source::Gguf(metadata))
            }
            Checkpoint::HuggingFace(directory) => {
                let config = directory.config();
                let architectures: Vec<&str> = config.get("architectures")?;
                let first = architectures.first().ok_or_else(|| missing("architectures"))?;
                // Models that also see or hear keep what concerns the text model in a section of its own.
                let text = config.section("text_config").map_or(Cow::Borrowed(config), Cow::Owned);
                ((*first).to_owned(), Source::HuggingFace(text))
            }
        };
        Ok(Self { checkpoint, architecture, source, aliases: &[], defaults: &[] })
    }

    /// The same with what a `config.json` may call otherwise or leave out.
    pub(crate) fn of_family(self, aliases: Aliases, defaults: Defaults) -> Self {
        Self { aliases, defaults, ..self }
    }

    /// Where the parameters are from.
    pub(crate) fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// The architecture as the checkpoint names it: `llama` (GGUF) or `LlamaForCausalLM` (Hugging Face).
    pub(crate) fn architecture(&self) -> &str {
        &self.architecture
    }

    pub(crate) fn is_gguf(&self) -> bool {
        matches!(self.source, Source::Gguf(_))
    }

    /// The `config.json` of a Hugging Face checkpoint, or the section of it that is about the text model.
    pub(crate) fn config(&self) -> Option<&Config> {
        match &self.source {
            Source::Gguf(_) => None,
            Source::HuggingFace(config) => Some(config),
        }
    }

    fn default(&self, key: Key) -> Option<f64> {
        let found = self.defaults.iter().find(|(name, _)| *name == key.hugging_face);
        found.filter(|_| !self.is_gguf()).map(|(_, value)| *value)
    }

    fn name(&self, key: Key) -> String {
        match &self.source {
            Source::Gguf(_) => format!("{}.{}", self.architecture, key.gguf),
            Source::HuggingFace(config) => {
                let theirs =
                    self.aliases.iter().filter(|(ours, _)| *ours == key.hugging_face).map(|(_, theirs)| *theirs);
                let present = |name: &&str| !config.value()[*name].is_null();
                theirs.into_iter().find(present).unwrap_or(key.hugging_face).to_owned()
            }
        }
    }

    fn number(&self, key: Key) -> Result<Option<u32>, ModelError> {
        let number = match &self.source {
            Source::Gguf(metadata) => metadata.find(&self.name(key))?,
            Source::HuggingFace(config) => config.find(&self.name(key))?,
        };
        Ok(number.or_else(|| self.default(key).map(|value| value as u32)))
    }

    /// A count of at least one, if recorded.
    pub(crate) fn count(&self, key: Key) -> Result<Option<usize>, ModelError> {
        match self.number(key)? {
            Some(number @ 1..=MAX_COUNT) => Ok(Some(number as usize)),
            Some(number) => {
                let message = format!("{number} is not between 1 and {MAX_COUNT}");
                Err(ModelError::Parameter { key: self.name(key), message })
            }
            None => Ok(None),
        }
    }

    /// A count that may be 0, which it is if it is not recorded.
    pub(crate) fn count_or_zero(&self, key: Key) -> Result<usize, ModelError> {
        self.number_or(key, 0)
    }

    /// A number that may be 0, or another if it is not recorded.
    pub(crate) fn number_or(&self, key: Key, other: usize) -> Result<usize, ModelError> {
        match self.number(key)? {
            Some(0) => Ok(0),
            Some(_) => self.count(key).map(|count| count.unwrap_or(other)),
            None => Ok(other),
        }
    }

    /// A count that must be recorded.
    pub(crate) fn required_count(&self, key: Key) -> Result<usize, ModelError> {
        self.count(key)?.ok_or_else(|| missing(&self.name(key)))
    }

    /// A real number, if recorded.
    pub(crate) fn real(&self, key: Key) -> Result<Option<f32>, ModelError> {
        let number: Option<f32> = match &self.source {
            Source::Gguf(metadata) => metadata.find(&self.name(key))?,
            Source::HuggingFace(config) => config.find(&self.name(key))?,
        };
        Ok(number.or_else(|| self.default(key).map(|value| value as f32)))
    }

    /// Whether something holds, if recorded.
    pub(crate) fn flag(&self, key: Key) -> Result<Option<bool>, ModelError> {
        Ok(match &self.source {
            Source::Gguf(metadata) => metadata.find(&self.name(key))?,
            Source::HuggingFace(config) => config.find(&self.name(key))?,
        })
    }

    /// Several numbers, of `config.json` only.
    pub(crate) fn numbers<T>(&self, key: &str) -> Result<Option<Vec<T>>, ModelError>
    where
        Vec<T>: for<'j> yantra_formats::hf::FromJson<'j>,
    {
        Ok(self.config().map(|config| config.find(key)).transpose()?.flatten())
    }

    /// Which layers something holds for, of GGUF only: a flag of each, or a number of which every layer that is a multiple is
    /// the exception.
    pub(crate) fn pattern(&self, key: &'static str, num_layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        let Source::Gguf(metadata) = &self.source else { return Ok(None) };
        let name = format!("{}.{key}", self.architecture);
        let flags = match metadata.value(&name) {
            None => return Ok(None),
            Some(Value::Array(Array::Bool(flags))) => flags.clone(),
            Some(Value::Array(_)) => metadata.get::<Vec<u32>>(&name)?.into_iter().map(|flag| flag != 0).collect(),
            Some(_) => {
                // All layers are the exception of 1, and none of 0.
                let interval = metadata.get::<u32>(&name)? as usize;
                (1..=num_layers).map(|number| interval == 0 || !number.is_multiple_of(interval)).collect()
            }
        };
        if flags.len() == num_layers {
            return Ok(Some(flags));
        }
        Err(ModelError::Parameter { key: name, message: format!("{} flags for {num_layers} layers", flags.len()) })
    }

    /// A text, if recorded.
    pub(crate) fn text(&self, key: Key) -> Result<Option<&str>, ModelError> {
        Ok(match &self.source {
            Source::Gguf(metadata) => metadata.find(&self.name(key))?,
            Source::HuggingFace(config) => config.find(&self.name(key))?,
        })
    }
}

fn missing(key: &str) -> ModelError {
    ModelError::Parameter { key: key.to_owned(), message: "missing from the checkpoint".to_owned() }
}
