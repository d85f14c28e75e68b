//! The front door: whatever path is given, the answer says what is there.

use crate::support::{assert_says, directory, pattern, small_gguf, small_safetensors};
use std::path::Path;
use yantra_formats::{AccessPattern, Checkpoint, FormatError};

fn open_error(path: impl AsRef<Path>) -> FormatError {
    Checkpoint::open(path).unwrap_err()
}

#[test]
fn models_are_recognised() {
    let weights = small_safetensors(["a", "b"]);
    let models = directory(&[("m.gguf", &small_gguf()), ("hf/config.json", b"{}"), ("hf/model.safetensors", &weights)]);
    let open = |path: &str| Checkpoint::open(models.path().join(path)).unwrap();
    assert!(matches!(open("m.gguf"), Checkpoint::Gguf(_)));
    assert!(matches!(open(""), Checkpoint::Gguf(_)));
    assert!(matches!(open("hf"), Checkpoint::HuggingFace(_)));
    assert!(matches!(open("hf/model.safetensors"), Checkpoint::HuggingFace(_)));
    let model = open("m.gguf");
    model.advise(AccessPattern::Sequential);
    model.advise(AccessPattern::WillNeed);
    assert_eq!(model.total_bytes(), small_gguf().len() as u64);
    assert_eq!(model.tensors().len(), 3);
    assert_eq!(model.require("output.weight").unwrap().data, pattern(32));
    assert_says(model.require("output.bias").unwrap_err(), &["m.gguf", "no tensor 'output.bias'"]);
}

#[test]
fn a_skipped_tensor_is_explained() {
    let table = br#"{"w.qweight":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}"#;
    let weights = [&(table.len() as u64).to_le_bytes()[..], table, &[0; 4]].concat();
    let model = directory(&[("config.json", b"{}"), ("model.safetensors", &weights)]);
    let model = Checkpoint::open(model.path()).unwrap();
    assert_says(model.require("w.qweight").unwrap_err(), &["'w.qweight'", "its type is I32"]);
}

#[test]
fn what_is_no_model_is_named() {
    let zip = [&b"PK\x03\x04"[..], &[0; 26], b"archive/data.pkl"].concat();
    let weights = small_safetensors(["a", "b"]);
    let files: &[(&str, &[u8])] = &[
        ("notes.txt", b"Dear diary, today"),
        ("empty.gguf", b""),
        ("model.pth", &zip),
        ("old.bin", b"\x80\x02}q\x00."),
        ("model.whl", b"PK\x03\x04 and more"),
        ("page.gguf", b"\n<!DOCTYPE html><html>"),
        ("legacy.bin", b"tjgg\x03\0\0\0"),
        ("pointer.gguf", b"version https://git-lfs.github.com/spec/v1"),
        ("alone.safetensors", &weights),
        ("lonely/model.safetensors", &weights),
        ("cut.gguf", b"GGUF\x03\0"),
        ("adapter/adapter_config.json", b"{}"),
        ("two/a.gguf", &[]),
        ("two/b.gguf", &[]),
    ];
    let directory = directory(files);
    let check = |path: &str, parts: &[&str]| assert_says(open_error(directory.path().join(path)), parts);
    check("notes.txt", &["notes.txt' is not a model", "starts with \"Dear diary, toda\"", "expected a GGUF file"]);
    check("empty.gguf", &["an empty file (0 bytes)"]);
    check("model.pth", &["PyTorch pickle", "convert it to safetensors"]);
    check("old.bin", &["PyTorch pickle"]);
    check("model.whl", &["a zip archive"]);
    check("page.gguf", &["HTML"]);
    check("legacy.bin", &["before GGUF"]);
    check("pointer.gguf", &["git lfs pull"]);
    check("alone.safetensors", &["without the config.json"]);
    check("cut.gguf", &["cut.gguf", "truncated in the version", "4 bytes needed", "2 present"]);
    check("nowhere", &["nowhere' does not exist", "GGUF file or a Hugging Face"]);
    check("lonely", &["no config.json and no .gguf file (model.safetensors)"]);
    check("adapter", &["an adapter", "the model it was made for"]);
    check("two", &["2 GGUF models (a.gguf, b.gguf)", "name one"]);
}
