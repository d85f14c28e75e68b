//! The official clients of OpenAI and Anthropic (Python and Node) against our server: the promise of compatibility, tested.

use crate::tools::{cache, find, need, once, program, root, run};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What the tests need to know of the server.
pub(crate) struct Target<'a> {
    pub(crate) url: &'a str,
    pub(crate) api_key: &'a str,
    pub(crate) chat_model: &'a str,
    pub(crate) embedding_model: &'a str,
}

impl Target<'_> {
    fn pass_to(&self, command: &mut Command) {
        command
            .env("YANTRA_URL", self.url)
            .env("YANTRA_API_KEY", self.api_key)
            .env("YANTRA_CHAT_MODEL", self.chat_model)
            .env("YANTRA_EMBEDDING_MODEL", self.embedding_model)
            .env_remove("OPENAI_API_KEY")
            .env_remove("OPENAI_BASE_URL");
    }
}

/// Runs `clients/python` in a virtual environment of the user's cache.
pub(crate) fn python(target: &Target<'_>) -> Result<()> {
    let sources = root().join("clients/python");
    let bin = virtual_environment("python", &sources)?;
    let args = ["-m", "pytest", "-q", "-p", "no:cacheprovider"];
    let mut command = program(bin.join("python"), &args, &sources);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    target.pass_to(&mut command);
    run(&mut command)
}

/// Runs Schemathesis on the server's own OpenAPI document, as `clients/schemathesis/schemathesis.toml` says; in a copy,
/// because it writes beside it what failed, and would begin with that the next time.
pub(crate) fn schemathesis(target: &Target<'_>) -> Result<()> {
    let sources = root().join("clients/schemathesis");
    let bin = virtual_environment("schemathesis", &sources)?;
    let place = cache("schemathesis-run")?;
    fs::remove_dir_all(&place)?;
    fs::create_dir_all(&place)?;
    copy_files(&sources, &place)?;
    let document = format!("{}/openapi.json", target.url);
    let mut command = program(bin.join("st"), &["run", &document], &place);
    command.env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONPATH", &place);
    target.pass_to(&mut command);
    run(&mut command)
}

/// A virtual environment in the user's cache with the packages of `requirements.txt`; where its programs are.
fn virtual_environment(name: &str, sources: &Path) -> Result<PathBuf> {
    let python = find("python3").or_else(|| find("python"));
    let python = python.context("`python3` is not on the path: install Python 3.10 or newer")?;
    let requirements = fs::read_to_string(sources.join("requirements.txt"))?;
    let venv = cache(name)?;
    let bin = venv.join(if cfg!(windows) { "Scripts" } else { "bin" });
    once(&venv, &requirements, || {
        let venv_text = venv.to_string_lossy();
        run(&mut program(&python, &["-m", "venv", "--clear", &venv_text], sources))?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"];
        let installed = run(&mut program(bin.join("python"), &install, sources));
        installed.context(
            "the packages of the tests could not be fetched: the first run needs the network, later ones do not",
        )
    })?;
    Ok(bin)
}

/// Runs `clients/node` in a copy in the user's cache, beside its packages.
pub(crate) fn node(target: &Target<'_>) -> Result<()> {
    let how = "install Node.js 20 or newer";
    let (node, npm) = (need("node", how)?, need("npm", how)?);
    let sources = root().join("clients/node");
    let place = cache("node")?;
    copy_files(&sources, &place)?;
    let lock = fs::read_to_string(sources.join("package-lock.json"))?;
    once(&place, &lock, || run(&mut program(&npm, &["ci", "--no-audit", "--no-fund"], &place)))?;
    let mut command = program(&node, &["--test"], &place);
    target.pass_to(&mut command);
    run(&mut command)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
