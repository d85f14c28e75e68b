//! Every family as llama.cpp's converter writes it (`tests/data/gguf_tiny.py`) against Hugging Face transformers: the same
//! tiny models as `families`, and what transformers computes of them.

use crate::families::{self, Expected, check_model, difference};
use std::{
    fs::File,
    path::{Path, PathBuf},
};
use yantra_formats::{Checkpoint, GgufWriter, Value};
use yantra_kernels::Compute;

const TOLERANCE: f64 = 2e-4;

/// A model's file.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/gguf_tiny")).join(format!("{name}.gguf"))
}

/// What is expected of it: its own numbers where the file means another model than the directory of the same name.
pub(crate) fn expected(name: &str) -> Expected {
    let own = file(name).with_extension("json");
    let of_directory = || families::directory(name).join("expected.json");
    Expected::read(&if own.exists() { own } else { of_directory() })
}

macro_rules! equal_to_transformers {
    ($($name:ident)*) => {
        /// The models there are.
        pub(crate) const MODELS: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { check_model(&file(stringify!($name)), &expected(stringify!($name)), TOLERANCE); })*
    };
}

equal_to_transformers! {
    llama llama_biases llama_yarn mistral qwen2 qwen3 gemma gemma2 gemma3 smollm3 phi3 phi3_partial gpt2 gpt_neox
    gpt_neox_sequential falcon_multi_query falcon_grouped bloom mpt starcoder2 olmo2 granite
    mixtral qwen2_moe qwen3_moe deepseek_v2 deepseek_v2_lite deepseek_v3 gpt_oss command_r
}

/// A copy of a model's file with another value of a key, or without it, in the folder cargo keeps for tests. Matrices of one
/// row are vectors in it, as older files have them.
fn changed(name: &str, key: &str, value: Option<Value>, label: &str) -> PathBuf {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{label}.gguf"));
    let checkpoint = Checkpoint::open(file(name)).unwrap();
    let Checkpoint::Gguf(source) = &checkpoint else { panic!("{name} is no GGUF") };
    let key = format!("{}.{key}", source.metadata().get_str("general.architecture").unwrap());
    assert!(source.metadata().value(&key).is_some(), "{name} has no {key}");
    let shape = |shape: &[usize]| if let [1, cols] = shape { vec![*cols] } else { shape.to_vec() };
    let mut writer = GgufWriter::new();
    for (kept, value) in source.metadata().iter().filter(|(other, _)| *other != key) {
        writer.set(kept, value.clone()).unwrap();
    }
    if let Some(value) = value {
        writer.set(key, value).unwrap();
    }
    for tensor in source.tensors() {
        writer.declare(&tensor.name, tensor.format, &shape(&tensor.shape)).unwrap();
    }
    let mut body = writer.begin(File::create(&copy).unwrap()).unwrap();
    for tensor in source.tensors() {
        body.write(&tensor.name, checkpoint.tensor(&tensor.name).unwrap().data).unwrap();
    }
    body.finish().unwrap();
    copy
}

#[test]
fn a_matrix_of_one_row_may_be_a_vector() {
    let copy = changed("qwen2_moe", "context_length", Some(Value::from(256_u32)), "row");
    assert!(difference(&copy, &expected("qwen2_moe"), Compute::new(1)) <= TOLERANCE);
}

#[test]
fn every_key_matters() {
    let real = |value: f32| Some(Value::from(value));
    let count = |value: u32| Some(Value::from(value));
    let flag = |value: bool| Some(Value::from(value));
    let cases = [
        ("llama_yarn", "rope.scaling.factor", real(2.0)),
        ("llama_yarn", "rope.scaling.original_context_length", count(256)),
        ("llama_yarn", "rope.scaling.type", None),
        ("llama", "rope.freq_base", real(20_000.0)),
        ("llama", "attention.layer_norm_rms_epsilon", real(0.1)),
        ("gemma2", "attention.sliding_window", count(20)),
        ("gemma2", "attn_logit_softcapping", None),
        ("gemma2", "final_logit_softcapping", real(30.0)),
        ("gemma3", "attention.sliding_window", count(20)),
        ("gemma3", "attention.sliding_window", None),
        ("gemma3", "rope.freq_base_swa", None),
        ("gemma3", "rope.freq_base", real(10_000.0)),
        ("gemma3", "rope.scaling.factor", real(2.0)),
        ("phi3", "attention.sliding_window", count(0)),
        ("phi3", "rope.scaling.attn_factor", real(1.0)),
        ("phi3", "rope.scaling.original_context_length", count(4096)),
        ("gpt_neox_sequential", "use_parallel_residual", flag(true)),
        ("gpt_neox", "rope.dimension_count", count(4)),
        ("gpt2", "attention.layer_norm_epsilon", real(0.1)),
        ("mpt", "attention.clamp_kqv", None),
        ("mpt", "attention.max_alibi_bias", real(4.0)),
        ("granite", "attention.scale", None),
        ("granite", "embedding_scale", None),
        ("granite", "residual_scale", None),
        ("granite", "logit_scale", None),
        ("command_r", "logit_scale", None),
        ("mixtral", "expert_used_count", count(1)),
        ("qwen3_moe", "expert_used_count", count(2)),
        ("deepseek_v2", "expert_weights_scale", None),
        ("deepseek_v2", "expert_group_used_count", count(4)),
        ("deepseek_v3", "expert_weights_norm", flag(false)),
        ("deepseek_v3", "rope.scaling.yarn_log_multiplier", None),
        ("gpt_oss", "attention.sliding_window", count(20)),
        ("gpt_oss", "rope.scaling.yarn_beta_fast", real(1.5)),
    ];
    for (index, (name, key, value)) in cases.into_iter().enumerate() {
        let copy = changed(name, key, value.clone(), &format!("changed-{index}"));
        let worst = difference(&copy, &expected(name), Compute::new(1));
        assert!(worst > 5.0 * TOLERANCE, "{name}: {key} = {value:?} changes the logits by no more than {worst}");
    }
}
