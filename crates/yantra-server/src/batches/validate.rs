//! From a batch's input to its items.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use yantra_api::{BatchError, BatchLines, MAX_BATCH_ERRORS, MAX_BATCH_ITEMS};
use yantra_store::{Batch, Item, Store, StoreError};

use crate::storage::now;

/// Items that are written at once, and bytes of them: others want the database too.
const MAX_CHUNK: usize = 512;
const MAX_CHUNK_BYTES: usize = 4 << 20;

/// Reads a batch's input, and has the batch begin or fail. May take long. After a crash it is done again from the start.
pub(crate) fn validate(store: &Store, batch: &Batch) -> Result<(), StoreError> {
    store.clear_items(&batch.id)?;
    match read(store, batch)? {
        Ok(total) => store.start_batch(&batch.id, total, now())?,
        Err(errors) => {
            let errors = serde_json::to_string(&errors).unwrap_or_default();
            store.fail_batch(&batch.id, &errors, now())?
        }
    };
    Ok(())
}

/// How many items there are, or what is wrong with them.
fn read(store: &Store, batch: &Batch) -> Result<Result<u64, Vec<BatchError>>, StoreError> {
    let id = &batch.task.input_file;
    let one = |code: &str, message: String| Ok(Err(vec![BatchError::new(code, message)]));
    if store.file(batch.task.owner.as_deref(), id)?.is_none() {
        return one("invalid_input_file", format!("the file '{id}' has been deleted"));
    }
    let mut input = BufReader::new(store.open_content(id)?);
    let mut lines = BatchLines::new(&batch.task.endpoint);
    let (mut errors, mut items, mut items_bytes) = (Vec::new(), Vec::new(), 0);
    let (mut total, mut number, mut line) = (0, 0, Vec::new());
    loop {
        line.clear();
        let failed = |source| StoreError::Io { what: "read", path: PathBuf::from(id), source };
        if input.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        total += 1;
        if total > MAX_BATCH_ITEMS {
            return one(
                "too_many_requests",
                format!("the file has more than the {MAX_BATCH_ITEMS} requests of a batch"),
            );
        }
        match lines.read(number, &line) {
            Ok(read) => {
                items_bytes += read.body.len();
                items.push(Item { line: number, custom_id: read.custom_id, request: read.body });
            }
            Err(error) => errors.push(error),
        }
        if errors.len() >= MAX_BATCH_ERRORS {
            break;
        }
        if items.len() >= MAX_CHUNK || items_bytes >= MAX_CHUNK_BYTES {
            store.add_items(&batch.id, &items)?;
            items.clear();
            items_bytes = 0;
        }
    }
    if total == 0 {
        return one("empty_file", format!("the file '{id}' has no requests"));
    }
    if !errors.is_empty() {
        return Ok(Err(errors));
    }
    store.add_items(&batch.id, &items)?;
    Ok(Ok(total))
}
