//! The tables, and how a database of an older version gets those it lacks.

use rusqlite::{Connection, TransactionBehavior};

use crate::{StoreError, batches, files, items, usage};

/// Each is run once in a database's life. Only ever add at the end: how many have been run is the database's
/// `user_version`.
const STEPS: &[&str] = &[files::SCHEMA, batches::SCHEMA, items::SCHEMA, usage::SCHEMA];

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
