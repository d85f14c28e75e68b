//! A Hugging Face model directory, opened and checked.

use super::{Config, NamedTemplate, read_optional, templates, weights::Weights};
use crate::safetensors::{RawTensor, SkippedTensor};
use crate::{AccessPattern, FormatError, SafetensorsFile, TensorInfo, TensorView};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// An open Hugging Face model directory.
#[derive(Debug)]
pub struct HfDirectory {
    path: PathBuf,
    config: Config,
    generation_config: Option<Config>,
    tokenizer_config: Option<Config>,
    special_tokens_map: Option<Config>,
    chat_templates: Vec<NamedTemplate>,
    modules: Option<Config>,
    weights: Weights,
}

impl HfDirectory {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// If `config.json` or the weights are missing, or any file is damaged or unsupported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let path = path.as_ref();
        let object = |name: &str| Config::read_optional_object(&path.join(name));
        let config = object("config.json")?.ok_or_else(|| FormatError::MissingFile {
            path: path.join("config.json"),
            needed_by: "every Hugging Face model directory needs it".to_owned(),
        })?;
        let tokenizer_config = object("tokenizer_config.json")?;
        Ok(Self {
            path: path.to_owned(),
            config,
            generation_config: object("generation_config.json")?,
            special_tokens_map: object("special_tokens_map.json")?,
            chat_templates: templates::read(path, tokenizer_config.as_ref())?,
            tokenizer_config,
            modules: Config::read_optional(&path.join("modules.json"))?,
            weights: Weights::open(path)?,
        })
    }

    /// The directory opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json`: the architecture and its sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `generation_config.json`: end-of-sequence ids and suggested sampling.
    pub fn generation_config(&self) -> Option<&Config> {
        self.generation_config.as_ref()
    }

    /// `tokenizer_config.json`.
    pub fn tokenizer_config(&self) -> Option<&Config> {
        self.tokenizer_config.as_ref()
    }

    /// `special_tokens_map.json`.
    pub fn special_tokens_map(&self) -> Option<&Config> {
        self.special_tokens_map.as_ref()
    }

    /// The path of `tokenizer.json`, if there is one.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        Some(self.path.join("tokenizer.json")).filter(|path| path.is_file())
    }

    /// The bytes of `tokenizer.json`, if there is one.
    ///
    /// # Errors
    /// If it can not be read or is larger than is sensible.
    pub fn read_tokenizer(&self) -> Result<Option<Vec<u8>>, FormatError> {
        read_optional(&self.path.join("tokenizer.json"))
    }

    /// Every chat template, by name.
    pub fn chat_templates(&self) -> &[NamedTemplate] {
        &self.chat_templates
    }

    /// The source of the chat template `name` (`default`, `tool_use`, …).
    pub fn chat_template(&self, name: &str) -> Option<&str> {
        self.chat_templates.iter().find(|template| template.name == name).map(|template| template.source.as_str())
    }

    /// Every id that ends a sequence: `eos_token_id` of `generation_config.json`, else of `config.json`; both may be one id
    /// or a list.
    ///
    /// # Errors
    /// If the value is neither.
    pub fn eos_token_ids(&self) -> Result<Vec<u32>, FormatError> {
        const KEY: &str = "eos_token_id";
        for config in [self.generation_config.as_ref(), Some(&self.config)].into_iter().flatten() {
            match config.find::<&Value>(KEY)? {
                None => {}
                Some(Value::Array(_)) => return config.get::<Vec<u32>>(KEY),
                Some(_) => return Ok(vec![config.get::<u32>(KEY)?]),
            }
        }
        Ok(Vec::new())
    }

    /// `modules.json` of a sentence-transformers model: its pipeline.
    pub fn modules(&self) -> Option<&Config> {
        self.modules.as_ref()
    }

    /// The file `name` (which may be in a directory below, as `1_Pooling/config.json`) as JSON; `None` if there is none.
    ///
    /// # Errors
    /// If the name leads out of the directory, or the file is not JSON.
    pub fn read_json(&self, name: &str) -> Result<Option<Config>, FormatError> {
        let inside = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside {
            let needed_by = "expected a path within the model's directory".to_owned();
            return Err(FormatError::MissingFile { path: name.into(), needed_by });
        }
        Config::read_optional(&self.path.join(name))
    }

    /// The configuration of a sentence-transformers model's pooling: `1_Pooling/config.json`, or wherever `modules.json`
    /// says the pooling module lies.
    ///
    /// # Errors
    /// If the file is not JSON.
    pub fn pooling_config(&self) -> Result<Option<Config>, FormatError> {
        let modules = self.modules.as_ref().and_then(|modules| modules.value().as_array());
        let text = |module: &Value, key| module.get(key).and_then(Value::as_str).map(str::to_owned);
        let pooling = modules
            .into_iter()
            .flatten()
            .find(|module| text(module, "type").is_some_and(|module_type| module_type.ends_with(".Pooling")));
        let folder = pooling.and_then(|module| text(module, "path")).unwrap_or_else(|| "1_Pooling".to_owned());
        self.read_json(&format!("{folder}/config.json"))
    }

    /// Every tensor that can be a weight, shard after shard.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.weights.tensors.iter()
    }

    /// The tensors of types that weights do not have: integers, bools, floats of 8 bits.
    pub fn skipped(&self) -> impl Iterator<Item = &SkippedTensor> {
        self.weights.skipped()
    }

    /// The tensor `name`, whatever its type.
    pub fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        self.weights.raw(name)
    }

    /// The tensor `name`, if there is one that can be a weight.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.weights.tensor(name)
    }

    /// What is odd about the directory without being wrong.
    pub fn warnings(&self) -> &[String] {
        &self.weights.warnings
    }

    /// Bytes of all weights files together.
    pub fn total_bytes(&self) -> u64 {
        self.weights.shards.iter().map(SafetensorsFile::total_bytes).sum()
    }

    /// Tells the operating system how the weights are about to be read.
    pub fn advise(&self, pattern: AccessPattern) {
        self.weights.shards.iter().for_each(|shard| shard.advise(pattern));
    }
}
