//! Where a decoder's tensors lie in a checkpoint: names of both formats, and matrices that several of ours share.

use crate::{
    MlpSpec, ModelSpec,
    family::{Family, FusedGate, FusedRows},
    quantized::is_stored,
    weights::Place,
};
use std::{iter, ops::Range};
use yantra_formats::Checkpoint;

/// The part a tensor plays in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    AttentionNorm,
    Query,
    Key,
    Value,
    QueryNorm,
    KeyNorm,
    Output,
    PostAttentionNorm,
    MlpNorm,
    Gate,
    Up,
    Down,
    PostMlpNorm,
    Router,
    ExpertGate,
    ExpertUp,
    ExpertDown,
    SharedGate,
    SharedUp,
    SharedDown,
    SharedRouter,
    QueryDown,
    QueryDownNorm,
    QueryUp,
    KvDown,
    KvDownNorm,
    /// Both of those below in one, row after row of each head.
    KvUp,
    KeyUp,
    ValueUp,
}

/// Tensor names in Hugging Face checkpoints: a family's table says where it differs from Llama.
#[derive(Clone, Copy)]
pub(crate) struct TensorNames {
    /// The embedding table, below the prefix, as all others but the head.
    pub(crate) embedding: &'static str,
    /// The matrix that gives the logits.
    pub(crate) head: &'static str,
    /// The norm before it.
    pub(crate) output_norm: &'static str,
    /// The list of layers.
    pub(crate) layers: &'static str,
    /// What is called otherwise than in Llama. Where a role has several names, the first that is there counts.
    pub(crate) roles: &'static [(Role, &'static str)],
    /// What GGUF calls otherwise in this family.
    pub(crate) gguf_roles: &'static [(Role, &'static str)],
    /// Whether query, key and value are one matrix.
    pub(crate) fused_qkv: Option<FusedRows>,
    /// Whether gate and up are one matrix.
    pub(crate) fused_gate: Option<FusedGate>,
    /// The same of experts.
    pub(crate) fused_expert_gate: Option<FusedGate>,
    /// Whether matrices are stored `[in, out]` (GPT-2).
    pub(crate) transposed: bool,
}

/// Llama's.
pub(crate) const LLAMA_NAMES: TensorNames = TensorNames {
    embedding: "embed_tokens",
    head: "lm_head.weight",
    output_norm: "norm",
    layers: "layers",
    roles: &[],
    gguf_roles: &[],
    fused_qkv: None,
    fused_gate: None,
    fused_expert_gate: None,
    transposed: false,
};

/// Learned positions and the norm of embeddings, each of one family only.
pub(crate) const POSITIONS: (&str, &str) = ("position_embd", "wpe");
pub(crate) const EMBEDDING_NORM: (&str, &str) = ("token_embd_norm", "word_embeddings_layernorm");

/// What may precede the names of a Hugging Face checkpoint: it depends on whether the model also sees or hears, and on who
/// wrote the file.
const PREFIXES: [&str; 6] =
    ["model.", "language_model.model.", "model.language_model.", "transformer.", "gpt_neox.", ""];

/// Tensor names of one checkpoint.
pub(crate) struct Names<'a> {
    checkpoint: &'a Checkpoint,
    gguf_roles: &'static [(Role, &'static str)],
    /// The family's names and what precedes them; `None`: the checkpoint is GGUF, whose names hardly differ.
    hugging_face: Option<(TensorNames, &'static str)>,
    /// The family's, if these are not the checkpoint's own names.
    foreign: Option<TensorNames>,
}

