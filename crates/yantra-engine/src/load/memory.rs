//! How much memory this process may still take: what the system has, and what its control groups allow.
//!
//! A container or a service has a limit of its own, far below what the machine has; exceeding it is death. Both versions of
//! control groups are read (<https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files>,
//! <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>), the groups above included.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Memory that can be taken without swapping and without being killed, where the system tells (Linux).
pub(super) fn available() -> Option<u64> {
    available_under(Path::new("/"))
}

fn available_under(root: &Path) -> Option<u64> {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| mem_available(&text));
    machine.into_iter().chain(group_memory(root)).min()
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// What is left in the tightest of the groups this process is in.
fn group_memory(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let left = |(mount, group, names): (PathBuf, &str, &Names)| {
        let mut folder = mount.join(group.trim_start_matches('/'));
        let mut tightest: Option<u64> = None;
        loop {
            tightest = tightest.into_iter().chain(names.left(&folder)).min();
            // A container sees its own group as the root, whatever it is called outside.
            if folder == mount || !folder.pop() {
                return tightest;
            }
        }
    };
    groups.lines().filter_map(|line| mounted(root, line)).filter_map(left).min()
}

/// Where the memory files of a line of `/proc/self/cgroup` (`0::/path` or `7:memory:/path`) are.
fn mounted<'a>(root: &Path, line: &'a str) -> Option<(PathBuf, &'a str, &'static Names)> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
    let mount = root.join("sys/fs/cgroup");
    if number == "0" && controllers.is_empty() {
        return Some((mount, group, &UNIFIED));
    }
    controllers.split(',').any(|name| name == "memory").then(|| (mount.join("memory"), group, &LEGACY))
}

/// What a group's files are called.
struct Names {
    limit: &'static str,
    usage: &'static str,
    /// Cached file pages, in `memory.stat`: they count as used, but make room at once.
    reclaimable: &'static str,
}

const UNIFIED: Names = Names { limit: "memory.max", usage: "memory.current", reclaimable: "inactive_file" };
const LEGACY: Names =
    Names { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", reclaimable: "total_inactive_file" };

impl Names {
    /// Bytes a group may still take; `None` without a limit.
    fn left(&self, folder: &Path) -> Option<u64> {
        /// Version 1 writes "no limit" as the largest number of whole pages.
        const NO_LIMIT: u64 = 1 << 60;
        let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
        let limit = number(self.limit).filter(|&limit| limit < NO_LIMIT)?;
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let reclaimable = stat.lines().find_map(|line| line.strip_prefix(self.reclaimable)?.trim().parse::<u64>().ok());
        let used = number(self.usage).unwrap_or(0).saturating_sub(reclaimable.unwrap_or(0));
        Some(limit.saturating_sub(used))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MEMINFO: &str = "MemTotal: 2000 kB\nMemAvailable:   1000 kB\nBuffers: 1 kB\n";

    fn check(files: &[(&str, &str)], expected: Option<u64>) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(available_under(root.path()), expected, "{files:?}");
    }

    #[test]
    fn the_tightest_limit_counts() {
        check(&[], None);
        check(&[("proc/meminfo", MEMINFO)], Some(1_024_000));
        let unified = |max: &'static str, current: &'static str| {
            [
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/memory.max", max),
                ("sys/fs/cgroup/a/b/memory.current", current),
                ("sys/fs/cgroup/a/b/memory.stat", "anon 5\ninactive_file 1000\nactive_file 7\n"),
            ]
        };
        check(&unified("max\n", "5000\n"), Some(1_024_000));
        check(&unified("9000\n", "5000\n"), Some(5000));
        check(&unified("9000000\n", "5000\n"), Some(1_024_000));
        check(&unified("4000\n", "9000\n"), Some(0));
        let above = [("sys/fs/cgroup/a/memory.max", "800\n"), ("sys/fs/cgroup/a/memory.current", "300\n")];
        check(&[&unified("9000\n", "5000\n")[..], &above].concat(), Some(500));
        // A container whose group is named as outside it, but mounted as the root.
        check(&[("proc/self/cgroup", "0::/docker/x\n"), ("sys/fs/cgroup/memory.max", "700\n")], Some(700));
        let legacy = |limit: &'static str| {
            [
                ("proc/self/cgroup", "3:cpu,cpuacct:/z\n7:memory:/docker/y\n"),
                ("sys/fs/cgroup/memory/docker/y/memory.limit_in_bytes", limit),
                ("sys/fs/cgroup/memory/docker/y/memory.usage_in_bytes", "200\n"),
                ("sys/fs/cgroup/memory/docker/y/memory.stat", "inactive_file 1\ntotal_inactive_file 50\n"),
            ]
        };
        check(&legacy("1000\n"), Some(850));
        check(&legacy("9223372036854771712\n"), None);
    }
}
