//! The tables, and how a database of an older version gets those it lacks.

use std::cmp::Ordering;

use rusqlite::{Connection, TransactionBehavior};

use crate::{StoreError, batches, files, items, traces, usage};

/// Each is run once in a database's life. Only ever add at the end: how many have been run is the database's
/// `user_version`.
const STEPS: &[&str] = &[files::SCHEMA, batches::SCHEMA, items::SCHEMA, usage::SCHEMA, traces::SCHEMA];

/// Runs the steps that the database has not seen.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: usize = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(missing) = STEPS.get(found..) else {
        return Err(StoreError::TooNew { found, known: STEPS.len() });
    };
    for step in missing {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", STEPS.len())?;
    Ok(transaction.commit()?)
}

/// Refuses a database that has not seen all steps, or more of them.
pub(crate) fn check(connection: &Connection) -> Result<(), StoreError> {
    let found: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match found.cmp(&STEPS.len()) {
        Ordering::Equal => Ok(()),
        Ordering::Less => Err(StoreError::TooOld { found, known: STEPS.len() }),
        Ordering::Greater => Err(StoreError::TooNew { found, known: STEPS.len() }),
    }
}
