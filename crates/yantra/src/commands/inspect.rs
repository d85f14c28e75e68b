//! `yantra inspect`: what is in a model file, without loading it.

use super::experts;
use crate::{
    backend,
    config::RawEngine,
    output::{bytes, count, print_json, table},
};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::PathBuf};
use yantra_engine::load;
use yantra_formats::{Array, Checkpoint, RawTensor, TensorInfo, Value as MetadataValue};
use yantra_text::{ChatTemplate, Tokenizer};

const EXAMPLES: &str = "\
Examples:
  yantra inspect smollm2-135m
  yantra inspect model.gguf --tensors
  yantra inspect model.gguf --template
  yantra inspect ./hugging-face-directory --json
  yantra inspect model.gguf --context 4096 --max-sequences 8      (memory plan for these settings)
  yantra inspect mixture.gguf --experts --file text.txt           (which experts the text's tokens go to)";

/// Show what is in a model file
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InspectArgs {
    /// GGUF file, Hugging Face directory or catalogue name
    #[arg(value_name = "FILE")]
    model: String,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print the chat template
    #[arg(long)]
    template: bool,
    /// Run a text through a mixture of experts and show where its tokens go: load, imbalance, entropy, and what a batch reads
    #[arg(long, requires = "file")]
    experts: bool,
    /// The text for --experts
    #[arg(long, value_name = "FILE", requires = "experts")]
    file: Option<PathBuf>,
    /// Use only this many tokens of the text
    #[arg(long, value_name = "N", default_value_t = 4096, requires = "experts")]
    tokens: usize,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: RawEngine,
}

/// Longest value shown of a metadata entry.
const MAX_VALUE_CHARS: usize = 72;

/// Runs the command.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let path = backend::resolve(&args.model)?;
    let checkpoint = Checkpoint::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // A file without a usable tokeniser (a vocabulary-less conversion) can still be looked at.
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint);
    let template = tokenizer.as_ref().ok().and_then(|t| ChatTemplate::from_checkpoint(&checkpoint, t).ok().flatten());
    if args.template && !args.json {
        let template = template.with_context(|| format!("{} has no chat template", path.display()))?;
        println!("{}", template.source());
        return Ok(());
    }
    let settings = args.engine.clone().over_environment()?;
    if let Some(file) = args.file.as_ref().filter(|_| args.experts) {
        let tokenizer = tokenizer.with_context(|| format!("{} has no usable tokeniser", path.display()))?;
        return experts::run(&checkpoint, &tokenizer, &settings, file, args.tokens, args.json);
    }
    let mut options = backend::load_options(&settings);
    options.draft_model = backend::draft_model(&options)?;
    let plan = load::plan_memory(&checkpoint, &options);
    let report = Report { args, checkpoint: &checkpoint, tokenizer, template, plan };
    if args.json { print_json(&report.json()) } else { report.print() }
}

struct Report<'a> {
    args: &'a InspectArgs,
    checkpoint: &'a Checkpoint,
    tokenizer: Result<Tokenizer, yantra_text::TextError>,
    template: Option<ChatTemplate>,
    plan: Result<load::MemoryPlan, load::LoadError>,
}

