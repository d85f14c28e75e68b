//! Configuration: flags over file over environment, in two stages.
//!
//! [`RawConfig`] is what each of the three says, all of it optional; [`RawConfig::over`] lays one over the other;
//! [`RawConfig::validate`] makes [`Settings`], in which everything is checked. Unknown keys are refused with the
//! nearest known one named, because a silently ignored setting is worse than a refused one.

use crate::failure::{UsageError, hinted, usage};
use crate::suggest::did_you_mean;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use yantra_engine::SpeculationMethod;
use yantra_kernels::{KvFormat, WeightFormat};
use yantra_model::EncoderDtype;
use yantra_server::{RawServerConfig, ServerConfig};

/// More threads than any processor this runs on has.
const MAX_THREADS: usize = 1024;

/// Shorter keys are guessed.
const MIN_KEY_CHARS: usize = 8;

/// What one source says; what it leaves out is nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RawConfig {
    /// What to log; can be changed while the server runs.
    pub(crate) log: Option<String>,
    /// `[server]`, by the names of [`RawServerConfig`].
    pub(crate) server: Map<String, Value>,
    pub(crate) engine: RawEngine,
    pub(crate) models: Vec<RawModel>,
}

/// The file as a whole, for its types; `server` has every setting of the server crate.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct File {
    log: Option<String>,
    server: RawServerConfig,
    engine: RawEngine,
    models: Vec<RawModel>,
}

/// `[engine]`, and the same flags of every command that loads a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
#[command(next_help_heading = "Engine")]
pub(crate) struct RawEngine {
    /// Threads to compute with [default: all cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Longest sequence in tokens, prompt and reply together [default: the model's own limit]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<usize>,
    /// Sequences computed at the same time
    #[arg(long, value_name = "N")]
    pub(crate) max_sequences: Option<usize>,
    /// Tokens computed in one step, prompts and replies together
    #[arg(long, value_name = "TOKENS")]
    pub(crate) token_budget: Option<usize>,
    /// Memory for the KV cache, such as 512MiB or 4GiB [default: planned from the free memory]
    #[arg(long, value_name = "SIZE")]
    pub(crate) kv_memory: Option<String>,
    /// How keys and values are stored: f32, f16, bf16, int8 (half of that), int4 (4-bit values, 8-bit keys) or auto, which is
    /// bf16 where the processor multiplies it and else f16 [default: auto]
    #[arg(long, value_name = "TYPE")]
    pub(crate) kv_dtype: Option<String>,
    /// Quantise float weights while loading, to q8_0, q4_k, …
    #[arg(long, value_name = "FORMAT")]
    pub(crate) quantize: Option<String>,
    /// What embedding models multiply in: f32, bf16, int8 or auto, which is bf16 where the processor multiplies it and
    /// nothing is quantised, else f32 [default: auto]
    #[arg(long, value_name = "TYPE")]
    pub(crate) embedding_dtype: Option<String>,
    /// Keep the experts of a mixture in a file in this directory, so that only those that are used take memory
    #[arg(long, value_name = "DIR")]
    pub(crate) experts_on_disk: Option<PathBuf>,
    /// Requests that may wait for a place; more are refused [default: 256]
    #[arg(long, value_name = "N")]
    pub(crate) max_queue: Option<usize>,
    /// Whether prompts that begin alike share what is computed [default: true]
    #[arg(long, value_name = "BOOL")]
    pub(crate) prefix_cache: Option<bool>,
    /// Directory for pages that leave the prefix cache; flags of `serve`, which alone keeps them.
    #[arg(skip)]
    pub(crate) kv_spill: Option<PathBuf>,
    /// Most that the directory may hold.
    #[arg(skip)]
    pub(crate) kv_spill_limit: Option<String>,
    /// Where temperature and the like come from when a request is silent: auto (the model's own suggestion) or none
    /// (OpenAI's defaults) [default: auto]
    #[arg(long, value_name = "SOURCE")]
    pub(crate) generation_config: Option<String>,
    /// Guess tokens ahead and compute the guesses together, which changes no token: lookup (what followed the same words
    /// before), draft (a small model, see --draft-model) or none [default: lookup, or draft with --draft-model]
    #[arg(long, value_name = "METHOD")]
    pub(crate) speculate: Option<String>,
    /// Path or catalogue name of a small model with the same vocabulary, to guess ahead
    #[arg(long, value_name = "MODEL")]
    pub(crate) draft_model: Option<String>,
    /// Most tokens guessed ahead; fewer where they do not pay [default: 16]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) draft_max: Option<usize>,
}

