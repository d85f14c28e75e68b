//! Hugging Face directories: configuration, templates, shards.

use crate::support::{assert_says, directory, pattern, small_safetensors};
use yantra_formats::{FormatError, HfDirectory, hf::Config};

const CONFIG: (&str, &[u8]) = ("config.json", br#"{"model_type": "llama", "hidden_size": 64, "eos_token_id": 2}"#);

/// Opens a directory with `CONFIG`, one weights file and `files`.
fn open(files: &[(&str, &[u8])]) -> Result<HfDirectory, FormatError> {
    let weights = small_safetensors(["a", "b"]);
    let base: [(&str, &[u8]); 2] = [CONFIG, ("model.safetensors", &weights)];
    let all: Vec<(&str, &[u8])> = base.into_iter().chain(files.iter().copied()).collect();
    HfDirectory::open(directory(&all).path())
}

#[test]
fn a_directory_is_read() {
    let model = open(&[("tokenizer_config.json", b"{\"add_bos_token\": true}")]).unwrap();
    assert_eq!(model.config().get::<usize>("hidden_size").unwrap(), 64);
    assert_eq!(model.tensor("a").unwrap().data, pattern(24));
    assert_eq!(model.tokenizer_config().unwrap().find::<bool>("add_bos_token").unwrap(), Some(true));
    assert!(model.chat_templates().is_empty() && model.generation_config().is_none());
    assert!(model.warnings().is_empty());
}

#[test]
fn end_of_sequence_ids_come_from_either_file() {
    let eos = |generation: &str| {
        let files: &[(&str, &[u8])] = &[("generation_config.json", generation.as_bytes())];
        open(files).unwrap().eos_token_ids()
    };
    assert_eq!(open(&[]).unwrap().eos_token_ids().unwrap(), [2]);
    assert_eq!(eos(r#"{"eos_token_id": [7, 8]}"#).unwrap(), [7, 8]);
    assert_eq!(eos(r#"{"eos_token_id": 9}"#).unwrap(), [9]);
    assert_eq!(eos(r#"{"eos_token_id": null}"#).unwrap(), [2]);
    assert_says(eos(r#"{"eos_token_id": "</s>"}"#).unwrap_err(), &["generation_config.json", "eos_token_id", "'</s>'"]);
}

#[test]
fn chat_templates_are_found_wherever_they_are() {
    let string = br#"{"chat_template": "in config"}"#;
    let list = br#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}"#;
    let model = open(&[("tokenizer_config.json", string)]).unwrap();
    assert_eq!(model.chat_template("default"), Some("in config"));
    let model = open(&[("tokenizer_config.json", list)]).unwrap();
    assert_eq!((model.chat_template("default"), model.chat_template("tool_use")), (Some("d"), Some("t")));
    let newest: &[(&str, &[u8])] = &[
        ("chat_template.jinja", b"newest"),
        ("additional_chat_templates/rag.jinja", b"r"),
        ("chat_template.json", br#"{"chat_template": "older"}"#),
        ("tokenizer_config.json", list),
    ];
    let model = open(newest).unwrap();
    assert_eq!((model.chat_template("default"), model.chat_template("rag")), (Some("newest"), Some("r")));
    assert_eq!(model.chat_template("tool_use"), Some("t"));
    let wrong: &[(&str, &[u8])] = &[("tokenizer_config.json", br#"{"chat_template": [{"name": "x"}]}"#)];
    assert_says(open(wrong).unwrap_err(), &["tokenizer_config.json", "chat_template", "list of {name, template}"]);
}

#[test]
fn pooling_is_found_through_the_modules() {
    let pooling: (&str, &[u8]) = ("p/config.json", br#"{"pooling_mode_cls_token": true}"#);
    let modules = br#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
                       {"path": "p", "type": "sentence_transformers.models.Pooling"}]"#;
    let files = [pooling, ("modules.json", &modules[..])];
    let directory = {
        let weights = small_safetensors(["a", "b"]);
        directory(&[CONFIG, ("model.safetensors", &weights), files[0], files[1]])
    };
    let model = HfDirectory::open(directory.path()).unwrap();
    let pooling = model.pooling_config().unwrap().unwrap();
    assert!(pooling.get::<bool>("pooling_mode_cls_token").unwrap());
    assert_says(model.read_json("../config.json").unwrap_err(), &["within the model's directory"]);
    assert!(model.read_json("config_sentence_transformers.json").unwrap().is_none());
}

#[test]
fn configuration_is_typed_and_errors_name_the_key() {
    let json = serde_json::json!({
        "whole": 8192.0, "half": 0.5, "list": [1, 2], "nothing": null, "rope_scaling": { "factor": 8 }, "minus": -1
    });
    let config = Config::from_value("config.json", json);
    assert_eq!(config.get::<u32>("whole").unwrap(), 8192);
    assert_eq!(config.get::<Vec<u32>>("list").unwrap(), [1, 2]);
    assert_eq!(config.get::<f32>("rope_scaling.factor").unwrap(), 8.0);
    assert_eq!(config.section("rope_scaling").unwrap().get::<u32>("factor").unwrap(), 8);
    assert_eq!(config.find::<u32>("nothing").unwrap(), None);
    assert_eq!(config.find::<u32>("rope_scaling.type").unwrap(), None);
    assert_says(config.get::<u32>("half").unwrap_err(), &["config.json", "'half'", "0.5", "unsigned integer"]);
    assert_says(config.get::<u32>("minus").unwrap_err(), &["'minus'", "-1"]);
    assert_says(config.get::<u32>("nothing").unwrap_err(), &["'nothing'", "missing"]);
    assert_says(config.find::<&str>("list").unwrap_err(), &["'list'", "array of 2", "a string"]);
}

/// An index naming tensors `a`, `b` in shard 1 and `c`, `d` in shard 2, of 34 bytes each.
const INDEX: &[u8] =
    br#"{"metadata": {"total_size": 68}, "weight_map": {"a": "m-1.safetensors", "b": "m-1.safetensors",
                          "c": "m-2.safetensors", "d": "m-2.safetensors"}}"#;

fn open_shards(index: &[u8], with_second: bool) -> Result<HfDirectory, FormatError> {
    let (first, second) = (small_safetensors(["a", "b"]), small_safetensors(["c", "d"]));
    let mut files: Vec<(&str, &[u8])> =
        vec![CONFIG, ("model.safetensors.index.json", index), ("m-1.safetensors", &first)];
    if with_second {
        files.push(("m-2.safetensors", &second));
    }
    HfDirectory::open(directory(&files).path())
}

#[test]
fn shards_are_joined() {
    let model = open_shards(INDEX, true).unwrap();
    assert_eq!(model.tensors().len(), 4);
    assert_eq!(model.tensor("d").unwrap().data, pattern(10));
    assert!(model.warnings().is_empty());
    assert_says(open_shards(INDEX, false).unwrap_err(), &["m-2.safetensors", "missing", "index.json", "2 shards"]);
}

#[test]
fn a_wrong_index_is_explained() {
    let replaced = |from: &str, to: &str| String::from_utf8(INDEX.to_vec()).unwrap().replace(from, to).into_bytes();
    let check = |from: &str, to: &str, parts: &[&str]| {
        assert_says(open_shards(&replaced(from, to), true).unwrap_err(), parts);
    };
    check("\"d\": \"m-2", "\"e\": \"m-2", &["'e' is not in m-2.safetensors"]);
    check("\"b\": \"m-1", "\"b\": \"m-2", &["'b' is not in m-2.safetensors"]);
    check("\"b\": \"m-1", "\"b\": \"../m-1", &["'b'", "../m-1", "a file name"]);
    check("\"weight_map\": {", "\"weights\": {", &["weight_map", "missing"]);
    check("{\"metadata\"", "[\"metadata\"", &["index.json", "not JSON"]);
    let wrong_total = open_shards(&replaced("68", "99"), true).unwrap();
    assert_says(&wrong_total.warnings()[0], &["99 bytes", "hold 68"]);
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let shard = small_safetensors(["a", "b"]);
    let index = br#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
    let files: &[(&str, &[u8])] =
        &[CONFIG, ("model.safetensors.index.json", index), ("1.safetensors", &shard), ("2.safetensors", &shard)];
    let error = HfDirectory::open(directory(files).path()).unwrap_err();
    assert_says(error, &["2.safetensors", "'a' is also in", "1.safetensors"]);
}

#[test]
fn missing_weights_are_explained() {
    let check = |files: &[(&str, &[u8])], parts: &[&str]| {
        let files: Vec<(&str, &[u8])> = [CONFIG].into_iter().chain(files.iter().copied()).collect();
        assert_says(HfDirectory::open(directory(&files).path()).unwrap_err(), parts);
    };
    check(&[("pytorch_model.bin", b"x")], &["PyTorch pickle (pytorch_model.bin)", "safetensors"]);
    check(&[("model-00001-of-00002.safetensors", b"x")], &["no model.safetensors.index.json", "model-00001-of-00002"]);
    check(&[("vocab.txt", b"x")], &["no weights (config.json, vocab.txt)"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    check(&[("model.safetensors", pointer)], &["model.safetensors", "Git LFS pointer"]);
    check(&[("model.safetensors", b"")], &["model.safetensors", "empty file"]);
    check(&[("tokenizer_config.json", b"<!DOCTYPE html>")], &["tokenizer_config.json", "HTML"]);
    check(&[("generation_config.json", b"[]")], &["generation_config.json", "expected an object"]);
}