impl Report<'_> {
    fn parameters(&self) -> u64 {
        let stored: u64 = self.checkpoint.tensors().map(|tensor| tensor.num_elements() as u64).sum();
        stored + yantra_model::quantization(self.checkpoint).map_or(0, |quantization| quantization.num_values)
    }

    /// Tensors, values and bytes by format, largest first.
    fn formats(&self) -> Vec<(String, usize, u64, u64)> {
        let mut formats: BTreeMap<String, (usize, u64, u64)> = BTreeMap::new();
        let mut add = |name: String, values: u64, bytes: u64| {
            let entry = formats.entry(name).or_default();
            entry.0 += 1;
            entry.1 += values;
            entry.2 += bytes;
        };
        for tensor in self.checkpoint.tensors() {
            add(tensor.format.name().to_owned(), tensor.num_elements() as u64, tensor.num_bytes() as u64);
        }
        for tensor in self.checkpoint.others() {
            add(
                tensor.dtype.to_ascii_lowercase(),
                tensor.shape.iter().product::<usize>() as u64,
                tensor.data.len() as u64,
            );
        }
        let mut formats: Vec<_> =
            formats.into_iter().map(|(name, (n, values, size))| (name, n, values, size)).collect();
        formats.sort_by_key(|(_, _, _, size)| std::cmp::Reverse(*size));
        formats
    }

    fn kind(&self) -> &'static str {
        match self.checkpoint {
            Checkpoint::Gguf(_) => "GGUF",
            Checkpoint::HuggingFace(_) => "Hugging Face directory",
        }
    }

    fn metadata(&self) -> Map<String, Value> {
        match self.checkpoint {
            Checkpoint::Gguf(file) => {
                file.metadata().iter().map(|(key, value)| (key.to_owned(), metadata_json(value))).collect()
            }
            Checkpoint::HuggingFace(directory) => directory.config().value().as_object().cloned().unwrap_or_default(),
        }
    }

    fn json(&self) -> Value {
        let info = self.plan.as_ref().ok().and_then(|plan| load::info(self.checkpoint, plan.context).ok());
        let formats = self.formats().into_iter().map(|(name, tensors, values, size)| {
            json!({"format": name, "tensors": tensors, "values": values, "bytes": size})
        });
        let mut document = json!({
            "path": self.checkpoint.path().display().to_string(),
            "kind": self.kind(),
            "parameters": self.parameters(),
            "bytes": self.checkpoint.total_bytes(),
            "info": info,
            "formats": formats.collect::<Vec<_>>(),
            "vocabulary": self.tokenizer.as_ref().ok().map(Tokenizer::vocab_size),
            "chat_template": self.template.as_ref().map(ChatTemplate::source),
            "metadata": self.metadata(),
        });
        document["memory"] = match &self.plan {
            Ok(plan) => json!({
                "weight_bytes": plan.weight_bytes,
                "kv_bytes": plan.kv_bytes,
                "kv_bytes_per_token": plan.kv_bytes_per_token,
                "step_bytes": plan.step_bytes,
                "load_bytes": plan.load_bytes,
                "context": plan.context,
                "available_bytes": plan.available_bytes,
            }),
            Err(error) => json!({"error": error.to_string()}),
        };
        if self.args.tensors {
            let tensor = |tensor: &TensorInfo| {
                json!({
                    "name": tensor.name, "format": tensor.format.name(), "shape": tensor.shape,
                    "bytes": tensor.num_bytes(),
                })
            };
            let other = |tensor: RawTensor<'_>| {
                json!({
                    "name": tensor.name, "format": tensor.dtype.to_ascii_lowercase(), "shape": tensor.shape,
                    "bytes": tensor.data.len(),
                })
            };
            let others = self.checkpoint.others().map(other);
            document["tensors"] = self.checkpoint.tensors().map(tensor).chain(others).collect();
        }
        document
    }

    fn print(&self) -> Result<()> {
        println!("{}  ({})", self.checkpoint.path().display(), self.kind());
        let tensors = self.checkpoint.tensors().len() + self.checkpoint.others().count();
        println!(
            "{} parameters, {} in {tensors} tensors",
            count(self.parameters()),
            bytes(self.checkpoint.total_bytes())
        );
        if let Some(quantization) = yantra_model::quantization(self.checkpoint) {
            println!("quantised by another program: {}", quantization.label);
        }
        let rows = self
            .formats()
            .into_iter()
            .map(|(name, tensors, values, size)| vec![name, tensors.to_string(), count(values), bytes(size)]);
        println!("\n{}\n", table(&["format", "tensors", "values", "size"], rows));
        let width = self.metadata().keys().map(String::len).max().unwrap_or(0);
        for (key, value) in self.metadata() {
            println!("{key:width$}  {}", short(&value));
        }
        match &self.tokenizer {
            Ok(tokenizer) => println!("\ntokeniser: {} tokens", tokenizer.vocab_size()),
            Err(error) => println!("\ntokeniser: not usable: {error}"),
        }
        println!("chat template: {}", if self.template.is_some() { "yes (see --template)" } else { "none" });
        match &self.plan {
            Ok(plan) => println!("memory to serve it: {plan}"),
            Err(error) => println!("cannot be served: {error}"),
        }
        if self.args.tensors {
            let row = |name: &str, format: &str, shape: &[usize], size: usize| {
                let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
                vec![name.to_owned(), format.to_ascii_lowercase(), shape.join(" x "), bytes(size as u64)]
            };
            let tensors = self.checkpoint.tensors();
            let rows = tensors.map(|tensor| row(&tensor.name, tensor.format.name(), &tensor.shape, tensor.num_bytes()));
            let others = self.checkpoint.others();
            let others = others.map(|tensor| row(tensor.name, tensor.dtype, tensor.shape, tensor.data.len()));
            println!("\n{}", table(&["tensor", "format", "shape", "size"], rows.chain(others)));
        }
        Ok(())
    }
}

/// Long arrays (vocabularies) by their length only.
fn metadata_json(value: &MetadataValue) -> Value {
    const MAX_ITEMS: usize = 16;
    match value {
        MetadataValue::Array(array) if array.len() > MAX_ITEMS => {
            json!(format!("[{} x {}]", array.len(), value.type_name()))
        }
        MetadataValue::Array(array) => array_json(array),
        MetadataValue::Bool(value) => json!(value),
        MetadataValue::String(value) => json!(value),
        MetadataValue::F32(value) => json!(value),
        MetadataValue::F64(value) => json!(value),
        other => other.as_integer().map_or(Value::Null, |number| {
            i64::try_from(number).map_or_else(|_| json!(number.to_string()), |number| json!(number))
        }),
    }
}

fn array_json(array: &Array) -> Value {
    (0..array.len()).filter_map(|index| array.value(index)).map(|value| metadata_json(&value)).collect()
}

fn short(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut line: String = text.chars().take(MAX_VALUE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_VALUE_CHARS).is_some() {
        line.push('…');
    }
    line
}
