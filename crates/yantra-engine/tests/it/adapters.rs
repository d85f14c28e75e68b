//! Adapters in a running engine, on a tiny model: answers are those of each adapter alone, whatever runs beside them, whatever
//! is remembered, and whether or not the adapter has been dropped meanwhile.

use crate::fake::{Pending, assert_idle, greedy};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use yantra_engine::{
    Adapter, Engine, EngineConfig, EngineHandle, ModelRunner, Request,
    load::{AdapterError, AdapterLoader},
};
use yantra_formats::Checkpoint;
use yantra_kernels::{Compute, KvFormat};
use yantra_model::{Decoder, LoadOptions};

fn data(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../yantra-model/tests/data")).join(path)
}

fn start(config: EngineConfig) -> (EngineHandle, AdapterLoader) {
    let checkpoint = Checkpoint::open(data("hf_tiny/llama")).unwrap();
    let compute = Arc::new(Compute::new(2));
    let decoder = Arc::new(Decoder::load(&checkpoint, &compute, LoadOptions::default()).unwrap());
    let runner = ModelRunner::new(Arc::clone(&decoder), Arc::clone(&compute), KvFormat::F32, 64).unwrap();
    let loader = AdapterLoader::new(decoder, checkpoint, compute.level(), config.token_budget, 0);
    (Engine::spawn(Box::new(runner), None, config).unwrap(), loader)
}

fn load(loader: &AdapterLoader, name: &str) -> Arc<Adapter> {
    loader.load(&data("lora_tiny").join(name)).unwrap()
}

/// Longer than a page, so that it is remembered.
fn prompt() -> Vec<u32> {
    (0..40).map(|at| 3 + at * 7 % 90).collect()
}

fn request(adapter: Option<&Arc<Adapter>>) -> Request {
    Request { adapter: adapter.cloned(), ..greedy(&prompt(), 24) }
}

fn answer(engine: &EngineHandle, adapter: Option<&Arc<Adapter>>) -> Vec<u32> {
    Pending::submit(engine, request(adapter)).wait().tokens[&0].clone()
}

const NAMES: [&str; 3] = ["plain", "dora", "patterns"];

#[test]
fn every_adapter_gets_its_own_answer_and_its_own_pages() {
    // What each says alone, in an engine that remembers nothing.
    let (alone, loader) = start(EngineConfig { prefix_cache: false, ..EngineConfig::default() });
    let loaded = NAMES.map(|name| load(&loader, name));
    let expected: Vec<_> = [None].into_iter().chain(loaded.iter().map(Some)).map(|a| answer(&alone, a)).collect();
    for (index, answer) in expected.iter().enumerate() {
        assert!(expected[..index].iter().all(|other| other != answer), "adapters that can not be told apart");
    }
    let (engine, loader) = start(EngineConfig { max_sequences: 8, ..EngineConfig::default() });
    let loaded = NAMES.map(|name| load(&loader, name));
    let adapters: Vec<_> = [None].into_iter().chain(loaded.iter().map(Some)).collect();
    for round in 0..3 {
        let pending: Vec<_> = (0..24).map(|at| Pending::submit(&engine, request(adapters[at % 4]))).collect();
        for (at, pending) in pending.into_iter().enumerate() {
            assert_eq!(pending.wait().tokens[&0].clone(), expected[at % 4], "round {round}, request {at}");
        }
    }
    assert!(engine.stats().prefix_hit_tokens > 0, "pages of an adapter are found again by itself");
    // The same files once more are the same adapter.
    let hits = engine.stats().prefix_hit_tokens;
    assert_eq!(answer(&engine, Some(&load(&loader, "dora"))), expected[2]);
    assert!(engine.stats().prefix_hit_tokens > hits);
    assert_idle(&engine);
}

#[test]
fn a_dropped_adapter_serves_those_that_have_it() {
    let (engine, loader) = start(EngineConfig::default());
    let expected = answer(&engine, Some(&load(&loader, "plain")));
    let adapter = load(&loader, "plain");
    let pending: Vec<_> = (0..6).map(|_| Pending::submit(&engine, request(Some(&adapter)))).collect();
    drop(adapter);
    for pending in pending {
        assert_eq!(pending.wait().tokens[&0].clone(), expected);
    }
    assert_idle(&engine);
    assert_eq!(loader.bytes(), 0, "nobody holds it any more");
}

#[test]
fn adapters_are_counted_and_what_is_none_is_refused() {
    let (_engine, loader) = start(EngineConfig::default());
    assert_eq!(loader.bytes(), 0);
    let first = load(&loader, "plain");
    let one = loader.bytes();
    assert!(one > first.bytes() as u64, "with the buffers of steps");
    let second = load(&loader, "dora");
    assert_eq!(loader.bytes(), one + second.bytes() as u64);
    drop((first, second));
    assert_eq!(loader.bytes(), 0);
    assert!(matches!(loader.load(&data("hf_tiny/llama")), Err(AdapterError::Format(_))));
    assert!(matches!(loader.load(&data("lora_tiny/fused")), Err(AdapterError::Model(_))));
}
