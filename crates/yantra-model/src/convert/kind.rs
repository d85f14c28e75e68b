//! Families that both formats have, and what their conventions differ in beyond the names that a family's table has.

use crate::{
    MlpSpec, ModelError, ModelSpec,
    family::{self, Family},
};
use yantra_formats::Checkpoint;

/// A family in both formats.
#[derive(Debug)]
pub(super) struct Kind {
    /// GGUF's `general.architecture`.
    pub(super) gguf: &'static str,
    /// The class that `config.json` names.
    pub(super) class: &'static str,
    /// The same for transformers' registry.
    pub(super) model_type: &'static str,
    /// What precedes the names of tensors in a Hugging Face checkpoint.
    pub(super) prefix: &'static str,
    /// What GGUF has added to the weights of norms.
    pub(super) norm_offset: f32,
    /// What `config.json` calls otherwise: Llama's key, the family's.
    pub(super) renames: &'static [(&'static str, &'static str)],
}

const LIKE_LLAMA: Kind = Kind {
    gguf: "llama",
    class: "LlamaForCausalLM",
    model_type: "llama",
    prefix: "model.",
    norm_offset: 0.0,
    renames: &[],
};

const GEMMA: Kind = Kind {
    gguf: "gemma",
    class: "GemmaForCausalLM",
    model_type: "gemma",
    norm_offset: 1.0,
    renames: &[("hidden_act", "hidden_activation")],
    ..LIKE_LLAMA
};

const fn like_llama(gguf: &'static str, class: &'static str, model_type: &'static str) -> Kind {
    Kind { gguf, class, model_type, ..LIKE_LLAMA }
}

static KINDS: [Kind; 21] = [
    LIKE_LLAMA,
    like_llama("llama", "MistralForCausalLM", "mistral"),
    Kind { renames: &[("num_experts", "num_local_experts")], ..like_llama("llama", "MixtralForCausalLM", "mixtral") },
    like_llama("granite", "GraniteForCausalLM", "granite"),
    like_llama("smollm3", "SmolLM3ForCausalLM", "smollm3"),
    Kind { renames: &[("rms_norm_eps", "layer_norm_eps")], ..like_llama("command-r", "CohereForCausalLM", "cohere") },
    like_llama("olmo2", "Olmo2ForCausalLM", "olmo2"),
    like_llama("phi3", "Phi3ForCausalLM", "phi3"),
    like_llama("qwen2", "Qwen2ForCausalLM", "qwen2"),
    like_llama("qwen2moe", "Qwen2MoeForCausalLM", "qwen2_moe"),
    like_llama("qwen3", "Qwen3ForCausalLM", "qwen3"),
    like_llama("qwen3moe", "Qwen3MoeForCausalLM", "qwen3_moe"),
    Kind {
        renames: &[("rms_norm_eps", "norm_epsilon")],
        ..like_llama("starcoder2", "Starcoder2ForCausalLM", "starcoder2")
    },
    GEMMA,
    Kind { gguf: "gemma2", class: "Gemma2ForCausalLM", model_type: "gemma2", ..GEMMA },
    Kind { gguf: "gemma3", class: "Gemma3ForCausalLM", model_type: "gemma3_text", ..GEMMA },
    Kind {
        prefix: "transformer.",
        renames: &[
            ("hidden_size", "n_embd"),
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
            ("intermediate_size", "n_inner"),
            ("max_position_embeddings", "n_positions"),
            ("rms_norm_eps", "layer_norm_epsilon"),
            ("hidden_act", "activation_function"),
        ],
        ..like_llama("gpt2", "GPT2LMHeadModel", "gpt2")
    },
    Kind {
        prefix: "gpt_neox.",
        renames: &[("rms_norm_eps", "layer_norm_eps")],
        ..like_llama("gptneox", "GPTNeoXForCausalLM", "gpt_neox")
    },
    Kind {
        prefix: "transformer.",
        renames: &[
            ("intermediate_size", "ffn_hidden_size"),
            ("num_key_value_heads", "num_kv_heads"),
            ("rms_norm_eps", "layer_norm_epsilon"),
            ("hidden_act", "activation"),
        ],
        ..like_llama("falcon", "FalconForCausalLM", "falcon")
    },
    Kind {
        prefix: "transformer.",
        renames: &[
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
            ("max_position_embeddings", "seq_length"),
            ("rms_norm_eps", "layer_norm_epsilon"),
        ],
        ..like_llama("bloom", "BloomForCausalLM", "bloom")
    },
    Kind {
        prefix: "transformer.",
        renames: &[
            ("hidden_size", "d_model"),
            ("num_hidden_layers", "n_layers"),
            ("num_attention_heads", "n_heads"),
            ("max_position_embeddings", "max_seq_len"),
            ("rms_norm_eps", "layer_norm_epsilon"),
        ],
        ..like_llama("mpt", "MptForCausalLM", "mpt")
    },
];

impl Kind {
    /// What a checkpoint is in the other format, and the family there.
    pub(super) fn of(
        checkpoint: &Checkpoint,
        family: &'static Family,
        spec: &ModelSpec,
    ) -> Result<(&'static Self, &'static Family), ModelError> {
        let refused = || ModelError::Unsupported { feature: format!("conversion of {} between formats", family.name) };
        let class = match checkpoint {
            // Its files are Llama's.
            Checkpoint::Gguf(_) if family.gguf.contains(&"llama") => llama_class(spec),
            _ => KINDS.iter().find(|kind| family.hugging_face.contains(&kind.class)).ok_or_else(refused)?.class,
        };
        let kind = KINDS.iter().find(|kind| kind.class == class).ok_or_else(refused)?;
        Ok((kind, family::of_architecture(class).ok_or_else(refused)?))
    }

    /// Whether rows of queries and keys are stored in GGUF so that neighbouring components are rotated together.
    pub(super) fn has_neighbours(&self) -> bool {
        family::of_architecture(self.class).is_some_and(|family| family.neighbours_in_gguf)
    }

    /// What `config.json` calls a setting.
    pub(super) fn key<'k>(&self, key: &'k str) -> &'k str {
        self.renames.iter().find(|(ours, _)| *ours == key).map_or(key, |(_, theirs)| theirs)
    }
}

/// Which of the models that are Llamas in GGUF it is.
fn llama_class(spec: &ModelSpec) -> &'static str {
    let mixture = spec.layers.iter().any(|layer| matches!(layer.mlp, MlpSpec::Experts(_)));
    let window = spec.layers.iter().any(|layer| layer.window.is_some());
    match (mixture, window) {
        (true, _) => "MixtralForCausalLM",
        (false, true) => "MistralForCausalLM",
        (false, false) => "LlamaForCausalLM",
    }
}
