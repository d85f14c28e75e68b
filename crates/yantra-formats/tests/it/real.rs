//! Real models, where they are there.

use crate::support::{assert_says, cached_model, shared};
use std::collections::BTreeMap;
use yantra_formats::{Checkpoint, GgufFile, HfDirectory};
use yantra_kernels::WeightFormat;

/// Names, layers, hidden size and tensors are those the models' makers publish.
#[test]
fn cached_gguf_models_are_read() {
    let models = [
        ("smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf", "llama", 30, 576, 49152),
        ("qwen2.5-coder-1.5b/Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf", "qwen2", 28, 1536, 151936),
        ("gemma3-270m/gemma-3-270m-q4_k_m.gguf", "gemma3", 18, 640, 262144),
    ];
    for (path, architecture, layers, hidden, vocab) in models {
        let Some(path) = cached_model(path) else { continue };
        let file = GgufFile::open(&path).unwrap();
        let metadata = file.metadata();
        assert_eq!(metadata.get_str("general.architecture"), Ok(architecture));
        assert_eq!(metadata.get_u32(&format!("{architecture}.block_count")), Ok(layers));
        assert_eq!(metadata.get_u32(&format!("{architecture}.embedding_length")), Ok(hidden));
        let tokens = metadata.get_strings("tokenizer.ggml.tokens").unwrap().len();
        let embedding = file.tensor("token_embd.weight").unwrap();
        assert_eq!((tokens, embedding.shape.as_slice()), (vocab, &[vocab, hidden as usize][..]));
        let mut formats: BTreeMap<&str, usize> = BTreeMap::new();
        for tensor in file.tensors() {
            *formats.entry(tensor.format.name()).or_default() += 1;
            assert_eq!(file.tensor(&tensor.name).unwrap().data.len(), tensor.num_bytes());
        }
        eprintln!("{}: {} tensors {formats:?}", path.display(), file.tensors().len());
        // The file is its head and its tensors, with nothing unexplained behind them but padding.
        let end = file.tensors().map(|tensor| tensor.range.end as u64).max().unwrap();
        assert!(file.total_bytes() - end < file.alignment() as u64);
    }
}

#[test]
fn vocabulary_only_files_are_read() {
    let Some(directory) = shared("ggml_vocab") else { return };
    let mut found = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            let file = GgufFile::open(&path).unwrap();
            assert_eq!(file.tensors().len(), 0);
            assert!(file.metadata().get_strings("tokenizer.ggml.tokens").unwrap().len() > 1000, "{}", path.display());
            found += 1;
        }
    }
    assert!(found >= 8, "{found} files");
}

#[test]
fn a_cached_embedding_model_is_read() {
    let Some(path) = cached_model("minilm-l6") else { return };
    let model = HfDirectory::open(path).unwrap();
    assert_eq!(model.config().get::<&str>("model_type").unwrap(), "bert");
    let embedding = model.tensor("embeddings.word_embeddings.weight").unwrap();
    assert_eq!((embedding.format, embedding.shape.as_slice()), (WeightFormat::F32, &[30522, 384][..]));
    assert_eq!(model.skipped().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>(), ["embeddings.position_ids"]);
    assert!(model.pooling_config().unwrap().unwrap().get::<bool>("pooling_mode_mean_tokens").unwrap());
    assert!(model.read_tokenizer().unwrap().unwrap().starts_with(b"{"));
    assert_eq!(model.special_tokens_map().unwrap().get::<&str>("cls_token").unwrap(), "[CLS]");
}

#[test]
fn tiny_hugging_face_models_are_read() {
    for (path, format) in [
        ("stories260K/hf_f32", WeightFormat::F32),
        ("stories260K/hf_f16", WeightFormat::F16),
        ("stories260K_moe4", WeightFormat::F32),
    ] {
        let Some(path) = shared(path) else { continue };
        let model = Checkpoint::open(path).unwrap();
        let embedding = model.require("model.embed_tokens.weight").unwrap();
        assert_eq!((embedding.format, embedding.shape.as_slice()), (format, &[512, 64][..]));
        assert!(model.tensors().all(|tensor| tensor.format == format));
    }
}

#[test]
fn unusual_types_are_refused_by_name() {
    let Some(path) = shared("model2vec/fixtures/test-model-vocab-quantized") else { return };
    assert_says(Checkpoint::open(path).unwrap_err(), &["tensor 'weights' has type F64", "F32, F16 or BF16"]);
}