/// `[[models]]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RawModel {
    pub(crate) name: Option<String>,
    pub(crate) aliases: Vec<String>,
    pub(crate) model: Option<String>,
    pub(crate) context: Option<usize>,
    pub(crate) kv_memory: Option<String>,
    pub(crate) quantize: Option<String>,
    pub(crate) embedding_dtype: Option<String>,
    pub(crate) draft_model: Option<String>,
    /// Paths of LoRA adapters by the names that requests use.
    pub(crate) adapters: BTreeMap<String, PathBuf>,
}

/// Everything checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) log: Option<String>,
    pub(crate) server: ServerConfig,
    pub(crate) engine: EngineSettings,
    pub(crate) models: Vec<ModelSettings>,
}

/// How a model is loaded and run; `None` leaves it to the engine's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct EngineSettings {
    pub(crate) threads: Option<usize>,
    pub(crate) context: Option<usize>,
    pub(crate) max_sequences: Option<usize>,
    pub(crate) token_budget: Option<usize>,
    pub(crate) kv_memory_bytes: Option<u64>,
    pub(crate) kv_dtype: Option<KvFormat>,
    pub(crate) quantize: Option<WeightFormat>,
    pub(crate) embedding_dtype: Option<EncoderDtype>,
    pub(crate) experts_on_disk: Option<PathBuf>,
    pub(crate) max_queue: Option<usize>,
    pub(crate) prefix_cache: Option<bool>,
    pub(crate) kv_spill: Option<KvSpill>,
    pub(crate) generation_config: GenerationConfig,
    pub(crate) speculate: Option<SpeculationMethod>,
    pub(crate) draft_model: Option<String>,
    pub(crate) draft_max: Option<usize>,
}

/// Where pages go that leave the prefix cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvSpill {
    pub(crate) directory: PathBuf,
    pub(crate) limit_bytes: u64,
}

impl KvSpill {
    const DEFAULT_LIMIT_BYTES: u64 = 4 << 30;

    /// From the directory and the limit as given.
    fn validate(raw: &RawEngine) -> Result<Option<Self>> {
        let limit = raw.kv_spill_limit.as_deref().map(|size| parse_size("kv-spill-limit", size)).transpose()?;
        match (&raw.kv_spill, limit) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(usage("kv-spill-limit is given, but no directory to limit: expected kv-spill too")),
            (Some(_), _) if raw.prefix_cache == Some(false) => {
                Err(usage("kv-spill is given, but prefix-cache is false: only cached pages are spilled"))
            }
            (Some(directory), _) if directory.as_os_str().is_empty() => {
                Err(usage("kv-spill is empty, expected a directory"))
            }
            (Some(directory), limit) => {
                let limit_bytes = limit.unwrap_or(Self::DEFAULT_LIMIT_BYTES);
                Ok(Some(Self { directory: directory.clone(), limit_bytes }))
            }
        }
    }
}

/// Where sampling parameters come from that a request does not give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum GenerationConfig {
    /// What the model's files suggest, else the catalogue.
    #[default]
    Auto,
    /// OpenAI's defaults.
    None,
}

/// One model to serve.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelSettings {
    /// The name that requests use.
    pub(crate) name: String,
    /// Other names it answers to.
    pub(crate) aliases: Vec<String>,
    /// A path or a catalogue name.
    pub(crate) model: String,
    /// Names and paths of its LoRA adapters.
    pub(crate) adapters: Vec<(String, PathBuf)>,
    pub(crate) engine: EngineSettings,
}

