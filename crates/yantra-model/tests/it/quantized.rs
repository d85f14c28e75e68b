//! Checkpoints that other programs quantised, against transformers on their dequantised weights
//! (`tests/data/quantized_tiny.py`). That every weight is what the program says is held by the unit tests of
//! `src/quantized`; here it is the way from there to logits, and that what is planned is what is kept.

use crate::{
    families::{Expected, difference},
    footprint,
};
use std::path::{Path, PathBuf};
use yantra_kernels::{Compute, CpuLevel, WeightFormat};
use yantra_model::EncoderDtype;

/// Weights that become floats meet activations in single precision; those that become blocks meet activations rounded to
/// signed bytes in groups of 32, and so they do in the reference, which has no value near the middle of two bytes.
const TOLERANCE: f64 = 2e-4;

fn directory(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/quantized")).join(name)
}

fn check(name: &str) {
    let path = directory(name);
    let expected = Expected::read(&path.join("expected.json"));
    for level in CpuLevel::supported() {
        let worst = difference(&path, &expected, Compute::with_level(2, level).unwrap());
        eprintln!("{name} at {level}: largest difference of a logit {worst:.1e}");
        assert!(worst <= TOLERANCE, "{name} at {level}: logits differ by {worst}");
    }
    for quantize in [None, Some(WeightFormat::Q8_0), Some(WeightFormat::BF16)] {
        footprint::check(&path, quantize, EncoderDtype::Auto);
    }
}

macro_rules! equal_to_transformers {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*
    };
}

equal_to_transformers! {
    gptq_4bit gptq_4bit_without_g_idx gptq_4bit_asymmetric gptq_4bit_asymmetric_v2 gptq_4bit_act_order gptq_2bit gptq_3bit
    gptq_8bit_rows awq
    compressed_int4 compressed_int4_asymmetric compressed_int8_rows compressed_int3 compressed_w8a8
    compressed_fp8_rows compressed_fp8_blocks compressed_mxfp4 compressed_nvfp4
    fp8_blocks fp8_blocks_of_transformers fp8_tensor nf4 nf4_nested fp4 bitsandbytes_int8 mxfp4
}
