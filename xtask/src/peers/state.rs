//! What has been measured, in a file that is written after every measurement: a run goes on where it was stopped.

use super::cases::Engine;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::PathBuf};

/// What must be the same for figures to stand beside each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(crate) processor: String,
    pub(crate) threads: usize,
    /// Measured runs of a process, whose median is taken.
    pub(crate) repeat: usize,
    /// Version and build of our binary.
    pub(crate) yantra: String,
}

/// What the hardware could do in the minute in which a case was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Roofs {
    pub(crate) case: String,
    pub(crate) round: usize,
    /// Bytes per second, all threads.
    pub(crate) memory: f64,
    /// Operations per second, all threads; a multiply-add is two.
    pub(crate) int8: f64,
    /// Of bfloat16, or of single precision where there is none.
    pub(crate) float: f64,
}

/// Sizes of a model, from its file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sizes {
    /// Weights of matrices that every token goes through.
    pub(crate) body: f64,
    /// Weights of the language-model head.
    pub(crate) head: f64,
    /// Bytes that a decoded token reads.
    pub(crate) bytes: f64,
}

/// How right a peer's batched path is: mean negative log-likelihood of a text, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) batched_nll: f64,
    pub(crate) single_nll: f64,
}

impl Check {
    /// Rounding in another order moves the mean by far less than this.
    const TOLERANCE: f64 = 0.1;

    pub(crate) fn is_wrong(&self) -> bool {
        let difference = (self.batched_nll - self.single_nll).abs();
        difference.is_nan() || difference > Self::TOLERANCE
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) case: String,
    pub(crate) engine: Engine,
    pub(crate) round: usize,
    /// In the unit of the case; more is better.
    pub(crate) value: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serving: Option<Serving>,
}

/// What else a server is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Serving {
    pub(crate) ttft_p50_ms: f64,
    pub(crate) ttft_p99_ms: f64,
    pub(crate) failed: usize,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) setting: Setting,
    /// Versions of the peers that were measured.
    pub(crate) versions: BTreeMap<Engine, String>,
    pub(crate) sizes: BTreeMap<String, Sizes>,
    /// By engine, then model.
    pub(crate) checks: BTreeMap<Engine, BTreeMap<String, Check>>,
    pub(crate) roofs: Vec<Roofs>,
    pub(crate) runs: Vec<Run>,
}

impl Results {
    fn new(setting: Setting) -> Self {
        Self {
            setting,
            versions: BTreeMap::new(),
            sizes: BTreeMap::new(),
            checks: BTreeMap::new(),
            roofs: Vec::new(),
            runs: Vec::new(),
        }
    }

    pub(crate) fn has(&self, case: &str, engine: Engine, round: usize) -> bool {
        self.runs.iter().any(|run| run.case == case && run.engine == engine && run.round == round)
    }

    /// The roofs of a case in a round.
    pub(crate) fn roofs_of(&self, case: &str, round: usize) -> Option<&Roofs> {
        self.roofs.iter().find(|roofs| roofs.case == case && roofs.round == round)
    }

    /// An engine's runs of a case.
    pub(crate) fn of(&self, case: &str, engine: Engine) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.case == case && run.engine == engine)
    }

    pub(crate) fn check(&self, engine: Engine, model: &str) -> Option<&Check> {
        self.checks.get(&engine)?.get(model)
    }
}

/// Results and where they are kept.
#[derive(Debug)]
pub(crate) struct State {
    path: PathBuf,
    pub(crate) results: Results,
}

impl State {
    /// Goes on with the file at `path`, or begins a new one.
    pub(crate) fn open(path: PathBuf, setting: Setting, fresh: bool) -> Result<Self> {
        if fresh || !path.exists() {
            let state = Self { path, results: Results::new(setting) };
            state.save()?;
            return Ok(state);
        }
        let state = Self::read(path)?;
        if state.results.setting != setting {
            bail!(
                "{} has results of other settings:\n  there  {:?}\n  here   {setting:?}\nGive --fresh to begin anew.",
                state.path.display(),
                state.results.setting
            );
        }
        Ok(state)
    }

    /// The file as it is.
    pub(crate) fn read(path: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let results = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a file of results; --fresh replaces it", path.display()))?;
        Ok(Self { path, results })
    }

    /// Writes the file whole, or leaves the old one.
    pub(crate) fn save(&self) -> Result<()> {
        let whole = self.path.with_extension("json.part");
        let text = serde_json::to_string_pretty(&self.results)?;
        let cannot = || format!("cannot write {}", self.path.display());
        fs::write(&whole, text).with_context(cannot)?;
        fs::rename(&whole, &self.path).with_context(cannot)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn setting(threads: usize) -> Setting {
        Setting { processor: "p".into(), threads, repeat: 3, yantra: "y".into() }
    }

    #[test]
    fn a_stopped_run_goes_on() {
        let path = std::env::temp_dir().join(format!("yantra-peers-test-{}.json", std::process::id()));
        let mut state = State::open(path.clone(), setting(2), true).unwrap();
        let run = Run { case: "c".into(), engine: Engine::IkLlamaCpp, round: 1, value: 2.5, serving: None };
        state.results.runs.push(run.clone());
        state.results.versions.insert(Engine::LlamaCpp, "1".into());
        state.save().unwrap();
        let again = State::open(path.clone(), setting(2), false).unwrap();
        assert_eq!(again.results, state.results);
        assert!(again.results.has("c", Engine::IkLlamaCpp, 1) && !again.results.has("c", Engine::Yantra, 1));
        let error = State::open(path.clone(), setting(3), false).unwrap_err().to_string();
        assert!(error.contains("--fresh"), "{error}");
        let fresh = State::open(path.clone(), setting(3), true).unwrap();
        assert!(fresh.results.runs.is_empty());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn wrong_results_are_seen() {
        let check = |batched_nll, single_nll| Check { batched_nll, single_nll }.is_wrong();
        assert!(check(5.0, 2.9) && check(f64::NAN, 2.9));
        assert!(!check(2.91, 2.9));
    }
}
