//! Every command's help, as people read it; it must show examples.

use crate::yantra::{run, shown};

fn check(name: &str, args: &[&str]) {
    let text = shown(&[args, &["--help"]].concat());
    assert!(text.contains("Examples:"), "{name} shows no examples");
    insta::assert_snapshot!(format!("help_{name}"), text);
}

#[test]
fn help_of_every_command() {
    check("yantra", &[]);
    check("serve", &["serve"]);
    check("chat", &["chat"]);
    check("complete", &["complete"]);
    check("pull", &["pull"]);
    check("inspect", &["inspect"]);
    check("convert", &["convert"]);
    check("perplexity", &["perplexity"]);
    check("bench_engine", &["bench", "engine"]);
    check("bench_hardware", &["bench", "hardware"]);
    check("bench_embed", &["bench", "embed"]);
    check("bench_load", &["bench", "load"]);
    check("bench_speculation", &["bench", "speculation"]);
    check("bench_context", &["bench", "context"]);
    check("bench_position", &["bench", "position"]);
    check("bench_tools", &["bench", "tools"]);
    check("keys", &["keys"]);
    check("traces", &["traces"]);
    check("traces_export", &["traces", "export"]);
    check("traces_search", &["traces", "search"]);
    check("traces_prune", &["traces", "prune"]);
    check("completions", &["completions"]);
}

#[test]
fn version_names_the_commit() {
    let output = run(&["--version"], "");
    let text = String::from_utf8(output.stdout).unwrap();
    let version = text.trim().strip_prefix("yantra ").unwrap();
    assert!(version.starts_with(env!("CARGO_PKG_VERSION")), "{version}");
}

#[test]
fn completions_for_the_common_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell], "");
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("perplexity"), "{shell}");
    }
}
