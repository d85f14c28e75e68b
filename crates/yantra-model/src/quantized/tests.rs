//! Formats by hand-made values, and dequantised weights against those of the programs that wrote them
//! (`tests/data/quantized_tiny.py`).
#![allow(clippy::unwrap_used, clippy::panic)]

use super::{CodeRange, Quantized, Scales, Wanted, awq, bits, fp8, tensors::Tensors};
use crate::{
    LoadOptions, ModelError,
    weights::{Place, Stored, WeightSource},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, WeightFormat, dequantize_row};

/// Name, type, shape and bytes.
type Tensor = (&'static str, &'static str, &'static [usize], Vec<u8>);

/// A directory with these tensors.
fn checkpoint(label: &str, config: Value, tensors: &[Tensor]) -> Checkpoint {
    let directory = std::env::temp_dir().join(format!("yantra-quantized-{}-{label}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let (mut table, mut data) = (json!({}), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        table[*name] = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
    }
    let table = table.to_string().into_bytes();
    let file = [&(table.len() as u64).to_le_bytes()[..], &table, &data].concat();
    fs::write(directory.join("model.safetensors"), file).unwrap();
    fs::write(directory.join("config.json"), json!({"quantization_config": config}).to_string()).unwrap();
    let checkpoint = Checkpoint::open(&directory).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    checkpoint
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The format and values of the matrix `w`, or of a part of it.
fn read(
    checkpoint: &Checkpoint,
    rows: usize,
    cols: usize,
    part: Option<(usize, usize)>,
) -> Result<(WeightFormat, Vec<f32>), ModelError> {
    let quantized = Quantized::of(checkpoint)?.unwrap();
    let matrix = quantized.matrix(&Wanted { name: "w", rows, cols, part })?.unwrap();
    let bytes = matrix.bytes(&Compute::new(1), std::slice::from_ref(&(0..rows)))?;
    let mut values = vec![0.0; rows * cols];
    dequantize_row(matrix.format(), &bytes, &mut values)?;
    Ok((matrix.format(), values))
}

/// Values of the OCP 8-bit Floating Point Specification 1.0, table 1, and Microscaling Formats 1.0, section 5.4.
#[test]
fn floats_of_8_bits() {
    for (byte, value) in [(0x7E, 448.0), (0x08, 0.015_625), (0x07, 0.013_671_875), (0x01, 0.001_953_125), (0xB8, -1.0)]
    {
        assert_eq!(fp8::e4m3(byte), value);
    }
    assert!(fp8::e4m3(0x7F).is_nan() && fp8::e4m3(0xFF).is_nan());
    assert_eq!([127, 128, 0, 254].map(fp8::power_of_two), [1.0, 2.0, 2_f32.powi(-127), 2_f32.powi(127)]);
    let data = vec![0x7B, 0x3C, 0x01, 0xBC];
    let tensors: [Tensor; 2] = [("w.weight", "F8_E5M2", &[1, 4], data), ("w.weight_scale", "F32", &[], floats(&[2.0]))];
    let found = read(&checkpoint("e5m2", json!({"quant_method": "fp8", "fmt": "e5m2"}), &tensors), 1, 4, None);
    assert_eq!(found.unwrap(), (WeightFormat::BF16, vec![114_688.0, 2.0, 2_f32.powi(-15), -2.0]));
}

/// Three bits: the eleventh number has two bits in the first word and one in the second, as in AutoGPTQ's `pack`.
#[test]
fn numbers_across_words() {
    let packed = [5 | 1 << 30, 1 | 6 << 1];
    let number = |index| bits::unpack(|at| packed[at], 3, index);
    assert_eq!([number(0), number(1), number(10), number(11)], [5, 0, 5, 6]);
}

/// The order of AutoAWQ's `AWQ_ORDER`: 0, 2, 4, 6, 1, 3, 5, 7.
#[test]
fn order_of_rows_in_a_word_of_awq() {
    let word = words(&[0x7531_6420]);
    assert_eq!((0..8).map(|row| awq::code(&word, 1, 0, row)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn zero_points_of_gptq() {
    let config = |format| json!({"quant_method": "gptq", "bits": 4, "group_size": 8, "checkpoint_format": format});
    let tensors: [Tensor; 3] = [
        ("w.qweight", "I32", &[1, 1], words(&[0xFEDC_8210])),
        ("w.qzeros", "I32", &[1, 1], words(&[0x7])),
        ("w.scales", "F16", &[1, 1], vec![0x00, 0x38]),
    ];
    let found = |format| read(&checkpoint(format, config(format), &tensors), 1, 8, None).unwrap();
    // Less one in the older format. Eight columns are no block, so they become floats.
    let older = [-4.0, -3.5, -3.0, 0.0, 2.0, 2.5, 3.0, 3.5];
    assert_eq!(found("gptq"), (WeightFormat::BF16, older.to_vec()));
    assert_eq!(found("gptq_v2").1, older.map(|value| value + 0.5));
}

/// NF4's first and last values are -1 and 1 (appendix E of arXiv 2305.14314); the first of two codes is the upper half.
#[test]
fn a_code_book_with_nested_factors() {
    const STATE: &[u8] =
        br#"{"shape":[1,4],"blocksize":2,"nested_blocksize":256,"nested_offset":0.5,"quant_type":"nf4"}"#;
    const STATE_SHAPE: &[usize] = &[STATE.len()];
    let mut map = [0.0; 16];
    (map[0], map[8], map[15]) = (-1.0, 0.0796, 1.0);
    let mut nested = [0.0; 256];
    (nested[3], nested[200]) = (0.25, -0.125);
    let tensors: [Tensor; 6] = [
        ("w.weight", "U8", &[2, 1], vec![0x0F, 0x80]),
        ("w.weight.absmax", "U8", &[2], vec![3, 200]),
        ("w.weight.quant_map", "F32", &[16], floats(&map)),
        ("w.weight.nested_quant_map", "F32", &[256], floats(&nested)),
        ("w.weight.nested_absmax", "F32", &[1], floats(&[2.0])),
        ("w.weight.quant_state.bitsandbytes__nf4", "U8", STATE_SHAPE, STATE.to_vec()),
    ];
    let config = json!({"quant_method": "bitsandbytes", "load_in_4bit": true});
    let found = read(&checkpoint("nf4", config, &tensors), 1, 4, None).unwrap();
    assert_eq!(found, (WeightFormat::F32, vec![-1.0, 1.0, 0.0796 * 0.25, -0.25]));
}

/// The second expert of two; the first value is the lower half of a byte (`convert_moe_packed_tensors`).
#[test]
fn experts_in_mxfp4() {
    let mut blocks = vec![0; 32];
    (blocks[16], blocks[31]) = (0xA1, 0x70);
    let tensors: [Tensor; 2] =
        [("w_blocks", "U8", &[2, 1, 1, 16], blocks), ("w_scales", "U8", &[2, 1, 1], vec![0, 129])];
    let model = checkpoint("mxfp4", json!({"quant_method": "mxfp4"}), &tensors);
    let (format, values) = read(&model, 1, 32, Some((1, 2))).unwrap();
    assert_eq!((format, values[0], values[1], values[2], values[31]), (WeightFormat::MXFP4, 2.0, -4.0, 0.0, 24.0));
    assert!(read(&model, 1, 32, Some((2, 2))).is_err());
}

#[test]
fn the_smallest_float_format_that_rounds_nothing() {
    let check = |scales: &[f32], expected| {
        let tensors: [Tensor; 1] = [("s", "F32", &[], floats(&scales[..1]))];
        let model = checkpoint("scales", json!({"quant_method": "fp8"}), &tensors);
        let Checkpoint::HuggingFace(directory) = &model else { unreachable!() };
        let range = CodeRange { digits: 4, lowest: -9, largest: 448.0 };
        for scale in scales {
            let found = Scales::read(&Tensors::new(directory, "FP8"), "s", [1, 1], None).unwrap();
            assert_eq!(found.times(|_| *scale).float_format(range), expected, "{scale}");
        }
    };
    check(&[1.0, 0.25, 1.5, 2_f32.powi(-60), 0.0], WeightFormat::BF16);
    check(&[1.0 + 1.0 / 64.0, 127.0], WeightFormat::F16);
    check(&[0.1, f32::MAX, f32::INFINITY, 255.0, 2_f32.powi(-100) * (1.0 + 1.0 / 64.0)], WeightFormat::F32);
}

#[test]
fn what_is_wrong_is_named() {
    let gptq = |qzeros: &'static [usize]| -> [Tensor; 3] {
        let len = qzeros.iter().product();
        [
            ("w.qweight", "I32", &[4, 8], words(&[0; 32])),
            ("w.qzeros", "I32", qzeros, words(&vec![0; len])),
            ("w.scales", "F16", &[1, 8], vec![0; 16]),
        ]
    };
    let model = checkpoint("zeros", json!({"quant_method": "gptq", "bits": 4}), &gptq(&[2, 1]));
    let error = |model: &Checkpoint, rows, cols| read(model, rows, cols, None).unwrap_err().to_string();
    assert_eq!(error(&model, 8, 32), "GPTQ: tensor 'w.qzeros' is I32 [2, 1]: expected I32 [1, 1]");
    assert!(error(&model, 8, 96).contains("'w.qweight' has shape [4, 8]: expected [96 * bits / 32, 8] words"));
    let model = checkpoint("none", json!({"quant_method": "gptq", "bits": 4}), &gptq(&[2, 1])[..1]);
    assert_eq!(error(&model, 8, 32), "GPTQ: tensor 'w.scales' is missing");
    let tensors: [Tensor; 2] =
        [("w.weight", "F8_E4M3", &[2, 4], vec![0; 8]), ("w.weight_scale_inv", "F32", &[3, 3], floats(&[1.0; 9]))];
    let config = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    let message = error(&checkpoint("blocks", config, &tensors), 2, 4);
    assert!(
        message.contains("shape [3, 3]: expected scales of a matrix of 2 x 4 in blocks of [128, 128]"),
        "{message}"
    );
}

#[test]
fn settings_that_are_not_built_are_refused_by_name() {
    let activations = json!({"num_bits": 8, "dynamic": false});
    let cases = [
        (json!({"quant_method": "hqq"}), "quantisation 'hqq'"),
        (json!({"quant_method": "gptq", "checkpoint_format": "marlin"}), "GPTQ in the layout 'marlin'"),
        (json!({"quant_method": "gptq", "is_marlin_format": true}), "'marlin'"),
        (json!({"quant_method": "awq", "version": "gemv"}), "AWQ in the layout 'gemv'"),
        (json!({"quant_method": "awq", "bits": 3}), "AWQ of 3 bits"),
        (json!({"quant_method": "fp8", "activation_scheme": "static"}), "activation_scheme 'static'"),
        (json!({"quant_method": "compressed-tensors", "format": "marlin-24"}), "the format 'marlin-24'"),
        (
            json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"input_activations": activations}}}),
            "static input_activations of 8 bits",
        ),
        (
            json!({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}),
            "sparse weights ('sparse-24-bitmask')",
        ),
    ];
    for (config, expected) in cases {
        let model = checkpoint("refused", config.clone(), &[]);
        let error = Quantized::of(&model).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.ends_with("is not supported"), "{config}: {error}");
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/quantized")).join(name)
}

/// Every matrix of a checkpoint: what it becomes, and its values by the sums that the program which wrote it gives.
fn check(name: &str, expected: WeightFormat) {
    let model = Checkpoint::open(data(name)).unwrap();
    let source = WeightSource::new(&model, LoadOptions::default()).unwrap();
    let reference: Value = serde_json::from_slice(&fs::read(data(name).join("expected.json")).unwrap()).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(data(name).join("config.json")).unwrap()).unwrap();
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    let (hidden, inner) = (size("hidden_size"), size("intermediate_size"));
    let checks = reference["checks"].as_object().unwrap();
    assert!(!checks.is_empty());
    for (layer, sums) in checks {
        let [rows, cols] = match layer.rsplit_once('.').unwrap().1 {
            "k_proj" | "v_proj" => [hidden / 2, hidden],
            "gate_proj" | "up_proj" => [inner, hidden],
            "down_proj" => [hidden, inner],
            _ => [hidden, hidden],
        };
        // In two parts, the second first.
        let place = Place { rows: vec![rows / 4..rows, 0..rows / 4], ..Place::whole(layer, rows) };
        let stored = source.stored(&place, cols).unwrap();
        let Stored::Quantized(matrix) = &stored else { panic!("{name}: {layer} is plain") };
        assert_eq!(matrix.format(), expected, "{name}: {layer}");
        let bytes = matrix.bytes(&Compute::new(2), &place.rows).unwrap();
        let mut values = vec![0.0; rows * cols];
        dequantize_row(matrix.format(), &bytes, &mut values).unwrap();
        values.rotate_right(rows / 4 * cols);
        let sum = |term: &dyn Fn(usize, f64) -> f64| {
            values.iter().enumerate().map(|(index, value)| term(index, f64::from(*value))).sum::<f64>()
        };
        let found = [
            sum(&|_, value| value),
            sum(&|index, value| value * (index * 31 % 97) as f64),
            sum(&|_, value| value.abs()),
        ];
        let magnitude = found[2];
        for (found, expected) in found.into_iter().zip(sums.as_array().unwrap()) {
            let difference = (found - expected.as_f64().unwrap()).abs();
            assert!(difference <= 1e-6 * magnitude, "{name}: {layer}: {found} is not {expected}");
        }
    }
}

macro_rules! dequantised_as_their_program_does {
    ($($name:ident $format:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name), WeightFormat::$format); })*
    };
}

dequantised_as_their_program_does! {
    gptq_4bit Q4_0
    gptq_4bit_without_g_idx Q4_0
    gptq_4bit_asymmetric Q5_0
    gptq_4bit_asymmetric_v2 Q5_0
    gptq_4bit_act_order F32
    gptq_2bit Q4_0
    gptq_3bit Q4_0
    gptq_8bit_rows Q8_0
    awq Q5_0
    compressed_int4 Q4_0
    compressed_int4_asymmetric Q5_0
    compressed_int8_rows Q8_0
    compressed_int3 Q4_0
    compressed_w8a8 Q8_0
    compressed_fp8_rows F32
    compressed_fp8_blocks F32
    compressed_mxfp4 MXFP4
    compressed_nvfp4 F32
    fp8_blocks F32
    fp8_blocks_of_transformers F32
    fp8_tensor BF16
    nf4 F32
    nf4_nested F32
    fp4 F32
    bitsandbytes_int8 F32
    mxfp4 MXFP4
}
