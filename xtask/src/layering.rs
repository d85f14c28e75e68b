//! The picture of the architecture, held true: which crate may use which.
//!
//! Two rules. Each crate may depend on the workspace crates listed for it and no others; and crates below the line know
//! no async runtime and no HTTP, however indirectly. A new crate is added here with the reason it exists.

use crate::tools::{cargo, output};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What each crate of the workspace may depend on. Tests may use more: they stand outside the layers.
const ALLOWED: &[(&str, &[&str])] = &[
    ("yantra-kernels", &[]),
    ("yantra-formats", &["yantra-kernels"]),
    ("yantra-text", &["yantra-formats"]),
    ("yantra-hub", &["yantra-formats"]),
    ("yantra-model", &["yantra-kernels", "yantra-formats"]),
    ("yantra-engine", &["yantra-kernels", "yantra-formats", "yantra-text", "yantra-model"]),
    ("yantra-api", &[]),
    ("yantra-client", &["yantra-api", "yantra-engine", "yantra-text"]),
    ("yantra-store", &[]),
    ("yantra-server", &["yantra-api", "yantra-engine", "yantra-text", "yantra-store"]),
    (
        "yantra",
        &[
            "yantra-kernels",
            "yantra-formats",
            "yantra-text",
            "yantra-hub",
            "yantra-model",
            "yantra-engine",
            "yantra-api",
            "yantra-client",
            "yantra-store",
            "yantra-server",
        ],
    ),
    ("yantra-testkit", &["yantra-kernels", "yantra-formats", "yantra-text", "yantra-model", "yantra-engine"]),
    ("xtask", &[]),
];

/// Crates that must build without any of [`ASYNC_OR_HTTP`].
const SYNCHRONOUS: &[&str] = &[
    "yantra-kernels",
    "yantra-formats",
    "yantra-text",
    "yantra-model",
    "yantra-engine",
    "yantra-api",
    "yantra-store",
    "xtask",
];

const ASYNC_OR_HTTP: &[&str] = &["tokio", "axum", "hyper", "reqwest", "ureq"];

/// Checks both rules on the workspace as it is.
pub(crate) fn check() -> Result<()> {
    let metadata = output(&mut cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    let graph = Graph::read(&serde_json::from_str(&metadata)?)?;
    let mut faults = graph.forbidden_edges(ALLOWED);
    for name in SYNCHRONOUS {
        faults.extend(graph.paths_to(name, ASYNC_OR_HTTP));
    }
    if !faults.is_empty() {
        bail!("the layers do not hold:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// Who depends on whom.
struct Graph {
    /// Names of the workspace's own crates.
    members: BTreeSet<String>,
    /// Per workspace crate: the workspace crates it names, those of its tests left out.
    named: BTreeMap<String, BTreeSet<String>>,
    /// Per crate: what it is built with (test and build dependencies not counted).
    built_with: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read(metadata: &Value) -> Result<Self> {
        let array = |value: &'_ Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let packages = array(metadata, "packages");
        let names: BTreeMap<String, String> =
            packages.iter().map(|package| (text(package, "id"), text(package, "name"))).collect();
        let name_of = |id: &str| names.get(id).cloned().unwrap_or_default();
        let member_ids: BTreeSet<String> =
            array(metadata, "workspace_members").iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
        let members: BTreeSet<String> = member_ids.iter().map(|id| name_of(id)).collect();
        let mut named = BTreeMap::new();
        for package in packages.iter().filter(|package| member_ids.contains(&text(package, "id"))) {
            let dependencies = array(package, "dependencies");
            let own = dependencies
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(dependency, "name"))
                .filter(|name| members.contains(name));
            named.insert(text(package, "name"), own.collect());
        }
        let nodes = metadata["resolve"]["nodes"].as_array().context("`cargo metadata` resolved nothing")?;
        let mut built_with: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in nodes {
            let is_normal =
                |dependency: &Value| array(dependency, "dep_kinds").iter().any(|kind| kind["kind"].is_null());
            let dependencies = array(node, "deps");
            let normal = dependencies.iter().filter(|dependency| is_normal(dependency));
            built_with
                .entry(name_of(&text(node, "id")))
                .or_default()
                .extend(normal.map(|dependency| name_of(&text(dependency, "pkg"))));
        }
        Ok(Self { members, named, built_with })
    }

    fn forbidden_edges(&self, allowed: &[(&str, &[&str])]) -> Vec<String> {
        let mut faults = Vec::new();
        for member in &self.members {
            let Some((_, may)) = allowed.iter().find(|(name, _)| name == member) else {
                faults.push(format!("`{member}` has no layer: list it in xtask/src/layering.rs"));
                continue;
            };
            for dependency in self.named.get(member).into_iter().flatten() {
                if !may.contains(&dependency.as_str()) && dependency != member {
                    faults.push(format!("`{member}` may not depend on `{dependency}`"));
                }
            }
        }
        faults
    }

    /// For each of `targets` that `from` is built with: the shortest way there.
    fn paths_to(&self, from: &str, targets: &[&str]) -> Vec<String> {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([from]);
        while let Some(name) = queue.pop_front() {
            for next in self.built_with.get(name).into_iter().flatten() {
                if next != from && !came_from.contains_key(next.as_str()) {
                    came_from.insert(next, name);
                    queue.push_back(next);
                }
            }
        }
        let path = |target: &str| {
            let mut names = vec![target];
            while let Some(previous) = names.last().and_then(|name| came_from.get(name)) {
                names.push(previous);
            }
            names.reverse();
            names.join(" -> ")
        };
        let reached = targets.iter().filter(|target| came_from.contains_key(**target));
        reached.map(|target| format!("`{from}` must stay without `{target}`: {}", path(target))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let map: BTreeMap<String, BTreeSet<String>> = edges
            .iter()
            .map(|(name, to)| ((*name).to_owned(), to.iter().map(|name| (*name).to_owned()).collect()))
            .collect();
        let members = ["low", "high"].map(str::to_owned).into();
        let named = map.iter().filter(|(name, _)| ["low", "high"].contains(&name.as_str()));
        Graph { members, named: named.map(|(a, b)| (a.clone(), b.clone())).collect(), built_with: map }
    }

    #[test]
    fn arrows_upwards_are_found() {
        let allowed: &[(&str, &[&str])] = &[("low", &[]), ("high", &["low"])];
        assert!(graph(&[("high", &["low"]), ("low", &[])]).forbidden_edges(allowed).is_empty());
        let faults = graph(&[("high", &[]), ("low", &["high"])]).forbidden_edges(allowed);
        assert_eq!(faults, ["`low` may not depend on `high`"]);
        let faults = graph(&[("high", &[]), ("low", &[])]).forbidden_edges(&allowed[..1]);
        assert_eq!(faults.len(), 1, "a crate without a layer is a fault: {faults:?}");
    }

    #[test]
    fn hidden_runtimes_are_found_with_the_way_there() {
        let graph = graph(&[("low", &["a", "b"]), ("a", &["b"]), ("b", &["tokio"]), ("tokio", &["a"])]);
        let faults = graph.paths_to("low", &["tokio", "hyper"]);
        assert_eq!(faults, ["`low` must stay without `tokio`: low -> b -> tokio"]);
    }

    #[test]
    fn the_workspace_itself_holds() {
        check().expect("the layers hold");
    }
}
