//! Installing the peers, built for the processor that is here: their ready-made wheels are built for the least of them.
//!
//! Everything lives in a directory of the user's cache. A peer that does not install is left out, and the reason is told.

use super::cases::Engine;
use crate::tools::{cache, find, once, program, root, run};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// How the peers are reached.
#[derive(Debug)]
pub(crate) struct Peers {
    /// The Python that has their packages.
    pub(crate) python: PathBuf,
    /// `libllama` of ik_llama.cpp for this processor; the package's own when `None`.
    pub(crate) ik_library: Option<PathBuf>,
    /// llama.cpp's server.
    pub(crate) llama_server: Option<PathBuf>,
    pub(crate) engines: Vec<Engine>,
    /// What could not be had, and why.
    pub(crate) missing: Vec<String>,
}

/// What the user brings.
#[derive(Debug, Default)]
pub(crate) struct Given<'a> {
    pub(crate) venv: Option<&'a Path>,
    pub(crate) ik_library: Option<&'a Path>,
    pub(crate) llama_server: Option<&'a Path>,
}

/// Where the workers are.
pub(crate) fn sources() -> PathBuf {
    root().join("benches/peers")
}

fn python_of(venv: &Path) -> PathBuf {
    venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" })
}

/// Makes the peers ready that `wanted` names.
pub(crate) fn prepare(wanted: &[Engine], needs_server: bool, given: &Given<'_>) -> Result<Peers> {
    let place = cache("peers")?;
    let python = match given.venv {
        Some(venv) => python_of(venv),
        None => new_venv(&place.join("venv"))?,
    };
    if !python.is_file() {
        bail!("{} is no Python: --venv expects the directory of a virtual environment", python.display());
    }
    let mut peers = Peers {
        python,
        ik_library: given.ik_library.map(Path::to_owned),
        llama_server: given.llama_server.map(Path::to_owned),
        engines: Vec::new(),
        missing: Vec::new(),
    };
    for &engine in wanted {
        if let Err(error) = peers.prepare_engine(engine, given, &place) {
            peers.missing.push(format!("{}: {error:#}", engine.name()));
        }
    }
    if needs_server && peers.engines.contains(&Engine::LlamaCpp) && peers.llama_server.is_none() {
        match build_llama_server(&place, &peers.python) {
            Ok(path) => peers.llama_server = Some(path),
            Err(error) => peers.missing.push(format!("llama.cpp's server: {error:#}")),
        }
    }
    Ok(peers)
}

impl Peers {
    fn prepare_engine(&mut self, engine: Engine, given: &Given<'_>, place: &Path) -> Result<()> {
        if given.venv.is_none() {
            let file = match engine {
                Engine::Yantra => return Ok(()),
                Engine::LlamaCpp => "requirements-llama.txt",
                Engine::IkLlamaCpp => "requirements-ik.txt",
                Engine::Transformers => "requirements-transformers.txt",
            };
            pip_install(&self.python, &place.join(format!("installed-{}", engine.name())), file)?;
        }
        let module = engine.module().context("not a peer")?;
        if !has_module(&self.python, module)? {
            bail!("the Python module `{module}` is not in {}", self.python.display());
        }
        if engine == Engine::IkLlamaCpp && self.ik_library.is_none() {
            match build_ik(place, &self.python) {
                Ok(path) => self.ik_library = Some(path),
                Err(error) => self.missing.push(format!(
                    "ik_llama.cpp built for this processor (its ready-made package knows AVX2 only, and is used): {error:#}"
                )),
            }
        }
        self.engines.push(engine);
        Ok(())
    }
}

/// Whether Python finds a module; it is not loaded.
fn has_module(python: &Path, module: &str) -> Result<bool> {
    let find = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)");
    let status = program(python, &["-c", &find], &sources()).status();
    Ok(status.with_context(|| format!("cannot start {}", python.display()))?.success())
}

fn new_venv(venv: &Path) -> Result<PathBuf> {
    fs::create_dir_all(venv)?;
    once(venv, "made", || {
        let python = find("python3").or_else(|| find("python"));
        let python = python.context("`python3` is not on the path: install Python 3.10 or newer")?;
        run(&mut program(python, &["-m", "venv", "--clear", &venv.to_string_lossy()], &sources()))
    })?;
    Ok(python_of(venv))
}

