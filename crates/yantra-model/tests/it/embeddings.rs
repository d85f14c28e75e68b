//! MiniLM against sentence-transformers in f32 (`tests/data/minilm_reference.py`).

use crate::harness::model;
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, CpuLevel};
use yantra_model::{Encoder, EncoderDtype, EncoderText, LoadOptions};
use yantra_text::{EncodeOptions, Tokenizer};

/// Sentences with the tokens and the vectors that sentence-transformers made of them.
fn reference() -> Vec<(String, Vec<u32>, Vec<f32>)> {
    let json: serde_json::Value = serde_json::from_str(include_str!("../data/minilm_reference.json")).unwrap();
    let numbers = |value: &serde_json::Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    let items = json["items"].as_array().unwrap().iter();
    let tokens = |item| numbers(item).into_iter().map(|id| id as u32).collect();
    let vector = |item| numbers(item).into_iter().map(|x| x as f32).collect();
    let text = |item: &serde_json::Value| item.as_str().unwrap().to_owned();
    items.map(|item| (text(&item["text"]), tokens(&item["tokens"]), vector(&item["embedding"]))).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn load(checkpoint: &Checkpoint, compute: &Compute, encoder_dtype: EncoderDtype) -> Encoder {
    Encoder::load(checkpoint, compute, LoadOptions { encoder_dtype, ..LoadOptions::default() }).unwrap()
}

/// The smallest cosine between vectors of the same text.
fn worst<'a>(found: &[Vec<f32>], expected: impl Iterator<Item = &'a Vec<f32>>) -> f64 {
    found.iter().zip(expected).map(|(found, expected)| cosine(found, expected)).fold(1.0, f64::min)
}

#[test]
fn minilm_equals_sentence_transformers() {
    let Some(path) = model("minilm-l6") else { return };
    let compute = Compute::new(2);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let options = EncodeOptions { add_special: true, parse_special: false };
    let reference = reference();
    assert_eq!(reference.len(), 50);
    let tokens: Vec<_> = reference.iter().map(|(text, ..)| tokenizer.encode(text, options).unwrap()).collect();
    for (tokens, (text, expected, _)) in tokens.iter().zip(&reference) {
        assert_eq!(tokens, expected, "{text}");
    }
    let texts: Vec<EncoderText<'_>> = tokens.iter().map(|tokens| tokens.as_slice().into()).collect();
    for (dtype, smallest) in [
        (EncoderDtype::Auto, 0.9999),
        (EncoderDtype::F32, 0.999_999),
        (EncoderDtype::Bf16, 0.9999),
        (EncoderDtype::Int8, 0.995),
    ] {
        let encoder = load(&checkpoint, &compute, dtype);
        let found = encoder.embed(&compute, &texts).unwrap();
        let worst = worst(&found, reference.iter().map(|(.., expected)| expected));
        eprintln!("MiniLM {dtype:?}: smallest cosine with sentence-transformers in f32 over 50 sentences {worst:.7}");
        assert!(worst >= smallest, "{dtype:?}: cosine {worst}");

        // A text's vector does not depend on what else is in the batch, nor on the threads.
        for index in [0, 24, 49] {
            assert_eq!(encoder.embed(&compute, &texts[index..=index]).unwrap()[0], found[index]);
        }
        assert_eq!(encoder.embed(&Compute::new(3), &texts).unwrap(), found);
        assert!(
            encoder
                .embed(&compute, &[EncoderText::from(&[][..])])
                .unwrap_err()
                .to_string()
                .contains("text 0 has 0 tokens")
        );
        assert!(
            encoder
                .embed(&compute, &[EncoderText::from(&[1, 99_999][..])])
                .unwrap_err()
                .to_string()
                .contains("outside the vocabulary")
        );
    }
}

#[test]
fn narrow_types_work_at_every_level() {
    let Some(path) = model("minilm-l6") else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let reference = reference();
    let some: Vec<_> = reference.iter().step_by(17).collect();
    let texts: Vec<EncoderText<'_>> = some.iter().map(|(_, tokens, _)| tokens.as_slice().into()).collect();
    for level in CpuLevel::supported() {
        let compute = Compute::with_level(2, level).unwrap();
        for (dtype, smallest) in [(EncoderDtype::Bf16, 0.9999), (EncoderDtype::Int8, 0.995)] {
            let found = load(&checkpoint, &compute, dtype).embed(&compute, &texts).unwrap();
            let worst = worst(&found, some.iter().map(|(.., expected)| expected));
            assert!(worst >= smallest, "{dtype:?} {level}: cosine {worst}");
        }
        let native = load(&checkpoint, &compute, EncoderDtype::Auto).dense_type().is_some();
        assert_eq!(native, level == CpuLevel::Avx512Bf16, "{level}");
    }
}
