//! What an adapter says of itself: how its product is scaled, and what it does besides.

use crate::ModelError;
use regex::Regex;
use yantra_formats::{AdapterFile, FormatError, GgufFile, hf::Config};

/// Settings of PEFT that say how an adapter was trained, or what its tensors tell anyway.
const WITHOUT_EFFECT: [&str; 24] = [
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
];

/// Ways to initialise that take something away from the base model's weights.
const CHANGES_BASE: [&str; 4] = ["pissa", "olora", "corda", "loftq"];

/// How the products of an adapter are scaled.
pub(super) struct Settings {
    /// Divided by the rank; `None`: the product is taken as it is.
    alpha: Option<f64>,
    rank_stabilised: bool,
    /// Ranks, and what is in place of `alpha`, of modules whose names match.
    rank: Option<usize>,
    rank_pattern: Vec<(Regex, f64)>,
    alpha_pattern: Vec<(Regex, f64)>,
}

impl Settings {
    pub(super) fn read(file: &AdapterFile) -> Result<Self, ModelError> {
        match file {
            AdapterFile::Peft { config, .. } => Self::of_peft(config),
            AdapterFile::Gguf(file) => Self::of_gguf(file),
        }
    }

    fn of_peft(config: &Config) -> Result<Self, ModelError> {
        let method: &str = config.get("peft_type")?;
        if method != "LORA" {
            return unsupported(format!("peft_type '{method}' (LORA is)"));
        }
        if let Some(bias) = config.find::<&str>("bias")?.filter(|bias| *bias != "none") {
            return unsupported(format!("an adapter that trained biases (bias = '{bias}')"));
        }
        if let Some(way) = config.find("init_lora_weights").ok().flatten().and_then(changes_base) {
            let feature = format!("init_lora_weights = '{way}', which changes the base model's own weights,");
            return unsupported(feature);
        }
        let given = config.value().as_object().into_iter().flatten();
        if let Some((key, value)) = given.into_iter().find(|(key, value)| has_effect(key, value)) {
            return unsupported(format!("the setting {key} = {value} of an adapter"));
        }
        let positive = |key: &str| match config.get::<usize>(key)? {
            0 => Err(ModelError::Parameter { key: key.to_owned(), message: "0 given, at least 1 expected".to_owned() }),
            count => Ok(count),
        };
        Ok(Self {
            alpha: Some(config.get("lora_alpha")?),
            rank_stabilised: config.find("use_rslora")?.unwrap_or(false),
            rank: Some(positive("r")?),
            rank_pattern: patterns(config, "rank_pattern")?,
            alpha_pattern: patterns(config, "alpha_pattern")?,
        })
    }

    /// After llama.cpp's `llama_adapter_lora_init_impl`.
    fn of_gguf(file: &GgufFile) -> Result<Self, ModelError> {
        let kind = file.metadata().get_str("adapter.type")?;
        if kind != "lora" {
            return unsupported(format!("an adapter of type '{kind}' (lora is)"));
        }
        if file.metadata().contains("adapter.alora.invocation_tokens") {
            return unsupported(
                "an adapter that begins at its invocation tokens (adapter.alora.invocation_tokens)".into(),
            );
        }
        let alpha = f64::from(file.metadata().get_f32("adapter.lora.alpha")?);
        let alpha = Some(alpha).filter(|alpha| *alpha != 0.0);
        let (rank_pattern, alpha_pattern) = (Vec::new(), Vec::new());
        Ok(Self { alpha, rank_stabilised: false, rank: None, rank_pattern, alpha_pattern })
    }

    /// What the product of a module's matrices of this rank is multiplied with.
    pub(super) fn scale(&self, module: &str, rank: usize) -> Result<f32, ModelError> {
        let matching = |patterns: &[(Regex, f64)]| {
            patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
        };
        let expected = matching(&self.rank_pattern).map(|rank| rank as usize).or(self.rank);
        if let Some(expected) = expected.filter(|expected| *expected != rank) {
            let message = format!("{expected} for '{module}', whose matrices have rank {rank}");
            return Err(ModelError::Parameter { key: "r".to_owned(), message });
        }
        let divisor = if self.rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        let alpha = matching(&self.alpha_pattern).or(self.alpha);
        Ok(alpha.map_or(1.0, |alpha| alpha / divisor) as f32)
    }
}

fn unsupported<T>(feature: String) -> Result<T, ModelError> {
    Err(ModelError::Unsupported { feature })
}

fn changes_base(way: &serde_json::Value) -> Option<&str> {
    way.as_str().filter(|way| CHANGES_BASE.iter().any(|start| way.to_lowercase().starts_with(start)))
}

/// Whether a setting is none of those known, and set.
fn has_effect(key: &str, value: &serde_json::Value) -> bool {
    let is_empty = value.is_null()
        || value == &serde_json::Value::Bool(false)
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty);
    !is_empty && !WITHOUT_EFFECT.contains(&key)
}

/// Numbers by patterns of module names, as PEFT's `get_pattern_key` reads them.
fn patterns(config: &Config, key: &str) -> Result<Vec<(Regex, f64)>, ModelError> {
    let Some(value) = config.find::<&serde_json::Value>(key)? else { return Ok(Vec::new()) };
    let invalid = |problem: String| FormatError::Json { path: config.path().to_owned(), problem };
    let entries = value.as_object().ok_or_else(|| invalid(format!("key '{key}' is no object")))?;
    let entry = |(pattern, value): (&String, &serde_json::Value)| {
        let number = value.as_f64().ok_or_else(|| invalid(format!("'{pattern}' of '{key}' is no number")))?;
        let regex = Regex::new(&format!("^(?:(.*\\.)?({pattern})$)"));
        let regex = regex.map_err(|error| invalid(format!("'{pattern}' of '{key}' is no pattern: {error}")))?;
        Ok::<_, FormatError>((regex, number))
    };
    Ok(entries.iter().map(entry).collect::<Result<_, _>>()?)
}
