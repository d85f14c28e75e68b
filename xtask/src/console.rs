//! The console: TypeScript built, unit-tested, and driven in a real browser.

use crate::tools::{apt_install, find, need, once, program, root, run};
use anyhow::{Context, Result};
use std::{fs, path::PathBuf};

const NODE: &str = "install Node.js 20 or newer";

fn directory() -> PathBuf {
    root().join("console")
}

/// Installs the console's packages, once per lock file.
pub(crate) fn install() -> Result<()> {
    let npm = need("npm", NODE)?;
    let directory = directory();
    let lock =
        fs::read_to_string(directory.join("package-lock.json")).context("cannot read the console's lock file")?;
    fs::create_dir_all(directory.join("node_modules"))?;
    once(&directory.join("node_modules"), &lock, || {
        run(program(&npm, &["ci", "--no-audit", "--no-fund"], &directory).env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1"))
    })
}

/// Builds the page that the server embeds.
pub(crate) fn build() -> Result<()> {
    install()?;
    run(&mut program(need("npm", NODE)?, &["run", "build"], &directory()))
}

/// Type check and unit tests.
pub(crate) fn unit_tests() -> Result<()> {
    install()?;
    let npm = need("npm", NODE)?;
    run(&mut program(&npm, &["run", "check"], &directory()))?;
    run(&mut program(&npm, &["test"], &directory()))
}

/// Drives the page in Chromium against the server at `url`.
pub(crate) fn browser_tests(url: &str) -> Result<()> {
    install()?;
    let chromium = chromium()?;
    let chromium = chromium.to_string_lossy();
    run(&mut program(need("node", NODE)?, &["e2e/run.mjs", "--url", url, "--chromium", &chromium], &directory()))
}

fn chromium() -> Result<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let installed = || names.iter().find_map(|name| find(name));
    if let Some(path) = installed() {
        return Ok(path);
    }
    apt_install(&["chromium"]).context(
        "there is no Chromium: install one (as `apt-get install chromium`), or leave it out with --skip browser",
    )?;
    installed().context("apt-get installed chromium, but it is not on the path")
}
