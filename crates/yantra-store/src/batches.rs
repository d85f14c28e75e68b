//! The table of batches: what each is to do, and how far it is.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::page::page;
use crate::{FileFacts, NewFile, Page, PageOf, Store, StoreError, files};

/// `…_at` of a status is when the batch came to it, in seconds since 1970.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE batches (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        owner TEXT,
        endpoint TEXT NOT NULL,
        input_file TEXT NOT NULL,
        completion_window TEXT NOT NULL,
        metadata TEXT,
        status TEXT NOT NULL,
        errors TEXT,
        output_file TEXT,
        error_file TEXT,
        total INTEGER NOT NULL DEFAULT 0,
        completed INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        created_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        in_progress_at INTEGER,
        finalizing_at INTEGER,
        completed_at INTEGER,
        failed_at INTEGER,
        expired_at INTEGER,
        cancelling_at INTEGER,
        cancelled_at INTEGER
    ) STRICT;
    CREATE INDEX batches_by_owner ON batches (owner, seq);
    CREATE INDEX open_batches ON batches (status) WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling');";

/// How far a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchStatus {
    /// Its input is being read.
    Validating,
    /// Its input was wrong.
    Failed,
    /// Its items are being worked on.
    InProgress,
    /// All items are done; its files are being written.
    Finalizing,
    /// Its files are there.
    Completed,
    /// Its time was over before all items were done.
    Expired,
    /// Nothing new is begun.
    Cancelling,
    /// It was ended before all items were done.
    Cancelled,
}

impl BatchStatus {
    const ALL: [Self; 8] = [
        Self::Validating,
        Self::Failed,
        Self::InProgress,
        Self::Finalizing,
        Self::Completed,
        Self::Expired,
        Self::Cancelling,
        Self::Cancelled,
    ];

    /// As OpenAI calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether there is something left to do.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Validating | Self::InProgress | Self::Finalizing | Self::Cancelling)
    }
}

impl ToSql for BatchStatus {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.name().into())
    }
}

impl FromSql for BatchStatus {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let name = value.as_str()?;
        Self::ALL.into_iter().find(|status| status.name() == name).ok_or(FromSqlError::InvalidType)
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBatch {
    /// Whose it is; `None`: nobody's, as where there are no tenants.
    pub owner: Option<String>,
    /// The path that its items go to.
    pub endpoint: String,
    /// The id of the file that has them.
    pub input_file: String,
    /// How long it may take, in the client's words.
    pub completion_window: String,
    /// What the client wants to be told again, as JSON.
    pub metadata: Option<String>,
    /// Seconds since 1970.
    pub created_at: u64,
    /// When its time is over, in seconds since 1970.
    pub expires_at: u64,
}

/// A batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its id.
    pub id: String,
    /// What is to be done.
    pub task: NewBatch,
    /// How far it is.
    pub status: BatchStatus,
    /// What is wrong with its input, as JSON.
    pub errors: Option<String>,
    /// The id of the file with the answers.
    pub output_file: Option<String>,
    /// The id of the file with what went wrong.
    pub error_file: Option<String>,
    /// Items in all.
    pub total: u64,
    /// Items that were answered.
    pub completed: u64,
    /// Items that went wrong.
    pub failed: u64,
    /// When it was first [`BatchStatus::InProgress`], in seconds since 1970, and so on.
    pub in_progress_at: Option<u64>,
    /// See above.
    pub finalizing_at: Option<u64>,
    /// See above.
    pub completed_at: Option<u64>,
    /// See above.
    pub failed_at: Option<u64>,
    /// See above.
    pub expired_at: Option<u64>,
    /// See above.
    pub cancelling_at: Option<u64>,
    /// See above.
    pub cancelled_at: Option<u64>,
}

/// How a batch ends that had items.
#[derive(Debug)]
pub struct BatchEnd {
    /// Completed, expired or cancelled.
    pub status: BatchStatus,
    /// The file with the answers, if there are any.
    pub output: Option<(NewFile, FileFacts)>,
    /// The file with what went wrong, if anything did.
    pub errors: Option<(NewFile, FileFacts)>,
    /// Items that were never done.
    pub undone: u64,
}

fn batch(row: &Row<'_>) -> rusqlite::Result<Batch> {
    let task = NewBatch {
        owner: row.get("owner")?,
        endpoint: row.get("endpoint")?,
        input_file: row.get("input_file")?,
        completion_window: row.get("completion_window")?,
        metadata: row.get("metadata")?,
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
    };
    Ok(Batch {
        id: row.get("id")?,
        task,
        status: row.get("status")?,
        errors: row.get("errors")?,
        output_file: row.get("output_file")?,
        error_file: row.get("error_file")?,
        total: row.get("total")?,
        completed: row.get("completed")?,
        failed: row.get("failed")?,
        in_progress_at: row.get("in_progress_at")?,
        finalizing_at: row.get("finalizing_at")?,
        completed_at: row.get("completed_at")?,
        failed_at: row.get("failed_at")?,
        expired_at: row.get("expired_at")?,
        cancelling_at: row.get("cancelling_at")?,
        cancelled_at: row.get("cancelled_at")?,
    })
}

fn find(connection: &Connection, id: &str) -> Result<Option<Batch>, StoreError> {
    Ok(connection.query_row("SELECT * FROM batches WHERE id = ?1", [id], batch).optional()?)
}

