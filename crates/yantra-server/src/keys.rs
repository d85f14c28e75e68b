//! A file of API keys with names. Keys are random and long, so their SHA-256 is all that is kept of them.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::storage::now;

/// Longest name of a key.
const MAX_NAME: usize = 64;

/// A key, as far as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// The first part of the key: names it where its owner is not known.
    pub id: String,
    /// Whose it is: the tenant.
    pub name: String,
    /// SHA-256 of the whole key, in hexadecimal digits.
    pub sha256: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// What its owner may do.
    #[serde(default, skip_serializing_if = "Terms::are_default")]
    pub terms: Terms,
}

/// What a key's owner may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Terms {
    /// Whether it may have models loaded and unloaded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub admin: bool,
    /// How much of an engine it gets beside others, 1 to 1000.
    pub weight: u32,
    /// Priority of its requests, which they may lower themselves; none: any, 0 where a request says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Requests it may make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Requests it may make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_day: Option<u64>,
    /// Tokens it may use, of prompts and answers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Tokens it may use, of prompts and answers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<u64>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            admin: false,
            weight: 1,
            priority: None,
            requests_per_minute: None,
            requests_per_day: None,
            tokens_per_minute: None,
            tokens_per_day: None,
        }
    }
}

impl Terms {
    fn are_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what is given.
    ///
    /// # Errors
    /// What is out of range, and what was expected.
    pub fn check(&self) -> Result<(), String> {
        let most = yantra_engine::limits::MAX_WEIGHT;
        if !(1..=most).contains(&self.weight) {
            return Err(format!("weight is {}, 1 to {most} expected", self.weight));
        }
        let limits = [
            ("requests_per_minute", self.requests_per_minute),
            ("requests_per_day", self.requests_per_day),
            ("tokens_per_minute", self.tokens_per_minute),
            ("tokens_per_day", self.tokens_per_day),
        ];
        match limits.into_iter().find(|(_, limit)| *limit == Some(0)) {
            None => Ok(()),
            Some((name, _)) => Err(format!("{name} is 0, at least 1 expected")),
        }
    }
}

/// All keys of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyFile {
    /// The keys, in the order they were made.
    pub keys: Vec<KeyRecord>,
}

/// A file of keys can not be used, or a key not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The system refuses.
    #[error("can not {action} the keys in {}: {source}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It does not hold keys.
    #[error("{} is no file of keys: {message}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// A name that can not be given.
    #[error("'{name}' is no name for a key: {expected} expected")]
    Name {
        /// The name.
        name: String,
        /// What would be one.
        expected: &'static str,
    },
}

impl KeyFile {
    /// Reads a file; one that is not there has no keys.
    ///
    /// # Errors
    /// It can not be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(KeyFileError::File { action: "read", path: path.to_owned(), source }),
        };
        let broken = |message: String| KeyFileError::Broken { path: path.to_owned(), message };
        let file: Self = toml::from_str(&text).map_err(|error| broken(error.to_string()))?;
        for key in &file.keys {
            if digest_of(&key.sha256).is_none() {
                return Err(broken(format!("the sha256 of key '{}' is not 64 hexadecimal digits", key.id)));
            }
            key.terms.check().map_err(|message| broken(format!("terms of key '{}': {message}", key.id)))?;
        }
        Ok(file)
    }

    /// Writes it in place of the file that is there, readable by its owner alone.
    ///
    /// # Errors
    /// It can not be written; the old file is then left as it was.
    pub fn write(&self, path: &Path) -> Result<(), KeyFileError> {
        let failed = |source| KeyFileError::File { action: "write", path: path.to_owned(), source };
        let text = toml::to_string_pretty(self)
            .map_err(|error| KeyFileError::Broken { path: path.to_owned(), message: error.to_string() })?;
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(failed)?;
        let new = path.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&new).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&new, path).map_err(failed)
    }

    /// Makes a key; what is returned beside its record is the key itself, which is kept nowhere.
    ///
    /// # Errors
    /// The name is taken or no name.
    pub fn create(&mut self, name: &str, terms: Terms) -> Result<(KeyRecord, String), KeyFileError> {
        let fail = |expected| Err(KeyFileError::Name { name: name.to_owned(), expected });
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_allowed) {
            return fail("1 to 64 letters, digits, '-', '_' and '.'");
        }
        if self.keys.iter().any(|key| key.name == name) {
            return fail("one that no other key has");
        }
        let mut random = rand::rng();
        let mut letters = |count: usize| -> String {
            (0..count).map(|_| char::from(random.sample(rand::distr::Alphanumeric))).collect()
        };
        let (id, secret) = (letters(8), letters(40));
        let key = format!("yk_{id}_{secret}");
        let created = now();
        let record = KeyRecord { id, name: name.to_owned(), sha256: hex(&digest(key.as_bytes())), created, terms };
        self.keys.push(record.clone());
        Ok((record, key))
    }

    /// Takes out the key of this name or id.
    pub fn revoke(&mut self, name: &str) -> Option<KeyRecord> {
        let at = self.keys.iter().position(|key| key.name == name || key.id == name)?;
        Some(self.keys.remove(at))
    }
}

pub(crate) fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// The bytes of 64 hexadecimal digits.
pub(crate) fn digest_of(digits: &str) -> Option<[u8; 32]> {
    let digits = digits.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_come_back_from_their_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/keys.toml");
        let mut file = KeyFile::read(&path).unwrap();
        let (record, key) =
            file.create("alice", Terms { weight: 3, tokens_per_day: Some(1000), ..Terms::default() }).unwrap();
        file.create("bob", Terms::default()).unwrap();
        file.write(&path).unwrap();
        assert_eq!(KeyFile::read(&path).unwrap(), file);
        assert!(
            key.starts_with(&format!("yk_{}_", record.id)) && !std::fs::read_to_string(&path).unwrap().contains(&key)
        );
        assert_eq!(digest_of(&record.sha256), Some(digest(key.as_bytes())));
        assert_eq!(file.revoke("alice"), Some(record));
        assert_eq!(file.revoke("alice"), None);
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions()) & 0o777,
            0o600
        );
    }

    /// `/dev/full` takes nothing, as a full disk.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_leaves_the_file_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.toml");
        let mut file = KeyFile::default();
        file.create("alice", Terms::default()).unwrap();
        file.write(&path).unwrap();
        let old = std::fs::read(&path).unwrap();
        std::os::unix::fs::symlink("/dev/full", path.with_extension("new")).unwrap();
        file.create("bob", Terms::default()).unwrap();
        let error = file.write(&path).unwrap_err();
        assert!(matches!(&error, KeyFileError::File { action: "write", source, .. }
            if source.kind() == std::io::ErrorKind::StorageFull));
        assert_eq!(std::fs::read(&path).unwrap(), old);
    }

    #[test]
    fn wrong_names_and_files_are_refused() {
        let mut file = KeyFile::default();
        file.create("a", Terms::default()).unwrap();
        for (name, part) in [("a", "no other key"), ("", "letters"), ("a b", "letters"), (&*"x".repeat(65), "letters")]
        {
            assert!(file.create(name, Terms::default()).unwrap_err().to_string().contains(part));
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.toml");
        for (text, part) in [
            ("keys = 7", "no file of keys"),
            (
                &*format!("[[keys]]\nid='a'\nname='b'\nsha256='{}'\ncreated=1\nterms.weight=0", "0".repeat(64)),
                "weight is 0, 1 to",
            ),
            ("[[keys]]\nid='a'\nname='b'\nsha256='c'\ncreated=1", "64 hexadecimal"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(KeyFile::read(&path).unwrap_err().to_string().contains(part));
        }
    }
}
