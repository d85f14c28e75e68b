//! The hyper-parameters of a model as GGUF's metadata.

use super::{PlannedTensor, kind::Kind};
use crate::{
    ExpertsSpec, MlpSpec, ModelError, ModelSpec, NormKind, RopeScaling, RopeSpec,
    family::{self, Family},
};
use std::collections::HashMap;
use yantra_formats::{Checkpoint, Metadata, Value};
use yantra_kernels::WeightFormat;

/// What GGUF has no keys for and is kept under our own, so that it is found again on the way back.
pub(super) const LLAMA3: [&str; 4] = [
    "yantra.rope.llama3.factor",
    "yantra.rope.llama3.low_freq_factor",
    "yantra.rope.llama3.high_freq_factor",
    "yantra.rope.llama3.original_context",
];

/// Version of the layouts of quantised blocks.
const QUANTIZATION_VERSION: u32 = 2;

struct Writer {
    metadata: Metadata,
    architecture: &'static str,
}

impl Writer {
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.metadata.set(format!("{}.{key}", self.architecture), value.into());
    }

    fn count(&mut self, key: &str, count: usize) {
        // Counts that are read have been checked to be far below this.
        self.set(key, u32::try_from(count).unwrap_or(u32::MAX));
    }
}

/// All of it but the tokeniser's.
pub(super) fn of(
    checkpoint: &Checkpoint,
    family: &Family,
    kind: &'static Kind,
    spec: &ModelSpec,
    tensors: &[PlannedTensor],
) -> Result<Metadata, ModelError> {
    let mut writer = Writer { metadata: Metadata::new(), architecture: kind.gguf };
    let name = checkpoint.path().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    for (key, value) in [("general.architecture", kind.gguf), ("general.type", "model"), ("general.name", &name)] {
        writer.metadata.set(key, value.into());
    }
    writer.count("block_count", spec.layers.len());
    writer.count("context_length", spec.context_length);
    writer.count("embedding_length", spec.hidden_size);
    writer.count("feed_forward_length", width(checkpoint, family, spec)?);
    writer.count("attention.head_count", spec.attention.num_heads);
    writer.count("attention.head_count_kv", spec.attention.num_kv_heads);
    writer.count("attention.key_length", spec.attention.head_dim);
    writer.count("attention.value_length", spec.attention.head_dim);
    let eps = match spec.norm.kind {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    };
    writer.set(eps, spec.norm.eps);
    writer.count("vocab_size", spec.vocab_size);
    rotation(&mut writer, spec);
    windows(&mut writer, kind, spec);
    if let Some(experts) = spec.experts().next() {
        mixture(&mut writer, kind, &experts);
    }
    of_family(&mut writer, kind, spec);
    writer.metadata.set("general.file_type", file_type(tensors).into());
    writer.metadata.set("general.quantization_version", QUANTIZATION_VERSION.into());
    Ok(writer.metadata)
}

/// The width of the layers without experts; of models that have none, what the checkpoint says it would be.
fn width(checkpoint: &Checkpoint, family: &Family, spec: &ModelSpec) -> Result<usize, ModelError> {
    let dense = spec.layers.iter().find_map(|layer| match layer.mlp {
        MlpSpec::Experts(_) => None,
        _ => Some(layer.mlp.intermediate_size()),
    });
    let recorded = family::recorded_width(checkpoint, family)?;
    Ok(dense.or(recorded).unwrap_or_else(|| spec.experts().next().map_or(0, |experts| experts.intermediate_size)))
}

fn rotation(writer: &mut Writer, spec: &ModelSpec) {
    let ropes = || spec.layers.iter().filter(|layer| layer.rope.is_some());
    // Where layers differ, those that see everything come first.
    let global = ropes().find(|layer| layer.window.is_none()).or_else(|| ropes().next());
    let Some(rope) = global.and_then(|layer| layer.rope.as_ref()) else { return };
    let RopeSpec { theta, rotary_dim, scaling } = rope;
    writer.count("rope.dimension_count", *rotary_dim);
    writer.set("rope.freq_base", *theta);
    let local = ropes().filter_map(|layer| layer.rope.as_ref()).find(|other| *other != rope);
    if let Some(local) = local {
        writer.set("rope.freq_base_swa", local.theta);
    }
    match scaling {
        RopeScaling::None | RopeScaling::Stored | RopeScaling::Dynamic { .. } => {}
        RopeScaling::Linear { factor } => {
            writer.set("rope.scaling.type", "linear");
            writer.set("rope.scaling.factor", *factor);
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let values = [factor, low_freq_factor, high_freq_factor, original_context];
            for (key, value) in LLAMA3.into_iter().zip(values) {
                writer.metadata.set(key, (*value).into());
            }
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, attention_factor, .. } => {
            writer.set("rope.scaling.type", "yarn");
            writer.set("rope.scaling.factor", *factor);
            writer.count("rope.scaling.original_context_length", *original_context as usize);
            writer.set("rope.scaling.yarn_beta_fast", *beta_fast);
            writer.set("rope.scaling.yarn_beta_slow", *beta_slow);
            let usual = family::yarn_scale(*factor);
            if (attention_factor / usual - 1.0).abs() > f32::EPSILON {
                writer.set("rope.scaling.attn_factor", attention_factor / usual);
            }
        }
        RopeScaling::LongRope { original_context, attention_factor, .. } => {
            writer.set("rope.scaling.attn_factor", *attention_factor);
            writer.count("rope.scaling.original_context_length", *original_context as usize);
        }
    }
}

