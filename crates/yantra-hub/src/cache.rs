//! The cache directory: `NAME/FILE` for each catalogue model, and beside the files a stamp of their verification.
//!
//! Hashing a gigabyte takes a second or more, too long for each start. So a verified file is stamped with its size and
//! time of change; while these are the same, the stamp stands for the hash. The stamp guards against damaged downloads,
//! not against someone who can write to the directory.

use crate::{Catalogue, CatalogueFile, CatalogueModel, Entry, HubError, Phase, Progress, ProgressUpdate, environment};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

const STAMP: &str = ".verified.json";
const LOCK: &str = ".lock";
/// Bytes read at a time.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;

/// The directory models are kept in.
#[derive(Clone, Debug)]
pub struct ModelCache {
    root: PathBuf,
}

/// How much of a catalogue model is in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Nothing.
    Absent,
    /// Some of it: bytes there, whole files and pieces.
    Partial {
        /// Bytes on disk.
        bytes: u64,
    },
    /// Every file with the right size, not yet held against its SHA-256.
    Unverified,
    /// Every file, verified.
    Ready,
}

/// The record of a verification.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stamp {
    files: Vec<StampedFile>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct StampedFile {
    path: String,
    bytes: u64,
    /// Time of change in nanoseconds since 1970.
    modified_ns: u64,
    sha256: String,
}

impl ModelCache {
    /// The cache at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The user's cache: `$YANTRA_MODELS`, else `yantra/models` in the user's cache directory (on Linux
    /// `$XDG_CACHE_HOME` or `~/.cache`).
    ///
    /// # Errors
    /// If there is neither.
    pub fn from_env() -> Result<Self, HubError> {
        if let Some(root) = environment::models_directory() {
            return Ok(Self::new(root));
        }
        let directories = directories::BaseDirs::new().ok_or(HubError::NoCacheDirectory)?;
        Ok(Self::new(directories.cache_dir().join("yantra").join("models")))
    }

    /// The directory of all models.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a model, whether it exists or not.
    pub fn directory(&self, model: &CatalogueModel) -> PathBuf {
        self.root.join(&model.name)
    }

    /// What to open of a model, whether it exists or not.
    pub fn entry(&self, model: &CatalogueModel) -> PathBuf {
        match &model.entry {
            Entry::File(name) => self.directory(model).join(name),
            Entry::Directory => self.directory(model),
        }
    }

    /// How much of a model is there. Reads no file but the stamp.
    pub fn state(&self, model: &CatalogueModel) -> ModelState {
        let directory = self.directory(model);
        let stamp = Stamp::read(&directory);
        let is_whole = |file: &&CatalogueFile| size_of(&directory.join(&file.path)) == Some(file.bytes);
        if model.files.iter().all(|file| is_whole(&file)) {
            let stamped = model.files.iter().all(|file| stamp.covers(&directory, file));
            return if stamped { ModelState::Ready } else { ModelState::Unverified };
        }
        let whole: u64 = model.files.iter().filter(is_whole).map(|file| file.bytes).sum();
        let parts: u64 = model.files.iter().filter_map(|file| size_of(&part_path(&directory, file))).sum();
        match whole + parts {
            0 => ModelState::Absent,
            bytes => ModelState::Partial { bytes },
        }
    }

    /// Holds the files of a model that are not stamped against their SHA-256, and stamps those that are right.
    ///
    /// # Errors
    /// Of the first file that is not what it should be, or can not be read.
    pub fn verify(&self, model: &CatalogueModel, progress: &dyn Progress) -> Result<(), HubError> {
        let wrong = self.find_wrong(model, progress)?;
        wrong.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// The files of a model that are missing or not what they should be, with the reason. The others are stamped.
    pub(crate) fn find_wrong<'a>(
        &self,
        model: &'a CatalogueModel,
        progress: &dyn Progress,
    ) -> Result<Vec<(&'a CatalogueFile, HubError)>, HubError> {
        let directory = self.directory(model);
        let mut stamp = Stamp::read(&directory);
        let mut wrong = Vec::new();
        for file in model.files.iter().filter(|file| !stamp.covers(&directory, file)).collect::<Vec<_>>() {
            let path = directory.join(&file.path);
            match check_file(&path, file, progress).and_then(|()| stamp.add(&path, file)) {
                Ok(()) => {}
                Err(HubError::Cancelled) => return Err(HubError::Cancelled),
                Err(error) => wrong.push((file, error)),
            }
        }
        stamp.write(&directory);
        Ok(wrong)
    }

