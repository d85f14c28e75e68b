//! Wrong use gets exit code 2 and a message that says what to do; failures get 1.

use crate::yantra::shown;

#[test]
fn wrong_flags_and_values() {
    let cases: &[(&str, &[&str])] = &[
        ("unknown_command", &["sevre"]),
        ("serve_nothing", &["serve"]),
        ("serve_bad_host", &["serve", "m", "--host", " "]),
        ("serve_bad_name", &["serve", "m", "--name", "x"]),
        ("serve_short_key", &["serve", "m", "--api-key", "short"]),
        ("serve_bad_size", &["serve", "m", "--kv-memory", "lots"]),
        ("serve_many_threads", &["serve", "m", "--threads", "100000"]),
        ("serve_open", &["serve", "m", "--host", "0.0.0.0"]),
        ("serve_name_twice", &["serve", "--name", "x=a", "--name", "x=b"]),
        ("serve_budget", &["serve", "m", "--max-sequences", "1000"]),
        ("serve_spill_limit_zero", &["serve", "m", "--kv-spill", "d", "--kv-spill-limit", "0"]),
        ("serve_spill_limit_alone", &["serve", "m", "--kv-spill-limit", "1GiB"]),
        ("serve_bad_generation_config", &["serve", "m", "--generation-config", "vllm"]),
        ("complete_bad_bias", &["complete", "m", "text", "--logit-bias", "Paris=5"]),
        ("chat_bad_bias", &["chat", "m", "--logit-bias", "7=500"]),
        ("complete_bad_kv", &["complete", "m", "text", "--kv-dtype", "f12"]),
        ("bench_remote", &["bench", "load", "--url", "http://192.0.2.1:80"]),
        ("bench_bad_url", &["bench", "load", "--url", "127.0.0.1:8080"]),
        ("bench_bad_goodput", &["bench", "load", "--goodput", "ttfb:3"]),
        ("bench_no_clients", &["bench", "load", "--clients", "0"]),
        ("bench_engine_nothing", &["bench", "engine", "m", "--prompt", "0", "--generate", "0"]),
        ("bench_hardware_memory", &["bench", "hardware", "--memory", "16,0"]),
        ("bench_embed_nothing", &["bench", "embed", "m", "--sentences", "0"]),
        ("serve_bad_embedding_dtype", &["serve", "m", "--embedding-dtype", "int4"]),
        ("pull_nothing", &["pull"]),
        ("convert_nothing", &["convert", "m"]),
        ("convert_bad_type", &["convert", "m", "m.gguf", "--type", "q9_k"]),
        ("convert_bad_rule", &["convert", "m", "m.gguf", "--tensor-type", "q4_k"]),
        ("convert_empty_rule", &["convert", "m", "m.gguf", "--tensor-type", "=q4_k"]),
        ("perplexity_stride", &["perplexity", "m", "--file", "f", "--window", "4", "--stride", "5"]),
    ];
    for (name, args) in cases {
        let text = shown(args);
        assert!(text.starts_with("exit code: 2\n"), "{args:?}: {text}");
        assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
        insta::assert_snapshot!(format!("wrong_{name}"), text);
    }
}

#[test]
fn unknown_models_get_the_nearest_names() {
    let text = shown(&["inspect", "smollm-135m"]);
    assert!(text.starts_with("exit code: 1\n") && text.contains("smollm2-135m"), "{text}");
    let text = shown(&["inspect", "./no/such/file.gguf"]);
    assert!(text.starts_with("exit code: 1\n") && text.contains("no/such/file.gguf"), "{text}");
}

#[test]
fn configuration_files_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("yantra.toml");
    let path = path.to_str().unwrap();
    std::fs::write(path, "[server]\nprot = 8080\n").unwrap();
    let text = shown(&["serve", "m", "--config", path]);
    assert!(text.starts_with("exit code: 2\n"), "{text}");
    assert!(text.contains("server.prot") && text.contains("did you mean `port`?"), "{text}");
    let text = shown(&["serve", "m", "--config", "/no/such/file"]);
    assert!(text.starts_with("exit code: 1\n") && text.contains("/no/such/file"), "{text}");
}

#[test]
fn environment_variables_are_checked() {
    let mut command = crate::yantra::command(&["complete", "m", "text"]);
    let output = command.env("YANTRA_THREADS", "many").output().unwrap();
    let text = crate::yantra::show(&output);
    assert!(text.starts_with("exit code: 2\n") && text.contains("YANTRA_THREADS is `many`"), "{text}");
}

#[test]
fn a_server_that_can_not_load_its_model_says_only_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, "<html>404</html>").unwrap();
    let text = shown(&["serve", path.to_str().unwrap(), "--port", "0"]);
    assert!(text.starts_with("exit code: 1\n") && text.contains("HTML page"), "{text}");
    assert!(!text.contains("draining"), "nothing ran that could be drained: {text}");
    assert!(!text.contains('\u{1b}'), "standard error is no terminal here: {text:?}");
}

#[test]
fn broken_files_are_explained() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, "<html>404</html>").unwrap();
    let text = shown(&["inspect", path.to_str().unwrap()]);
    assert!(text.starts_with("exit code: 1\n") && text.contains("HTML page"), "{text}");
}

#[test]
fn directories_for_spilled_pages_are_checked_before_anything_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("m.gguf");
    std::fs::write(&model, "").unwrap();
    let serve = |spill: &std::path::Path| {
        let text = shown(&["serve", model.to_str().unwrap(), "--port", "0", "--kv-spill", spill.to_str().unwrap()]);
        assert!(text.starts_with("exit code: 1\n"), "{text}");
        text
    };
    let text = serve(&model.join("below"));
    assert!(text.contains("can not use the directory") && text.contains("m.gguf/below"), "{text}");
    let taken = directory.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    let lock = std::fs::File::create(taken.join("lock")).unwrap();
    lock.lock().unwrap();
    let text = serve(&taken);
    assert!(text.contains("in use by another process"), "{text}");
}
