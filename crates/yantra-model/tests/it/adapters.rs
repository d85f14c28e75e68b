//! LoRA adapters against peft: tiny adapters as peft writes them, and the logits it computes (`tests/data/lora_tiny.py`). A
//! batch of several adapters must give each the bits that it gets alone.

use crate::{families::directory, gguf, harness::Runner};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};
use yantra_formats::{AdapterFile, Checkpoint, FormatError};
use yantra_kernels::{AttentionSequence, Compute, CpuLevel, KvFormat, WeightFormat};
use yantra_model::{Adapter, AdapterSpan, Batch, KvCache, LoadOptions, ModelError, PAGE_TOKENS};

const CONTEXT: usize = 64;
/// What peft's logits may be off: those of the bases are held to half of it.
const TOLERANCE: f64 = 2e-4;

fn adapter_directory(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/lora_tiny")).join(name)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A base model of `hf_tiny` that adapters are loaded for.
struct Base {
    checkpoint: Checkpoint,
    runner: Runner,
}

impl Base {
    fn load(name: &str, level: CpuLevel, quantize: Option<WeightFormat>) -> Self {
        Self::open(&directory(name), level, quantize)
    }

    fn open(path: &Path, level: CpuLevel, quantize: Option<WeightFormat>) -> Self {
        let checkpoint = Checkpoint::open(path).unwrap();
        let compute = Compute::with_level(2, level).unwrap();
        let options = LoadOptions { max_context: Some(CONTEXT), quantize, ..LoadOptions::default() };
        let runner = Runner::with_options(&checkpoint, KvFormat::F32, CONTEXT, options, compute);
        Self { checkpoint, runner }
    }

    fn adapter(&self, path: &Path) -> Result<Adapter, ModelError> {
        let compute = Compute::with_level(1, self.runner.compute.level()).unwrap();
        self.runner.decoder.load_adapter(&self.checkpoint, &AdapterFile::open(path)?, &compute)
    }

    /// The logits of all positions of sequences that are computed together, each with an adapter or none.
    fn run(&self, sequences: &[(&[u32], Option<&Adapter>)]) -> Vec<Vec<f32>> {
        let decoder = &self.runner.decoder;
        let per_sequence = CONTEXT.div_ceil(PAGE_TOKENS) as u32;
        let pages: Vec<Vec<u32>> = (0..sequences.len() as u32)
            .map(|index| (index * per_sequence..(index + 1) * per_sequence).collect())
            .collect();
        let (mut tokens, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        let (mut spans, mut adapters) = (Vec::new(), Vec::new());
        for ((own, adapter), pages) in sequences.iter().zip(&pages) {
            let start = tokens.len();
            spans.push(AttentionSequence { query_start: start, query_len: own.len(), context_len: own.len(), pages });
            tokens.extend_from_slice(own);
            positions.extend(0..own.len() as u32);
            slots.extend(
                (0..own.len()).map(|at| pages[at / PAGE_TOKENS] * PAGE_TOKENS as u32 + (at % PAGE_TOKENS) as u32),
            );
            if let Some(adapter) = *adapter {
                adapters.push(AdapterSpan { tokens: start..tokens.len(), adapter });
            }
        }
        let rows: Vec<u32> = (0..tokens.len() as u32).collect();
        let batch = Batch {
            tokens: &tokens,
            positions: &positions,
            slots: &slots,
            sequences: &spans,
            logit_rows: &rows,
            adapters: &adapters,
        };
        let mut kv = KvCache::new(decoder.spec(), KvFormat::F32, pages.len() * per_sequence as usize).unwrap();
        let mut logits = Vec::new();
        decoder.forward(&self.runner.compute, &batch, &mut kv, &mut decoder.scratch(), &mut logits).unwrap();
        let vocab_size = decoder.spec().vocab_size;
        spans
            .iter()
            .map(|span| logits[span.query_start * vocab_size..][..span.query_len * vocab_size].to_vec())
            .collect()
    }
}

fn prompt(expected: &Value) -> Vec<u32> {
    expected["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The largest difference of a logit from those expected.
fn difference(logits: &[f32], expected: &Value) -> f64 {
    let rows = expected["rows"].as_array().unwrap().iter().map(|row| row.as_u64().unwrap() as usize);
    let mut worst = 0.0_f64;
    for (row, expected) in rows.zip(expected["logits"].as_array().unwrap()) {
        let expected = expected.as_array().unwrap();
        let found = &logits[row * expected.len()..][..expected.len()];
        let pairs = found.iter().zip(expected);
        worst = pairs.map(|(f, e)| (f64::from(*f) - e.as_f64().unwrap()).abs()).fold(worst, f64::max);
    }
    worst
}

/// Holds an adapter to what peft computes with it, and sees that it does something.
fn check(name: &str) {
    check_files(name, directory, "");
}

/// The same with a base of any format, whose path is made of its name, and a file in the adapter's directory.
fn check_files(name: &str, base: fn(&str) -> PathBuf, file: &str) {
    let path = adapter_directory(name);
    let expected = read(&path.join("expected.json"));
    let tokens = prompt(&expected);
    for level in CpuLevel::supported() {
        let base = Base::open(&base(expected["model"].as_str().unwrap()), level, None);
        let adapter = base.adapter(&path.join(file)).unwrap();
        let logits = base.run(&[(&tokens, Some(&adapter)), (&tokens, None)]);
        let worst = difference(&logits[0], &expected);
        assert!(worst < TOLERANCE, "{name}, {level}: {worst}");
        assert!(difference(&logits[1], &expected) > 0.05, "{name} changes nothing");
    }
}

#[test]
fn plain_adapters_equal_peft() {
    check("plain");
    check("attention");
}

#[test]
fn scales_and_ranks_are_those_of_the_settings() {
    check("stabilised");
    check("patterns");
}

#[test]
fn dora_equals_peft() {
    check("dora");
    check("dora_biases");
}

#[test]
fn adapters_of_fused_and_transposed_matrices_equal_peft() {
    ["fused", "fused_dora", "fused_by_head", "columns", "norms_behind"].into_iter().for_each(check);
}

/// GGUF splits what was fused, and has rows of queries and keys in the order that rotates neighbours.
#[test]
fn adapters_and_bases_may_be_of_either_format() {
    let gguf = "adapter.gguf";
    for name in ["plain", "attention", "fused", "fused_by_head", "norms_behind"] {
        check_files(name, directory, gguf);
    }
    for name in ["plain", "attention", "fused"] {
        check_files(name, gguf::file, gguf);
    }
    for name in ["plain", "attention", "patterns", "stabilised", "dora", "fused", "fused_dora", "columns"] {
        check_files(name, gguf::file, "");
    }
}

#[test]
fn a_batch_of_several_adapters_gives_each_its_own_bits() {
    let names = ["plain", "dora", "patterns"];
    for quantize in [None, Some(WeightFormat::Q8_0), Some(WeightFormat::Q4_0)] {
        for level in CpuLevel::supported() {
            let base = Base::load("llama", level, quantize);
            let adapters = names.map(|name| base.adapter(&adapter_directory(name)).unwrap());
            let tokens = prompt(&read(&adapter_directory("plain").join("expected.json")));
            let [plain, dora, patterns] = adapters.each_ref().map(Some);
            let sequences = [
                (&tokens[..7], plain),
                (&tokens[3..4], plain),
                (&tokens[..], None),
                (&tokens[..30], dora),
                (&tokens[5..6], None),
                (&tokens[..40], patterns),
                (&tokens[..2], plain),
            ];
            let together = base.run(&sequences);
            for (index, sequence) in sequences.into_iter().enumerate() {
                assert!(base.run(&[sequence])[0] == together[index], "{level}, {quantize:?}: sequence {index}");
            }
        }
    }
}

/// Beside quantised weights the first matrix has 8 bits: what an adapter adds is off by less than the base's own rounding.
#[test]
fn beside_quantised_weights_an_adapter_loses_little() {
    let expected = read(&adapter_directory("plain").join("expected.json"));
    let tokens = prompt(&expected);
    let base = Base::load("llama", CpuLevel::detect(), Some(WeightFormat::Q8_0));
    let adapter = base.adapter(&adapter_directory("plain")).unwrap();
    let worst = difference(&base.run(&[(&tokens, Some(&adapter))])[0], &expected);
    assert!(worst < 0.2, "{worst}");
}

#[test]
fn the_hash_is_of_settings_and_matrices() {
    let base = Base::load("llama", CpuLevel::detect(), None);
    let hash = |path: &Path| *base.adapter(path).unwrap().content_hash();
    let plain = hash(&adapter_directory("plain"));
    assert_eq!(plain, hash(&changed("same", |_| ())));
    assert_ne!(plain, hash(&changed("alpha", |config| config["lora_alpha"] = json!(9))));
    assert_ne!(plain, hash(&adapter_directory("patterns")));
}

/// A copy of the plain adapter with other settings, in the folder cargo keeps for tests.
fn changed(label: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let (source, copy) =
        (adapter_directory("plain"), Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lora-{label}")));
    fs::create_dir_all(&copy).unwrap();
    fs::copy(source.join("adapter_model.safetensors"), copy.join("adapter_model.safetensors")).unwrap();
    let mut config = read(&source.join("adapter_config.json"));
    change(&mut config);
    fs::write(copy.join("adapter_config.json"), config.to_string()).unwrap();
    copy
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let base = Base::load("llama", CpuLevel::detect(), None);
    let cases = [
        ("bias", json!("lora_only"), "an adapter that trained biases (bias = 'lora_only') is not supported"),
        (
            "modules_to_save",
            json!(["lm_head"]),
            "the setting modules_to_save = [\"lm_head\"] of an adapter is not supported",
        ),
        ("peft_type", json!("LOHA"), "peft_type 'LOHA' (LORA is) is not supported"),
        (
            "alora_invocation_tokens",
            json!([1]),
            "the setting alora_invocation_tokens = [1] of an adapter is not supported",
        ),
        (
            "init_lora_weights",
            json!("pissa_niter_4"),
            "init_lora_weights = 'pissa_niter_4', which changes the base model's own weights, is not supported",
        ),
        ("r", json!(5), "hyper-parameter 'r': 5 for 'model.layers.0.self_attn.q_proj', whose matrices have rank 4"),
    ];
    for (key, value, expected) in cases {
        let path = changed(key, |config| config[key] = value);
        assert_eq!(base.adapter(&path).unwrap_err().to_string(), expected);
    }
}

#[test]
fn adapters_of_other_models_are_refused() {
    let base = Base::load("llama", CpuLevel::detect(), None);
    let error = base.adapter(&adapter_directory("fused")).unwrap_err().to_string();
    let expected = "an adapter of 'layers.0.mlp.gate_up_proj', which is no matrix of this model's attention or feed-forward \
                    network, is not supported";
    assert_eq!(error, expected);
    let missing = AdapterFile::open(directory("llama")).unwrap_err();
    assert!(matches!(missing, FormatError::NotAnAdapter { .. }), "{missing}");
    // One that was loaded for another decoder.
    let (other, tokens) = (Base::load("llama", CpuLevel::detect(), None), [5, 6]);
    let adapter = other.adapter(&adapter_directory("plain")).unwrap();
    let (positions, pages) = ([0, 1], [0]);
    let sequence = AttentionSequence { query_start: 0, query_len: 2, context_len: 2, pages: &pages };
    let batch = Batch {
        tokens: &tokens,
        positions: &positions,
        slots: &positions,
        sequences: &[sequence],
        logit_rows: &[],
        adapters: &[AdapterSpan { tokens: 0..2, adapter: &adapter }],
    };
    let decoder = &base.runner.decoder;
    let mut kv = KvCache::new(decoder.spec(), KvFormat::F32, 1).unwrap();
    let error = decoder.forward(&base.runner.compute, &batch, &mut kv, &mut decoder.scratch(), &mut Vec::new());
    assert_eq!(error.unwrap_err().to_string(), "invalid batch: an adapter of another model");
}
