//! What tensors are called in the destination, and which of them are one.

use super::{Target, kind::Kind};
use crate::{
    decoder::names::{EMBEDDING_NORM, POSITIONS, Role, default_names},
    family::{Family, FusedRows},
};

/// Names of a checkpoint that is not there yet.
pub(super) struct Layout {
    target: Target,
    kind: &'static Kind,
    family: &'static Family,
    /// Whether attention and the feed-forward network have a norm each, where a family has both cases (Falcon).
    two_norms: bool,
}

impl Layout {
    pub(super) fn new(target: Target, kind: &'static Kind, family: &'static Family, two_norms: bool) -> Self {
        Self { target, kind, family, two_norms }
    }

    pub(super) fn is_gguf(&self) -> bool {
        self.target == Target::Gguf
    }

    /// Without `.weight`, as those below.
    pub(super) fn embedding(&self) -> String {
        self.global("token_embd", self.family.names.embedding)
    }

    pub(super) fn output_norm(&self) -> String {
        self.global("output_norm", self.family.names.output_norm)
    }

    pub(super) fn embedding_norm(&self) -> String {
        self.global(EMBEDDING_NORM.0, EMBEDDING_NORM.1)
    }

    pub(super) fn positions(&self) -> String {
        self.global(POSITIONS.0, POSITIONS.1)
    }

    pub(super) fn head(&self) -> String {
        if self.is_gguf() { "output".to_owned() } else { self.family.names.head.trim_end_matches(".weight").to_owned() }
    }

    fn global(&self, gguf: &str, hugging_face: &str) -> String {
        if self.is_gguf() { gguf.to_owned() } else { format!("{}{hugging_face}", self.kind.prefix) }
    }

    pub(super) fn layer(&self, index: usize, role: Role) -> String {
        let names = self.family.names;
        let (gguf, llama) = default_names(role);
        let (roles, default) = if self.is_gguf() { (names.gguf_roles, gguf) } else { (names.roles, llama) };
        let own = roles.iter().find(|(named, _)| *named == role).map(|(_, name)| *name);
        let name = self.norm(role).or(own).unwrap_or(default);
        if self.is_gguf() {
            format!("blk.{index}.{name}")
        } else {
            format!("{}{}.{index}.{name}", self.kind.prefix, names.layers)
        }
    }

    /// Falcon's norms.
    fn norm(&self, role: Role) -> Option<&'static str> {
        Some(match (self.kind.gguf, role, self.is_gguf(), self.two_norms) {
            ("falcon", Role::AttentionNorm, true, true) => "attn_norm_2",
            ("falcon", Role::AttentionNorm, true, false) | ("falcon", Role::MlpNorm, true, _) => "attn_norm",
            ("falcon", Role::AttentionNorm, false, true) => "ln_attn",
            ("falcon", Role::MlpNorm, false, true) => "ln_mlp",
            ("falcon", Role::AttentionNorm | Role::MlpNorm, false, false) => "input_layernorm",
            _ => return None,
        })
    }

    /// What holds queries, keys and values, and in which order, if they are one matrix. A family that has them so in one
    /// format has them so in the other.
    pub(super) fn fused_qkv(&self, index: usize) -> Option<(String, FusedRows)> {
        let order = self.family.names.fused_qkv?;
        Some(if self.is_gguf() {
            (format!("blk.{index}.attn_qkv"), FusedRows::OneAfterAnother)
        } else {
            (self.layer(index, Role::Query), order)
        })
    }

    /// What holds gate and up, one after the other, if they are one matrix.
    pub(super) fn fused_gate(&self, index: usize) -> Option<String> {
        self.family.names.fused_gate?;
        Some(if self.is_gguf() { format!("blk.{index}.ffn_up") } else { self.layer(index, Role::Gate) })
    }

    /// Whether a layer's matrices are stored by columns.
    pub(super) fn transposed(&self) -> bool {
        !self.is_gguf() && self.family.names.transposed
    }
}
