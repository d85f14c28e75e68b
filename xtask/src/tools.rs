//! Finding and running other programs.

use anyhow::{Context, Result, bail};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// A directory of ours in the user's cache, made when missing: what is installed for tests lives there.
pub(crate) fn cache(name: &str) -> Result<PathBuf> {
    let base = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) if cfg!(target_os = "macos") => Path::new(&home).join("Library/Caches"),
        (_, Some(home)) => Path::new(&home).join(".cache"),
        _ => bail!("neither XDG_CACHE_HOME nor HOME is set: there is no place for what tests install"),
    };
    let path = base.join("yantra").join("xtask").join(name);
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// Where `name` is on the path.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Where `name` is, or an error that says how to get it.
pub(crate) fn need(name: &str, how: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("`{name}` is not on the path: {how}"))
}

/// `cargo` with these arguments, in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// A program with these arguments in a directory.
pub(crate) fn program(name: impl AsRef<Path>, args: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(name.as_ref());
    command.args(args).current_dir(directory);
    command
}

/// Runs a command to its end, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let text = describe(command);
    eprintln!("$ {text}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{text}`"))?;
    if !status.success() {
        bail!("`{text}` failed ({status})");
    }
    Ok(())
}

/// Runs a command and gives its output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let text = describe(command);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start `{text}`"))?;
    if !output.status.success() {
        bail!("`{text}` failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{text}` printed something that is not UTF-8"))
}

fn describe(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program()).to_string_lossy();
    let args = command.get_args().map(|arg| arg.to_string_lossy());
    std::iter::once(name).chain(args).collect::<Vec<_>>().join(" ")
}

/// Whether we may install system packages.
fn is_root() -> bool {
    output(Command::new("id").arg("-u").current_dir(root())).is_ok_and(|id| id.trim() == "0")
}

/// Installs packages of a Debian-like system, where we may.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    if !is_root() || find("apt-get").is_none() {
        bail!("installing it needs root and apt-get");
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command)
    };
    apt(&["update", "-q"])?;
    apt(&[&["install", "-y", "-q", "--no-install-recommends"], packages].concat())
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = output(&mut cargo(&["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let directory = metadata["target_directory"].as_str().context("`cargo metadata` names no target directory")?;
    Ok(directory.into())
}

/// The built `yantra` of a profile (`debug` or `release`).
pub(crate) fn yantra(profile: &str) -> Result<PathBuf> {
    let path = target_directory()?.join(profile).join(format!("yantra{}", env::consts::EXE_SUFFIX));
    if !path.is_file() {
        bail!("{} is not built", path.display());
    }
    Ok(path)
}

/// Runs `install` in `directory` unless it was done for the same `key` before.
pub(crate) fn once(directory: &Path, key: &str, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let stamp = directory.join(".installed-for");
    if fs::read_to_string(&stamp).is_ok_and(|done| done == key) {
        return Ok(());
    }
    install()?;
    fs::write(&stamp, key).with_context(|| format!("cannot write {}", stamp.display()))
}
