//! The hyper-parameters of a model as `config.json`.

use super::{PlannedTensor, kind::Kind, metadata::LLAMA3};
use crate::{LayerSpec, MlpSpec, ModelError, ModelSpec, RopeScaling, RopeSpec, rotary};
use serde_json::{Map, Value, json};
use std::f32::consts::TAU;
use yantra_formats::{Checkpoint, Metadata};
use yantra_kernels::{ActivationFn, WeightFormat, dequantize_row};

struct Writer {
    config: Map<String, Value>,
    kind: &'static Kind,
}

impl Writer {
    /// Sets what Llama calls so.
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.config.insert(self.kind.key(key).to_owned(), value.into());
    }
}

/// A number as it was meant: `1e-5`, not the nearest number of single precision to it in double.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

pub(super) fn of(
    checkpoint: &Checkpoint,
    kind: &'static Kind,
    spec: &ModelSpec,
    tensors: &[PlannedTensor],
) -> Result<Value, ModelError> {
    let Checkpoint::Gguf(file) = checkpoint else {
        return Err(ModelError::Convert { message: "only GGUF files become Hugging Face directories".to_owned() });
    };
    let mut writer = Writer { config: Map::new(), kind };
    let has = |name: &str| tensors.iter().any(|tensor| tensor.name.ends_with(name));
    writer.set("architectures", vec![kind.class]);
    writer.set("model_type", kind.model_type);
    writer.set("dtype", dtype(tensors));
    writer.set("vocab_size", spec.vocab_size);
    writer.set("hidden_size", spec.hidden_size);
    writer.set("num_hidden_layers", spec.layers.len());
    writer.set("num_attention_heads", spec.attention.num_heads);
    if !["gpt2", "bloom", "mpt"].contains(&kind.gguf) {
        writer.set("num_key_value_heads", spec.attention.num_kv_heads);
    }
    if spec.attention.head_dim * spec.attention.num_heads != spec.hidden_size || kind.gguf.starts_with("gemma") {
        writer.set("head_dim", spec.attention.head_dim);
    }
    writer.set("max_position_embeddings", spec.context_length);
    writer.set("rms_norm_eps", number(spec.norm.eps));
    writer.set("tie_word_embeddings", !(has("lm_head.weight") || has("embed_out.weight")));
    feed_forward(&mut writer, spec);
    rotation(&mut writer, checkpoint, file.metadata(), spec)?;
    writer.set("attention_bias", has("q_proj.bias") || has("attention.dense.bias"));
    writer.set("mlp_bias", has("mlp.down_proj.bias"));
    of_family(&mut writer, spec, &has);
    for (ours, theirs) in [("bos", "bos"), ("eos", "eos"), ("padding", "pad")] {
        if let Some(id) = file.metadata().find::<u32>(&format!("tokenizer.ggml.{ours}_token_id"))? {
            writer.config.insert(format!("{theirs}_token_id"), id.into());
        }
    }
    Ok(Value::Object(writer.config))
}

fn dtype(tensors: &[PlannedTensor]) -> &'static str {
    let largest = tensors.iter().max_by_key(|tensor| tensor.num_bytes());
    match largest.map(|tensor| tensor.format) {
        Some(WeightFormat::F16) => "float16",
        Some(WeightFormat::BF16) => "bfloat16",
        _ => "float32",
    }
}

fn activation_name(activation: ActivationFn) -> Value {
    match activation {
        ActivationFn::Silu => "silu".into(),
        ActivationFn::Gelu => "gelu".into(),
        ActivationFn::GeluTanh => "gelu_pytorch_tanh".into(),
        ActivationFn::Relu => "relu".into(),
        _ => Value::Null,
    }
}