impl<'a> Names<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, family: &Family) -> Self {
        let names = family.names;
        let found = |prefix: &&str| checkpoint.tensor(&format!("{prefix}{}.weight", names.embedding)).is_some();
        let prefix = || PREFIXES.into_iter().find(found).unwrap_or(PREFIXES[0]);
        let hugging_face = matches!(checkpoint, Checkpoint::HuggingFace(_)).then(|| (names, prefix()));
        Self { checkpoint, gguf_roles: names.gguf_roles, hugging_face, foreign: None }
    }

    /// The names that a checkpoint of the other format has, without what precedes them: what its adapters go by.
    pub(crate) fn foreign(checkpoint: &'a Checkpoint, family: &Family) -> Self {
        let names = family.names;
        let hugging_face = matches!(checkpoint, Checkpoint::Gguf(_)).then_some((names, ""));
        Self { checkpoint, gguf_roles: names.gguf_roles, hugging_face, foreign: Some(names) }
    }

    pub(crate) fn embedding(&self) -> String {
        self.global("token_embd", |names| names.embedding) + ".weight"
    }

    /// Without `.weight`, as those below.
    pub(crate) fn output_norm(&self) -> String {
        self.global("output_norm", |names| names.output_norm)
    }

    pub(crate) fn embedding_norm(&self) -> String {
        self.global(EMBEDDING_NORM.0, |_| EMBEDDING_NORM.1)
    }

    pub(crate) fn positions(&self) -> String {
        self.global(POSITIONS.0, |_| POSITIONS.1)
    }

    fn global(&self, gguf: &str, hugging_face: impl Fn(&TensorNames) -> &'static str) -> String {
        match &self.hugging_face {
            None => gguf.to_owned(),
            Some((names, prefix)) => format!("{prefix}{}", hugging_face(names)),
        }
    }

    /// The matrix that gives the logits: many checkpoints use the embedding for it.
    pub(crate) fn head(&self, spec: &ModelSpec) -> Place {
        let head = match &self.hugging_face {
            None => "output.weight".to_owned(),
            // What precedes the text model's name precedes its head's.
            Some((names, "language_model.model.")) => format!("language_model.{}", names.head),
            Some((names, _)) => names.head.to_owned(),
        };
        let (head, embedding) = (head.trim_end_matches(".weight"), self.embedding());
        let name = if self.has(head) { head } else { embedding.trim_end_matches(".weight") };
        Place::whole(name, spec.vocab_size)
    }

    /// The name without `.weight` or `.bias`.
    pub(crate) fn layer(&self, index: usize, role: Role) -> String {
        let (gguf, llama) = default_names(role);
        let (roles, default, start) = match &self.hugging_face {
            None => (self.gguf_roles, gguf, format!("blk.{index}.")),
            Some((names, prefix)) => (names.roles, llama, format!("{prefix}{}.{index}.", names.layers)),
        };
        let own = || roles.iter().filter(|(named, _)| *named == role).map(|(_, name)| format!("{start}{name}"));
        // A name that is there, or else the last, which an error can tell of.
        let found = own().find(|name| self.has(name)).or_else(|| own().next_back());
        found.unwrap_or_else(|| format!("{start}{default}"))
    }

    /// The logits of a layer's heads that stand for no token.
    pub(crate) fn sinks(&self, index: usize) -> String {
        match &self.hugging_face {
            None => format!("blk.{index}.attn_sinks.weight"),
            Some((names, prefix)) => format!("{prefix}{}.{index}.self_attn.sinks", names.layers),
        }
    }

    /// Whether there is a tensor of that name, which comes without `.weight`.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self.foreign {
            None => is_stored(self.checkpoint, name),
            // GGUF's converter leaves together what the family has together.
            Some(names) if name.ends_with(".attn_qkv") => names.fused_qkv.is_some(),
            Some(names) if name.ends_with(".ffn_gate") => names.fused_gate.is_none(),
            Some(_) => true,
        }
    }

    /// Where a layer's matrix of so many rows lies.
    pub(crate) fn matrix(&self, spec: &ModelSpec, index: usize, role: Role, rows: usize) -> Place {
        let name = self.layer(index, role);
        let transposed = self.hugging_face.is_some_and(|(names, _)| names.transposed);
        let whole = Place { transposed, ..Place::whole(&name, rows) };
        match role {
            Role::Query | Role::Key | Role::Value => {
                let fused = match self.hugging_face {
                    Some((names, _)) => names.fused_qkv.map(|order| (name, order)),
                    None => Some((format!("blk.{index}.attn_qkv"), FusedRows::OneAfterAnother)),
                };
                match fused.filter(|(name, _)| self.has(name)) {
                    Some((name, order)) => Place { name, ..fused_qkv(whole, spec, role, order) },
                    None => whole,
                }
            }
            Role::Gate | Role::Up if matches!(spec.layers[index].mlp, MlpSpec::Gated { .. }) => {
                let fused = match self.hugging_face {
                    Some((names, _)) => names.fused_gate.map(|order| (name, order)),
                    // GGUF has both as `ffn_up` where there is no `ffn_gate`.
                    None => Some((format!("blk.{index}.ffn_up"), FusedGate::Halves))
                        .filter(|_| !self.has(&format!("blk.{index}.ffn_gate"))),
                };
                match fused {
                    Some((name, order)) => Place { name, ..fused_gate(whole, role == Role::Gate, order) },
                    None => whole,
                }
            }
            _ => whole,
        }
    }

    /// Where an expert's matrix of so many rows lies, or any of `count` matrices of a layer that may be one tensor.
    pub(crate) fn stacked(&self, layer: usize, role: Role, part: (usize, usize), rows: usize) -> Place {
        let name = self.layer(layer, role);
        if name.contains("{}") {
            return Place::whole(&name.replace("{}", &part.0.to_string()), rows);
        }
        let bare = self.hugging_face.is_some();
        let whole = Place { part: Some(part), bare, transposed: bare, ..Place::whole(&name, rows) };
        match self.hugging_face.and_then(|(names, _)| names.fused_expert_gate) {
            Some(order) if role != Role::ExpertDown => fused_gate(whole, role == Role::ExpertGate, order),
            _ => whole,
        }
    }

    /// The biases that experts of a layer are chosen by.
    pub(crate) fn choice_bias(&self, index: usize) -> String {
        match &self.hugging_face {
            None => format!("blk.{index}.exp_probs_b.bias"),
            Some(_) => self.layer(index, Role::Router) + ".e_score_correction_bias",
        }
    }
}

