//! Rebuilds the crate when the console's built files change. Without them the server shows how to build them.

use std::path::Path;

fn main() {
    let console = Path::new("../../console");
    let dist = console.join("dist");
    // A watched path that does not exist would rebuild this crate every time. So before the console is built, the folder
    // in which `dist` will appear is watched; afterwards only `dist`, and should it go away, that is a change, too.
    let watched = if dist.is_dir() { dist.as_path() } else { console };
    println!("cargo::rerun-if-changed={}", watched.display());
}
