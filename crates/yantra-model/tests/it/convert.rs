//! Conversion between formats, held against files that llama.cpp's converter made (`gguf.rs`) and against itself.

use crate::{
    families::{self, Expected, difference, directory},
    gguf,
    harness::model,
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, WeightFormat, dequantize_row};
use yantra_model::{
    ModelError,
    convert::{Conversion, Extra, Target, TypeRules},
    family,
};

const TOLERANCE: f64 = 2e-4;

/// Models whose GGUF file was made of the directory of the same name.
const COPIED: [&str; 19] = [
    "llama",
    "llama_biases",
    "llama_yarn",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "gemma",
    "gemma2",
    "phi3",
    "gpt2",
    "bloom",
    "mpt",
    "falcon_multi_query",
    "starcoder2",
    "olmo2",
    "granite",
    "command_r",
    "mixtral",
];

/// Models that mean the same in both formats.
const EXPRESSIBLE: [&str; 14] = [
    "llama",
    "llama_transformers4",
    "llama_yarn",
    "mistral",
    "qwen3",
    "smollm3",
    "gemma",
    "phi3",
    "phi3_partial",
    "gpt2",
    "gpt_neox",
    "falcon_grouped",
    "bloom",
    "mpt",
];
const MORE_EXPRESSIBLE: [&str; 6] = ["falcon_multi_query", "starcoder2", "olmo2", "granite", "command_r", "mixtral"];

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("convert").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    path
}

/// Converts to `target` at a path of that name; gives it and what changed.
fn convert(source: &Path, target: Target, rules: &TypeRules, name: &str) -> (PathBuf, Vec<String>) {
    let checkpoint = Checkpoint::open(source).unwrap();
    let conversion = Conversion::plan(&checkpoint, target, rules).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(conversion.left_out(), [""; 0], "{name}");
    let path = scratch(name);
    let mut seen = 0;
    conversion.write(&Compute::new(2), &Extra::default(), &path, &mut |bytes| seen += bytes).unwrap();
    assert_eq!(seen, conversion.num_bytes());
    (path, conversion.changes().to_vec())
}

fn as_stored() -> TypeRules {
    TypeRules::default()
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let view = checkpoint.require(name).unwrap();
    let mut values = vec![0.0; view.num_elements()];
    dequantize_row(view.format, view.data, &mut values).unwrap();
    values
}

/// Checks that one has all tensors of the other, bit for bit but for those that are `near`.
fn assert_same_tensors(found: &Path, expected: &Path, near: impl Fn(&str) -> bool) {
    let (found, expected) = (Checkpoint::open(found).unwrap(), Checkpoint::open(expected).unwrap());
    let names = |checkpoint: &Checkpoint| {
        let mut names: Vec<_> = checkpoint.tensors().map(|tensor| tensor.name.clone()).collect();
        names.sort();
        names
    };
    let path = expected.path().display();
    assert_eq!(names(&found), names(&expected), "{path}");
    for name in names(&expected) {
        let (ours, theirs) = (found.require(&name).unwrap(), expected.require(&name).unwrap());
        assert_eq!((&ours.shape, ours.format), (&theirs.shape, theirs.format), "{name} of {path}");
        if near(&name) {
            let pairs = values(&found, &name).into_iter().zip(values(&expected, &name));
            let worst = pairs.map(|(ours, theirs)| (ours - theirs).abs() / theirs.abs().max(1.0)).fold(0.0, f32::max);
            assert!(worst < 1e-6, "{name} of {path} differs by {worst}");
        } else {
            assert!(ours.data == theirs.data, "{name} of {path} differs");
        }
    }
}

/// Names, shapes, types and bytes of all tensors are those of llama.cpp's converter; divisors of frequencies, which are
/// computed, to seven digits.
#[test]
fn gguf_files_are_those_of_llama_cpp() {
    for name in COPIED {
        let (made, _) = convert(&directory(name), Target::Gguf, &as_stored(), &format!("{name}-theirs.gguf"));
        assert_same_tensors(&made, &gguf::file(name), |tensor| tensor.starts_with("rope_"));
    }
}

