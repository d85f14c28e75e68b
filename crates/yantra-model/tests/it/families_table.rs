//! The table of families for readers, `docs/families.md`: what the tests of both formats find, and how long a family's file
//! is. It is compared with what is committed; `YANTRA_UPDATE=1` writes it anew.

use crate::{
    families::{self, Expected},
    gguf,
};
use std::{fmt::Write, fs, path::Path};
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, CpuLevel};
use yantra_model::family::{self, FamilyNames};

/// A family's name, its file and what readers should know.
type Row = (&'static str, &'static str, &'static str);

const ROWS: &[Row] = &[
    ("BLOOM", "bloom", "linear biases (ALiBi)"),
    ("Command R", "cohere", "Aya 23; Command R+ is refused"),
    ("DeepSeek", "deepseek", "V2, V3, R1: latent attention, absorbed; experts in groups"),
    ("Falcon", "falcon", "7B, 40B; RefinedWeb models, with ALiBi, from safetensors only"),
    ("Gemma", "gemma", ""),
    ("Gemma 2", "gemma2", "soft caps; GGUF does not record the scale of scores"),
    ("Gemma 3", "gemma3", "text, also of the models that see"),
    ("GPT-2", "gpt2", "learned positions"),
    ("GPT-NeoX", "gpt_neox", "Pythia"),
    ("gpt-oss", "gpt_oss", "sinks, MXFP4; YaRN's ramp is not rounded, as published and unlike llama.cpp"),
    ("Granite", "granite", "3.x, dense"),
    ("Grok-1", "grok", "against the published code; GGUF not compared, the converter wants the whole model"),
    ("Llama 4", "llama4", "text, also of the models that see; chunks of context, experts beside a shared one"),
    ("Llama", "llama", "2, 3.x, SmolLM; GGUF's dynamic scaling is not recorded by converters"),
    ("Mistral", "mistral", "GGUF: a Llama, whose window converters do not record"),
    ("Mixtral", "mixtral", "GGUF: a Llama with experts"),
    ("MPT", "mpt", "ALiBi; queries, keys and values within bounds"),
    ("OLMo 2", "olmo2", "OLMo 3 is refused"),
    ("Phi-3", "phi3", "Phi-4; LongRoPE"),
    ("Qwen2", "qwen2", "Qwen2.5; windows from safetensors only"),
    ("Qwen2-MoE", "qwen2_moe", "dense layers between from safetensors only"),
    ("Qwen3", "qwen3", ""),
    ("Qwen3-MoE", "qwen3_moe", "dense layers between from safetensors only"),
    ("SmolLM3", "smollm3", "every fourth layer without rotary embedding"),
    ("StarCoder2", "starcoder2", "GGUF does not record the window"),
];

const HEAD: &str = "# Families

Text generators that Yantra runs. A family is data: a file of `crates/yantra-model/src/family/`, which one decoder
interprets. Each is tested with tiny seeded models against Hugging Face transformers, from safetensors as transformers
writes them and from GGUF as llama.cpp's converter does, on every level of the processor. The columns give the largest
difference of any logit at the scalar level, up to the next power of ten, and the number of models. The same tests hold
decoding token by token and a ragged batch to the logits of the whole prompt, to the bit.

One more family is its own file and its line in the table of `family/mod.rs`: Command R took 33 lines and 3.

A test writes this table: `YANTRA_UPDATE=1 cargo nextest run -p yantra-model families_table`.

| family | `architectures` | GGUF | safetensors | as GGUF | lines | notes |
|---|---|---|---|---|---|---|
";

/// Models of a family with their largest difference.
fn measured(names: &[&str], is_of_family: impl Fn(&str) -> bool, difference: impl Fn(&str) -> f64) -> String {
    let found: Vec<f64> = names.iter().filter(|name| is_of_family(name)).map(|name| difference(name)).collect();
    let worst = found.iter().copied().fold(0.0, f64::max);
    match found.len() {
        0 => "—".to_owned(),
        count => format!("< 1e{} ({count})", worst.log10().ceil()),
    }
}

fn row(FamilyNames { name, gguf: architectures, hugging_face }: FamilyNames) -> String {
    let (_, file, note) = ROWS.iter().find(|row| row.0 == name).unwrap_or_else(|| panic!("no row of {name}"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/family/{file}.rs"));
    let lines = fs::read_to_string(source).unwrap().lines().count();
    // A file is of the family of the directory that it was made from.
    let of_family = |model: &str| {
        let checkpoint = Checkpoint::open(families::prepared(model)).unwrap();
        family::spec(&checkpoint).unwrap().family == name
    };
    let compute = || Compute::with_level(2, CpuLevel::Scalar).unwrap();
    let safetensors = measured(families::MODELS, of_family, |model| {
        let path = families::prepared(model);
        families::difference(&path, &Expected::read(&path.join("expected.json")), compute())
    });
    let as_gguf = measured(gguf::MODELS, of_family, |model| {
        families::difference(&gguf::file(model), &gguf::expected(model), compute())
    });
    let code = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let (hugging_face, architectures) = (code(hugging_face), code(architectures));
    format!("| {name} | {hugging_face} | {architectures} | {safetensors} | {as_gguf} | {lines} | {note} |")
}

#[test]
fn the_table_of_families_is_current() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/families.md"));
    let mut table = HEAD.to_owned();
    for names in family::all() {
        writeln!(table, "{}", row(names)).unwrap();
    }
    if std::env::var_os("YANTRA_UPDATE").is_some() {
        fs::write(path, &table).unwrap();
    }
    assert_eq!(fs::read_to_string(path).unwrap_or_default(), table, "stale: YANTRA_UPDATE=1 writes it anew");
}
