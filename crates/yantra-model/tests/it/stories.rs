//! `stories260K` (karpathy/tinyllamas): logits by a float64 forward pass in numpy, greedy text by llama2.c's `run`.

use crate::harness::{Runner, shared};
use yantra_kernels::{KvFormat, argmax};

fn json(path: &str) -> Option<serde_json::Value> {
    Some(serde_json::from_slice(&std::fs::read(shared(path)?).unwrap()).unwrap())
}

fn numbers<T>(value: &serde_json::Value, convert: impl Fn(&serde_json::Value) -> T) -> Vec<T> {
    value.as_array().unwrap().iter().map(convert).collect()
}

fn check_logits(directory: &str, ids: &serde_json::Value, expected: &serde_json::Value) {
    let Some(path) = shared(&format!("data/models/{directory}")) else { return };
    let ids = numbers(ids, |id| id.as_u64().unwrap() as u32);
    let expected = numbers(expected, |logit| logit.as_f64().unwrap());
    let mut runner = Runner::load(&path, KvFormat::F32, 512);
    let logits = runner.feed(&ids, 0, ids.len() - 1);
    assert_eq!(logits.len(), expected.len());
    let differences = logits.iter().zip(&expected).map(|(found, wanted)| (f64::from(*found) - wanted).abs());
    let worst = differences.fold(0.0, f64::max);
    eprintln!("{directory}: largest difference of a logit {worst:.2e}");
    assert!(worst <= 1e-4, "{directory}: logits differ by {worst}");
}

#[test]
fn logits_of_f32_weights_equal_the_reference() {
    let Some(reference) = json("data/models/stories260K/reference_logits.json") else { return };
    check_logits("stories260K/hf_f32", &reference["ids"], &reference["last_logits_all"]);
}

/// Rounding the weights to f16 moves the logits themselves (by up to 7e-3), so these have a reference of their own.
#[test]
fn logits_of_f16_weights_equal_the_reference() {
    let reference: serde_json::Value = serde_json::from_str(include_str!("../data/stories_f16_logits.json")).unwrap();
    check_logits("stories260K/hf_f16", &reference["ids"], &reference["logits"]);
}

/// Four experts, each the network of the dense model: whatever a router of random weights chooses, two weights that sum to
/// one must give the dense model's logits.
#[test]
fn experts_that_are_all_alike_equal_the_dense_model() {
    let Some(reference) = json("data/models/stories260K/reference_logits.json") else { return };
    check_logits("stories260K_moe4", &reference["ids"], &reference["last_logits_all"]);
    check_greedy("stories260K_moe4");
}

/// Greedy decoding from the beginning-of-sequence token for 200 tokens, as `run stories260K.bin -t 0.0 -n 200`.
fn check_greedy(directory: &str) {
    let Some(path) = shared(&format!("data/models/{directory}")) else { return };
    let Some(vocabulary) = json("data/models/stories260K/tok512.json") else { return };
    let Some(expected) = shared("data/models/stories260K/expected_greedy_200.txt") else { return };
    let expected = std::fs::read_to_string(expected).unwrap();
    let mut runner = Runner::load(&path, KvFormat::F32, 512);
    let mut ids = vec![1];
    while ids.len() <= 200 {
        let position = ids.len() - 1;
        let logits = runner.feed(&ids[position..], position, 0);
        ids.push(argmax(&logits) as u32);
    }
    assert_eq!(text(&vocabulary, &ids[1..]).trim_end(), expected.trim_end(), "{directory}");
}

/// Joins the tokens' bytes, those of byte tokens (`<0x0A>`) being the byte; the space before the first word is no part
/// of the text.
fn text(vocabulary: &serde_json::Value, ids: &[u32]) -> String {
    let bytes = ids.iter().flat_map(|id| {
        let token = &vocabulary[*id as usize];
        let name = token["text"].as_str().unwrap();
        match name.strip_prefix("<0x").and_then(|name| name.strip_suffix('>')) {
            Some(hex) => vec![u8::from_str_radix(hex, 16).unwrap()],
            None => numbers(&token["bytes"], |byte| byte.as_u64().unwrap() as u8),
        }
    });
    let bytes: Vec<u8> = bytes.collect();
    String::from_utf8(bytes).unwrap().trim_start_matches(' ').to_owned()
}

#[test]
fn greedy_text_equals_the_expected_text() {
    check_greedy("stories260K/hf_f32");
    check_greedy("stories260K/hf_f16");
}