#[test]
fn models_compute_the_same_in_gguf_and_come_back_unchanged() {
    for name in EXPRESSIBLE.into_iter().chain(MORE_EXPRESSIBLE) {
        let source = families::prepared(name);
        let (made, changes) = convert(&source, Target::Gguf, &as_stored(), &format!("{name}.gguf"));
        assert_eq!(changes, [""; 0], "{name}");
        let expected = Expected::read(&source.join("expected.json"));
        let worst = difference(&made, &expected, Compute::new(2));
        assert!(worst <= TOLERANCE, "{name}: logits differ by {worst}");

        let (back, changes) = convert(&made, Target::HuggingFace, &as_stored(), &format!("{name}-back"));
        assert_eq!(changes, [""; 0], "{name}");
        // One was added to norms, which takes digits off small numbers.
        assert_same_tensors(&back, &source, |tensor| name.starts_with("gemma") && tensor.ends_with("norm.weight"));
        let spec = |path: &Path| family::spec(&Checkpoint::open(path).unwrap()).unwrap();
        let (mut before, mut after) = (spec(&source), spec(&back));
        if name == "llama_yarn" || name == "granite" {
            // A quotient and its product, a reciprocal twice.
            (before.logit_scale, after.logit_scale) = (1.0, 1.0);
            for layer in before.layers.iter_mut().chain(&mut after.layers) {
                layer.rope = None;
            }
        }
        assert_eq!(before, after, "{name}");
    }
}

/// Several files in half precision become one, whose vectors are in single precision, and come back as they were.
#[test]
fn half_precision_comes_back_unchanged() {
    let source = directory("qwen3_sharded_bf16");
    let (made, _) = convert(&source, Target::Gguf, &as_stored(), "bf16.gguf");
    let checkpoint = Checkpoint::open(&made).unwrap();
    let format = |name: &str| checkpoint.require(name).unwrap().format;
    assert_eq!(
        [format("blk.0.attn_norm.weight"), format("blk.0.attn_q.weight")],
        [WeightFormat::F32, WeightFormat::BF16]
    );
    let (back, _) = convert(&made, Target::HuggingFace, &as_stored(), "bf16-back");
    assert_same_tensors(&back, &source, |_| false);
}

/// llama.cpp's own files, into the other format and back.
#[test]
fn llama_cpps_files_become_directories_and_files_again() {
    for name in gguf::MODELS.iter().filter(|name| !name.starts_with("deepseek") && **name != "gpt_oss") {
        let (made, changes) =
            convert(&gguf::file(name), Target::HuggingFace, &as_stored(), &format!("{name}-directory"));
        assert_eq!(changes, [""; 0], "{name}");
        let worst = difference(&made, &gguf::expected(name), Compute::new(2));
        assert!(worst <= TOLERANCE, "{name}: logits differ by {worst}");
        let (back, changes) = convert(&made, Target::Gguf, &as_stored(), &format!("{name}-again.gguf"));
        assert_eq!(changes, [""; 0], "{name}");
        let computed = |tensor: &str| tensor.starts_with("rope_") || tensor.ends_with("norm.weight");
        assert_same_tensors(&back, &gguf::file(name), |tensor| computed(tensor));
    }
}

#[test]
fn types_are_as_asked_for() {
    let rules = TypeRules {
        matrices: Some(WeightFormat::Q8_0),
        patterns: vec![("*attn_v*".to_owned(), WeightFormat::F16), ("*_norm*".to_owned(), WeightFormat::F16)],
    };
    let (made, _) = convert(&directory("llama"), Target::Gguf, &rules, "types.gguf");
    let checkpoint = Checkpoint::open(&made).unwrap();
    let format = |name: &str| checkpoint.require(name).unwrap().format;
    assert_eq!(format("blk.0.attn_q.weight"), WeightFormat::Q8_0);
    assert_eq!(format("blk.1.attn_v.weight"), WeightFormat::F16);
    assert_eq!(format("blk.0.attn_norm.weight"), WeightFormat::F32);
    assert_eq!(checkpoint.require("token_embd.weight").unwrap().format, WeightFormat::Q8_0);
    let error = Conversion::plan(&checkpoint, Target::HuggingFace, &as_stored()).unwrap_err().to_string();
    assert!(error.contains("is q8_0, which safetensors can not hold"), "{error}");
    let float = TypeRules { matrices: Some(WeightFormat::F32), ..TypeRules::default() };
    let (back, _) = convert(&made, Target::HuggingFace, &float, "types-back");
    let values = |path: &Path, name: &str| values(&Checkpoint::open(path).unwrap(), name);
    let name = "model.layers.0.self_attn.q_proj.weight";
    for (found, expected) in values(&back, name).into_iter().zip(values(&directory("llama"), name)) {
        assert!((found - expected).abs() < 0.02, "{found} is not {expected}");
    }
}

