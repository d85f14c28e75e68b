//! Rebuilds the crate when the console's built files change. Without them the server shows how to build them.

use std::path::Path;

fn main() {
    let dist = Path::new("../../console/dist");
    // Naming a path that does not exist would rebuild this crate every time.
    let watched = if dist.exists() { dist } else { Path::new("build.rs") };
    println!("cargo::rerun-if-changed={}", watched.display());
}