fn feed_forward(writer: &mut Writer, spec: &ModelSpec) {
    let dense = spec.layers.iter().find(|layer| !matches!(layer.mlp, MlpSpec::Experts(_))).map(|layer| layer.mlp);
    let Some(first) = dense.or_else(|| spec.layers.first().map(|layer| layer.mlp)) else { return };
    let (width, activation) = match first {
        MlpSpec::Plain { intermediate_size, activation } | MlpSpec::Gated { intermediate_size, activation } => {
            (intermediate_size, activation)
        }
        MlpSpec::Experts(experts) => (experts.intermediate_size, experts.activation),
    };
    writer.set("intermediate_size", width);
    if !["bloom", "mpt"].contains(&writer.kind.gguf) {
        writer.set("hidden_act", activation_name(activation));
    }
    let Some(experts) = spec.experts().next() else { return };
    writer.set("num_experts", experts.num_experts);
    writer.set("num_experts_per_tok", experts.top_k);
    if writer.kind.gguf == "llama" {
        return;
    }
    writer.set("moe_intermediate_size", experts.intermediate_size);
    writer.set("norm_topk_prob", experts.normalize);
    writer.set("decoder_sparse_step", 1);
    let is_dense = |layer: &LayerSpec| !matches!(layer.mlp, MlpSpec::Experts(_));
    let layers = spec.layers.iter().enumerate();
    let dense: Vec<usize> = layers.filter(|(_, layer)| is_dense(layer)).map(|(index, _)| index).collect();
    writer.set("mlp_only_layers", dense);
    if let Some(shared) = experts.shared {
        writer.set("shared_expert_intermediate_size", shared.intermediate_size);
    }
}

fn rotation(
    writer: &mut Writer,
    checkpoint: &Checkpoint,
    metadata: &Metadata,
    spec: &ModelSpec,
) -> Result<(), ModelError> {
    let ropes = || spec.layers.iter().filter(|layer| layer.rope.is_some());
    let global = ropes().find(|layer| layer.window.is_none()).or_else(|| ropes().next());
    let Some(rope) = global.and_then(|layer| layer.rope.as_ref()) else { return Ok(()) };
    let parameters = parameters(checkpoint, metadata, rope, spec)?;
    let local = ropes().filter_map(|layer| layer.rope.as_ref()).find(|other| *other != rope);
    // Older versions of transformers look for it here.
    writer.set("rope_theta", number(rope.theta));
    let value = match local {
        Some(local) => {
            writer.set("rope_local_base_freq", number(local.theta));
            let local = self::parameters(checkpoint, metadata, local, spec)?;
            json!({"full_attention": parameters, "sliding_attention": local})
        }
        None if writer.kind.gguf == "gemma3" => {
            json!({"full_attention": parameters.clone(), "sliding_attention": parameters})
        }
        None => parameters,
    };
    writer.set("rope_parameters", value);
    Ok(())
}

/// A rotary embedding as transformers 5 has it.
fn parameters(
    checkpoint: &Checkpoint,
    metadata: &Metadata,
    rope: &RopeSpec,
    spec: &ModelSpec,
) -> Result<Value, ModelError> {
    let mut parameters = match &rope.scaling {
        RopeScaling::None => json!({"rope_type": "default"}),
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": number(*factor)}),
        RopeScaling::Dynamic { factor, .. } => json!({"rope_type": "dynamic", "factor": number(*factor)}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            llama3([*factor, *low_freq_factor, *high_freq_factor, *original_context])
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, truncate, attention_factor } => json!({
            "rope_type": "yarn", "factor": number(*factor), "beta_fast": number(*beta_fast),
            "beta_slow": number(*beta_slow), "original_max_position_embeddings": *original_context as usize,
            "attention_factor": number(*attention_factor), "truncate": truncate,
        }),
        RopeScaling::LongRope { short, long, original_context, attention_factor } => json!({
            "rope_type": "longrope",
            "short_factor": short.iter().copied().map(number).collect::<Vec<_>>(),
            "long_factor": long.iter().copied().map(number).collect::<Vec<_>>(),
            "original_max_position_embeddings": *original_context as usize,
            "attention_factor": number(*attention_factor),
        }),
        RopeScaling::Stored => llama3(stored(checkpoint, metadata, rope)?),
    };
    parameters["rope_theta"] = number(rope.theta);
    if rope.rotary_dim != spec.attention.head_dim {
        parameters["partial_rotary_factor"] = number(rope.rotary_dim as f32 / spec.attention.head_dim as f32);
    }
    Ok(parameters)
}

