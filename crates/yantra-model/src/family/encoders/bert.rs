//! BERT (Devlin et al., 2019) and the embedding models made from it (Reimers and Gurevych, 2019). llama.cpp calls RoBERTa
//! so, too: its converter cuts the positions that no token has.

use super::EncoderFamily;
use crate::{
    HeadActivation, NormPlacement,
    encoder::{EncoderNames, HeadNames},
};

pub(super) const FAMILY: EncoderFamily = EncoderFamily {
    name: "BERT",
    gguf: "bert",
    embedders: &["BertModel", "BertForMaskedLM"],
    scorers: &["BertForSequenceClassification"],
    aliases: &[],
    norm_eps: 1e-12,
    names: NAMES,
    gguf_names: EncoderNames {
        prefix: "",
        words: "token_embd",
        positions: "position_embd",
        token_types: "token_types",
        embedding_norm: "token_embd_norm",
        output_norm: "",
        layers: "blk",
        projections: ["attn_q", "attn_k", "attn_v"],
        output: "attn_output",
        attention_norm: "attn_output_norm",
        inner: &["ffn_up"],
        down: "ffn_down",
        mlp_norm: "layer_output_norm",
        head: GGUF_HEAD,
    },
    norms: NormPlacement::Post,
    gated: false,
    head_activation: HeadActivation::Tanh,
    head_norm: false,
    adapt: |_, _| Ok(()),
};

pub(super) const NAMES: EncoderNames = EncoderNames {
    prefix: "bert.",
    words: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    token_types: "embeddings.token_type_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    output_norm: "",
    layers: "encoder.layer",
    projections: ["attention.self.query", "attention.self.key", "attention.self.value"],
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    inner: &["intermediate.dense"],
    down: "output.dense",
    mlp_norm: "output.LayerNorm",
    head: HeadNames { dense: "bert.pooler.dense", norm: "", output: "classifier" },
};

pub(super) const GGUF_HEAD: HeadNames = HeadNames { dense: "cls", norm: "cls.norm", output: "cls.output" };