/// Installs a requirements file, once; `stamps` is the directory that remembers it.
fn pip_install(python: &Path, stamps: &Path, file: &str) -> Result<()> {
    fs::create_dir_all(stamps)?;
    let requirements = fs::read_to_string(sources().join(file)).with_context(|| format!("cannot read {file}"))?;
    once(stamps, &requirements, || {
        eprintln!("installing {file}: minutes, for what is built from source");
        let args = ["-m", "pip", "install", "--disable-pip-version-check", "-r", file];
        run(program(python, &args, &sources()).env("CMAKE_ARGS", "-DGGML_NATIVE=ON"))
    })
}

/// The unpacked source distribution of the package that a requirements file pins.
fn source_of(package: &str, place: &Path, python: &Path, file: &str) -> Result<PathBuf> {
    let text = fs::read_to_string(sources().join(file)).with_context(|| format!("cannot read {file}"))?;
    let pin = text.lines().find(|line| line.starts_with(&format!("{package}==")));
    let pin = pin.with_context(|| format!("{file} pins no {package}"))?.trim();
    let unpacked = place.join("sources").join(package);
    fs::create_dir_all(&unpacked)?;
    let unpacked_text = unpacked.to_string_lossy();
    once(&unpacked, pin, || {
        // Only this one from source: what builds it may be ready-made.
        let download = ["-m", "pip", "download", "--no-deps", "--no-binary", package, "--dest", &unpacked_text, pin];
        run(&mut program(python, &download, &sources()))?;
        let archive = the_one(&unpacked, |path| path.extension().is_some_and(|extension| extension == "gz"))?;
        run(&mut program("tar", &["xf", &archive.to_string_lossy()], &unpacked))
    })?;
    the_one(&unpacked, Path::is_dir)
}

fn the_one(directory: &Path, is_it: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    let paths: Vec<PathBuf> = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths
        .into_iter()
        .find(|path| is_it(path))
        .with_context(|| format!("{} has not what it should", directory.display()))
}

/// Builds one target with CMake and Ninja from PyPI; stopped, it goes on where it was.
fn cmake(place: &Path, source: &Path, name: &str, options: &[&str], target: &str, product: &str) -> Result<PathBuf> {
    let python = new_venv(&place.join("tools"))?;
    pip_install(&python, &place.join("installed-tools"), "requirements-tools.txt")?;
    let build = place.join("build").join(name);
    fs::create_dir_all(&build)?;
    let product = build.join(product);
    once(&build, &format!("{} {target} {options:?}", source.display()), || {
        eprintln!("building {name}: minutes");
        let bin = python.parent().context("a Python has a directory")?;
        let (source, build_text) = (source.to_string_lossy(), build.to_string_lossy());
        let make = format!("-DCMAKE_MAKE_PROGRAM={}", bin.join("ninja").display());
        let configure = ["-G", "Ninja", "-S", &source, "-B", &build_text, "-DCMAKE_BUILD_TYPE=Release", &make];
        run(&mut program(bin.join("cmake"), &[&configure, options].concat(), &build))?;
        run(&mut program(bin.join("ninja"), &["-C", &build_text, target], &build))?;
        if product.is_file() { Ok(()) } else { bail!("the build left no {}", product.display()) }
    })?;
    Ok(product)
}

/// llama.cpp's server is not in its Python package, but its source is.
fn build_llama_server(place: &Path, python: &Path) -> Result<PathBuf> {
    let source = source_of("llama-cpp-python", place, python, "requirements-llama.txt")?.join("vendor/llama.cpp");
    let options = [
        "-DGGML_NATIVE=ON",
        "-DBUILD_SHARED_LIBS=OFF",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_BUILD_APP=OFF",
        "-DLLAMA_USE_PREBUILT_UI=OFF",
        "-DLLAMA_OPENSSL=OFF",
    ];
    cmake(place, &source, "llama-server", &options, "llama-server", "bin/llama-server")
}

/// Only the library: the source distribution lacks files that the rest needs, so pip cannot build it.
fn build_ik(place: &Path, python: &Path) -> Result<PathBuf> {
    let source = source_of("ik-llama-cpp-python", place, python, "requirements-ik.txt")?;
    // Attention over quantised keys and values is not measured, and takes longest to compile.
    let options = ["-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=ON", "-DGGML_IQK_FA_ALL_QUANTS=OFF"];
    cmake(place, &source, "ik_llama", &options, "llama", "vendor/ik_llama.cpp/src/libllama.so")
}
