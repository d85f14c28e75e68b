//! `yantra convert` from the outside: a tiny model there and back, and what it refuses.

use crate::yantra::{run, shown};
use std::path::Path;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../yantra-model/tests/data/hf_tiny");

#[test]
fn there_and_back_and_never_over_anything() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (source, file, back) = (format!("{TINY}/llama"), path("llama.gguf"), path("back"));

    let text = shown(&["convert", &source, &file, "--dry-run", "--type", "q8_0"]);
    assert!(text.starts_with("exit code: 0\n") && text.contains("blk.1.attn_q.weight"), "{text}");
    assert!(text.contains("permuted") && text.contains("q8_0") && text.contains("made of hyper-parameters"), "{text}");
    assert!(!Path::new(&file).exists());

    let text = shown(&["convert", &source, &file]);
    assert!(text.starts_with("exit code: 0\n") && text.contains("in 22 tensors"), "{text}");
    let text = shown(&["convert", &source, &file]);
    assert!(text.starts_with("exit code: 1\n") && text.contains("--force"), "{text}");
    let output = run(&["convert", &source, &file, "--force", "--json"], "");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["written"], &report["lost"]), (&true.into(), &serde_json::json!([])));

    let text = shown(&["convert", &file, &back]);
    assert!(text.starts_with("exit code: 0\n"), "{text}");
    let bytes = |path: &str| std::fs::read(Path::new(path).join("model.safetensors")).unwrap().len();
    assert!(bytes(&back).abs_diff(bytes(&source)) < 100);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "something was left behind");

    let text = shown(&["convert", &file, folder.path().to_str().unwrap(), "--force"]);
    assert!(text.starts_with("exit code: 2\n") && text.contains("to be converted"), "{text}");
    assert!(Path::new(&file).exists());
}

#[test]
fn what_a_format_can_not_express_is_refused_or_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf").to_str().unwrap().to_owned();
    let source = format!("{TINY}/qwen2");
    let text = shown(&["convert", &source, &file]);
    assert!(
        text.starts_with("exit code: 1\n") && text.contains("window of layer 1") && text.contains("--lossy"),
        "{text}"
    );
    let text = shown(&["convert", &source, &file, "--lossy"]);
    assert!(text.starts_with("exit code: 0\n") && text.contains("lost: window of layer 1"), "{text}");
    let text = shown(&["convert", &format!("{TINY}/grok"), &file, "--force"]);
    assert!(text.contains("conversion of Grok-1 between formats is not supported"), "{text}");
}
