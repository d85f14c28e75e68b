//! The directory: its lock, its database, its files.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::{StoreError, contents, schema};

/// How long another program (a backup, a curious `sqlite3`) may hold the database.
const BUSY_TIME: Duration = Duration::from_secs(5);
/// The database's name in the directory.
const DATABASE: &str = "yantra.db";

/// A directory of state, open. Only one process can have it; others can look in beside it.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    connection: Mutex<Connection>,
    /// Locked for as long as it is open; the system lets go of it when the process ends, however it does.
    _lock: Option<File>,
}

impl Store {
    /// Opens a directory, which is made if it is not there, and brings what is in it up to date.
    ///
    /// # Errors
    /// Another process has it, it can not be written, or what is in it is damaged or of a newer version.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        make_directory(directory)?;
        let lock = Some(lock(directory)?);
        make_directory(&directory.join(contents::DIRECTORY))?;
        let mut connection = Connection::open(directory.join(DATABASE))?;
        prepare(&connection)?;
        schema::migrate(&mut connection)?;
        let store = Self { directory: directory.to_owned(), connection: Mutex::new(connection), _lock: lock };
        store.sweep()?;
        Ok(store)
    }

    /// Opens a directory that is there, whether or not another process has it, for its traces: whose rows the database's
    /// own locks guard. What else is in it is the other's.
    ///
    /// # Errors
    /// There is no database in it of a version that this program knows, or it is damaged.
    pub fn open_beside(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(DATABASE);
        // SQLite says of a file that is not there only that it can not be opened.
        path.metadata().map_err(StoreError::io("open", &path))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags)?;
        prepare(&connection)?;
        schema::check(&connection)?;
        Ok(Self { directory: directory.to_owned(), connection: Mutex::new(connection), _lock: None })
    }

    /// Gives back to the system what deleted rows have left. Takes as long as writing all the others again.
    ///
    /// # Errors
    /// The disk is full or broken.
    pub fn compact(&self) -> Result<(), StoreError> {
        self.read(|connection| Ok(connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")?))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Looks something up.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        look(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes something: all of it, or on an error nothing.
    pub(crate) fn write<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = change(&transaction)?;
        transaction.commit()?;
        Ok(result)
    }
}

fn prepare(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(BUSY_TIME)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // What is deleted is to be gone, not only out of sight: it is what people said.
    connection.pragma_update(None, "secure_delete", true)?;
    Ok(())
}

/// Makes a directory that nobody else may read: it holds what people say to models.
fn make_directory(directory: &Path) -> Result<(), StoreError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(StoreError::io("make the directory", directory))
}

fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(StoreError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { directory: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(StoreError::Io { what: "lock", path, source }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_one_may_have_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = Store::open(directory.path()).unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        drop(first);
        Store::open(directory.path()).unwrap();
    }

    #[test]
    fn what_is_no_database_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("yantra.db"), "hello, hello, hello\n".repeat(500)).unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("damaged, or is none"), "{error}");
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Store::open(&file).unwrap_err();
        assert!(error.to_string().contains("cannot make the directory"), "{error}");
    }

    #[test]
    fn a_newer_database_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.write(|transaction| Ok(transaction.pragma_update(None, "user_version", 999)?)).unwrap();
        drop(store);
        let error = Store::open(directory.path()).unwrap_err();
        assert!(matches!(error, StoreError::TooNew { found: 999, .. }), "{error}");
    }

    #[test]
    fn a_full_or_locked_database_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.read(|connection| Ok(connection.pragma_update(None, "max_page_count", 1)?)).unwrap();
        let fill = |transaction: &Transaction<'_>| {
            transaction.execute_batch("CREATE TABLE t (x)")?;
            Ok(transaction.execute("INSERT INTO t VALUES (zeroblob(1000000))", [])?)
        };
        let error = store.write(fill).unwrap_err();
        assert!(matches!(error, StoreError::Full), "{error}");
        store.read(|connection| Ok(connection.busy_timeout(Duration::ZERO)?)).unwrap();
        let other = Connection::open(directory.path().join("yantra.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let error = store.write(|_| Ok(())).unwrap_err();
        assert!(matches!(error, StoreError::Locked), "{error}");
        other.execute_batch("ROLLBACK").unwrap();
        store.write(|_| Ok(())).unwrap();
    }
}
