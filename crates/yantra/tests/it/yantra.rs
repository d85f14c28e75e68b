//! Runs the binary and shows what it did.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Output, Stdio},
};

/// The binary, with nothing of the developer's environment in it.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yantra"));
    command.args(args);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("YANTRA_")) {
        command.env_remove(name);
    }
    // Help is wrapped at the same width everywhere.
    command.env("COLUMNS", "110");
    command
}

/// Runs it with `input` on standard input.
pub(crate) fn run(args: &[&str], input: &str) -> Output {
    let mut child = command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Exit code, output and errors in one text, for snapshots.
pub(crate) fn shown(args: &[&str]) -> String {
    show(&run(args, ""))
}

pub(crate) fn show(output: &Output) -> String {
    let mut text = format!("exit code: {}\n", output.status.code().unwrap());
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let printed = String::from_utf8_lossy(bytes);
        let printed: String = printed.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        if !printed.trim().is_empty() {
            write!(text, "----- {name} -----\n{printed}").unwrap();
        }
    }
    text
}
