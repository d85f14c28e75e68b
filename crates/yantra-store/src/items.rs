//! The table of the items of open batches: what each asks, and what it was answered.

use rusqlite::{OptionalExtension, Row};

use crate::{Store, StoreError};

pub(crate) const SCHEMA: &str = "
    CREATE TABLE batch_items (
        batch TEXT NOT NULL REFERENCES batches (id),
        line INTEGER NOT NULL,
        custom_id TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'completed', 'failed')),
        request TEXT NOT NULL,
        response TEXT,
        UNIQUE (batch, line)
    ) STRICT;";

/// How far an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemState {
    /// Not done.
    Pending,
    /// Answered.
    Completed,
    /// It went wrong.
    Failed,
}

impl ItemState {
    fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    fn of(name: &str) -> Self {
        [Self::Completed, Self::Failed].into_iter().find(|state| state.name() == name).unwrap_or(Self::Pending)
    }
}

/// What an item asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its line in the input, from 1.
    pub line: u64,
    /// What the client calls it.
    pub custom_id: String,
    /// The request's body.
    pub request: String,
}

/// An item, for the files at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredItem {
    /// Its line in the input, from 1.
    pub line: u64,
    /// What the client calls it.
    pub custom_id: String,
    /// How far it is.
    pub state: ItemState,
    /// Its line of the output; nothing while it is pending.
    pub response: Option<String>,
}

fn item(row: &Row<'_>) -> rusqlite::Result<Item> {
    Ok(Item { line: row.get(0)?, custom_id: row.get(1)?, request: row.get(2)? })
}

fn stored_item(row: &Row<'_>) -> rusqlite::Result<StoredItem> {
    let state = ItemState::of(row.get_ref(2)?.as_str()?);
    Ok(StoredItem { line: row.get(0)?, custom_id: row.get(1)?, state, response: row.get(3)? })
}

