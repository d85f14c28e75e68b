//! `cargo xtask budgets`: instructions of the main kernels, against what they took when somebody last looked.
//!
//! Times depend on the machine and on who else uses it; the instructions that a kernel runs on fixed inputs do not.
//! Callgrind counts them, for the portable level and for AVX2 (it knows no AVX-512), in the development build, whose
//! kernels are optimised as in a release. They depend on the compiler: its version is kept with the budgets, and counts
//! of another compiler are not compared.

use crate::tools::{apt_install, cargo, find, output, program, root, target_directory};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const EXAMPLE: &str = "kernel_counts";
const LEVELS: [&str; 2] = ["scalar", "avx2"];
/// More instructions than the budget by this fails.
const TOLERANCE_PERCENT: f64 = 2.0;
/// Fewer by this is worth a lower budget.
const SLACK_PERCENT: f64 = 5.0;

/// What to do with the counts.
#[derive(clap::Args)]
pub(crate) struct BudgetsArgs {
    /// Write the counts as the new budgets
    #[arg(long)]
    update: bool,
    /// Print every count beside its budget
    #[arg(long, conflicts_with = "update")]
    all: bool,
}

/// Runs the command; here a missing tool is an error.
pub(crate) fn run(args: &BudgetsArgs) -> Result<()> {
    if args.update {
        return update();
    }
    match check(args.all)? {
        None => Ok(()),
        Some(why) => bail!("{why}"),
    }
}

/// Compares counts with budgets; gives the reason when that is not possible here.
pub(crate) fn check(all: bool) -> Result<Option<String>> {
    if let Some(why) = cannot_count() {
        return Ok(Some(why));
    }
    let text = fs::read_to_string(budgets_path()).context("there are no budgets: `cargo xtask budgets --update`")?;
    let budgets: Value = serde_json::from_str(&text).context("the budgets are not JSON")?;
    let (recorded, compiler) = (budgets["compiler"].as_str().unwrap_or("?"), compiler()?);
    if recorded != compiler {
        return Ok(Some(format!(
            "the budgets are of {recorded}, this is {compiler}: `cargo xtask budgets --update` on a commit whose kernels \
             are as fast as they should be"
        )));
    }
    let counts = count_all()?;
    let compared = compare(&budgets["instructions"], &counts);
    if all {
        compared.iter().for_each(|kernel| println!("{}", kernel.line()));
    }
    report(&compared)?;
    Ok(None)
}

fn update() -> Result<()> {
    if let Some(why) = cannot_count() {
        bail!("{why}");
    }
    let counts = count_all()?;
    let old = fs::read_to_string(budgets_path()).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    for kernel in compare(&old.unwrap_or_default()["instructions"], &counts) {
        println!("{}", kernel.line());
    }
    let budgets = json!({"compiler": compiler()?, "instructions": counts});
    let path = budgets_path();
    fs::write(&path, format!("{budgets:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    println!("written to {}", path.display());
    Ok(())
}

fn budgets_path() -> PathBuf {
    root().join("crates/yantra-kernels/budgets.json")
}

/// `rustc 1.95.0 (59807616e 2026-04-14)`
fn compiler() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Ok(output(Command::new(rustc).arg("--version").current_dir(root()))?.trim().to_owned())
}

/// Why instructions cannot be counted on this machine; installs Callgrind where that may be done.
fn cannot_count() -> Option<String> {
    if !cfg!(target_os = "linux") || !has_avx2() {
        return Some("the budgets are of Linux on x86-64 with AVX2".to_owned());
    }
    if find("valgrind").is_none()
        && let Err(error) = apt_install(&["valgrind"])
    {
        return Some(format!("valgrind is not installed (as `apt-get install valgrind`): {error:#}"));
    }
    None
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    #[cfg(not(target_arch = "x86_64"))]
    let found = false;
    found
}

/// Instructions by level and kernel.
fn count_all() -> Result<Map<String, Value>> {
    let args = ["build", "--quiet", "--locked", "--package", "yantra-kernels", "--example", EXAMPLE];
    crate::tools::run(&mut cargo(&args))?;
    let target = target_directory()?;
    let binary = target.join("debug/examples").join(EXAMPLE);
    let mut levels = Map::new();
    for level in LEVELS {
        levels.insert(level.to_owned(), Value::Object(count(&binary, level, &target.join("xtask/callgrind"))?));
    }
    Ok(levels)
}

fn count(binary: &Path, level: &str, directory: &Path) -> Result<Map<String, Value>> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    let binary = binary.to_string_lossy();
    // Collecting begins and ends with the kernel; the counts are then written to a file of their own, and start at zero.
    let args = [
        "--quiet",
        "--tool=callgrind",
        "--toggle-collect=*counted_kernel*",
        "--dump-after=*case_is_over*",
        "--callgrind-out-file=counts",
        &binary,
        level,
    ];
    let names = output(&mut program("valgrind", &args, directory))?;
    let mut counts = Map::new();
    for (index, name) in names.lines().enumerate() {
        let path = directory.join(format!("counts.{}", index + 1));
        let text = fs::read_to_string(&path).with_context(|| format!("callgrind wrote no counts of `{name}`"))?;
        let count = total(&text).with_context(|| format!("callgrind's file of `{name}` has no total"))?;
        counts.insert(name.to_owned(), count.into());
    }
    if counts.is_empty() {
        bail!("`{EXAMPLE} {level}` ran no kernel");
    }
    Ok(counts)
}