/// The rows of the gate, or of what is gated, in the matrix they share.
fn fused_gate(whole: Place, is_gate: bool, order: FusedGate) -> Place {
    let rows = whole.stored_rows;
    let picked = match order {
        FusedGate::Halves => {
            let first = if is_gate { 0 } else { rows };
            iter::once(first..first + rows).collect()
        }
        FusedGate::Alternating => {
            (0..rows).map(|row| 2 * row + usize::from(!is_gate)).map(|row| row..row + 1).collect()
        }
    };
    Place { stored_rows: 2 * rows, rows: picked, ..whole }
}

/// The rows of queries, keys or values in the matrix they share.
fn fused_qkv(whole: Place, spec: &ModelSpec, role: Role, order: FusedRows) -> Place {
    let (query, kv) = (spec.query_size(), spec.kv_size());
    let part = |query: usize, kv: usize, start: usize| -> Range<usize> {
        match role {
            Role::Query => start..start + query,
            Role::Key => start + query..start + query + kv,
            _ => start + query + kv..start + query + 2 * kv,
        }
    };
    let groups = match order {
        FusedRows::OneAfterAnother => 1,
        FusedRows::ByGroup => spec.attention.num_kv_heads,
    };
    let (query_rows, kv_rows) = (query / groups, kv / groups);
    let rows = (0..groups).map(|group| part(query_rows, kv_rows, group * (query_rows + 2 * kv_rows))).collect();
    Place { stored_rows: query + 2 * kv, rows, ..whole }
}

/// GGUF's name and Llama's.
pub(crate) fn default_names(role: Role) -> (&'static str, &'static str) {
    match role {
        Role::AttentionNorm => ("attn_norm", "input_layernorm"),
        Role::Query => ("attn_q", "self_attn.q_proj"),
        Role::Key => ("attn_k", "self_attn.k_proj"),
        Role::Value => ("attn_v", "self_attn.v_proj"),
        Role::QueryNorm => ("attn_q_norm", "self_attn.q_norm"),
        Role::KeyNorm => ("attn_k_norm", "self_attn.k_norm"),
        Role::Output => ("attn_output", "self_attn.o_proj"),
        Role::PostAttentionNorm => ("post_attention_norm", "post_attention_layernorm"),
        Role::MlpNorm => ("ffn_norm", "post_attention_layernorm"),
        Role::Gate => ("ffn_gate", "mlp.gate_proj"),
        Role::Up => ("ffn_up", "mlp.up_proj"),
        Role::Down => ("ffn_down", "mlp.down_proj"),
        Role::PostMlpNorm => ("post_ffw_norm", "post_feedforward_layernorm"),
        Role::Router => ("ffn_gate_inp", "mlp.gate"),
        Role::ExpertGate => ("ffn_gate_exps", "mlp.experts.{}.gate_proj"),
        Role::ExpertUp => ("ffn_up_exps", "mlp.experts.{}.up_proj"),
        Role::ExpertDown => ("ffn_down_exps", "mlp.experts.{}.down_proj"),
        Role::SharedGate => ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
        Role::SharedUp => ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
        Role::SharedDown => ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
        Role::SharedRouter => ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
        Role::QueryDown => ("attn_q_a", "self_attn.q_a_proj"),
        Role::QueryDownNorm => ("attn_q_a_norm", "self_attn.q_a_layernorm"),
        Role::QueryUp => ("attn_q_b", "self_attn.q_b_proj"),
        Role::KvDown => ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
        Role::KvDownNorm => ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
        Role::KvUp => ("attn_kv_b", "self_attn.kv_b_proj"),
        Role::KeyUp => ("attn_k_b", "self_attn.k_b_proj"),
        Role::ValueUp => ("attn_v_b", "self_attn.v_b_proj"),
    }
}