impl RawConfig {
    /// Reads a TOML file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
        Self::parse(&text).map_err(|error| error.context(format!("in the configuration file {}", path.display())))
    }

    /// Reads TOML text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| usage(error.to_string()))?;
        let given = serde_json::to_value(&table)?;
        let known = serde_json::to_value(File { models: vec![RawModel::default()], ..File::default() })?;
        refuse_unknown_keys("", &given, &known)?;
        let file: File = toml::from_str(text).map_err(|error| usage(error.to_string()))?;
        let server = given.get("server").and_then(Value::as_object).cloned().unwrap_or_default();
        Ok(Self { log: file.log, server, engine: file.engine, models: file.models })
    }

    /// This source's settings where it has them, `below`'s otherwise.
    pub(crate) fn over(self, below: Self) -> Self {
        let models = if self.models.is_empty() { below.models } else { self.models };
        let mut server = below.server;
        lay_over(&mut server, self.server);
        Self {
            log: self.log.or(below.log),
            server,
            engine: RawEngine {
                threads: self.engine.threads.or(below.engine.threads),
                context: self.engine.context.or(below.engine.context),
                max_sequences: self.engine.max_sequences.or(below.engine.max_sequences),
                token_budget: self.engine.token_budget.or(below.engine.token_budget),
                kv_memory: self.engine.kv_memory.or(below.engine.kv_memory),
                kv_dtype: self.engine.kv_dtype.or(below.engine.kv_dtype),
                quantize: self.engine.quantize.or(below.engine.quantize),
                embedding_dtype: self.engine.embedding_dtype.or(below.engine.embedding_dtype),
                experts_on_disk: self.engine.experts_on_disk.or(below.engine.experts_on_disk),
                max_queue: self.engine.max_queue.or(below.engine.max_queue),
                prefix_cache: self.engine.prefix_cache.or(below.engine.prefix_cache),
                kv_spill: self.engine.kv_spill.or(below.engine.kv_spill),
                kv_spill_limit: self.engine.kv_spill_limit.or(below.engine.kv_spill_limit),
                generation_config: self.engine.generation_config.or(below.engine.generation_config),
                speculate: self.engine.speculate.or(below.engine.speculate),
                draft_model: self.engine.draft_model.or(below.engine.draft_model),
                draft_max: self.engine.draft_max.or(below.engine.draft_max),
            },
            models,
        }
    }

    /// The settings that `other` has otherwise, by their names in the file, but for `log`.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let engine = |raw: &Self| serde_json::to_value(&raw.engine).unwrap_or_default();
        let (ours, theirs) = (engine(self), engine(other));
        let empty = Map::new();
        let tables = [
            ("server", &self.server, &other.server),
            ("engine", ours.as_object().unwrap_or(&empty), theirs.as_object().unwrap_or(&empty)),
        ];
        let mut names = Vec::new();
        for (table, ours, theirs) in tables {
            let added = theirs.keys().filter(|name| !ours.contains_key(*name));
            let differs = |name: &&String| ours.get(*name) != theirs.get(*name);
            names.extend(ours.keys().chain(added).filter(differs).map(|name| format!("{table}.{name}")));
        }
        if self.models != other.models {
            names.push("models".to_owned());
        }
        names
    }

    /// Checks everything.
    pub(crate) fn validate(self) -> Result<Settings> {
        let raw: RawServerConfig = serde_json::from_value(Value::Object(self.server))
            .map_err(|error| usage(format!("in the settings of the server: {error}")))?;
        let short = raw.api_keys.iter().find(|key| key.len() < MIN_KEY_CHARS);
        if let Some(key) = short {
            let message = format!("an API key has {} characters, expected at least {MIN_KEY_CHARS}", key.len());
            return Err(usage(message));
        }
        let server = ServerConfig::try_from(raw).map_err(|error| usage(error.to_string()))?;
        let engine = self.engine.validate()?;
        let models: Vec<ModelSettings> =
            self.models.into_iter().map(|model| model.validate(&engine)).collect::<Result<_>>()?;
        refuse_names_given_twice(&models)?;
        let log = self.log.filter(|filter| !filter.is_empty());
        log.as_deref().map(crate::log::parse).transpose()?;
        Ok(Settings { log, server, engine, models })
    }
}

/// Lays settings over others, table by table.
fn lay_over(below: &mut Map<String, Value>, above: Map<String, Value>) {
    for (name, value) in above {
        match (below.get_mut(&name), value) {
            (Some(Value::Object(below)), Value::Object(above)) => lay_over(below, above),
            (_, value) => _ = below.insert(name, value),
        }
    }
}

/// `[server.telemetry]` with nothing but an endpoint.
pub(crate) fn otlp_endpoint(url: &str) -> Value {
    serde_json::json!({"otlp_endpoint": url})
}

/// `[server.traces]` with nothing but a mode.
pub(crate) fn traces_mode(mode: &str) -> Value {
    serde_json::json!({"mode": mode})
}

impl RawEngine {
    /// Checked, with the environment below: for commands that have no configuration file.
    pub(crate) fn over_environment(self) -> Result<EngineSettings> {
        let raw = RawConfig { engine: self, ..RawConfig::default() };
        raw.over(crate::env::config()?).engine.validate()
    }