impl Store {
    /// Adds items to a batch, which is being validated; those of earlier tries are to be cleared before.
    ///
    /// # Errors
    /// The database can not be written.
    pub fn add_items(&self, batch: &str, items: &[Item]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let sql = "INSERT INTO batch_items (batch, line, custom_id, request) VALUES (?1, ?2, ?3, ?4)";
            let mut statement = transaction.prepare_cached(sql)?;
            for Item { line, custom_id, request } in items {
                statement.execute((batch, line, custom_id, request))?;
            }
            Ok(())
        })
    }

    /// Forgets a batch's items.
    ///
    /// # Errors
    /// The database can not be written.
    pub fn clear_items(&self, batch: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM batch_items WHERE batch = ?1", [batch])?;
            Ok(())
        })
    }

    /// The first item behind a line that is not done.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn pending_item(&self, batch: &str, after: u64) -> Result<Option<Item>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT line, custom_id, request FROM batch_items
                 WHERE batch = ?1 AND line > ?2 AND state = 'pending' ORDER BY line LIMIT 1";
            Ok(connection.prepare_cached(sql)?.query_row((batch, after), item).optional()?)
        })
    }

    /// Writes down how an item ended and counts it, both or neither. Returns whether it was pending: what an item was
    /// answered never changes.
    ///
    /// # Errors
    /// The database can not be written.
    pub fn finish_item(&self, batch: &str, line: u64, state: ItemState, response: &str) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let sql = "UPDATE batch_items SET state = ?3, response = ?4
                 WHERE batch = ?1 AND line = ?2 AND state = 'pending'";
            let changed = transaction.prepare_cached(sql)?.execute((batch, line, state.name(), response))? > 0;
            if changed {
                let completed = u64::from(state == ItemState::Completed);
                let failed = u64::from(state == ItemState::Failed);
                let sql = "UPDATE batches SET completed = completed + ?2, failed = failed + ?3 WHERE id = ?1";
                transaction.prepare_cached(sql)?.execute((batch, completed, failed))?;
            }
            Ok(changed)
        })
    }

    /// The item behind a line, done or not, for the files at the end.
    ///
    /// # Errors
    /// The database can not be read.
    pub fn items(&self, batch: &str, after: u64, limit: usize) -> Result<Vec<StoredItem>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT line, custom_id, state, response FROM batch_items
                 WHERE batch = ?1 AND line > ?2 ORDER BY line LIMIT ?3";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map((batch, after, limit), stored_item)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{BatchEnd, BatchStatus, FileFacts, NewBatch};

    fn new_batch(owner: Option<&str>) -> NewBatch {
        NewBatch {
            owner: owner.map(str::to_owned),
            endpoint: "/v1/completions".to_owned(),
            input_file: "file-1".to_owned(),
            completion_window: "24h".to_owned(),
            metadata: None,
            created_at: 10,
            expires_at: 20,
        }
    }

    fn new_items(count: u64) -> Vec<Item> {
        let item = |line| Item { line, custom_id: format!("c{line}"), request: format!("{{\"n\":{line}}}") };
        (1..=count).map(item).collect()
    }

    #[test]
    fn a_batch_goes_its_way_through_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Store::open(directory.path()).unwrap();
        let store = open();
        let id = store.add_batch(&new_batch(Some("a"))).unwrap().id;
        store.add_items(&id, &new_items(1)).unwrap();
        drop(store);
        // Validated again after a crash.
        let store = open();
        assert_eq!(store.open_batches().unwrap(), [(id.clone(), Some("a".to_owned()))]);
        store.clear_items(&id).unwrap();
        store.add_items(&id, &new_items(3)).unwrap();
        assert!(store.start_batch(&id, 3, 11).unwrap() && !store.start_batch(&id, 3, 12).unwrap());
        assert!(store.finish_item(&id, 2, ItemState::Completed, "two").unwrap());
        assert!(!store.finish_item(&id, 2, ItemState::Failed, "again").unwrap(), "an item is done once");
        drop(store);
        let store = open();
        let line = |after| store.pending_item(&id, after).unwrap().map(|item| item.line);
        assert_eq!((line(0), line(1), line(3)), (Some(1), Some(3), None));
        assert!(store.finish_item(&id, 1, ItemState::Failed, "one").unwrap());
        let batch = store.any_batch(&id).unwrap().unwrap();
        assert_eq!((batch.total, batch.completed, batch.failed, batch.in_progress_at), (3, 1, 1, Some(11)));
        assert_eq!(store.batch(None, &id).unwrap(), None);
        let responses: Vec<_> = store.items(&id, 0, 9).unwrap().into_iter().map(|item| item.response).collect();
        assert_eq!(responses, [Some("one".to_owned()), Some("two".to_owned()), None]);

        let facts =
            FileFacts { owner: None, filename: "o".to_owned(), purpose: "batch_output".to_owned(), created_at: 1 };
        let file = store.new_file().unwrap();
        let output = file.id().to_owned();
        let end = BatchEnd { status: BatchStatus::Expired, output: Some((file, facts)), errors: None, undone: 1 };
        assert!(store.end_batch(&id, end, 13).unwrap());
        let batch = store.any_batch(&id).unwrap().unwrap();
        assert_eq!((batch.status, batch.failed, batch.expired_at), (BatchStatus::Expired, 2, Some(13)));
        assert_eq!(batch.output_file.as_ref(), Some(&output));
        assert!(store.open_content(&output).is_ok() && store.file(None, &output).unwrap().is_some());
        assert!(store.items(&id, 0, 9).unwrap().is_empty() && store.open_batches().unwrap().is_empty());
    }

    #[test]
    fn what_is_cancelled_or_failed_does_not_begin() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let id = store.add_batch(&new_batch(None)).unwrap().id;
        let (batch, done) = store.cancel_batch(&id, 5).unwrap().unwrap();
        assert_eq!((batch.status, batch.cancelling_at, done), (BatchStatus::Cancelling, Some(5), true));
        assert!(!store.start_batch(&id, 1, 6).unwrap() && !store.fail_batch(&id, "[]", 6).unwrap());
        let end = BatchEnd { status: BatchStatus::Cancelled, output: None, errors: None, undone: 0 };
        assert!(store.end_batch(&id, end, 7).unwrap());
        let failed = store.add_batch(&new_batch(None)).unwrap().id;
        assert!(store.fail_batch(&failed, "[]", 6).unwrap());
        assert!(!store.cancel_batch(&failed, 7).unwrap().unwrap().1, "it has ended");
        assert!(store.cancel_batch("batch_no", 7).unwrap().is_none());
    }
}
