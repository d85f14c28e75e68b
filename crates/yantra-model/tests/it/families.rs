//! Every family against Hugging Face transformers: tiny seeded checkpoints as transformers writes them, and the logits it
//! computes (`tests/data/hf_tiny.py`). Settings that a family ignores at its peril are changed one by one to see that
//! they are not; settings that are not built must be refused by name.

use crate::harness::{Runner, Span};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, CpuLevel, KvFormat};
use yantra_model::{Decoder, KvCache, LoadOptions, PAGE_TOKENS, family};

const CONTEXT: usize = 64;
pub(crate) const TOLERANCE: f64 = 1e-4;

pub(crate) fn directory(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/hf_tiny")).join(name)
}

pub(crate) fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A copy of a model with another `config.json`, in the folder cargo keeps for tests. Other tests may have the same one open, so
/// that files are replaced and never written to.
pub(crate) fn with_config(source: &str, config: &Value, label: &str) -> PathBuf {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{source}-{label}"));
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(directory(source)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            replace(&copy.join(path.file_name().unwrap()), &fs::read(&path).unwrap());
        }
    }
    replace(&copy.join("config.json"), config.to_string().as_bytes());
    copy
}

fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, bytes).unwrap();
    fs::rename(new, path).unwrap();
}

/// A model's directory: where it is the same model in another form, one with the other's weights.
pub(crate) fn prepared(name: &str) -> PathBuf {
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

/// What transformers computes of a model: a prompt, and the logits of some of its rows.
pub(crate) struct Expected {
    tokens: Vec<u32>,
    rows: Vec<(usize, Vec<f64>)>,
    /// Longest sequence the model is loaded for.
    context: usize,
}

impl Expected {
    pub(crate) fn read(path: &Path) -> Self {
        let expected = read(path);
        let tokens = ids(&expected["tokens"]);
        let logits = expected["logits"].as_array().unwrap().iter().map(numbers);
        let rows = ids(&expected["rows"]).into_iter().map(|row| row as usize).zip(logits).collect();
        // The base of dynamic scaling depends on the length, which for transformers is the prompt's.
        let context = if expected["context_is_prompt"] == true { tokens.len() } else { CONTEXT };
        Self { tokens, rows, context }
    }

    /// The largest difference of a logit from those expected.
    fn difference(&self, logits: &[f32]) -> f64 {
        let vocab_size = logits.len() / self.tokens.len();
        let mut worst = 0.0_f64;
        for (row, expected) in &self.rows {
            assert_eq!(expected.len(), vocab_size);
            let pairs = logits[row * vocab_size..].iter().zip(expected);
            worst = pairs.map(|(found, expected)| (f64::from(*found) - expected).abs()).fold(worst, f64::max);
        }
        worst
    }
}

/// The largest difference of a logit of a model from those expected.
pub(crate) fn difference(path: &Path, expected: &Expected, compute: Compute) -> f64 {
    let mut runner = Runner::with_compute(path, KvFormat::F32, expected.context, compute);
    expected.difference(&runner.feed(&expected.tokens, 0, 0))
}

fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let different = found.iter().zip(expected).filter(|(found, expected)| found.to_bits() != expected.to_bits());
    assert_eq!(different.count(), 0, "{what}: logits differ");
}

/// Runs a model on every level: a prompt at once, which must be as expected; the same prompt in part and then token by token;
/// and the last token of it beside another prompt. None of this may change a bit. Windows and pages are crossed on the way.
pub(crate) fn check_model(path: &Path, expected: &Expected, tolerance: f64) {
    const FIRST: usize = 25;
    const OTHER: usize = 33;
    let tokens = &expected.tokens;
    let last = tokens.len() - 1;
    let other: Vec<u32> = tokens.iter().rev().copied().take(OTHER).collect();
    for level in CpuLevel::supported() {
        let name = format!("{} at {level}", path.display());
        let compute = Compute::with_level(2, level).unwrap();
        let mut runner = Runner::with_compute(path, KvFormat::F32, expected.context, compute);
        runner.kv = KvCache::new(runner.decoder.spec(), KvFormat::F32, 4).unwrap();
        let (pages, others): (&[u32], &[u32]) = (&[3, 1], &[2, 0]);
        let span =
            |range: std::ops::Range<usize>, pages| Span { tokens: &tokens[range.clone()], start: range.start, pages };
        let at_once = runner.step(&[span(0..tokens.len(), pages)], 0);
        let worst = expected.difference(&at_once);
        eprintln!("{name}: largest difference of a logit {worst:.1e}");
        assert!(worst <= tolerance, "{name}: logits differ by {worst}");

        let mut decoded = runner.step(&[span(0..FIRST, others)], 0);
        for index in FIRST..tokens.len() {
            decoded.extend(runner.step(&[span(index..index + 1, others)], 0));
        }
        assert_same(&decoded, &at_once, &format!("{name}, token by token"));

        let other = Span { tokens: &other, start: 0, pages: others };
        let alone = runner.step(std::slice::from_ref(&other), 0);
        let together = runner.step(&[span(last..last + 1, pages), other], 0);
        let vocab_size = at_once.len() / tokens.len();
        let (of_last, of_other) = together.split_at(vocab_size);
        assert_same(of_last, &at_once[last * vocab_size..], &format!("{name}, beside another sequence"));
        assert_same(of_other, &alone, &format!("{name}, another sequence beside it"));
    }
}

