//! The memory plan of a small real model: what other models reserved counts, and what does not fit is refused unloaded.

use std::path::PathBuf;
use std::sync::Arc;

use yantra_engine::load::{LoadError, LoadOptions, load, plan_memory};
use yantra_engine::{EngineConfig, Speculation, SpeculationMethod};
use yantra_formats::Checkpoint;
use yantra_kernels::Compute;

fn stories() -> Option<PathBuf> {
    let root = std::env::var_os("YANTRA_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    let path = root.join("data/models/stories260K/hf_f32");
    if !path.exists() {
        eprintln!("SKIPPED: {} is not there", path.display());
    }
    path.exists().then_some(path)
}

#[test]
fn every_buffer_is_counted() {
    let Some(path) = stories() else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let plan = |change: &dyn Fn(&mut LoadOptions)| {
        let mut options = LoadOptions { kv_memory_bytes: Some(8 << 20), ..LoadOptions::default() };
        change(&mut options);
        plan_memory(&checkpoint, &options).unwrap()
    };
    let usual = plan(&|_| {});
    // A vocabulary of 512 and 4 bytes each.
    let rows = plan(&|options| options.engine.max_scored_rows += 100);
    assert_eq!(rows.step_bytes - usual.step_bytes, 100 * 512 * 4);
    let tokens = plan(&|options| options.engine = EngineConfig { token_budget: 1024, ..EngineConfig::default() });
    assert_eq!((tokens.step_bytes - usual.step_bytes) % 512, 0, "the same for each token");
    assert!(tokens.step_bytes > usual.step_bytes);
    // The rotary table: 8 dimensions, in single precision.
    let shorter = plan(&|options| options.context = Some(256));
    assert_eq!(usual.step_bytes - shorter.step_bytes, 256 * 8 * 4);
    let quantized = plan(&|options| options.quantize = Some(yantra_kernels::WeightFormat::Q8_0));
    assert!(quantized.load_bytes > 0 && usual.load_bytes == 0);
    assert!(quantized.weight_bytes < usual.weight_bytes);
    let kept = usual.weight_bytes + usual.kv_bytes + usual.step_bytes;
    assert_eq!((usual.total_bytes(), usual.reserved_bytes()), (kept, kept - usual.weight_bytes));
}

#[test]
fn a_draft_model_is_planned_for_and_must_have_the_vocabulary() {
    let Some(path) = stories() else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let plan = |draft_model, method| {
        let speculation = Speculation { method, ..Speculation::default() };
        let engine = EngineConfig { speculation, ..EngineConfig::default() };
        let kv_memory_bytes = Some(8 << 20);
        plan_memory(&checkpoint, &LoadOptions { kv_memory_bytes, draft_model, engine, ..LoadOptions::default() })
    };
    let alone = plan(Some(path.clone()), SpeculationMethod::None).unwrap();
    assert_eq!(alone.draft_bytes, 0, "it is not asked for");
    let itself = plan(Some(path.clone()), SpeculationMethod::DraftModel).unwrap();
    assert!(itself.draft_bytes > itself.weight_bytes + itself.kv_bytes, "{itself:?}");
    let rows = 512 * 4 * Speculation::default().rows_per_step() as u64;
    assert_eq!(itself.total_bytes(), alone.total_bytes() + rows + itself.draft_bytes);
    assert!(itself.to_string().contains("draft model"), "{itself}");
    let unnamed = plan(None, SpeculationMethod::DraftModel).unwrap_err().to_string();
    assert!(unnamed.contains("'draft_model'"), "{unnamed}");
    let Some(other) = crate::real_model::model() else { return };
    let refused = plan(Some(other), SpeculationMethod::DraftModel).unwrap_err().to_string();
    assert!(refused.contains("a vocabulary of 49152 tokens, the model one of 512"), "{refused}");
}

#[test]
fn what_other_models_reserved_is_not_available() {
    let Some(path) = stories() else { return };
    let options = LoadOptions { reserved_bytes: u64::MAX, ..LoadOptions::default() };
    if plan_memory(&Checkpoint::open(&path).unwrap(), &options).unwrap().available_bytes.is_none() {
        eprintln!("SKIPPED: this system does not tell its free memory");
        return;
    }
    match load(&path, &Arc::new(Compute::new(1)), &options, |_| {}) {
        Err(LoadError::Memory { plan }) => assert_eq!(plan.available_bytes, Some(0)),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was loaded into nothing"),
    }
}
