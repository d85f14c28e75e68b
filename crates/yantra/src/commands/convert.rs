//! `yantra convert`: a model from one format into the other.

use crate::{
    backend,
    failure::{hinted, usage},
    output::{bytes, print_json, progress_bytes, table},
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, WeightFormat};
use yantra_model::{
    convert::{Conversion, Extra, PlannedTensor, Target, TypeRules},
    family,
};

const EXAMPLES: &str = "\
Examples:
  yantra convert ./hugging-face-directory model.gguf
  yantra convert ./hugging-face-directory model.gguf --type q4_k --tensor-type 'output.weight=q6_k'
  yantra convert model.gguf ./hugging-face-directory --type bf16
  yantra convert ./hugging-face-directory model.gguf --dry-run    (what would be written, tensor by tensor)

Types: f32, f16, bf16, q8_0, q6_k, q5_k, q4_k, q3_k, q2_k, q5_1, q5_0, q4_1, q4_0, iq4_nl, iq4_xs, mxfp4; safetensors holds
the first three. Patterns are names in the destination with * and ?; the last that matches counts. Vectors, norms and
routers stay f32 in GGUF.";

/// No reason to refuse: it holds of every such GGUF file there is.
const ONLY_COMPOSED: &str = "GGUF does not record that the tokeniser composes text first (NFC); letters whose accents are \
                             characters of their own become other tokens";

/// Convert a model: safetensors to GGUF or back
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConvertArgs {
    /// GGUF file, Hugging Face directory or catalogue name
    source: String,
    /// What to write: NAME.gguf, or a directory for safetensors
    destination: PathBuf,
    /// Type of matrices [default: as stored]
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
    matrices: Option<WeightFormat>,
    /// Type of the tensors whose name matches; may be repeated
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = parse_rule)]
    tensor_type: Vec<(String, WeightFormat)>,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the model even where the destination can not express all of it, and say what is lost
    #[arg(long)]
    lossy: bool,
    /// Replace what is at the destination
    #[arg(long)]
    force: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

fn parse_type(text: &str) -> Result<WeightFormat, String> {
    text.parse().map_err(|_| {
        let known: Vec<&str> = WeightFormat::all().map(WeightFormat::name).collect();
        format!("there is no type '{text}': known are {}", known.join(", "))
    })
}

fn parse_rule(text: &str) -> Result<(String, WeightFormat), String> {
    let (pattern, format) = text.rsplit_once('=').ok_or_else(|| "expected PATTERN=TYPE".to_owned())?;
    Ok((pattern.to_owned(), parse_type(format)?))
}

/// Runs the command.
pub(crate) fn run(args: &ConvertArgs) -> Result<()> {
    let is_gguf = args.destination.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let target = if is_gguf { Target::Gguf } else { Target::HuggingFace };
    if let Some((name, _)) = args.tensor_type.iter().find(|(pattern, _)| pattern.is_empty()) {
        return Err(usage(format!("--tensor-type '{name}=…' has no pattern")));
    }
    let path = backend::resolve(&args.source)?;
    if !args.dry_run {
        check_destination(&path, &args.destination, args.force)?;
    }
    let checkpoint = Checkpoint::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let rules = TypeRules { matrices: args.matrices, patterns: args.tensor_type.clone() };
    let conversion = Conversion::plan(&checkpoint, target, &rules)?;
    let (extra, notes, no_tokenizer) = match tokenizer(&checkpoint) {
        Ok((extra, note)) => (extra, note.into_iter().collect(), None),
        Err(error) => (Extra::default(), Vec::new(), Some(error.to_string())),
    };
    let lost: Vec<String> = conversion
        .changes()
        .iter()
        .cloned()
        .chain(conversion.left_out().iter().map(|name| format!("tensor '{name}' is left out")))
        .chain(no_tokenizer.map(|error| format!("the tokeniser is left out: {error}")))
        .collect();
    let report = Report { args, conversion: &conversion, lost: &lost, notes };
    if args.dry_run {
        return report.show();
    }
    if !lost.is_empty() && !args.lossy {
        let message = format!("{} can not express all of the model: {}", format_name(target), lost.join("; "));
        return Err(hinted(message, "write it all the same with --lossy; --dry-run shows everything"));
    }
    write(args, &conversion, &extra)?;
    report.show()
}

