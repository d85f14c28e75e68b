//! Experts in a file: the same bits as from memory, in fewer bytes of it.

use crate::{families::directory, harness::Runner};
use std::path::Path;
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, KvFormat, WeightFormat};
use yantra_model::LoadOptions;

const CONTEXT: usize = 64;

fn check(name: &str) {
    let checkpoint = Checkpoint::open(directory(name)).unwrap();
    let tokens: Vec<u32> = (0..40).map(|index| 3 + index * 7 % 90).collect();
    for quantize in [None, Some(WeightFormat::Q8_0)] {
        let run = |expert_directory| {
            let options =
                LoadOptions { max_context: Some(CONTEXT), quantize, expert_directory, ..LoadOptions::default() };
            let mut runner = Runner::with_options(&checkpoint, KvFormat::F32, CONTEXT, options, Compute::new(2));
            let mut logits = runner.feed(&tokens[..24], 0, 0);
            // Token by token what comes next is foreseen.
            (24..tokens.len()).for_each(|at| logits.extend(runner.feed(&tokens[at..=at], at, 0)));
            (logits, runner.decoder.weight_bytes(), runner.decoder.expert_bytes(1))
        };
        let (memory, memory_bytes, expert_bytes) = run(None);
        let (file, file_bytes, same) = run(Some(Path::new(env!("CARGO_TARGET_TMPDIR"))));
        assert!(memory == file, "{name}, {quantize:?}");
        assert!(expert_bytes > 0 && same == expert_bytes && file_bytes + 4 * expert_bytes <= memory_bytes, "{name}");
    }
}

#[test]
fn mixtures_compute_the_same_bits() {
    ["mixtral", "qwen2_moe", "deepseek_v3", "gpt_oss", "llama4", "grok"].into_iter().for_each(check);
}
