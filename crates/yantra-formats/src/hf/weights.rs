//! The weights of a Hugging Face directory: one safetensors file, or shards with an index.

use super::Config;
use crate::{
    FormatError, SafetensorsFile, TensorInfo, TensorView,
    checkpoint::{file_names, plain_child, summary},
    safetensors::{RawTensor, SkippedTensor},
};
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The open shards and where each tensor lies.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) shards: Vec<SafetensorsFile>,
    pub(super) tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    pub(super) warnings: Vec<String>,
}

impl Weights {
    pub(super) fn open(directory: &Path) -> Result<Self, FormatError> {
        let single = directory.join(SINGLE);
        if single.is_file() {
            return Self::new(vec![SafetensorsFile::open(&single)?]);
        }
        match Config::read_optional_object(&directory.join(INDEX))? {
            Some(index) => Self::open_shards(directory, &index),
            None => Err(no_weights(directory)?),
        }
    }

    fn open_shards(directory: &Path, index: &Config) -> Result<Self, FormatError> {
        let map = index.get::<&Value>("weight_map")?;
        let map = map.as_object().ok_or_else(|| index.invalid("weight_map: expected an object".to_owned()))?;
        let mut names = BTreeSet::new();
        for (tensor, shard) in map {
            let plain = shard.as_str().filter(|name| plain_child(directory, name).is_some());
            let wrong = || index.invalid(format!("weight_map: tensor '{tensor}' is in {shard}: expected a file name"));
            names.insert(plain.ok_or_else(wrong)?);
        }
        let shards = names.iter().enumerate().map(|(part, name)| {
            let path = directory.join(name);
            SafetensorsFile::open_part(&path, part).map_err(|error| match error {
                FormatError::NotFound { path } => {
                    let needed_by = format!("{INDEX} names it as one of {} shards", names.len());
                    FormatError::MissingFile { path, needed_by }
                }
                other => other,
            })
        });
        let mut weights = Self::new(shards.collect::<Result<_, _>>()?)?;
        let names: Vec<&str> = names.into_iter().collect();
        for (tensor, shard) in map {
            weights.check_listed(index, tensor, shard.as_str().unwrap_or_default(), &names)?;
        }
        weights.check_total(index);
        Ok(weights)
    }

    fn new(shards: Vec<SafetensorsFile>) -> Result<Self, FormatError> {
        let tensors: Vec<TensorInfo> = shards.iter().flat_map(SafetensorsFile::tensors).cloned().collect();
        let mut index = HashMap::with_capacity(tensors.len());
        for (at, tensor) in tensors.iter().enumerate() {
            if let Some(before) = index.insert(tensor.name.clone(), at) {
                let first = tensors.get(before).and_then(|tensor| shards.get(tensor.part));
                let path = shards.get(tensor.part).map(|shard| shard.path().to_owned()).unwrap_or_default();
                let first = first.map(|shard| shard.path().display().to_string()).unwrap_or_default();
                let problem = format!("tensor '{}' is also in '{first}'", tensor.name);
                return Err(FormatError::Json { path, problem });
            }
        }
        let mut others = HashMap::new();
        for shard in &shards {
            for tensor in shard.skipped() {
                let first = others.insert(tensor.name.as_str(), shard.path());
                if let Some(first) = first.or_else(|| index.contains_key(&tensor.name).then(|| shard.path())) {
                    let problem = format!("tensor '{}' is also in '{}'", tensor.name, first.display());
                    return Err(FormatError::Json { path: shard.path().to_owned(), problem });
                }
            }
        }
        Ok(Self { shards, tensors, index, warnings: Vec::new() })
    }

    /// Checks that a tensor of the index is in the shard it names.
    fn check_listed(&self, index: &Config, tensor: &str, shard: &str, names: &[&str]) -> Result<(), FormatError> {
        let found = self.index.get(tensor).and_then(|&at| self.tensors.get(at)).map(|info| info.part);
        if found.and_then(|part| names.get(part)) == Some(&shard) || self.skipped().any(|info| info.name == tensor) {
            return Ok(());
        }
        Err(index.invalid(format!("weight_map: tensor '{tensor}' is not in {shard}")))
    }

    /// Notes when the sizes do not add up to what the index says. That is no error: every tensor has been checked against
    /// its shard, and tools that merge or tie weights are known to leave an old total behind.
    fn check_total(&mut self, index: &Config) {
        let claimed = index.find::<u64>("metadata.total_size").ok().flatten();
        let skipped = self.skipped().next().is_some();
        let found: u64 = self.tensors.iter().map(|tensor| tensor.num_bytes() as u64).sum();
        if let Some(claimed) = claimed.filter(|&claimed| claimed != found && !skipped) {
            self.warnings.push(format!("{INDEX} says the weights have {claimed} bytes; its shards hold {found}"));
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let info = self.index.get(name).and_then(|&at| self.tensors.get(at))?;
        self.shards.get(info.part)?.tensor(name)
    }

    pub(super) fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        self.shards.iter().find_map(|shard| shard.raw(name))
    }

    pub(super) fn skipped(&self) -> impl Iterator<Item = &SkippedTensor> {
        self.shards.iter().flat_map(|shard| shard.skipped())
    }
}

/// The error for a directory without weights, which says what it has instead.
fn no_weights(directory: &Path) -> Result<FormatError, FormatError> {
    let names = file_names(directory)?;
    let pickle = |name: &&String| {
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        matches!(extension, "bin" | "pt" | "pth" | "ckpt") && name.as_str() != "training_args.bin"
    };
    let shard = names.iter().find(|name| name.ends_with(".safetensors"));
    let found = match (shard, names.iter().find(pickle)) {
        (Some(shard), _) => format!("it has no {SINGLE}, and no {INDEX} to go with {shard}"),
        (None, Some(pickle)) => format!(
            "its weights are a PyTorch pickle ({pickle}), which can run code when it is read; convert it to safetensors"
        ),
        (None, None) => format!("it has no weights ({})", summary(&names)),
    };
    let expected = "model.safetensors, or model.safetensors.index.json and its shards";
    Ok(FormatError::NotAModel { path: directory.to_owned(), found, expected })
}
