//! GGUF checkpoints made in code: what is recorded in them becomes the specification, and matrices quantised while they
//! are loaded are the matrices quantised beforehand.

use crate::{families, harness::Runner};
use yantra_formats::{Checkpoint, GgufFile, GgufWriter, Value};
use yantra_kernels::{Compute, KvFormat, WeightFormat, dequantize_row, quantize_rows};
use yantra_model::{LoadOptions, RopeScaling, family};

const HIDDEN: usize = 256;
const INNER: usize = 512;
const VOCAB: usize = 64;
const LAYERS: usize = 2;

/// Sizes of a made decoder.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) vocab: usize,
    pub(crate) context: usize,
}

const SMALL: Shape =
    Shape { layers: LAYERS, hidden: HIDDEN, inner: INNER, heads: 4, kv_heads: 2, vocab: VOCAB, context: 128 };

/// The metadata every decoder has, then `extra`, whose keys come without the architecture.
fn head(architecture: &str, layers: usize, extra: &[(&str, Value)]) -> GgufWriter {
    head_of(architecture, &Shape { layers, ..SMALL }, extra)
}

fn head_of(architecture: &str, shape: &Shape, extra: &[(&str, Value)]) -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", architecture).unwrap();
    let common = [
        ("block_count", shape.layers),
        ("embedding_length", shape.hidden),
        ("feed_forward_length", shape.inner),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("context_length", shape.context),
    ];
    for (key, count) in common {
        writer.set(format!("{architecture}.{key}"), count as u32).unwrap();
    }
    writer.set(format!("{architecture}.attention.layer_norm_rms_epsilon"), 1e-5_f32).unwrap();
    for (key, value) in extra {
        writer.set(format!("{architecture}.{key}"), value.clone()).unwrap();
    }
    writer
}