fn llama3([factor, low, high, original_context]: [f32; 4]) -> Value {
    json!({
        "rope_type": "llama3", "factor": number(factor), "low_freq_factor": number(low), "high_freq_factor": number(high),
        "original_max_position_embeddings": original_context as usize,
    })
}

/// The numbers that divisors of frequencies were made of: as they are recorded, or else worked out.
fn stored(checkpoint: &Checkpoint, metadata: &Metadata, rope: &RopeSpec) -> Result<[f32; 4], ModelError> {
    let mut recorded = [0.0; 4];
    let mut found = 0;
    for (key, value) in LLAMA3.into_iter().zip(&mut recorded) {
        if let Some(number) = metadata.find(key)? {
            (*value, found) = (number, found + 1);
        }
    }
    if found == recorded.len() {
        return Ok(recorded);
    }
    let view = checkpoint.require("rope_freqs.weight")?;
    let mut divisors = vec![0.0; view.num_elements()];
    dequantize_row(view.format, view.data, &mut divisors)?;
    let plain = RopeSpec { scaling: RopeScaling::None, ..rope.clone() };
    let (frequencies, _) = rotary::frequencies(&plain, 1, &[]);
    fitted(&frequencies, &divisors).ok_or_else(|| ModelError::Unsupported {
        feature: "'rope_freqs.weight' with divisors that are not those of Llama 3.1's scaling".to_owned(),
    })
}

/// Factor, low and high frequency factor and original context of divisors that rise over a ramp, which is linear in the
/// frequency: two points give it. The low frequency factor is taken to be 1, as it always is; where only one point lies on the
/// ramp, the high one to be 4.
fn fitted(frequencies: &[f32], divisors: &[f32]) -> Option<[f32; 4]> {
    const LOW: f64 = 1.0;
    let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
    // Turns in a token, and how much of the frequency is kept.
    let on_ramp: Vec<(f64, f64)> = frequencies
        .iter()
        .zip(divisors)
        .filter(|(_, divisor)| **divisor > 1.0 + 1e-5 && f64::from(**divisor) < factor * (1.0 - 1e-5))
        .map(|(frequency, divisor)| {
            let kept = (f64::from(*divisor).recip() - factor.recip()) / (1.0 - factor.recip());
            (f64::from(*frequency) / f64::from(TAU), kept)
        })
        .collect();
    let (high, context) = match (on_ramp.first()?, on_ramp.last()?) {
        (first, last) if on_ramp.len() > 1 => {
            let slope = (first.1 - last.1) / (first.0 - last.0);
            let width = LOW / (slope * first.0 - first.1);
            (rounded(LOW + width), slope * width)
        }
        (only, _) => (4.0, (only.1 * 3.0 + LOW) / only.0),
    };
    let numbers = [rounded(factor), LOW, high, context.round()].map(|number| number as f32);
    (high > LOW && context > 1.0).then_some(numbers)
}

/// The whole number that a value is but for its rounding.
fn rounded(value: f64) -> f64 {
    if (value - value.round()).abs() < 1e-2 { value.round() } else { value }
}

fn layer_types(spec: &ModelSpec) -> Vec<&'static str> {
    let kind = |layer: &LayerSpec| if layer.window.is_some() { "sliding_attention" } else { "full_attention" };
    spec.layers.iter().map(kind).collect()
}

