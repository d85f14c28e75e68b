//! Every family against Hugging Face transformers: tiny seeded checkpoints as transformers writes them, and the logits it
//! computes (`tests/data/hf_tiny.py`). Settings that a family ignores at its peril are changed one by one to see that
//! they are not; settings that are not built must be refused by name.

use crate::harness::Runner;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, CpuLevel, KvFormat};
use yantra_model::{Decoder, LoadOptions};

const CONTEXT: usize = 64;
const TOLERANCE: f64 = 1e-4;

pub(crate) fn directory(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/hf_tiny")).join(name)
}

pub(crate) fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A copy of a model with another `config.json`, in the folder cargo keeps for tests.
pub(crate) fn with_config(source: &str, config: &Value, label: &str) -> PathBuf {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{source}-{label}"));
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(directory(source)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    fs::write(copy.join("config.json"), config.to_string()).unwrap();
    copy
}

/// A model's directory: where it is the same model in another form, one with the other's weights.
fn prepared(name: &str) -> PathBuf {
    let config = read(&directory(name).join("config.json"));
    match config["weights_of"].as_str() {
        None => directory(name),
        Some(source) => with_config(source, &config, name),
    }
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|id| id as u32).collect()
}

/// The largest difference of a logit from those expected.
fn difference(path: &Path, compute: Compute) -> f64 {
    let expected = read(&path.join("expected.json"));
    let tokens = ids(&expected["tokens"]);
    // The base of dynamic scaling depends on the length, which for transformers is the prompt's.
    let context = if expected["context_is_prompt"] == true { tokens.len() } else { CONTEXT };
    let mut runner = Runner::with_compute(path, KvFormat::F32, context, compute);
    let logits = runner.feed(&tokens, 0, 0);
    let vocab_size = runner.decoder.spec().vocab_size;
    let mut worst = 0.0_f64;
    for (row, expected) in ids(&expected["rows"]).into_iter().zip(expected["logits"].as_array().unwrap()) {
        let expected = numbers(expected);
        assert_eq!(expected.len(), vocab_size);
        let found = &logits[row as usize * vocab_size..][..vocab_size];
        let pairs = found.iter().zip(&expected);
        worst = pairs.map(|(found, expected)| (f64::from(*found) - expected).abs()).fold(worst, f64::max);
    }
    worst
}

fn check(name: &str) {
    let path = prepared(name);
    for level in CpuLevel::supported() {
        let worst = difference(&path, Compute::with_level(2, level).unwrap());
        eprintln!("{name} at {level}: largest difference of a logit {worst:.1e}");
        assert!(worst <= TOLERANCE, "{name} at {level}: logits differ by {worst}");
    }
}

macro_rules! equal_to_transformers {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*
    };
}

equal_to_transformers! {
    llama llama_transformers4 llama_biases mistral qwen2 qwen3 qwen3_sharded_bf16
    gemma3 gemma3_transformers4 gemma3_conditional smollm3
    llama_yarn llama_dynamic gemma gemma2 phi3 phi3_partial gpt2 gpt_neox gpt_neox_sequential
    falcon_multi_query falcon_grouped falcon_alibi bloom mpt starcoder2 olmo2 granite
    mixtral qwen2_moe qwen3_moe deepseek_v2 deepseek_v2_lite deepseek_v3 gpt_oss
}

/// The config of a model with one value replaced, `path` being a JSON pointer.
pub(crate) fn changed(name: &str, path: &str, value: &Value) -> Value {
    let mut config = read(&directory(name).join("config.json"));
    let (parent, key) = path.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap()[key] = value.clone();
    config
}