/// A checkpoint without layers' weights: enough for a specification.
fn specification(
    architecture: &str,
    layers: usize,
    extra: &[(&str, Value)],
    tensors: &[&str],
) -> Result<yantra_model::ModelSpec, String> {
    let mut writer = head(architecture, layers, extra);
    for name in ["token_embd.weight"].iter().chain(tensors) {
        writer.declare(name, WeightFormat::F32, &[2, HIDDEN]).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for name in ["token_embd.weight"].iter().chain(tensors) {
        body.write(name, &[0; 2 * HIDDEN * 4]).unwrap();
    }
    let file = GgufFile::from_bytes(body.finish().unwrap()).unwrap();
    family::spec(&Checkpoint::Gguf(file)).map_err(|error| error.to_string())
}

#[test]
fn rotary_scaling_is_read_or_refused() {
    let kind = |name: &str| ("rope.scaling.type", Value::from(name));
    let factor = |factor: f32| ("rope.scaling.factor", Value::from(factor));
    let linear = || Ok(RopeScaling::Linear { factor: 4.0 });
    let original = |context: u32| ("rope.scaling.original_context_length", Value::from(context));
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_context: 64.0,
        truncate: true,
        attention_factor: 0.1 * 4_f32.ln() + 1.0,
    };
    type Case<'a> = (&'a [(&'a str, Value)], &'a [&'a str], Result<RopeScaling, &'a str>);
    let cases: &[Case<'_>] = &[
        (&[], &[], Ok(RopeScaling::None)),
        (&[kind("none")], &[], Ok(RopeScaling::None)),
        (&[kind("linear"), factor(4.0)], &[], linear()),
        (&[factor(4.0)], &[], linear()),
        (&[("rope.scale_linear", Value::from(4.0_f32))], &[], linear()),
        (&[kind("linear"), factor(0.0)], &[], Ok(RopeScaling::None)),
        (&[], &["rope_freqs.weight"], Ok(RopeScaling::Stored)),
        (&[kind("yarn"), factor(4.0), original(64)], &[], Ok(yarn)),
        (&[kind("yarn"), factor(4.0)], &[], Err("original_context_length': missing")),
        (&[kind("yarn"), original(64)], &[], Err("rope.scaling.factor': missing")),
        (&[factor(4.0)], &["rope_freqs.weight"], Err("rotary scaling 'linear with stored frequencies'")),
        (&[], &["rope_factors_long.weight"], Err("rope_factors_short.weight")),
        (&[kind("dynamic")], &[], Err("rotary scaling 'dynamic' is not supported")),
        (&[factor(-2.0)], &[], Err("-2 is no factor")),
    ];
    for (extra, tensors, expected) in cases {
        let found = specification("llama", LAYERS, extra, tensors);
        match (&found, expected) {
            (Ok(spec), Ok(scaling)) => assert_eq!(spec.layers[0].rope.as_ref().unwrap().scaling, *scaling, "{extra:?}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{extra:?}: {error}"),
            _ => panic!("{extra:?} {tensors:?}: {found:?}"),
        }
    }
}

/// llama.cpp scales the scores of the 27B model, known by its 62 layers, by the width a head would have if the heads
/// shared the residual stream: `query_pre_attn_scalar`, which GGUF does not record.
#[test]
fn gemma_3_scales_scores_as_llama_cpp() {
    let extra = [
        ("attention.key_length", Value::from(128_u32)),
        ("attention.value_length", Value::from(128_u32)),
        ("attention.sliding_window", Value::from(32_u32)),
        ("rope.freq_base", Value::from(1e6_f32)),
        ("rope.scaling.type", Value::from("linear")),
        ("rope.scaling.factor", Value::from(8.0_f32)),
    ];
    for (layers, width) in [(62, HIDDEN / 4), (48, 128)] {
        let spec = specification("gemma3", layers, &extra, &[]).unwrap();
        assert_eq!(spec.attention.scale, (width as f32).sqrt().recip(), "{layers} layers");
        let (local, global) = (&spec.layers[4], &spec.layers[5]);
        assert_eq!((local.window, global.window), (Some(32), None));
        let (local, global) = (local.rope.clone().unwrap(), global.rope.clone().unwrap());
        assert_eq!((local.theta, local.scaling), (1e4, RopeScaling::None));
        assert_eq!((global.theta, global.scaling), (1e6, RopeScaling::Linear { factor: 8.0 }));
    }
}

/// Files record the pattern of windows as flags, as a number, or leave it to the family.
#[test]
fn windows_are_where_the_file_says() {
    const KEY: &str = "attention.sliding_window_pattern";
    let window = ("attention.sliding_window", Value::from(8_u32));
    let every = |interval: u32| (KEY, Value::from(interval));
    let flags = |flags: [bool; 4]| (KEY, Value::from(flags.to_vec()));
    let (on, off) = (Some(8), None);
    type Case<'a> = (&'a str, &'a [(&'a str, Value)], Result<[Option<usize>; 4], &'a str>);
    let cases: &[Case<'_>] = &[
        ("gemma3", &[], Ok([off; 4])),
        ("gemma3", std::slice::from_ref(&window), Ok([on; 4])),
        ("gemma3", &[window.clone(), every(2)], Ok([on, off, on, off])),
        ("gemma3", &[window.clone(), every(1)], Ok([off; 4])),
        ("gemma3", &[window.clone(), flags([false, true, true, false])], Ok([off, on, on, off])),
        ("gemma3", &[window.clone(), (KEY, Value::from(vec![true]))], Err("1 flags for 4 layers")),
        ("gemma2", std::slice::from_ref(&window), Ok([on, off, on, off])),
        ("gemma2", &[], Ok([Some(4096), off, Some(4096), off])),
        ("phi3", &[("attention.sliding_window", Value::from(0_u32))], Ok([off; 4])),
        ("phi3", std::slice::from_ref(&window), Ok([on; 4])),
        ("olmo2", &[], Ok([off; 4])),
        ("olmo2", std::slice::from_ref(&window), Err("OLMo 3 (layers that see a window) is not supported")),
    ];
    for (architecture, extra, expected) in cases {
        let found = specification(architecture, 4, extra, &[]);
        match (&found, expected) {
            (Ok(spec), Ok(expected)) => {
                let windows: Vec<Option<usize>> = spec.layers.iter().map(|layer| layer.window).collect();
                assert_eq!(windows, expected, "{architecture} {extra:?}");
            }
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{architecture} {extra:?}: {error}"),
            _ => panic!("{architecture} {extra:?}: {found:?}"),
        }
    }
}

#[test]
fn every_fourth_layer_of_smollm3_has_no_rotary_embedding() {
    let spec = specification("smollm3", 9, &[], &[]).unwrap();
    let without: Vec<usize> = (0..9).filter(|index| spec.layers[*index].rope.is_none()).collect();
    assert_eq!(without, [3, 7]);
}

/// Values like those of trained weights, the same on every run: sums of uniform ones, most of them small.
fn values(count: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (uniform() + uniform() + uniform() + uniform()) * scale).collect()
}

/// A small Llama, its matrices stored in `format`, its embedding and norms as floats.
fn llama(cx: &Compute, format: WeightFormat) -> Vec<u8> {
    llama_of(cx, format, &SMALL)
}

