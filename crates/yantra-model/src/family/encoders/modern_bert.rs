//! ModernBERT (Warner et al., 2024): rotated positions, gates, no biases, and attention to a window in most layers.

use super::EncoderFamily;
use crate::{
    EncoderSpec, HeadActivation, ModelError, NormPlacement, PositionSpec,
    encoder::{EncoderNames, HeadNames},
    family::{encoders::bert, gemma3, rope, sliding_layers},
    parameters::{Parameters, key},
};

pub(super) const FAMILY: EncoderFamily = EncoderFamily {
    name: "ModernBERT",
    gguf: "modern-bert",
    embedders: &["ModernBertModel", "ModernBertForMaskedLM"],
    scorers: &["ModernBertForSequenceClassification"],
    aliases: &[
        ("layer_norm_eps", "norm_eps"),
        ("hidden_act", "hidden_activation"),
        ("rope_theta", "global_rope_theta"),
        ("rope_local_base_freq", "local_rope_theta"),
    ],
    norm_eps: 1e-5,
    names: EncoderNames {
        prefix: "model.",
        words: "embeddings.tok_embeddings",
        positions: "",
        token_types: "",
        embedding_norm: "embeddings.norm",
        output_norm: "final_norm",
        layers: "layers",
        projections: ["attn.Wqkv"; 3],
        output: "attn.Wo",
        attention_norm: "attn_norm",
        inner: &["mlp.Wi"; 2],
        down: "mlp.Wo",
        mlp_norm: "mlp_norm",
        head: HeadNames { dense: "head.dense", norm: "head.norm", output: "classifier" },
    },
    gguf_names: EncoderNames {
        prefix: "",
        words: "token_embd",
        positions: "",
        token_types: "",
        embedding_norm: "token_embd_norm",
        output_norm: "output_norm",
        layers: "blk",
        projections: ["attn_qkv"; 3],
        output: "attn_output",
        attention_norm: "attn_norm",
        inner: &["ffn_up"; 2],
        down: "ffn_down",
        mlp_norm: "ffn_norm",
        head: bert::GGUF_HEAD,
    },
    norms: NormPlacement::Pre,
    gated: true,
    head_activation: HeadActivation::Gelu,
    head_norm: true,
    adapt,
};

/// Every third layer sees everything unless the checkpoint says otherwise.
const PATTERN: usize = 3;
/// Tokens of a window unless the checkpoint says otherwise: as many on each side as half of them.
const WINDOW: usize = 128;

fn adapt(p: &Parameters<'_>, spec: &mut EncoderSpec) -> Result<(), ModelError> {
    let head_dim = spec.hidden_size / spec.num_heads;
    let window = p.count(key("attention.sliding_window", "local_attention"))?.unwrap_or(WINDOW);
    // GGUF has a number, counted from a first layer that sees everything.
    let listed = if p.is_gguf() { None } else { sliding_layers(p, spec.layers.len())? };
    let sliding = match listed {
        Some(sliding) => sliding,
        None => {
            let pattern = p.count(key("attention.sliding_window_pattern", "global_attn_every_n_layers"))?;
            (0..spec.layers.len()).map(|index| index % pattern.unwrap_or(PATTERN) != 0).collect()
        }
    };
    spec.positions = PositionSpec::Rotary;
    for (layer, is_local) in spec.layers.iter_mut().zip(sliding) {
        // A token sees others up to half a window away.
        layer.window = is_local.then_some(window / 2 + 1);
        layer.rope =
            Some(if is_local { gemma3::local_rope(p, head_dim)? } else { rope::rope(p, head_dim, rope::FULL)? });
    }
    Ok(())
}