#[test]
fn every_setting_matters() {
    let cases = [
        ("llama", "/rope_parameters/factor", json!(4.0)),
        ("llama", "/rope_parameters/low_freq_factor", json!(2.0)),
        ("llama", "/rope_parameters/original_max_position_embeddings", json!(64)),
        ("llama", "/rope_parameters/rope_theta", json!(20_000.0)),
        ("llama", "/hidden_act", json!("gelu")),
        ("llama", "/rms_norm_eps", json!(0.1)),
        ("mistral", "/sliding_window", json!(14)),
        ("mistral", "/sliding_window", Value::Null),
        ("qwen2", "/layer_types", json!(["sliding_attention", "full_attention"])),
        ("qwen2", "/use_sliding_window", json!(false)),
        ("qwen3_sharded_bf16", "/hidden_act", json!("gelu")),
        ("gemma3", "/query_pre_attn_scalar", json!(16)),
        ("gemma3", "/layer_types", json!(["sliding_attention", "full_attention", "full_attention"])),
        ("gemma3", "/rope_parameters/full_attention/factor", json!(2.0)),
        ("gemma3", "/rope_parameters/full_attention/rope_theta", json!(10_000.0)),
        ("gemma3", "/rope_parameters/sliding_attention/rope_theta", json!(10_000.0)),
        ("gemma3", "/attn_logit_softcapping", json!(5.0)),
        ("gemma3", "/final_logit_softcapping", json!(5.0)),
        ("gemma3_conditional", "/text_config/query_pre_attn_scalar", json!(128)),
        ("smollm3", "/no_rope_layers", json!([1, 1, 1, 1])),
        ("llama_yarn", "/rope_parameters/factor", json!(2.0)),
        ("llama_yarn", "/rope_parameters/beta_slow", json!(0.1)),
        ("llama_yarn", "/rope_parameters/attention_factor", json!(1.5)),
        ("llama_dynamic", "/rope_parameters/factor", json!(4.0)),
        ("phi3", "/rope_parameters/long_factor", json!([1.0, 1.0, 1.0, 1.0])),
        ("phi3", "/max_position_embeddings", json!(4096)),
        ("phi3_partial", "/rope_parameters/partial_rotary_factor", json!(1.0)),
        ("gemma2", "/attn_logit_softcapping", Value::Null),
        ("gemma2", "/final_logit_softcapping", json!(30.0)),
        ("gemma2", "/query_pre_attn_scalar", json!(16)),
        ("gpt2", "/activation_function", json!("relu")),
        ("gpt_neox", "/rope_parameters/partial_rotary_factor", json!(0.5)),
        ("gpt_neox", "/use_parallel_residual", json!(false)),
        ("gpt_neox", "/layer_norm_eps", json!(0.1)),
        ("starcoder2", "/sliding_window", json!(14)),
        ("granite", "/embedding_multiplier", json!(1.0)),
        ("granite", "/attention_multiplier", json!(0.25)),
        ("granite", "/residual_multiplier", json!(1.0)),
        ("granite", "/logits_scaling", json!(1.0)),
    ];
    for (index, (name, path, value)) in cases.into_iter().enumerate() {
        let copy = with_config(name, &changed(name, path, &value), &format!("changed-{index}"));
        let worst = difference(&copy, Compute::new(1));
        assert!(worst > 5.0 * TOLERANCE, "{name}: {path} = {value} changes the logits by no more than {worst}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let cases = [
        ("llama", "/rope_parameters/rope_type", json!("mrope"), "rotary scaling 'mrope' (positions of three axes"),
        ("llama", "/rope_parameters/rope_type", json!("proportional"), "rotary scaling 'proportional'"),
        ("llama", "/rope_parameters/rope_type", Value::Null, "'rope_type': missing"),
        ("llama", "/rope_parameters/factor", json!(-1), "'factor': -1 is not positive"),
        ("llama", "/rope_parameters/low_freq_factor", json!(4.0), "4 is not below high_freq_factor, 4"),
        ("llama", "/rope_scaling", json!({"type": "dynamic", "factor": 0.0}), "'factor': 0 is not positive"),
        ("llama", "/rope_parameters/partial_rotary_factor", json!(0.9), "7 is odd or wider than a head (8)"),
        ("llama_yarn", "/rope_parameters/original_max_position_embeddings", Value::Null, "embeddings': missing"),
        ("phi3", "/rope_parameters/long_factor", json!([1.0]), "'long_factor': 1 divisors for 4 frequencies"),
        ("llama", "/hidden_act", json!("quick_gelu"), "activation 'quick_gelu'"),
        ("llama", "/architectures", json!(["Llama9ForCausalLM"]), "unknown architecture 'Llama9ForCausalLM'"),
        ("qwen2", "/layer_types", json!(["chunked_attention", "full_attention"]), "layer type 'chunked_attention'"),
        ("qwen2", "/layer_types", json!(["full_attention"]), "1 types for 2 layers"),
        ("qwen2", "/sliding_window", Value::Null, "'sliding_window': missing"),
        ("gemma3", "/hidden_activation", json!("quick_gelu"), "activation 'quick_gelu'"),
        ("gemma3", "/rope_parameters/sliding_attention/rope_type", json!("ntk"), "rotary scaling 'ntk'"),
        ("gemma3", "/rope_parameters/sliding_attention", Value::Null, "rope_parameters.sliding_attention"),
        ("gemma3", "/use_bidirectional_attention", json!(true), "bidirectional attention is not supported"),
        ("smollm3", "/no_rope_layers", json!([1]), "1 for 4 layers"),
        ("gpt2", "/scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx"),
        ("gemma2", "/sliding_window", Value::Null, "'sliding_window': missing"),
    ];
    let compute = Compute::new(1);
    for (index, (name, path, value, expected)) in cases.into_iter().enumerate() {
        let copy = with_config(name, &changed(name, path, &value), &format!("refused-{index}"));
        let checkpoint = Checkpoint::open(&copy).unwrap();
        let loaded = Decoder::load(&checkpoint, &compute, LoadOptions::default()).map(|_| ());
        let error = loaded.expect_err(&format!("{name}: {path} = {value}")).to_string();
        assert!(error.contains(expected), "{name}: {path} = {value}: {error}");
    }
}
