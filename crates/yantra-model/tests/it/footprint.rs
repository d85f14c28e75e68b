//! What is planned is what is kept, on every level this processor has, quantised at load or not.

use crate::{
    families, gguf,
    harness::{model, shared},
};
use std::path::Path;
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, CpuLevel, WeightFormat};
use yantra_model::{Decoder, Encoder, EncoderDtype, LoadOptions, family};

pub(crate) fn check(path: &Path, quantize: Option<WeightFormat>, encoder_dtype: EncoderDtype) {
    let options = LoadOptions { quantize, max_context: Some(64), encoder_dtype, expert_directory: None };
    check_options(path, options);
}

fn check_options(path: &Path, options: LoadOptions<'_>) {
    let checkpoint = Checkpoint::open(path).unwrap();
    for level in [CpuLevel::Scalar, CpuLevel::detect()] {
        let compute = Compute::with_level(2, level).unwrap();
        let (planned, kept) = if family::is_encoder(&checkpoint).unwrap() {
            let encoder = Encoder::load(&checkpoint, &compute, options).unwrap();
            (Encoder::footprint(&checkpoint, &compute, options).unwrap(), encoder.weight_bytes())
        } else {
            let decoder = Decoder::load(&checkpoint, &compute, options).unwrap();
            (Decoder::footprint(&checkpoint, &compute, options).unwrap(), decoder.weight_bytes())
        };
        assert_eq!(planned.weight_bytes, kept, "{} {level:?} {options:?}", path.display());
        assert!(planned.table_bytes > 0 && planned.step_bytes_per_token > 0);
    }
}

#[test]
fn plans_are_exact() {
    // Rows of 64 are no whole blocks of Q4_K, so it falls back to Q5_0.
    for quantize in [None, Some(WeightFormat::Q8_0), Some(WeightFormat::Q4_K), Some(WeightFormat::F16)] {
        for directory in ["hf_f32", "hf_f16"] {
            if let Some(path) = shared(&format!("data/models/stories260K/{directory}")) {
                check(&path, quantize, EncoderDtype::Auto);
            }
        }
        if let Some(path) = model("minilm-l6") {
            check(&path, quantize, EncoderDtype::Auto);
        }
    }
    for dtype in [EncoderDtype::F32, EncoderDtype::Bf16, EncoderDtype::Int8] {
        if let Some(path) = model("minilm-l6") {
            check(&path, None, dtype);
        }
    }
    if let Some(path) = model("smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf") {
        check(&path, None, EncoderDtype::Auto);
    }
}

#[test]
fn plans_of_every_family_are_exact() {
    let directories = families::MODELS.iter().map(|name| families::prepared(name));
    for path in directories.chain(gguf::MODELS.iter().map(|name| gguf::file(name))) {
        for quantize in [None, Some(WeightFormat::Q8_0)] {
            check(&path, quantize, EncoderDtype::Auto);
        }
        let expert_directory = Some(Path::new(env!("CARGO_TARGET_TMPDIR")));
        check_options(&path, LoadOptions { max_context: Some(64), expert_directory, ..LoadOptions::default() });
    }
}
