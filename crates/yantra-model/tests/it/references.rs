//! The real models against Hugging Face transformers run in f32 on the dequantised weights (`shared/reference`).

use crate::harness::{Runner, log_probability, model, shared};
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, CpuLevel, KvFormat, argmax};
use yantra_text::{EncodeOptions, Tokenizer};

/// Positions whose best token leads by more than this must agree.
const CLEAR_GAP: f64 = 0.1;

fn reference(name: &str) -> Option<serde_json::Value> {
    let path = shared(&format!("reference/{name}.json"))?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn reals(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|real| real.as_f64().unwrap()).collect()
}

/// Feeds the reference's own tokens and compares what the model says of each.
fn check_teacher_forced((name, file): (&str, &str), level: CpuLevel) {
    let (Some(reference), Some(path)) = (reference(name), model(file)) else { return };
    let compute = Compute::with_level(2, level).unwrap();
    let mut runner = Runner::with_compute(&path, KvFormat::preferred(level), 2048, compute);
    let vocab_size = runner.decoder.spec().vocab_size;
    let (mut clear, mut agreed, mut positions, mut difference) = (0, 0, 0, 0.0);
    for item in reference["items"].as_array().unwrap() {
        let (prompt, tokens) = (ids(&item["prompt_tokens"]), ids(&item["tokens"]));
        let fed: Vec<u32> = prompt.iter().chain(&tokens[..tokens.len() - 1]).copied().collect();
        let logits = runner.feed(&fed, 0, prompt.len() - 1);
        let expected = reals(&item["logprob"]).into_iter().zip(reals(&item["gap_to_second"]));
        for ((row, token), (logprob, gap)) in logits.chunks_exact(vocab_size).zip(&tokens).zip(expected) {
            positions += 1;
            difference += (log_probability(row, *token) - logprob).abs();
            if gap > CLEAR_GAP {
                clear += 1;
                agreed += usize::from(argmax(row) == *token as usize);
            }
        }
    }
    let mean = difference / f64::from(positions);
    let share = agreed as f64 / clear as f64;
    eprintln!(
        "{name}, {level}: argmax agrees at {agreed} of {clear} clear positions, mean |Δ log p| {mean:.4} over {positions}"
    );
    assert!(share >= 0.98, "{name}: argmax agrees at {share:.3} of clear positions");
    assert!(mean <= 0.05, "{name}: mean difference of log-probability {mean:.4}");
}

/// Perplexity of alice.txt as the reference defines it: independent windows of 512, all tokens but the first scored.
/// Beside it the reference's value.
fn perplexity(name: &str, file: &str, format: KvFormat) -> Option<(f64, f64)> {
    let (reference, path, text) = (reference(name)?, model(file)?, shared("reference/alice.txt")?);
    let reference = &reference["perplexity"];
    let scored = reference["tokens_scored"].as_u64().unwrap() as usize;
    let tokenizer = Tokenizer::from_checkpoint(&Checkpoint::open(&path).unwrap()).unwrap();
    let options = EncodeOptions { add_special: false, parse_special: false };
    let tokens = tokenizer.encode(&std::fs::read_to_string(text).unwrap(), options).unwrap();
    let mut runner = Runner::load(&path, format, 512);
    let vocab_size = runner.decoder.spec().vocab_size;
    let (mut sum, mut count) = (0.0, 0);
    for window in tokens.chunks_exact(512).take(scored.div_ceil(511)) {
        let logits = runner.feed(&window[..511], 0, 0);
        for (row, token) in logits.chunks_exact(vocab_size).zip(&window[1..]) {
            sum -= log_probability(row, *token);
            count += 1;
        }
    }
    assert_eq!(count, scored);
    Some(((sum / count as f64).exp(), reference["value"].as_f64().unwrap()))
}

fn check_perplexity(name: &str, file: &str) {
    let preferred = KvFormat::preferred(CpuLevel::detect());
    let Some((found, expected)) = perplexity(name, file, preferred) else { return };
    let ratio = found / expected;
    eprintln!("{name}: perplexity {found:.4}, reference {expected:.4}, ratio {ratio:.4}");
    assert!((ratio - 1.0).abs() <= 0.01, "{name}: perplexity {found} is not within 1 % of {expected}");
    // Fewer bits may cost so much; that rounding lowers the figure of so short a text by chance is no fault.
    let (half, _) = perplexity(name, file, KvFormat::F16).unwrap();
    for (format, limit) in [(KvFormat::Int8, 0.005), (KvFormat::Int4, 0.03)] {
        let (rounded, _) = perplexity(name, file, format).unwrap();
        let ratio = rounded / half;
        eprintln!("{name}: perplexity {rounded:.4} with {format:?} keys and values, {ratio:.4} of {half:.4} with F16");
        assert!(ratio - 1.0 <= limit, "{name}: {format:?} changes perplexity {half} to {rounded}");
    }
}

const SMOLLM2: (&str, &str) = ("smollm2-135m", "smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf");
const QWEN: (&str, &str) = ("qwen2.5-coder-1.5b", "qwen2.5-coder-1.5b/Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf");
const GEMMA: (&str, &str) = ("gemma3-270m", "gemma3-270m/gemma-3-270m-q4_k_m.gguf");

#[test]
fn smollm2_agrees_with_transformers() {
    check_teacher_forced(SMOLLM2, CpuLevel::detect());
}

#[test]
fn qwen_agrees_with_transformers() {
    check_teacher_forced(QWEN, CpuLevel::detect());
}

#[test]
fn gemma_agrees_with_transformers() {
    check_teacher_forced(GEMMA, CpuLevel::detect());
}

#[test]
#[ignore = "takes minutes"]
fn all_agree_with_transformers_at_every_level() {
    for level in CpuLevel::supported() {
        for model in [SMOLLM2, GEMMA] {
            check_teacher_forced(model, level);
        }
        // The specification would take a quarter of an hour for it.
        if level != CpuLevel::Scalar {
            check_teacher_forced(QWEN, level);
        }
    }
}

#[test]
fn smollm2_perplexity() {
    check_perplexity(SMOLLM2.0, SMOLLM2.1);
}

#[test]
fn qwen_perplexity() {
    check_perplexity(QWEN.0, QWEN.1);
}

#[test]
fn gemma_perplexity() {
    check_perplexity(GEMMA.0, GEMMA.1);
}