/// The sum of a callgrind file, which must not be nothing.
fn total(text: &str) -> Option<u64> {
    let count = text.lines().find_map(|line| line.strip_prefix("totals: "))?;
    count.trim().parse().ok().filter(|count| *count > 0)
}

/// A kernel that has a budget, a count or both.
#[derive(Debug, PartialEq)]
struct Compared {
    name: String,
    budget: Option<u64>,
    count: Option<u64>,
}

impl Compared {
    /// Per cent above the budget.
    fn excess(&self) -> Option<f64> {
        let (count, budget) = (self.count? as f64, self.budget? as f64);
        Some((count - budget) * 100.0 / budget)
    }

    fn line(&self) -> String {
        let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let excess = self.excess().map_or_else(|| "new or gone".to_owned(), |excess| format!("{excess:+.1} %"));
        format!("{:40} budget {:>10}  now {:>10}  {excess}", self.name, number(self.budget), number(self.count))
    }
}

fn compare(budgets: &Value, counts: &Map<String, Value>) -> Vec<Compared> {
    let mut compared = Vec::new();
    let empty = Map::new();
    for (level, counts) in counts {
        let counts = counts.as_object().unwrap_or(&empty);
        let budgets = budgets[level].as_object().unwrap_or(&empty);
        let gone = budgets.keys().filter(|name| !counts.contains_key(*name));
        for name in counts.keys().chain(gone) {
            let of = |map: &Map<String, Value>| map.get(name).and_then(Value::as_u64);
            compared.push(Compared { name: format!("{level}: {name}"), budget: of(budgets), count: of(counts) });
        }
    }
    compared
}

fn report(compared: &[Compared]) -> Result<()> {
    let within = |limit: f64| move |kernel: &&Compared| kernel.excess().is_some_and(|excess| excess < limit);
    for kernel in compared.iter().filter(within(-SLACK_PERCENT)) {
        println!("{}: the budget can be lowered", kernel.line());
    }
    let mut wrong = String::new();
    for kernel in compared.iter().filter(|kernel| kernel.excess().is_none_or(|excess| excess > TOLERANCE_PERCENT)) {
        writeln!(wrong, "  {}", kernel.line())?;
    }
    if !wrong.is_empty() {
        bail!(
            "kernels take more instructions than their budgets (by over {TOLERANCE_PERCENT} %), or have none:\n{wrong}\
             If they should, record them: cargo xtask budgets --update"
        );
    }
    println!("{} kernels are within their budgets", compared.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn compared(budgets: &Value, counts: &Value) -> Vec<Compared> {
        compare(&json!({"avx2": budgets}), json!({"avx2": counts}).as_object().unwrap())
    }

    #[test]
    fn small_differences_pass_and_large_ones_do_not() {
        let budget = json!({"linear": 1000});
        for (count, passes) in [(1000, true), (1020, true), (1021, false), (900, true)] {
            assert_eq!(report(&compared(&budget, &json!({"linear": count}))).is_ok(), passes, "{count}");
        }
    }

    #[test]
    fn a_kernel_without_budget_or_count_is_named() {
        let error = report(&compared(&json!({"gone": 5, "same": 5}), &json!({"new": 5, "same": 5}))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("avx2: gone") && text.contains("avx2: new") && !text.contains("same"), "{text}");
    }

    #[test]
    fn totals_of_callgrind() {
        assert_eq!(total("events: Ir\nsummary: 12\n\ntotals: 34\n"), Some(34));
        assert_eq!(total("totals: 0\n"), None);
        assert_eq!(total("summary: 12\n"), None);
    }
}
