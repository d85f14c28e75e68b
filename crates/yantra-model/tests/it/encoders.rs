//! Encoders against Hugging Face transformers: tiny seeded checkpoints, and the embeddings or scores that transformers makes
//! of token ids (`tests/data/hf_tiny.py`), at every level of the processor.

use crate::families::{changed, directory, ids, numbers, read, with_config};
use serde_json::{Value, json};
use std::path::Path;
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, CpuLevel, WeightFormat};
use yantra_model::{Encoder, EncoderDtype, EncoderText, LoadOptions, family};

pub(crate) const F32_TOLERANCE: f64 = 1e-5;
/// What rounding weights and activations to bfloat16 may move: its steps are a 256th, and the tiny models' weights random.
const TOLERANCE_BF16: f64 = 0.02;

/// The largest difference of a number from those expected, relative to them where they are above 1.
fn difference(path: &Path, compute: &Compute, options: LoadOptions) -> f64 {
    difference_with(&Checkpoint::open(path).unwrap(), path, compute, options)
}

/// The same of a model in another format, in single precision; what is expected lies at `path`.
pub(crate) fn difference_of(checkpoint: &Checkpoint, path: &Path, compute: &Compute) -> f64 {
    difference_with(checkpoint, path, compute, with_dtype(EncoderDtype::F32))
}

fn difference_with(checkpoint: &Checkpoint, path: &Path, compute: &Compute, options: LoadOptions) -> f64 {
    let expected = read(&path.join("expected.json"));
    let texts: Vec<Vec<u32>> = expected["texts"].as_array().unwrap().iter().map(ids).collect();
    let second = |index: usize, len: usize| match &expected["types"] {
        Value::Null => len,
        types => ids(&types[index]).iter().position(|kind| *kind == 1).unwrap_or(len),
    };
    let texts: Vec<EncoderText<'_>> = texts
        .iter()
        .enumerate()
        .map(|(index, tokens)| EncoderText { tokens, second: second(index, tokens.len()) })
        .collect();
    assert!(family::is_encoder(checkpoint).unwrap());
    let encoder = Encoder::load(checkpoint, compute, options).unwrap();
    let found = encoder.embed(compute, &texts).unwrap().concat();
    let expected: Vec<f64> = match encoder.spec().scores_pairs() {
        true => numbers(&expected["scores"]),
        false => expected["embeddings"].as_array().unwrap().iter().flat_map(numbers).collect(),
    };
    assert_eq!((found.len(), expected.len() % texts.len()), (expected.len(), 0));
    let difference = |(found, expected): (&f32, &f64)| (f64::from(*found) - expected).abs() / expected.abs().max(1.0);
    found.iter().zip(&expected).map(difference).fold(0.0, f64::max)
}

fn with_dtype(encoder_dtype: EncoderDtype) -> LoadOptions<'static> {
    LoadOptions { encoder_dtype, ..LoadOptions::default() }
}

fn check(name: &str) {
    let path = directory(name);
    for level in CpuLevel::supported() {
        let compute = Compute::with_level(2, level).unwrap();
        for (dtype, tolerance) in [(EncoderDtype::F32, F32_TOLERANCE), (EncoderDtype::Bf16, TOLERANCE_BF16)] {
            let worst = difference(&path, &compute, with_dtype(dtype));
            eprintln!("{name} in {} at {level}: largest difference {worst:.1e}", dtype.name());
            assert!(worst <= tolerance, "{name} in {} at {level}: {worst}", dtype.name());
        }
    }
}

macro_rules! equal_to_transformers {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*
    };
}

equal_to_transformers! {
    bert_cls roberta xlm_roberta modern_bert modern_bert_biases
    bert_rerank xlm_roberta_rerank modern_bert_rerank modern_bert_rerank_cls
}

/// `config.json` of `answerdotai/ModernBERT-base` has the rope in two flat keys and the layers as a pattern.
#[test]
fn older_config_of_modern_bert() {
    let mut config = read(&directory("modern_bert").join("config.json"));
    let settings = config.as_object_mut().unwrap();
    settings.remove("layer_types").unwrap();
    settings.remove("rope_parameters").unwrap();
    settings.insert("global_rope_theta".to_owned(), json!(160_000.0));
    settings.insert("local_rope_theta".to_owned(), json!(10_000.0));
    let copy = with_config("modern_bert", &config, "older");
    let worst = difference(&copy, &Compute::new(1), with_dtype(EncoderDtype::F32));
    assert!(worst <= F32_TOLERANCE, "{worst}");
}