/// Only a model is ever replaced, and never the one that is read.
fn check_destination(source: &Path, destination: &Path, force: bool) -> Result<()> {
    if !destination.exists() {
        return Ok(());
    }
    let shown = shown(destination);
    if !force {
        return Err(hinted(format!("'{shown}' is there already"), "replace it with --force"));
    }
    let (source, found) = (source.canonicalize()?, destination.canonicalize()?);
    if source.starts_with(&found) || found.starts_with(&source) {
        return Err(usage(format!("'{shown}' is, holds or is in the model that is to be converted")));
    }
    let is_gguf = destination.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let is_model = if is_gguf { destination.is_file() } else { destination.join("config.json").is_file() };
    if is_model { Ok(()) } else { Err(usage(format!("'{shown}' is no model of the format that would replace it"))) }
}

fn format_name(target: Target) -> &'static str {
    match target {
        Target::Gguf => "GGUF",
        Target::HuggingFace => "a Hugging Face directory",
    }
}

/// What goes with the model, if it has a tokeniser, and what there is to know of it.
fn tokenizer(checkpoint: &Checkpoint) -> Result<(Extra, Option<&'static str>)> {
    let (mut extra, mut note) = (Extra::default(), None);
    match checkpoint {
        Checkpoint::Gguf(file) if file.metadata().contains("tokenizer.ggml.tokens") => {
            extra.files = yantra_text::convert::to_hugging_face(file.metadata())?;
        }
        Checkpoint::Gguf(_) => {}
        Checkpoint::HuggingFace(directory) => {
            let vocab_size = family::spec(checkpoint)?.vocab_size;
            if let Some(tokenizer) = yantra_text::convert::to_gguf(directory, vocab_size)? {
                extra.metadata = tokenizer.metadata;
                note = tokenizer.only_composed.then_some(ONLY_COMPOSED);
            }
        }
    }
    Ok((extra, note))
}

fn write(args: &ConvertArgs, conversion: &Conversion<'_>, extra: &Extra) -> Result<()> {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let name = args.destination.file_name().unwrap_or(args.destination.as_os_str()).to_string_lossy().into_owned();
    let bar = progress_bytes(conversion.num_bytes(), name);
    let written = conversion.write(&Compute::new(available), extra, &args.destination, &mut |count| bar.inc(count));
    bar.finish_and_clear();
    Ok(written?)
}

struct Report<'a> {
    args: &'a ConvertArgs,
    conversion: &'a Conversion<'a>,
    lost: &'a [String],
    notes: Vec<&'static str>,
}

impl Report<'_> {
    fn show(&self) -> Result<()> {
        if self.args.json {
            return print_json(&self.json());
        }
        if self.args.dry_run {
            println!(
                "{}\n",
                table(&["tensor", "from", "done", "shape", "type", "size"], self.conversion.tensors().iter().map(row))
            );
        }
        let tensors = self.conversion.tensors().len();
        let verb = if self.args.dry_run { "would have" } else { "has" };
        println!(
            "{} {verb} {} in {tensors} tensors",
            shown(&self.args.destination),
            bytes(self.conversion.num_bytes())
        );
        self.lost.iter().for_each(|lost| println!("lost: {lost}"));
        self.notes.iter().for_each(|note| println!("note: {note}"));
        Ok(())
    }

    fn json(&self) -> Value {
        let tensor = |tensor: &PlannedTensor| {
            json!({
                "name": tensor.name, "from": tensor.sources, "done": tensor.done, "shape": tensor.shape,
                "type": tensor.format.name(), "bytes": tensor.num_bytes(),
            })
        };
        json!({
            "destination": shown(&self.args.destination),
            "written": !self.args.dry_run,
            "bytes": self.conversion.num_bytes(),
            "tensors": self.conversion.tensors().iter().map(tensor).collect::<Vec<_>>(),
            "lost": self.lost,
            "notes": self.notes,
        })
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn row(tensor: &PlannedTensor) -> Vec<String> {
    let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
    let from = match &tensor.sources[..] {
        [first, .., last] => format!("{first} … {last}"),
        names => names.concat(),
    };
    let size = bytes(tensor.num_bytes() as u64);
    vec![tensor.name.clone(), from, tensor.done.join(", "), shape.join(" x "), tensor.format.name().to_owned(), size]
}
