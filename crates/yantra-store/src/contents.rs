//! The contents of files: one on the disk for each row of the table, named by its id.
//!
//! A new one is written beside them, put on the disk for good and renamed, and only then its row is written; so a row's
//! content is whole. What has no row was left by a process that was killed, and is swept away by the next.

use std::fs::{self, File};
use std::io::Write;
use std::mem;
use std::path::{Path, PathBuf};

use crate::{Store, StoreError};

/// Their directory, below the store's.
pub(crate) const DIRECTORY: &str = "files";
/// How the names of those end that are being written.
const NEW: &str = ".new";

/// A file that is being written; gone when dropped before it is kept.
#[derive(Debug)]
pub struct NewFile {
    id: String,
    file: File,
    /// Where it is now, if it has to be deleted when dropped.
    path: Option<PathBuf>,
    bytes: u64,
}

impl NewFile {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How much has been written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes more.
    ///
    /// # Errors
    /// The disk is full or broken.
    pub fn write(&mut self, more: &[u8]) -> Result<(), StoreError> {
        let path = self.path.as_deref().unwrap_or(Path::new(""));
        self.file.write_all(more).map_err(StoreError::io("write", path))?;
        self.bytes += more.len() as u64;
        Ok(())
    }

    /// Puts it where it stays, for good.
    pub(crate) fn settle(&mut self, store: &Store) -> Result<(), StoreError> {
        let Some(path) = &mut self.path else { return Ok(()) };
        let place = store.content_path(&self.id);
        self.file.sync_all().map_err(StoreError::io("write", path))?;
        fs::rename(&*path, &place).map_err(StoreError::io("rename", path))?;
        *path = place;
        sync_directory(&store.directory().join(DIRECTORY))
    }

    /// Its row has been written.
    pub(crate) fn keep(mut self) {
        mem::take(&mut self.path);
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What is left is swept away at the next start.
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a name is one that we give: the directory may have been somebody's before.
fn is_ours(name: &str) -> bool {
    let id = name.strip_suffix(NEW).unwrap_or(name).strip_prefix("file-");
    id.is_some_and(|id| uuid::Uuid::try_parse(id).is_ok())
}

/// A new name in a directory is safe once the directory is.
fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    File::open(directory).and_then(|file| file.sync_all()).map_err(StoreError::io("write", directory))?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

impl Store {
    /// Begins a file.
    ///
    /// # Errors
    /// The directory can not be written.
    pub fn new_file(&self) -> Result<NewFile, StoreError> {
        let id = format!("file-{}", uuid::Uuid::new_v4().simple());
        let path = self.content_path(&format!("{id}{NEW}"));
        let file = File::options().write(true).create_new(true).open(&path).map_err(StoreError::io("create", &path))?;
        Ok(NewFile { id, file, path: Some(path), bytes: 0 })
    }

    /// Opens what a file holds, to be read.
    ///
    /// # Errors
    /// It is not there, or can not be read.
    pub fn open_content(&self, id: &str) -> Result<File, StoreError> {
        let path = self.content_path(id);
        File::open(&path).map_err(StoreError::io("open", &path))
    }

    pub(crate) fn content_path(&self, id: &str) -> PathBuf {
        self.directory().join(DIRECTORY).join(id)
    }

    /// Deletes contents that have no row.
    pub(crate) fn sweep(&self) -> Result<(), StoreError> {
        let directory = self.directory().join(DIRECTORY);
        let entries = fs::read_dir(&directory).map_err(StoreError::io("list", &directory))?;
        for entry in entries {
            let entry = entry.map_err(StoreError::io("list", &directory))?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| is_ours(name)) else { continue };
            if !self.has_file(name)? {
                tracing::info!(file = name, "a file that was never finished is deleted");
                fs::remove_file(entry.path()).map_err(StoreError::io("delete", &entry.path()))?;
            }
        }
        Ok(())
    }
}
