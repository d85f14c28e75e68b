//! Which pages are on disk, how large they are, and which was used longest ago.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    fs,
    io::Result,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::PageKey;

const PAGE_ENDING: &str = ".kv";
const TEMPORARY_ENDING: &str = ".kv-part";

/// The file of a page.
pub(super) fn page_path(directory: &Path, key: &PageKey) -> PathBuf {
    directory.join(format!("{key}{PAGE_ENDING}"))
}

/// The file of a page while it is written.
pub(super) fn temporary_path(directory: &Path, key: &PageKey) -> PathBuf {
    directory.join(format!("{key}{TEMPORARY_ENDING}"))
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    used: u64,
}

/// The pages by key and by use.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<PageKey, Entry>,
    by_use: BTreeMap<u64, PageKey>,
    bytes: u64,
    clock: u64,
}

impl Index {
    /// The pages found in a directory, by the time of their files; deletes what was left half written.
    pub(super) fn read(directory: &Path) -> Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_ours = |ending: &str| name.strip_suffix(ending).and_then(PageKey::parse);
            if is_ours(TEMPORARY_ENDING).is_some() {
                // Nobody reads it; a second try comes with the next start.
                let _ = fs::remove_file(entry.path());
            } else if let Some(key) = is_ours(PAGE_ENDING) {
                let metadata = entry.metadata()?;
                found.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), key, metadata.len()));
            }
        }
        found.sort_unstable_by_key(|&(modified, key, _)| (modified, Reverse(key.0)));
        let mut index = Self::default();
        found.into_iter().for_each(|(_, key, bytes)| index.insert(key, bytes));
        Ok(index)
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pages there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn contains(&self, key: &PageKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Adds a page, or notes its new size: it is the one used last.
    pub(super) fn insert(&mut self, key: PageKey, bytes: u64) {
        self.remove(&key);
        self.clock += 1;
        self.entries.insert(key, Entry { bytes, used: self.clock });
        self.by_use.insert(self.clock, key);
        self.bytes += bytes;
    }

    /// The page is the one used last.
    pub(super) fn touch(&mut self, key: &PageKey) {
        if let Some(&Entry { bytes, .. }) = self.entries.get(key) {
            self.insert(*key, bytes);
        }
    }

    pub(super) fn remove(&mut self, key: &PageKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }

    /// Takes out the page used longest ago.
    pub(super) fn pop_oldest(&mut self) -> Option<PageKey> {
        let key = *self.by_use.first_key_value()?.1;
        self.remove(&key);
        Some(key)
    }
}