#[test]
fn every_setting_matters() {
    let sliding = json!(["sliding_attention", "sliding_attention", "sliding_attention"]);
    let cases = [
        ("roberta", "/pad_token_id", json!(0)),
        ("roberta", "/hidden_act", json!("relu")),
        ("roberta", "/layer_norm_eps", json!(0.1)),
        ("modern_bert", "/local_attention", json!(14)),
        ("modern_bert", "/layer_types", sliding),
        ("modern_bert", "/rope_parameters/full_attention/rope_theta", json!(10_000.0)),
        ("modern_bert", "/rope_parameters/sliding_attention/rope_theta", json!(160_000.0)),
        ("modern_bert", "/hidden_activation", json!("silu")),
        ("modern_bert", "/norm_eps", json!(0.1)),
        ("modern_bert_rerank", "/classifier_pooling", json!("cls")),
        ("xlm_roberta_rerank", "/sentence_transformers", Value::Null),
        ("bert_rerank", "/sbert_ce_default_activation_function", json!("torch.nn.modules.linear.Identity")),
    ];
    for (index, (name, path, value)) in cases.into_iter().enumerate() {
        let copy = with_config(name, &changed(name, path, &value), &format!("encoder-changed-{index}"));
        let worst = difference(&copy, &Compute::new(1), with_dtype(EncoderDtype::F32));
        assert!(worst > 5.0 * F32_TOLERANCE, "{name}: {path} = {value} changes no more than {worst}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let cases = [
        ("bert_cls", "/hidden_act", json!("quick_gelu"), "activation 'quick_gelu'"),
        ("bert_cls", "/position_embedding_type", json!("relative_key"), "position embedding 'relative_key'"),
        ("bert_cls", "/num_attention_heads", json!(5), "5 heads do not divide the width 32"),
        ("bert_cls", "/max_position_embeddings", json!(129), "has shape [128, 32], expected [129, 32]"),
        ("roberta", "/pad_token_id", json!(200), "positions begin after 200, but there are 130"),
        ("modern_bert_rerank", "/classifier_pooling", json!("max"), "classifier pooling 'max'"),
        ("modern_bert_rerank", "/classifier_activation", json!("relu"), "classifier activation 'relu'"),
        ("bert_rerank", "/sentence_transformers", json!({"activation_fn": "torch.nn.Tanh"}), "activation 'Tanh'"),
        ("modern_bert", "/architectures", json!(["ModernBertForSequenceClassification"]), "classifier.weight"),
    ];
    for (index, (name, path, value, expected)) in cases.into_iter().enumerate() {
        let copy = with_config(name, &changed(name, path, &value), &format!("encoder-refused-{index}"));
        let loaded = Encoder::load(&Checkpoint::open(&copy).unwrap(), &Compute::new(1), LoadOptions::default());
        let error = loaded.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{name}: {path} = {value}: {error}");
    }
}

/// A text's numbers do not depend on what else is in the batch, nor on the threads.
#[test]
fn a_text_stands_alone() {
    for name in ["modern_bert_rerank", "xlm_roberta"] {
        let checkpoint = Checkpoint::open(directory(name)).unwrap();
        let compute = Compute::new(2);
        let encoder = Encoder::load(&checkpoint, &compute, LoadOptions::default()).unwrap();
        let texts: Vec<Vec<u32>> =
            (1..40).map(|len| (0..len * 3).map(|place| 3 + (place * len) % 90).collect()).collect();
        let texts: Vec<EncoderText<'_>> = texts.iter().map(|tokens| tokens.as_slice().into()).collect();
        let all = encoder.embed(&compute, &texts).unwrap();
        assert_eq!(encoder.embed(&Compute::new(3), &texts).unwrap(), all, "{name}");
        for index in [0, 20, 38] {
            assert_eq!(encoder.embed(&compute, &texts[index..=index]).unwrap(), all[index..=index], "{name}");
        }
    }
}

#[test]
fn plans_are_exact() {
    for name in ["roberta", "modern_bert", "bert_rerank", "modern_bert_rerank"] {
        let checkpoint = Checkpoint::open(directory(name)).unwrap();
        for (encoder_dtype, quantize) in
            [(EncoderDtype::F32, None), (EncoderDtype::F32, Some(WeightFormat::Q8_0)), (EncoderDtype::Bf16, None)]
        {
            let options = LoadOptions { quantize, ..with_dtype(encoder_dtype) };
            let compute = Compute::new(1);
            let planned = Encoder::footprint(&checkpoint, &compute, options).unwrap();
            let kept = Encoder::load(&checkpoint, &compute, options).unwrap().weight_bytes();
            assert_eq!(planned.weight_bytes, kept, "{name} {encoder_dtype:?} {quantize:?}");
        }
    }
}
