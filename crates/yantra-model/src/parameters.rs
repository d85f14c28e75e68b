//! Hyper-parameters of a checkpoint under one roof: GGUF metadata and Hugging Face `config.json`.

use crate::ModelError;
use yantra_formats::{Checkpoint, Metadata, Value};

/// Where a parameter is found: its GGUF key (without the architecture prefix) and its `config.json` key.
///
/// An empty name means that the format does not record the parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) gguf: &'static str,
    pub(crate) hugging_face: &'static str,
}

/// Short form of [`Key`].
pub(crate) const fn key(gguf: &'static str, hugging_face: &'static str) -> Key {
    Key { gguf, hugging_face }
}

/// Typed access to the hyper-parameters of a checkpoint.
pub(crate) struct Parameters<'a> {
    architecture: String,
    source: Source<'a>,
}

enum Source<'a> {
    Gguf(&'a Metadata),
    HuggingFace(&'a serde_json::Value),
}

impl<'a> Parameters<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint) -> Result<Self, ModelError> {
        match checkpoint {
            Checkpoint::Gguf(file) => {
                let metadata = file.metadata();
                let architecture = match metadata.get("general.architecture") {
                    Some(Value::String(name)) => name.clone(),
                    _ => return Err(missing("general.architecture")),
                };
                Ok(Self { architecture, source: Source::Gguf(metadata) })
            }
            Checkpoint::HuggingFace(directory) => {
                let config = directory.config();
                let architecture = config["architectures"][0].as_str().ok_or_else(|| missing("architectures"))?;
                Ok(Self { architecture: architecture.to_owned(), source: Source::HuggingFace(config) })
            }
        }
    }

    /// The architecture as the checkpoint names it: `llama` (GGUF) or `LlamaForCausalLM` (Hugging Face).
    pub(crate) fn architecture(&self) -> &str {
        &self.architecture
    }

    pub(crate) fn is_gguf(&self) -> bool {
        matches!(self.source, Source::Gguf(_))
    }

    fn name(&self, key: Key) -> String {
        match self.source {
            Source::Gguf(_) => format!("{}.{}", self.architecture, key.gguf),
            Source::HuggingFace(_) => key.hugging_face.to_owned(),
        }
    }

    /// The `config.json` value under a path of keys, for Hugging Face checkpoints.
    pub(crate) fn json(&self, path: &[&str]) -> Option<&'a serde_json::Value> {
        match self.source {
            Source::Gguf(_) => None,
            Source::HuggingFace(config) => {
                path.iter().try_fold(config, |value, key| value.get(key)).filter(|value| !value.is_null())
            }
        }
    }

    fn number(&self, key: Key) -> Result<Option<f64>, ModelError> {
        let name = self.name(key);
        let not_a_number = |found: String| ModelError::Parameter {
            key: name.clone(),
            message: format!("a number was expected, found {found}"),
        };
        match self.source {
            Source::Gguf(_) if key.gguf.is_empty() => Ok(None),
            Source::Gguf(metadata) => match metadata.get(&name) {
                None => Ok(None),
                Some(value) => gguf_number(value).map(Some).ok_or_else(|| not_a_number(format!("{value:?}"))),
            },
            Source::HuggingFace(_) => match self.json(&[key.hugging_face]) {
                None => Ok(None),
                Some(value) => value.as_f64().map(Some).ok_or_else(|| not_a_number(value.to_string())),
            },
        }
    }

    /// A count of at least one and at most 2^31, if recorded.
    pub(crate) fn count(&self, key: Key) -> Result<Option<usize>, ModelError> {
        let number = self.number(key)?;
        number
            .map(|value| {
                let valid = value.fract() == 0.0 && (1.0..=2_147_483_648.0).contains(&value);
                valid.then_some(value as usize).ok_or_else(|| ModelError::Parameter {
                    key: self.name(key),
                    message: format!("a positive whole number was expected, found {value}"),
                })
            })
            .transpose()
    }

    /// A count that must be recorded.
    pub(crate) fn required_count(&self, key: Key) -> Result<usize, ModelError> {
        self.count(key)?.ok_or_else(|| missing(&self.name(key)))
    }

    /// A finite real number, if recorded.
    pub(crate) fn real(&self, key: Key) -> Result<Option<f32>, ModelError> {
        let number = self.number(key)?;
        number
            .map(|value| {
                value.is_finite().then_some(value as f32).ok_or_else(|| ModelError::Parameter {
                    key: self.name(key),
                    message: format!("a finite number was expected, found {value}"),
                })
            })
            .transpose()
    }

    /// A text, if recorded.
    pub(crate) fn text(&self, key: Key) -> Option<&'a str> {
        match self.source {
            Source::Gguf(metadata) => match metadata.get(&self.name(key)) {
                Some(Value::String(text)) => Some(text),
                _ => None,
            },
            Source::HuggingFace(_) => self.json(&[key.hugging_face])?.as_str(),
        }
    }
}

fn missing(key: &str) -> ModelError {
    ModelError::Parameter { key: key.to_owned(), message: "missing from the checkpoint".to_owned() }
}

fn gguf_number(value: &Value) -> Option<f64> {
    Some(match *value {
        Value::U8(value) => f64::from(value),
        Value::I8(value) => f64::from(value),
        Value::U16(value) => f64::from(value),
        Value::I16(value) => f64::from(value),
        Value::U32(value) => f64::from(value),
        Value::I32(value) => f64::from(value),
        Value::F32(value) => f64::from(value),
        Value::U64(value) => value as f64,
        Value::I64(value) => value as f64,
        Value::F64(value) => value,
        _ => return None,
    })
}