    /// Stamps a file whose content has just been checked.
    pub(crate) fn stamp(&self, model: &CatalogueModel, file: &CatalogueFile) -> Result<(), HubError> {
        let directory = self.directory(model);
        let mut stamp = Stamp::read(&directory);
        stamp.add(&directory.join(&file.path), file)?;
        stamp.write(&directory);
        Ok(())
    }

    /// Locks a model's directory against other processes, until the file given back is dropped.
    pub(crate) fn lock(&self, model: &CatalogueModel) -> Result<File, HubError> {
        let directory = self.directory(model);
        fs::create_dir_all(&directory).map_err(HubError::io("create", &directory))?;
        let path = directory.join(LOCK);
        let file = File::create(&path).map_err(HubError::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(HubError::Busy { name: model.name.clone(), lock: path }),
            // Some network file systems have no locks; a download without one is better than none.
            Err(fs::TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(file),
            Err(fs::TryLockError::Error(source)) => Err(HubError::Io { doing: "lock", path, source }),
        }
    }

    /// Every catalogue model with its state.
    pub(crate) fn states<'a>(
        &'a self,
        catalogue: &'a Catalogue,
    ) -> impl Iterator<Item = (&'a CatalogueModel, ModelState)> {
        catalogue.models().iter().map(|model| (model, self.state(model)))
    }
}

impl Stamp {
    /// The stamp of a directory. One that is missing or damaged counts for nothing.
    fn read(directory: &Path) -> Self {
        let bytes = fs::read(directory.join(STAMP)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn covers(&self, directory: &Path, file: &CatalogueFile) -> bool {
        let stamped = self.files.iter().find(|stamped| stamped.path == file.path);
        let found = stamped_file(&directory.join(&file.path), file).ok();
        stamped.is_some() && stamped == found.as_ref() && stamped.is_some_and(|stamped| stamped.bytes == file.bytes)
    }

    fn add(&mut self, path: &Path, file: &CatalogueFile) -> Result<(), HubError> {
        let stamped = stamped_file(path, file).map_err(HubError::io("read", path))?;
        self.files.retain(|other| other.path != file.path);
        self.files.push(stamped);
        Ok(())
    }

    /// A cache that can not be written to (a shared, read-only one) only costs the time to verify again, so failure is no
    /// error.
    fn write(&self, directory: &Path) {
        if !self.files.is_empty() {
            let json = serde_json::to_vec_pretty(self).unwrap_or_default();
            let _ = write_atomically(&directory.join(STAMP), &json);
        }
    }
}

/// What a stamp says of a file as it is now, if its hash is the one pinned.
fn stamped_file(path: &Path, file: &CatalogueFile) -> io::Result<StampedFile> {
    let metadata = fs::metadata(path)?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(StampedFile {
        path: file.path.clone(),
        bytes: metadata.len(),
        modified_ns: u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX),
        sha256: file.sha256.clone(),
    })
}

/// Checks size and SHA-256 of the file at `path`.
pub(crate) fn check_file(path: &Path, file: &CatalogueFile, progress: &dyn Progress) -> Result<(), HubError> {
    let found = fs::metadata(path).map_err(HubError::io("read", path))?.len();
    if found != file.bytes {
        return Err(HubError::Size { path: path.to_owned(), expected: file.bytes, found });
    }
    let found = hash_file(path, &file.path, progress)?;
    if found != file.sha256 {
        return Err(HubError::Hash { path: path.to_owned(), expected: file.sha256.clone(), found });
    }
    Ok(())
}

/// The SHA-256 of the file at `path`, which is called `item` in reports.
pub(crate) fn hash_file(path: &Path, item: &str, progress: &dyn Progress) -> Result<String, HubError> {
    let mut file = File::open(path).map_err(HubError::io("open", path))?;
    let bytes_total = file.metadata().map_err(HubError::io("read", path))?.len();
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes_done = 0;
    loop {
        let count = file.read(&mut buffer).map_err(HubError::io("read", path))?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
        bytes_done += count as u64;
        progress.update(&ProgressUpdate { phase: Phase::Verifying, item, bytes_done, bytes_total });
        if progress.cancelled() {
            return Err(HubError::Cancelled);
        }
    }
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file so that readers see the old one or the new one, never a part.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let part = with_suffix(path, ".part");
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(HubError::io("write", &part))?;
    fs::rename(&part, path).map_err(HubError::io("write", path))
}

/// Where a file is put together.
pub(crate) fn part_path(directory: &Path, file: &CatalogueFile) -> PathBuf {
    with_suffix(&directory.join(&file.path), ".part")
}

/// `path` with `suffix` after its whole name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(suffix);
    path.into()
}

fn size_of(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len())
}

/// A number of bytes for people, in decimal units.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}
