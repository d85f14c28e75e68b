//! Hugging Face repositories: which files make a model, and finding them again.

use crate::fakes::{Place, assert_says};
use std::{fs, sync::atomic::Ordering};
use yantra_hub::{HubReference, Origin, Selection, Silent, select_files};

fn select(reference: &str, files: &[&str]) -> Result<Selection, yantra_hub::HubError> {
    let reference: HubReference = reference.parse().unwrap();
    select_files(&reference, &files.iter().map(|&file| file.to_owned()).collect::<Vec<_>>())
}

#[test]
fn a_safetensors_model_is_taken_with_all_it_needs() {
    let files = [
        ".gitattributes",
        "README.md",
        "config.json",
        "tokenizer.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "1_Pooling/config.json",
        "onnx/config.json",
        "additional_chat_templates/rag.jinja",
    ];
    let selection = select("a/b", &files).unwrap();
    assert!(selection.is_directory);
    let expected = [2, 3, 4, 5, 6, 8, 10].map(|index: usize| files[index]);
    assert_eq!(selection.files, expected);
}

#[test]
fn a_gguf_is_chosen() {
    let many = ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-f16.gguf", "mmproj-f16.gguf"];
    let entry = |reference: &str, files: &[&str]| select(reference, files).map(|selection| selection.entry);
    assert_eq!(entry("a/b", &["README.md", "only.gguf"]).unwrap(), "only.gguf");
    assert_eq!(entry("a/b", &many).unwrap(), "m-Q4_K_M.gguf");
    assert_eq!(entry("a/b:q8_0", &many).unwrap(), "m-Q8_0.gguf");
    assert_eq!(entry("a/b:m-f16.gguf", &many).unwrap(), "m-f16.gguf");
    assert_says(entry("a/b", &many[1..]).unwrap_err(), &["several models", "a/b:FILE", "m-Q8_0.gguf, m-f16.gguf"]);
    assert_says(entry("a/b:Q", &many).unwrap_err(), &["several models", "m-Q4_K_M.gguf"]);
    assert_says(entry("a/b:Q2_K", &many).unwrap_err(), &["no file that fits 'Q2_K'", "m-Q8_0.gguf"]);
    assert_says(entry("a/b", &["pytorch_model.bin"]).unwrap_err(), &["neither GGUF", "pytorch_model.bin"]);
    assert_says(entry("a/b", &[]).unwrap_err(), &["no files"]);
}

#[test]
fn split_models_come_whole() {
    let files =
        ["x/m-00001-of-00002.gguf", "x/m-00002-of-00002.gguf", "x/n-00001-of-00002.gguf", "x/n-00002-of-00002.gguf"];
    let selection = select("a/b:m-", &files).unwrap();
    assert_eq!((selection.entry.as_str(), selection.is_directory), (files[0], false));
    assert_eq!(selection.files, files[..2]);
}

#[test]
fn what_was_pulled_is_found_without_the_network() {
    let place = Place::with_repository(&["config.json", "model.safetensors", "tokenizer.json", "README.md"]);
    let pulled = place.hub.pull("own/model", &Silent).unwrap();
    assert_eq!((pulled.name.as_str(), &pulled.origin), ("own/model", &Origin::HuggingFace));
    assert_eq!(pulled.path, place.repositories.directory);
    assert_eq!(place.repositories.fetched.lock().unwrap().len(), 3);
    place.repositories.offline.store(true, Ordering::Relaxed);
    assert_eq!(place.hub.resolve("own/model", &Silent).unwrap(), pulled);
    assert_eq!(place.hub.pull("own/model", &Silent).unwrap(), pulled);
    assert_says(place.hub.pull("other/model", &Silent).unwrap_err(), &["could not reach Hugging Face", "other/model"]);
    fs::remove_file(place.repositories.directory.join("tokenizer.json")).unwrap();
    assert_says(place.hub.resolve("own/model", &Silent).unwrap_err(), &["not downloaded"]);
}

#[test]
fn names_that_lead_out_of_the_repository_are_refused() {
    let place = Place::with_repository(&["../../.profile.gguf"]);
    assert_says(place.hub.pull("own/model", &Silent).unwrap_err(), &["../../.profile.gguf", "leads out"]);
    assert!(place.repositories.fetched.lock().unwrap().is_empty());
}