/// A Llama of any size: see [`llama`].
pub(crate) fn llama_of(cx: &Compute, format: WeightFormat, shape: &Shape) -> Vec<u8> {
    let Shape { layers, hidden, inner, heads, kv_heads, vocab, .. } = *shape;
    let kv = hidden / heads * kv_heads;
    let mut tensors = vec![("token_embd".to_owned(), vec![vocab, hidden]), ("output_norm".to_owned(), vec![hidden])];
    for layer in 0..layers {
        let shapes: [(&str, &[usize]); 9] = [
            ("attn_norm", &[hidden]),
            ("attn_q", &[hidden, hidden]),
            ("attn_k", &[kv, hidden]),
            ("attn_v", &[kv, hidden]),
            ("attn_output", &[hidden, hidden]),
            ("ffn_norm", &[hidden]),
            ("ffn_gate", &[inner, hidden]),
            ("ffn_up", &[inner, hidden]),
            ("ffn_down", &[hidden, inner]),
        ];
        tensors.extend(shapes.map(|(name, shape)| (format!("blk.{layer}.{name}"), shape.to_vec())));
    }
    tensors.push(("output".to_owned(), vec![vocab, hidden]));
    let format_of = |shape: &[usize], name: &str| {
        if shape.len() == 2 && name != "token_embd" { format } else { WeightFormat::F32 }
    };
    let mut writer = head_of("llama", shape, &[]);
    for (name, shape) in &tensors {
        writer.declare(&format!("{name}.weight"), format_of(shape, name), shape).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for (index, (name, shape)) in tensors.iter().enumerate() {
        let mut values =
            values(shape.iter().product(), index as u64 + 1, if name == "token_embd" { 1.0 } else { 0.12 });
        if shape.len() == 1 {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        let (format, cols) = (format_of(shape, name), shape[shape.len() - 1]);
        let mut bytes = vec![0; values.len() / cols * format.row_bytes(cols).unwrap()];
        quantize_rows(cx, format, cols, &values, &mut bytes).unwrap();
        body.write(&format!("{name}.weight"), &bytes).unwrap();
    }
    body.finish().unwrap()
}

fn logits(bytes: &[u8], quantize: Option<WeightFormat>) -> Vec<f32> {
    let checkpoint = Checkpoint::Gguf(GgufFile::from_bytes(bytes.to_vec()).unwrap());
    let options = LoadOptions { quantize, max_context: Some(64), ..LoadOptions::default() };
    let mut runner = Runner::with_options(&checkpoint, KvFormat::F32, 64, options, Compute::new(2));
    let tokens: Vec<u32> = (0..40).map(|i| i * 29 % VOCAB as u32).collect();
    runner.feed(&tokens, 0, 0)
}

/// The root mean square of the difference over that of the values expected.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let square = |x: &f32| x * x;
    let difference: f32 = found.iter().zip(expected).map(|(a, b)| (a - b) * (a - b)).sum();
    (difference / expected.iter().map(square).sum::<f32>()).sqrt()
}

/// What rounding activations to 8 bits costs: a step of a 127th of the largest of 32 values.
const INT8_ERROR: f32 = 0.006;

/// What rounding to a format costs a matrix.
fn rounding_error(cx: &Compute, format: WeightFormat) -> f32 {
    let exact = values(64 * HIDDEN, 99, 0.12);
    let mut bytes = vec![0; 64 * format.row_bytes(HIDDEN).unwrap()];
    quantize_rows(cx, format, HIDDEN, &exact, &mut bytes).unwrap();
    let mut rounded = vec![0.0; exact.len()];
    dequantize_row(format, &bytes, &mut rounded).unwrap();
    relative_error(&rounded, &exact)
}

#[test]
fn quantised_while_loading_is_quantised_beforehand() {
    use WeightFormat as F;
    let cx = Compute::new(2);
    let floats = llama(&cx, F::F32);
    let expected = logits(&floats, None);
    let mut wrong = Vec::new();
    for format in F::all().filter(|format| *format != F::F32) {
        let while_loading = logits(&floats, Some(format));
        let (error, of_matrix) = (relative_error(&while_loading, &expected), rounding_error(&cx, format));
        eprintln!("{format}: relative error of a matrix {of_matrix:.4}, of the logits {error:.4}");
        if while_loading != logits(&llama(&cx, format), None) {
            wrong.push(format!("{format}: other logits than of weights quantised beforehand"));
        }
        // Errors of the 15 matrices of a path add up like the steps of a random walk; int8 activations add a little.
        let limit = 15_f32.sqrt() * of_matrix.hypot(INT8_ERROR);
        if error > limit || error < of_matrix {
            wrong.push(format!("{format}: relative error {error}, expected {of_matrix} to {limit}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What is quantised already stays as it is.
    let quantised = llama(&cx, F::Q8_0);
    assert_eq!(logits(&quantised, Some(F::Q4_0)), logits(&quantised, None));
}

/// Rows of 32 or 64 are no whole blocks of the K formats: the nearest format that fits is taken.
#[test]
fn narrow_matrices_of_transformers_are_quantised_to_what_fits() {
    use WeightFormat as F;
    let path = families::directory("llama");
    let run = |quantize| {
        let options = LoadOptions { quantize, max_context: Some(64), ..LoadOptions::default() };
        let checkpoint = Checkpoint::open(&path).unwrap();
        let mut runner = Runner::with_options(&checkpoint, KvFormat::F32, 64, options, Compute::new(2));
        runner.feed(&(0..40).map(|i| i * 29 % 96).collect::<Vec<u32>>(), 0, 0)
    };
    let expected = run(None);
    for (asked, taken, limit) in [(F::Q4_K, F::Q5_0, 0.25), (F::Q6_K, F::Q8_0, 0.05), (F::IQ4_XS, F::IQ4_NL, 0.5)] {
        let found = run(Some(asked));
        let error = relative_error(&found, &expected);
        assert!(found == run(Some(taken)), "{asked} is not {taken}");
        assert!(found != expected && error < limit, "{asked}: relative error {error}");
    }
}
