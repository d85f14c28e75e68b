//! The table of files that clients have sent, or get.

use std::fs;
use std::io;

use rusqlite::{Connection, OptionalExtension, Row};

use crate::page::page;
use crate::{NewFile, Page, PageOf, Store, StoreError};

pub(crate) const SCHEMA: &str = "
    CREATE TABLE files (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        owner TEXT,
        filename TEXT NOT NULL,
        purpose TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX files_by_owner ON files (owner, seq);";

/// What is known of a new file besides what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// Whose it is; `None`: nobody's, as where there are no tenants.
    pub owner: Option<String>,
    /// What its owner calls it.
    pub filename: String,
    /// What it is for.
    pub purpose: String,
    /// Seconds since 1970.
    pub created_at: u64,
}

/// A file that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Its id, and its content's name on the disk.
    pub id: String,
    /// How long it is.
    pub bytes: u64,
    /// The rest.
    pub facts: FileFacts,
}

fn record(row: &Row<'_>) -> rusqlite::Result<FileRecord> {
    let facts = FileFacts {
        owner: row.get("owner")?,
        filename: row.get("filename")?,
        purpose: row.get("purpose")?,
        created_at: row.get("created_at")?,
    };
    Ok(FileRecord { id: row.get("id")?, bytes: row.get("bytes")?, facts })
}

/// Writes the row of a file that has been settled.
pub(crate) fn insert(connection: &Connection, file: &NewFile, facts: &FileFacts) -> Result<(), StoreError> {
    let FileFacts { owner, filename, purpose, created_at } = facts;
    let sql = "INSERT INTO files (id, owner, filename, purpose, bytes, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    connection.execute(sql, (file.id(), owner, filename, purpose, file.bytes(), created_at))?;
    Ok(())
}

impl Store {
    /// Keeps a file that has been written.
    ///
    /// # Errors
    /// The disk is full or broken.
    pub fn keep_file(&self, mut file: NewFile, facts: FileFacts) -> Result<FileRecord, StoreError> {
        file.settle(self)?;
        self.write(|transaction| insert(transaction, &file, &facts))?;
        let record = FileRecord { id: file.id().to_owned(), bytes: file.bytes(), facts };
        file.keep();
        Ok(record)
    }

    /// The file of this id, if it is the owner's.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn file(&self, owner: Option<&str>, id: &str) -> Result<Option<FileRecord>, StoreError> {
        let sql = "SELECT * FROM files WHERE id = ?1 AND owner IS ?2";
        self.read(|connection| Ok(connection.query_row(sql, (id, owner), record).optional()?))
    }

    /// A part of an owner's files, whose kind is their purpose; `None`: there is no file `after`.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn files(&self, of: &PageOf) -> Result<Option<Page<FileRecord>>, StoreError> {
        self.read(|connection| page(connection, "files", "purpose", of, record))
    }

    /// Deletes a file, if it is the owner's. Returns whether it was there.
    ///
    /// # Errors
    /// The database can not be written, or the content not be deleted.
    pub fn delete_file(&self, owner: Option<&str>, id: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM files WHERE id = ?1 AND owner IS ?2";
        let was_there = self.write(|transaction| Ok(transaction.execute(sql, (id, owner))? > 0))?;
        if was_there {
            let path = self.content_path(id);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("delete", &path)(error));
                }
                _ => {}
            }
        }
        Ok(was_there)
    }

    pub(crate) fn has_file(&self, id: &str) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM files WHERE id = ?1)";
        self.read(|connection| Ok(connection.query_row(sql, [id], |row| row.get(0))?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use super::*;

    fn facts(owner: Option<&str>, purpose: &str) -> FileFacts {
        FileFacts {
            owner: owner.map(str::to_owned),
            filename: "a.jsonl".to_owned(),
            purpose: purpose.to_owned(),
            created_at: 7,
        }
    }

    fn keep(store: &Store, owner: Option<&str>, purpose: &str) -> FileRecord {
        let mut file = store.new_file().unwrap();
        file.write(b"one ").unwrap();
        file.write(b"two").unwrap();
        store.keep_file(file, facts(owner, purpose)).unwrap()
    }

    #[test]
    fn files_are_kept_read_and_deleted_by_their_owner() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let kept = keep(&store, Some("a"), "batch");
        assert_eq!((kept.bytes, store.file(Some("a"), &kept.id).unwrap()), (7, Some(kept.clone())));
        assert_eq!((store.file(Some("b"), &kept.id).unwrap(), store.file(None, &kept.id).unwrap()), (None, None));
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        let mut text = String::new();
        store.open_content(&kept.id).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
        assert!(!store.delete_file(None, &kept.id).unwrap());
        assert!(store.delete_file(Some("a"), &kept.id).unwrap());
        assert!(!store.delete_file(Some("a"), &kept.id).unwrap());
        assert!(store.open_content(&kept.id).is_err());
    }

    #[test]
    fn what_was_never_finished_is_swept_away() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let kept = keep(&store, None, "batch");
        let mut settled = store.new_file().unwrap();
        settled.settle(&store).unwrap();
        let written = store.new_file().unwrap();
        // As if the process had been killed here.
        std::mem::forget((settled, written));
        let foreign = directory.path().join("files/thesis.txt");
        fs::write(&foreign, "not ours").unwrap();
        let names = || fs::read_dir(directory.path().join("files")).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names().count(), 4);
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        assert!(store.open_content(&kept.id).is_ok() && foreign.exists() && names().count() == 2);
        drop(store.new_file().unwrap());
        assert_eq!(names().count(), 2, "a file that is given up is deleted at once");
    }

    #[test]
    fn lists_come_in_pages() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let ids: Vec<String> =
            ["batch", "evals", "batch", "batch"].map(|purpose| keep(&store, None, purpose).id).into();
        keep(&store, Some("somebody else"), "batch");
        let list = |after: Option<&str>, limit, ascending, kind: Option<&str>| {
            let (after, kind) = (after.map(str::to_owned), kind.map(str::to_owned));
            let page = store.files(&PageOf { owner: None, after, limit, ascending, kind }).unwrap();
            page.map(|page| (page.items.into_iter().map(|file| file.id).collect::<Vec<_>>(), page.has_more))
        };
        let of = |indexes: &[usize]| indexes.iter().map(|&index| ids[index].clone()).collect::<Vec<_>>();
        assert_eq!(list(None, 2, false, None), Some((of(&[3, 2]), true)));
        assert_eq!(list(Some(&ids[2]), 2, false, None), Some((of(&[1, 0]), false)));
        assert_eq!(list(Some(&ids[0]), 9, true, Some("batch")), Some((of(&[2, 3]), false)));
        assert_eq!(list(Some("file-no"), 9, true, None), None);
    }
}
