//! `cargo xtask demo`: from a fresh checkout to an answer.

use crate::{
    console, http,
    server::Server,
    tools::{self, cargo, find, need, root, yantra},
};
use anyhow::{Result, bail};
use std::process::Command;

const MODEL: &str = "smollm2-135m";
const QUESTION: &str = "What is the capital of Italy? Answer in one sentence.";
const PORT: u16 = 8080;

/// What to do after the answer.
#[derive(clap::Args)]
pub(crate) struct DemoArgs {
    /// Stop after the answer instead of serving on
    #[arg(long)]
    check: bool,
    /// Port to serve at [default: 8080, or a free one when it is taken]
    #[arg(long)]
    port: Option<u16>,
}

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    check_tools()?;
    if root().join("console/package.json").is_file() {
        if find("npm").is_some() {
            console::build()?;
        } else {
            eprintln!("Node.js is not installed: the server will have no console (the API is all there)");
        }
    }
    build_release()?;
    let binary = yantra("release")?;
    run_pull(&binary)?;
    let port = port(args.port)?;
    let server = Server::start(&binary, port, &[MODEL], "demo")?;
    let answer = server.ask(MODEL, QUESTION)?;
    println!("\n  {QUESTION}\n  {}\n", answer.trim());
    if answer.trim().is_empty() {
        bail!("the model answered nothing");
    }
    let url = server.url();
    println!("  console   {url}\n  API       {url}/v1\n  model     {MODEL}\n");
    if args.check {
        return Ok(());
    }
    println!("Ctrl-C stops the server.");
    server.wait()
}

fn check_tools() -> Result<()> {
    if find("python3").is_none() && find("python").is_none() && find("pip").is_none() {
        bail!("pip is not installed, and it fetches the model: install Python 3 with pip");
    }
    let compiler = ["cc", "gcc", "clang"].iter().any(|name| find(name).is_some());
    if !compiler {
        need("cc", "install a C compiler (as `apt-get install build-essential`)")?;
    }
    Ok(())
}

/// Builds the binary as users get it.
fn build_release() -> Result<()> {
    tools::run(&mut cargo(&["build", "--release", "--locked", "--package", "yantra"]))
}

fn run_pull(binary: &std::path::Path) -> Result<()> {
    tools::run(Command::new(binary).args(["pull", MODEL]))
}

fn port(wanted: Option<u16>) -> Result<u16> {
    match wanted {
        Some(port) => Ok(port),
        None if std::net::TcpListener::bind(("127.0.0.1", PORT)).is_ok() => Ok(PORT),
        None => http::free_port(),
    }
}