    /// Checks the engine's settings.
    pub(crate) fn validate(&self) -> Result<EngineSettings> {
        let positive = |name: &str, value: Option<usize>| match value {
            Some(0) => Err(usage(format!("{name} is 0, expected at least 1"))),
            value => Ok(value),
        };
        let kv_dtype = match self.kv_dtype.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("auto") => None,
            Some("f16") => Some(KvFormat::F16),
            Some("f32") => Some(KvFormat::F32),
            Some("bf16") => Some(KvFormat::BF16),
            Some("int8" | "q8_0") => Some(KvFormat::Int8),
            Some("int4" | "q4_0") => Some(KvFormat::Int4),
            Some(other) => {
                return Err(usage(format!("kv-dtype is `{other}`, expected auto, f32, f16, bf16, int8 or int4")));
            }
        };
        let threads = positive("threads", self.threads)?;
        if let Some(threads) = threads.filter(|&threads| threads > MAX_THREADS) {
            return Err(usage(format!("threads is {threads}, expected 1 to {MAX_THREADS}")));
        }
        let generation_config = match self.generation_config.as_deref() {
            None | Some("auto") => GenerationConfig::Auto,
            Some("none") => GenerationConfig::None,
            Some(other) => return Err(usage(format!("generation-config is `{other}`, expected auto or none"))),
        };
        let speculate = match self.speculate.as_deref() {
            None => None,
            Some("none") => Some(SpeculationMethod::None),
            Some("lookup") => Some(SpeculationMethod::Lookup),
            Some("draft") => Some(SpeculationMethod::DraftModel),
            Some(other) => return Err(usage(format!("speculate is `{other}`, expected lookup, draft or none"))),
        };
        let settings = EngineSettings {
            threads,
            context: positive("context", self.context)?,
            max_sequences: positive("max-sequences", self.max_sequences)?,
            token_budget: positive("token-budget", self.token_budget)?,
            kv_memory_bytes: self.kv_memory.as_deref().map(|size| parse_size("kv-memory", size)).transpose()?,
            kv_dtype,
            quantize: self.quantize.as_deref().map(parse_format).transpose()?,
            embedding_dtype: self.embedding_dtype.as_deref().map(parse_dtype).transpose()?,
            experts_on_disk: self.experts_on_disk.clone().filter(|directory| !directory.as_os_str().is_empty()),
            max_queue: positive("max-queue", self.max_queue)?,
            prefix_cache: self.prefix_cache,
            kv_spill: KvSpill::validate(self)?,
            generation_config,
            speculate,
            draft_model: self.draft_model.clone().filter(|model| !model.is_empty()),
            draft_max: positive("draft-max", self.draft_max)?,
        };
        // Before anything is loaded.
        crate::backend::load_options(&settings).engine.validate().map_err(|error| usage(error.to_string()))?;
        Ok(settings)
    }
}

/// Two models of one name, or one model with a name twice.
fn refuse_names_given_twice(models: &[ModelSettings]) -> Result<()> {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for model in models {
        let adapters = model.adapters.iter().map(|(name, _)| name);
        for name in std::iter::once(&model.name).chain(&model.aliases).chain(adapters) {
            match seen.iter().find(|(other, _)| other == name) {
                None => seen.push((name, &model.model)),
                Some((_, other)) if *other == model.model => {
                    return Err(usage(format!("the name `{name}` is given twice to `{other}`")));
                }
                Some((_, other)) => {
                    let given = &model.model;
                    return Err(usage(format!(
                        "two models are named `{name}`: `{other}` and `{given}`; give one of them another name with \
                         --name NAME=MODEL"
                    )));
                }
            }
        }
    }
    Ok(())
}

impl RawModel {
    fn validate(self, engine: &EngineSettings) -> Result<ModelSettings> {
        let model = self.model.filter(|model| !model.is_empty());
        let model =
            model.ok_or_else(|| usage("a [[models]] entry has no `model`: expected a path or a catalogue name"))?;
        let name = self.name.unwrap_or_else(|| default_name(&model));
        for name in std::iter::once(&name).chain(&self.aliases).chain(self.adapters.keys()) {
            if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return Err(usage(format!("the model name `{name}` is empty or has white space")));
            }
        }
        let mut engine = engine.clone();
        engine.context = self.context.or(engine.context);
        if let Some(size) = &self.kv_memory {
            engine.kv_memory_bytes = Some(parse_size("kv_memory", size)?);
        }
        if let Some(format) = &self.quantize {
            engine.quantize = Some(parse_format(format)?);
        }
        if let Some(dtype) = &self.embedding_dtype {
            engine.embedding_dtype = Some(parse_dtype(dtype)?);
        }
        engine.draft_model = self.draft_model.or(engine.draft_model);
        let adapters = self.adapters.into_iter().collect();
        Ok(ModelSettings { name, aliases: self.aliases, model, adapters, engine })
    }
}