/// Brings a batch from one of these statuses to another. Returns whether it had one of them.
pub(crate) fn advance(
    connection: &Connection,
    id: &str,
    from: &[BatchStatus],
    to: BatchStatus,
    now: u64,
) -> Result<bool, StoreError> {
    let sql = "SELECT status FROM batches WHERE id = ?1";
    let is_from: Option<BatchStatus> = connection.query_row(sql, [id], |row| row.get(0)).optional()?;
    if !is_from.is_some_and(|status| from.contains(&status)) {
        return Ok(false);
    }
    // The names are ours, never a client's.
    let sql = format!("UPDATE batches SET status = ?2, {}_at = ?3 WHERE id = ?1", to.name());
    connection.execute(&sql, (id, to, now))?;
    Ok(true)
}

impl Store {
    /// Adds a batch, to be validated.
    ///
    /// # Errors
    /// The database can not be written.
    pub fn add_batch(&self, new: &NewBatch) -> Result<Batch, StoreError> {
        let id = format!("batch_{}", uuid::Uuid::new_v4().simple());
        self.write(|transaction| {
            let sql = "INSERT INTO batches
                    (id, owner, endpoint, input_file, completion_window, metadata, status, created_at, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) RETURNING *";
            let NewBatch { owner, endpoint, input_file, completion_window, metadata, created_at, expires_at } = new;
            let status = BatchStatus::Validating;
            let values =
                (&id, owner, endpoint, input_file, completion_window, metadata, status, created_at, expires_at);
            Ok(transaction.query_row(sql, values, batch)?)
        })
    }

    /// The batch of this id, if it is the owner's.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn batch(&self, owner: Option<&str>, id: &str) -> Result<Option<Batch>, StoreError> {
        Ok(self.any_batch(id)?.filter(|batch| batch.task.owner.as_deref() == owner))
    }

    /// The batch of this id, whoever's it is.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn any_batch(&self, id: &str) -> Result<Option<Batch>, StoreError> {
        self.read(|connection| find(connection, id))
    }

    /// A part of an owner's batches; `None`: there is no batch `after`.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn batches(&self, of: &PageOf) -> Result<Option<Page<Batch>>, StoreError> {
        self.read(|connection| page(connection, "batches", "status", of, batch))
    }

    /// The ids of all batches that are not at their end, oldest first, and whose they are.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn open_batches(&self) -> Result<Vec<(String, Option<String>)>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT id, owner FROM batches
                 WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') ORDER BY seq";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// All items of a batch have been added: it begins. Returns whether it was still validating.
    ///
    /// # Errors
    /// The database can not be written.
    pub fn start_batch(&self, id: &str, total: u64, now: u64) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let begins = advance(transaction, id, &[BatchStatus::Validating], BatchStatus::InProgress, now)?;
            if begins {
                transaction.execute("UPDATE batches SET total = ?2 WHERE id = ?1", (id, total))?;
            }
            Ok(begins)
        })
    }

    /// A batch's input is wrong; `errors` is JSON. Returns whether it was still validating.
    ///
    /// # Errors
    /// The database can not be written.
    pub fn fail_batch(&self, id: &str, errors: &str, now: u64) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let fails = advance(transaction, id, &[BatchStatus::Validating], BatchStatus::Failed, now)?;
            if fails {
                transaction.execute("UPDATE batches SET errors = ?2 WHERE id = ?1", (id, errors))?;
                transaction.execute("DELETE FROM batch_items WHERE batch = ?1", [id])?;
            }
            Ok(fails)
        })
    }

    /// Has a batch end early. Returns it as it is then, and whether it could be.
    ///
    /// # Errors
    /// The database can not be written.
    pub fn cancel_batch(&self, id: &str, now: u64) -> Result<Option<(Batch, bool)>, StoreError> {
        self.write(|transaction| {
            let from = [BatchStatus::Validating, BatchStatus::InProgress];
            let done = advance(transaction, id, &from, BatchStatus::Cancelling, now)?;
            let batch = find(transaction, id)?;
            Ok(batch.map(|batch| {
                let is_cancelling = done || matches!(batch.status, BatchStatus::Cancelling | BatchStatus::Cancelled);
                (batch, is_cancelling)
            }))
        })
    }

    /// All items are done. Returns whether the batch was still in progress.
    ///
    /// # Errors
    /// The database can not be written.
    pub fn finalize_batch(&self, id: &str, now: u64) -> Result<bool, StoreError> {
        self.write(|transaction| advance(transaction, id, &[BatchStatus::InProgress], BatchStatus::Finalizing, now))
    }

    /// Ends a batch: its files are there from now on, and its items no more. Returns whether it was open.
    ///
    /// # Errors
    /// The disk is full or broken.
    pub fn end_batch(&self, id: &str, end: BatchEnd, now: u64) -> Result<bool, StoreError> {
        let BatchEnd { status, mut output, mut errors, undone } = end;
        for (file, _) in [&mut output, &mut errors].into_iter().flatten() {
            file.settle(self)?;
        }
        let ended = self.write(|transaction| {
            let from =
                [BatchStatus::Validating, BatchStatus::InProgress, BatchStatus::Finalizing, BatchStatus::Cancelling];
            if !advance(transaction, id, &from, status, now)? {
                return Ok(false);
            }
            for (file, facts) in [&output, &errors].into_iter().flatten() {
                files::insert(transaction, file, facts)?;
            }
            let name = |file: &Option<(NewFile, FileFacts)>| file.as_ref().map(|(file, _)| file.id().to_owned());
            let sql = "UPDATE batches SET output_file = ?2, error_file = ?3, failed = failed + ?4 WHERE id = ?1";
            transaction.execute(sql, (id, name(&output), name(&errors), undone))?;
            transaction.execute("DELETE FROM batch_items WHERE batch = ?1", [id])?;
            Ok(true)
        })?;
        if ended {
            [output, errors].into_iter().flatten().for_each(|(file, _)| file.keep());
        }
        Ok(ended)
    }
}
