//! What can go wrong with a directory, its files and its database.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Something could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Two processes would spoil each other's work.
    #[error("the state directory {} is in use by another process; give each its own", .directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// The system refuses.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no place left.
    #[error("the disk of the state directory is full")]
    Full,
    /// Another program holds the database.
    #[error("the state database is locked by another program, which did not let go in time")]
    Locked,
    /// What is in the database can not be read.
    #[error("the state database is damaged, or is none: {message}; move the directory away to begin with an empty one")]
    Damaged {
        /// What SQLite says.
        message: String,
    },
    /// A newer version has been here.
    #[error("the state database has version {found}, this program knows versions up to {known}: use the newer program")]
    TooNew {
        /// The version of what is there.
        found: usize,
        /// The newest version known.
        known: usize,
    },
    /// It has to be brought up to date first.
    #[error(
        "the state database has version {found}, this program wants {known}: start its server once, which brings it up to date"
    )]
    TooOld {
        /// The version of what is there.
        found: usize,
        /// The version wanted.
        known: usize,
    },
    /// SQLite refuses for another reason.
    #[error("the state database failed: {0}")]
    Database(rusqlite::Error),
}

impl StoreError {
    /// For `map_err` on what the system answers.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io { what, path, source },
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged { message: error.to_string() },
            _ => Self::Database(error),
        }
    }
}