/// The name of a model that was given none: the catalogue name, or the file's or directory's without its ending.
pub(crate) fn default_name(model: &str) -> String {
    let path = Path::new(model);
    let name = path.file_name().map_or(model.into(), |name| name.to_string_lossy());
    name.strip_suffix(".gguf").or_else(|| name.strip_suffix(".safetensors")).unwrap_or(&name).to_owned()
}

fn parse_format(name: &str) -> Result<WeightFormat> {
    name.parse().map_err(|_| {
        let known: Vec<&str> = WeightFormat::all().map(WeightFormat::name).collect();
        let hint = did_you_mean(name, known.iter().copied());
        let hint = hint.unwrap_or_else(|| format!("known formats: {}", known.join(", ")));
        usage(format!("quantize is `{name}`, which is no weight format; {hint}"))
    })
}

/// What an embedding model multiplies in.
pub(crate) fn parse_dtype(name: &str) -> Result<EncoderDtype> {
    name.parse().map_err(|_| usage(format!("embedding-dtype is `{name}`, expected auto, f32, bf16 or int8")))
}

/// `512`, `512k`, `1.5GiB`: bytes; k, M, G are powers of 1000, Ki, Mi, Gi of 1024.
pub(crate) fn parse_size(what: &str, text: &str) -> Result<u64> {
    let wrong = || usage(format!("{what} is `{text}`, expected a size such as 512MiB, 4GiB or a number of bytes"));
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = text[digits..].trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let factor = match unit {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "ki" => 1024.0,
        "mi" => 1_048_576.0,
        "gi" => 1_073_741_824.0,
        "ti" => 1_099_511_627_776.0,
        _ => return Err(wrong()),
    };
    let bytes = number * factor;
    if !(1.0..1e18).contains(&bytes) {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

/// Compares the keys of `given` with those of `known`, tables and lists of tables included.
fn refuse_unknown_keys(place: &str, given: &Value, known: &Value) -> Result<()> {
    match (given, known) {
        // Names that users give.
        (Value::Object(_), Value::Object(known)) if known.is_empty() => Ok(()),
        (Value::Object(given), Value::Object(known)) => given.iter().try_for_each(|(key, value)| {
            let full = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            match known.get(key) {
                Some(inner) => refuse_unknown_keys(&full, value, inner),
                None => Err(unknown_key(&full, key, known)),
            }
        }),
        (Value::Array(given), Value::Array(known)) => match known.first() {
            Some(entry) => given.iter().try_for_each(|item| refuse_unknown_keys(place, item, entry)),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn unknown_key(full: &str, key: &str, known: &Map<String, Value>) -> anyhow::Error {
    let names: Vec<&str> = known.keys().map(String::as_str).collect();
    let hint = did_you_mean(key, names.iter().copied());
    let hint = hint.unwrap_or_else(|| format!("known here: {}", names.join(", ")));
    hinted("it means nothing here", hint).context(UsageError(format!("unknown key `{full}`")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn flags_win_over_file_and_file_over_environment() {
        let raw = |port: Option<u16>, threads| RawConfig {
            server: port.map(|port| ("port".to_owned(), port.into())).into_iter().collect(),
            engine: RawEngine { threads, ..RawEngine::default() },
            ..RawConfig::default()
        };
        let port = |settings: &Settings| settings.server.address();
        let file = RawConfig::parse("[server]\nport = 2\n[[models]]\nmodel = \"a/b.gguf\"\n").unwrap();
        let settings = raw(Some(1), None).over(file.clone()).over(raw(Some(3), Some(4))).validate().unwrap();
        assert_eq!((&*port(&settings), settings.engine.threads), ("127.0.0.1:1", Some(4)));
        let settings = raw(None, None).over(file).over(raw(Some(3), None)).validate().unwrap();
        assert_eq!((&*port(&settings), &*settings.models[0].name), ("127.0.0.1:2", "b"));
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        let check = |text: &str, parts: [&str; 2]| {
            let error = format!("{:#}", RawConfig::parse(text).unwrap_err());
            let hint = RawConfig::parse(text).unwrap_err();
            let hint = hint.chain().map(|cause| format!("{cause:?}")).collect::<String>();
            assert!(error.contains(parts[0]) && hint.contains(parts[1]), "{error} / {hint}");
        };
        check("[server]\nprot = 1", ["`server.prot`", "`port`"]);
        check("[sever]\nport = 1", ["`sever`", "`server`"]);
        check("[[models]]\nmodel = 'a'\nkvmemory = '1GiB'", ["`models.kvmemory`", "`kv_memory`"]);
        check("[server.telemetry]\notlp_endpont = 'x'", ["`server.telemetry.otlp_endpont`", "`otlp_endpoint`"]);
        check("[server.traces]\nretention = 1", ["`server.traces.retention`", "`retention_days`"]);
        check("[engine]\nzzz = 1", ["`engine.zzz`", "known here: threads"]);
    }

    #[test]
    fn wrong_values_are_refused_with_what_was_expected() {
        let check = |text: &str, part: &str| {
            let error = RawConfig::parse(text).and_then(RawConfig::validate).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(part), "{text}: {error}");
        };
        check("[server]\nport = 70000", "u16");
        check("[server]\nhost = ' '", "'host'");
        check("[server]\nmax_connections = 0", "'max_connections': 0 given");
        check("[server]\napi_keys = ['short']", "5 characters");
        check("[engine]\nthreads = 0", "threads is 0");
        check("[engine]\nthreads = 100000", "threads is 100000, expected 1 to 1024");
        check("[engine]\nmax_queue = 0", "max-queue is 0");
        check("[engine]\nmax_queue = 2000000", "'max_queue': 2000000 given");
        check("[engine]\nmax_sequences = 9000", "'max_sequences': 9000 given, 1 to 4096 expected");
        check("[engine]\ngeneration_config = 'vllm'", "expected auto or none");
        check("[engine]\nspeculate = 'yes'", "expected lookup, draft or none");
        check("[engine]\ndraft_max = 1000", "'max_draft': 1000 given, 1 to 128 expected");
        check("[server]\nhost = '0.0.0.0'", "without API keys");
        check("[[models]]\nmodel = 'x'\naliases = ['b', 'x']", "the name `x` is given twice to `x`");
        check(
            "[[models]]\nmodel = 'x'\n[[models]]\nmodel = 'y'\naliases = ['x']",
            "two models are named `x`: `x` and `y`",
        );
        check("[[models]]\nmodel = 'x'\naliases = ['a b']", "has white space");
        check("[engine]\nkv_dtype = 'f12'", "expected auto, f32, f16, bf16, int8 or int4");
        check("[engine]\nembedding_dtype = 'f12'", "embedding-dtype is `f12`, expected auto, f32, bf16 or int8");
        check("[engine]\nkv_memory = 'much'", "expected a size");
        check("[engine]\nquantize = 'q4k'", "no weight format");
        check("[engine]\nkv_spill = 'd'\nkv_spill_limit = '0'", "kv-spill-limit is `0`, expected a size");
        check("[engine]\nkv_spill_limit = '1GiB'", "no directory to limit");
        check("[engine]\nkv_spill = 'd'\nprefix_cache = false", "only cached pages are spilled");
        check("[engine]\nkv_spill = ''", "expected a directory");
        check("[[models]]\nname = 'x'", "has no `model`");
        check("[[models]]\nmodel = 'x'\n[[models]]\nmodel = 'y/x.gguf'", "two models are named `x`");
        check("port = ", "expected");
        check("log = 'a=b=c'", "log is `a=b=c`");
        check("[server]\ntls_cert = 'c.pem'", "'tls_key': nothing given");
    }

    #[test]
    fn what_differs_is_named_as_in_the_file() {
        let parse = |text: &str| RawConfig::parse(text).unwrap();
        let old = parse("log = 'info'\n[server]\nport = 1\nhost = 'localhost'\n[engine]\nthreads = 2");
        let new =
            parse("log = 'debug'\n[server]\nport = 2\nkeys_file = 'k'\n[engine]\nthreads = 3\n[[models]]\nmodel = 'm'");
        let names = ["server.host", "server.port", "server.keys_file", "engine.threads", "models"];
        assert_eq!(old.differences(&new), names);
        assert!(old.differences(&RawConfig { log: None, ..old.clone() }).is_empty());
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(parse_size("x", text).ok(), expected, "{text}");
        check("512", Some(512));
        check("2k", Some(2000));
        check("1.5 GiB", Some(3 << 29));
        check("512MiB", Some(512 << 20));
        check("3MB", Some(3_000_000));
        for wrong in ["", "GiB", "-1", "1x", "0", "1e99", "1.2.3"] {
            check(wrong, None);
        }
    }
}