fn check(name: &str) {
    let path = prepared(name);
    check_model(&path, &Expected::read(&path.join("expected.json")), TOLERANCE);
}

macro_rules! equal_to_transformers {
    ($($name:ident)*) => {
        /// The models there are.
        pub(crate) const MODELS: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { check(stringify!($name)); })*
    };
}

equal_to_transformers! {
    llama llama_transformers4 llama_biases mistral qwen2 qwen3 qwen3_sharded_bf16
    gemma3 gemma3_transformers4 gemma3_conditional smollm3
    llama_yarn llama_dynamic gemma gemma2 phi3 phi3_partial gpt2 gpt_neox gpt_neox_sequential
    falcon_multi_query falcon_grouped falcon_alibi bloom mpt starcoder2 olmo2 granite
    mixtral qwen2_moe qwen3_moe deepseek_v2 deepseek_v2_lite deepseek_v3 gpt_oss llama4 grok command_r
}

/// What latent attention keeps of a token is `(d_c + d_h^R) * l` elements (DeepSeek-AI 2024, arXiv:2405.04434, table 1):
/// here a vector of 16 and a rotated part of 4, in 3 layers.
#[test]
fn latent_attention_keeps_what_the_paper_says() {
    for (format, element_bytes) in [(KvFormat::F32, 4), (KvFormat::F16, 2), (KvFormat::BF16, 2)] {
        let spec = family::spec(&Checkpoint::open(directory("deepseek_v2")).unwrap()).unwrap();
        let bytes = KvCache::bytes_per_page(&spec, format);
        assert_eq!(bytes, (16 + 4) * 3 * element_bytes * PAGE_TOKENS, "{format:?}");
    }
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
        ("command_r", "/logit_scale", json!(1.0)),
        ("command_r", "/layer_norm_eps", json!(0.1)),
        ("bloom", "/layer_norm_epsilon", json!(0.1)),
        ("mpt", "/attn_config/clip_qkv", Value::Null),
        ("mpt", "/attn_config/alibi_bias_max", json!(4)),
        ("mixtral", "/num_experts_per_tok", json!(3)),
        ("qwen2_moe", "/norm_topk_prob", json!(true)),
        ("qwen3_moe", "/norm_topk_prob", json!(false)),
        ("deepseek_v2", "/topk_method", json!("greedy")),
        ("deepseek_v2", "/routed_scaling_factor", json!(1.0)),
        ("deepseek_v3", "/topk_group", json!(3)),
        ("deepseek_v3", "/norm_topk_prob", json!(false)),
        ("deepseek_v3", "/rope_parameters/mscale_all_dim", json!(0.5)),
        ("gpt_oss", "/sliding_window", json!(14)),
        ("llama4", "/attention_chunk_size", json!(32)),
        ("llama4", "/use_qk_norm", json!(false)),
        ("llama4", "/attn_scale", json!(0.0)),
        ("llama4", "/floor_scale", json!(4)),
        ("grok", "/max_attn_value", json!(30.0)),
        ("grok", "/attn_output_multiplier", json!(0.25)),
        ("grok", "/embedding_multiplier_scale", json!(1.0)),
    ];
    for (index, (name, path, value)) in cases.into_iter().enumerate() {
        let copy = with_config(name, &changed(name, path, &value), &format!("changed-{index}"));
        let worst = difference(&copy, &Expected::read(&copy.join("expected.json")), Compute::new(1));
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
        ("command_r", "/use_qk_norm", json!(true), "normalised by head (Command R+) are not supported"),
        ("mpt", "/attn_config/alibi", json!(false), "MPT without ALiBi is not supported"),
        ("gpt_oss", "/swiglu_limit", json!(5.0), "'swiglu_limit': 5 is not supported, only 7"),
        ("mixtral", "/num_experts_per_tok", json!(5), "'num_experts_per_tok': 5 of 4"),
        ("grok", "/residual_moe", json!(true), "residual_moe"),
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