fn windows(writer: &mut Writer, kind: &Kind, spec: &ModelSpec) {
    let sliding: Vec<bool> = spec.layers.iter().map(|layer| layer.window.is_some()).collect();
    let Some(window) = spec.layers.iter().find_map(|layer| layer.window) else {
        if kind.gguf == "phi3" {
            // Without the key it would be taken for an older file.
            writer.count("attention.sliding_window", 0);
        }
        return;
    };
    writer.count("attention.sliding_window", window);
    let interval = match kind.gguf {
        "gemma2" => 2,
        "gemma3" => 6,
        _ => return,
    };
    // What files without the key mean.
    if !(1..).zip(&sliding).all(|(number, sliding): (usize, _)| number.is_multiple_of(interval) != *sliding) {
        writer.set("attention.sliding_window_pattern", sliding);
    }
}

fn mixture(writer: &mut Writer, kind: &Kind, experts: &ExpertsSpec) {
    writer.count("expert_count", experts.num_experts);
    writer.count("expert_used_count", experts.top_k);
    if kind.gguf != "llama" {
        writer.count("expert_feed_forward_length", experts.intermediate_size);
    }
    if let Some(shared) = experts.shared {
        writer.count("expert_shared_feed_forward_length", shared.intermediate_size);
    }
    if kind.gguf == "qwen2moe" && experts.normalize {
        writer.set("expert_weights_norm", true);
    }
    if experts.scale != 1.0 {
        writer.set("expert_weights_scale", experts.scale);
    }
}

/// What only some families have.
fn of_family(writer: &mut Writer, kind: &Kind, spec: &ModelSpec) {
    let attention = &spec.attention;
    match kind.gguf {
        "granite" => {
            writer.set("attention.scale", attention.scale);
            writer.set("embedding_scale", spec.embedding.scale);
            writer.set("residual_scale", spec.block.residual_scale);
            writer.set("logit_scale", spec.logit_scale.recip());
        }
        "command-r" => writer.set("logit_scale", spec.logit_scale),
        "gptneox" => writer.set("use_parallel_residual", spec.block.parallel),
        // How llama.cpp knows that the rows of the fused matrix have been put in order.
        "falcon" => writer.set("tensor_data_layout", "jploski"),
        "mpt" => {
            writer.set("attention.clamp_kqv", attention.clip.unwrap_or(0.0));
            writer.set("attention.max_alibi_bias", attention.alibi.map_or(0.0, |alibi| alibi.max_bias));
        }
        _ => {}
    }
    if let Some(cap) = attention.softcap {
        writer.set("attn_logit_softcapping", cap);
    }
    if let Some(cap) = spec.logit_softcap {
        writer.set("final_logit_softcapping", cap);
    }
}

/// GGUF's number for a file of which most values have a type.
fn file_type(tensors: &[PlannedTensor]) -> u32 {
    let mut values: HashMap<WeightFormat, usize> = HashMap::new();
    for tensor in tensors.iter().filter(|tensor| tensor.shape.len() > 1) {
        *values.entry(tensor.format).or_default() += tensor.shape.iter().product::<usize>();
    }
    let most = values.into_iter().max_by_key(|(format, values)| (*values, format.block_bytes()));
    match most.map_or(WeightFormat::F32, |(format, _)| format) {
        WeightFormat::F32 => 0,
        WeightFormat::F16 => 1,
        WeightFormat::Q4_0 => 2,
        WeightFormat::Q4_1 => 3,
        WeightFormat::Q8_0 => 7,
        WeightFormat::Q5_0 => 8,
        WeightFormat::Q5_1 => 9,
        WeightFormat::Q2_K => 10,
        WeightFormat::Q3_K => 11,
        WeightFormat::Q4_K => 14,
        WeightFormat::Q5_K => 16,
        WeightFormat::Q6_K => 18,
        WeightFormat::IQ4_NL => 25,
        WeightFormat::IQ4_XS => 30,
        WeightFormat::BF16 => 32,
        WeightFormat::MXFP4 => 38,
    }
}
