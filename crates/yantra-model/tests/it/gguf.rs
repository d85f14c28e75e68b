//! Every family as llama.cpp's converter writes it (`tests/data/gguf_tiny.py`) against Hugging Face transformers: the same
//! tiny models as `families`, and what transformers computes of them.

use crate::families::{self, Expected, check_model};
use std::path::{Path, PathBuf};

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
    mixtral qwen2_moe qwen3_moe deepseek_v2 deepseek_v2_lite deepseek_v3 gpt_oss
}