#[test]
fn what_can_not_be_expressed_is_said() {
    let cases = [
        ("qwen2", "window of layer 1: Some(11) becomes None"),
        ("llama_biases", "feed-forward network of layer 0"),
        ("llama_dynamic", "rotary embedding of layer 0"),
        ("gemma2", "factor on scores: 0.2041"),
        ("gemma3", "factor on scores: 0.2041"),
        ("gpt_neox_sequential", "feed-forward network of layer 0"),
        ("falcon_alibi", "blocks side by side: false becomes true"),
        ("qwen2_moe", "feed-forward network of layer 0"),
        ("qwen3_moe", "feed-forward network of layer 1"),
    ];
    for (name, expected) in cases {
        let checkpoint = Checkpoint::open(directory(name)).unwrap();
        let conversion = Conversion::plan(&checkpoint, Target::Gguf, &as_stored());
        let conversion = conversion.unwrap_or_else(|error| panic!("{name}: {error}"));
        let said = conversion.changes().join("; ");
        assert!(said.contains(expected), "{name}: {said}");
    }
    for (name, family) in
        [("deepseek_v3", "DeepSeek"), ("gpt_oss", "gpt-oss"), ("llama4", "Llama 4"), ("grok", "Grok-1")]
    {
        let checkpoint = Checkpoint::open(directory(name)).unwrap();
        let error: ModelError = Conversion::plan(&checkpoint, Target::Gguf, &as_stored()).unwrap_err();
        assert_eq!(error.to_string(), format!("conversion of {family} between formats is not supported"));
    }
    let checkpoint = Checkpoint::open(directory("llama")).unwrap();
    let error = Conversion::plan(&checkpoint, Target::HuggingFace, &as_stored()).unwrap_err().to_string();
    assert!(error.contains("is a Hugging Face directory already"), "{error}");
}

/// A file that people run: its quantised tensors only as floats, and then it computes the same.
#[test]
fn a_model_of_the_catalogue() {
    let Some(folder) = model("smollm2-135m") else { return };
    let source = Checkpoint::open(&folder).unwrap();
    let error = Conversion::plan(&source, Target::HuggingFace, &as_stored()).err().map(|error| error.to_string());
    let quantised = source.tensors().any(|tensor| !tensor.format.is_float());
    assert_eq!(error.is_some_and(|error| error.contains("which safetensors can not hold")), quantised);
    let rules = TypeRules { matrices: Some(WeightFormat::F32), ..TypeRules::default() };
    let (made, changes) = convert(&folder, Target::HuggingFace, &rules, "smollm2");
    assert_eq!(changes, [""; 0]);
    let tokens: Vec<u32> = vec![504, 3575, 282, 4649, 314];
    let logits = |path: &Path| {
        crate::harness::Runner::load(path, yantra_kernels::KvFormat::F32, 64).feed(&tokens, 0, tokens.len() - 1)
    };
    let (found, expected) = (logits(&made), logits(&folder));
    let best = |logits: &[f32]| yantra_kernels::argmax(logits);
    assert_eq!(best(&found), best(&expected));
    let mean = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).sum::<f32>() / found.len() as f32;
    // Activations are rounded to bytes before quantised weights, and not before floats.
    assert!(mean < 0.2, "logits differ by {mean} on average");
}
