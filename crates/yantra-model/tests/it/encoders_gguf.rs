//! The tiny encoders of transformers as llama.cpp's converter writes them (`conversion/bert.py`): other names, RoBERTa as
//! `bert` without the positions that no token has, and keys of its own. The numbers must stay what they are.

use crate::{
    encoders::{F32_TOLERANCE, difference_of},
    families::directory,
};
use yantra_formats::{Checkpoint, GgufFile, GgufWriter, TensorView, Value};
use yantra_kernels::Compute;
use yantra_model::{EncoderSpec, OutputSpec, Pooling};

const BERT: &[(&str, &str)] = &[
    ("embeddings.word_embeddings", "token_embd"),
    ("embeddings.position_embeddings", "position_embd"),
    ("embeddings.token_type_embeddings", "token_types"),
    ("embeddings.LayerNorm", "token_embd_norm"),
    ("encoder.layer.", "blk."),
    ("attention.self.query", "attn_q"),
    ("attention.self.key", "attn_k"),
    ("attention.self.value", "attn_v"),
    ("attention.output.dense", "attn_output"),
    ("attention.output.LayerNorm", "attn_output_norm"),
    ("intermediate.dense", "ffn_up"),
    ("output.dense", "ffn_down"),
    ("output.LayerNorm", "layer_output_norm"),
    ("classifier.dense", "cls"),
    ("classifier.out_proj", "cls.output"),
];
const MODERN_BERT: &[(&str, &str)] = &[
    ("embeddings.tok_embeddings", "token_embd"),
    ("embeddings.norm", "token_embd_norm"),
    ("layers.", "blk."),
    ("attn.Wqkv", "attn_qkv"),
    ("attn.Wo", "attn_output"),
    ("mlp.Wi", "ffn_up"),
    ("mlp.Wo", "ffn_down"),
    ("mlp_norm", "ffn_norm"),
    ("final_norm", "output_norm"),
    ("head.dense", "cls"),
    ("head.norm", "cls.norm"),
    ("classifier", "cls.output"),
];

fn renamed(name: &str, names: &[(&str, &str)]) -> String {
    let name = ["roberta.", "model."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    names.iter().fold(name.to_owned(), |name, (theirs, ours)| name.replacen(theirs, ours, 1))
}

/// The checkpoint with its tensors renamed, the first `skipped` positions left out, and `extra` keys.
fn converted(
    source: &Checkpoint,
    architecture: &str,
    names: &[(&str, &str)],
    skipped: usize,
    extra: &[(&str, Value)],
) -> Checkpoint {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", architecture).unwrap();
    let layers = EncoderSpec::read(source).unwrap().layers.len();
    let counts = [
        ("block_count", layers),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 4),
        ("context_length", 128),
    ];
    for (key, count) in counts {
        writer.set(format!("{architecture}.{key}"), count as u32).unwrap();
    }
    for (key, value) in extra {
        writer.set(format!("{architecture}.{key}"), value.clone()).unwrap();
    }
    let kept = |tensor: &TensorView<'_>| if tensor.name.contains("position_emb") { skipped } else { 0 };
    let tensors: Vec<TensorView<'_>> = source.tensors().map(|tensor| source.require(&tensor.name).unwrap()).collect();
    for tensor in &tensors {
        let mut shape = tensor.shape.clone();
        shape[0] -= kept(tensor);
        writer.declare(&renamed(tensor.name, names), tensor.format, &shape).unwrap();
    }
    let mut body = writer.begin(Vec::new()).unwrap();
    for tensor in &tensors {
        let row = tensor.data.len() / tensor.shape[0];
        body.write(&renamed(tensor.name, names), &tensor.data[kept(tensor) * row..]).unwrap();
    }
    Checkpoint::Gguf(GgufFile::from_bytes(body.finish().unwrap()).unwrap())
}

fn check(name: &str, gguf: &Checkpoint) {
    let worst = difference_of(gguf, &directory(name), &Compute::new(1));
    eprintln!("{name} in GGUF: largest difference {worst:.1e}");
    assert!(worst <= F32_TOLERANCE, "{name}: {worst}");
}

fn eps(value: f32) -> (&'static str, Value) {
    ("attention.layer_norm_epsilon", Value::from(value))
}

fn modern(pooling: u32) -> Vec<(&'static str, Value)> {
    vec![
        eps(1e-5),
        ("pooling_type", Value::from(pooling)),
        ("attention.sliding_window", Value::from(12_u32)),
        ("attention.sliding_window_pattern", Value::from(2_u32)),
        ("rope.freq_base", Value::from(160_000.0_f32)),
        ("rope.freq_base_swa", Value::from(10_000.0_f32)),
        ("rope.scaling.type", Value::from("none")),
    ]
}

#[test]
fn bert_and_modern_bert_embed() {
    let xlm = Checkpoint::open(directory("xlm_roberta")).unwrap();
    check("xlm_roberta", &converted(&xlm, "bert", BERT, 2, &[eps(1e-5), ("pooling_type", Value::from(2_u32))]));
    let source = Checkpoint::open(directory("modern_bert")).unwrap();
    check("modern_bert", &converted(&source, "modern-bert", MODERN_BERT, 0, &modern(1)));
}

#[test]
fn rerankers_score_without_a_sigmoid() {
    let xlm = Checkpoint::open(directory("xlm_roberta_rerank")).unwrap();
    let rank = ("pooling_type", Value::from(4_u32));
    check("xlm_roberta_rerank", &converted(&xlm, "bert", BERT, 2, &[eps(1e-12), rank]));
    let source = Checkpoint::open(directory("modern_bert_rerank")).unwrap();
    let OutputSpec::Score(score) =
        EncoderSpec::read(&converted(&source, "modern-bert", MODERN_BERT, 0, &modern(4))).unwrap().output
    else {
        panic!("a reranker")
    };
    assert_eq!((score.sigmoid, score.norm, score.pooling), (false, true, Pooling::Cls));
}
