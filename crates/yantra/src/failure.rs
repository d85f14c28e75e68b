//! How a command fails: one message with its causes, a hint what to do, and an exit code.

use std::{error::Error, fmt, process::ExitCode};

/// Wrong use: exit code 2.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for UsageError {}

/// A [`UsageError`] as the error of any function.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    UsageError(message.into()).into()
}

/// What to do about an error; travels as context beside its message.
#[derive(Debug)]
struct Hinted {
    message: String,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Hinted {}

/// An error with advice.
pub(crate) fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Hinted { message: message.into(), hint: hint.into() }.into()
}

/// Prints `error` with its causes and its hint to standard error; gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let mut said = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let text = cause.to_string();
        // Wrappers that repeat their source's message would say everything twice.
        if depth > 0 && said.contains(&text) {
            continue;
        }
        let line = if depth == 0 { format!("error: {text}") } else { format!("  because: {text}") };
        eprintln!("{line}");
        said.push_str(&text);
    }
    // `downcast_ref` of the whole error also sees contexts, which the links of the chain hide.
    if let Some(hint) = error.downcast_ref::<Hinted>() {
        eprintln!("hint: {}", hint.hint);
    }
    let wrong_use = error.downcast_ref::<UsageError>().is_some();
    if wrong_use {
        eprintln!("try `yantra --help`, or `yantra COMMAND --help` for examples");
    }
    ExitCode::from(if wrong_use { 2 } else { 1 })
}