/// What only some families have.
fn of_family(writer: &mut Writer, spec: &ModelSpec, has: &dyn Fn(&str) -> bool) {
    let attention = &spec.attention;
    let window = spec.layers.iter().find_map(|layer| layer.window);
    let optional = |value: Option<f32>| value.map_or(Value::Null, number);
    if window.is_some() || ["llama", "phi3"].contains(&writer.kind.gguf) {
        writer.set("sliding_window", window);
    }
    match writer.kind.gguf {
        "gemma2" | "gemma3" => {
            let scalar = rounded(f64::from(attention.scale).powi(-2));
            writer.set("query_pre_attn_scalar", scalar);
            writer.set("attn_logit_softcapping", optional(attention.softcap));
            writer.set("final_logit_softcapping", optional(spec.logit_softcap));
            writer.set("layer_types", layer_types(spec));
        }
        "qwen2" | "qwen3" | "qwen2moe" | "qwen3moe" => writer.set("use_sliding_window", false),
        "smollm3" => {
            let rotated: Vec<u8> = spec.layers.iter().map(|layer| u8::from(layer.rope.is_some())).collect();
            writer.set("no_rope_layers", rotated);
        }
        "granite" => {
            writer.set("embedding_multiplier", number(spec.embedding.scale));
            writer.set("attention_multiplier", number(attention.scale));
            writer.set("residual_multiplier", number(spec.block.residual_scale));
            writer.set("logits_scaling", number(spec.logit_scale.recip()));
        }
        "command-r" => writer.set("logit_scale", number(spec.logit_scale)),
        "phi3" => {
            let rope = spec.layers.iter().find_map(|layer| layer.rope.as_ref());
            if let Some(RopeScaling::LongRope { original_context, .. }) = rope.map(|rope| &rope.scaling) {
                writer.set("original_max_position_embeddings", *original_context as usize);
            }
        }
        "starcoder2" => writer.set("use_bias", has("q_proj.bias")),
        "gptneox" => {
            writer.set("use_parallel_residual", spec.block.parallel);
            let rope = spec.layers.iter().find_map(|layer| layer.rope.as_ref());
            let share = rope.map_or(1.0, |rope| rope.rotary_dim as f32 / attention.head_dim as f32);
            writer.set("rotary_pct", number(share));
        }
        "falcon" => {
            writer.set("new_decoder_architecture", has("ln_mlp.weight"));
            writer.set("multi_query", attention.num_kv_heads == 1);
            writer.set("parallel_attn", spec.block.parallel);
            writer.set("alibi", attention.alibi.is_some());
            writer.set("bias", has("dense.bias"));
        }
        "mpt" => {
            let max_bias = attention.alibi.map(|alibi| alibi.max_bias);
            let clip = optional(attention.clip);
            writer.set("attn_config", json!({"alibi": true, "alibi_bias_max": optional(max_bias), "clip_qkv": clip}));
            writer.set("expansion_ratio", 4);
            writer.set("no_bias", !has("Wqkv.bias"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Llama 3.1 and 3.2, and one with little of a ramp.
    #[test]
    fn numbers_of_a_ramp_are_found_again() {
        let cases = [
            ([8.0, 1.0, 4.0, 8192.0], 500_000.0, 128),
            ([32.0, 1.0, 4.0, 8192.0], 500_000.0, 64),
            ([8.0, 1.0, 4.0, 96.0], 10_000.0, 8),
        ];
        for (numbers, theta, rotary_dim) in cases {
            let [factor, low_freq_factor, high_freq_factor, original_context] = numbers;
            let scaling = RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context };
            let rope = RopeSpec { theta, rotary_dim, scaling };
            let plain = RopeSpec { scaling: RopeScaling::None, ..rope.clone() };
            let (plain, scaled) = (rotary::frequencies(&plain, 1, &[]).0, rotary::frequencies(&rope, 1, &[]).0);
            let divisors: Vec<f32> = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
            assert_eq!(fitted(&plain, &divisors).unwrap(), numbers);
        }
        assert_eq!(fitted(&[1.0, 0.1], &[1.0, 1.0]), None);
    }
}
