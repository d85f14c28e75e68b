//! From what items were answered to a batch's files.

use uuid::Uuid;
use yantra_api::{BatchItemError, BatchOutputLine};
use yantra_store::{Batch, BatchEnd, BatchStatus, FileFacts, ItemState, NewFile, Store, StoreError};

use crate::storage::now;

/// Items that are read at once.
const PAGE: usize = 64;

/// Writes a batch's files and ends it. May take long. After a crash it is done again from the start.
pub(crate) fn finish(store: &Store, batch: &Batch) -> Result<(), StoreError> {
    let (status, code, message) = match batch.status {
        BatchStatus::Cancelling => (
            BatchStatus::Cancelled,
            "batch_cancelled",
            "This request was not executed, because the batch was cancelled.",
        ),
        BatchStatus::Finalizing => (BatchStatus::Completed, "batch_expired", ""),
        _ => (
            BatchStatus::Expired,
            "batch_expired",
            "This request could not be executed before the completion window expired.",
        ),
    };
    let (mut output, mut errors, mut undone, mut after) = (None, None, 0, 0);
    // One that never began has no items, only lines that have been read.
    while batch.in_progress_at.is_some() {
        let items = store.items(&batch.id, after, PAGE)?;
        let Some(last) = items.last() else { break };
        after = last.line;
        for item in &items {
            let file = if item.state == ItemState::Completed { &mut output } else { &mut errors };
            match &item.response {
                Some(line) => write(store, file, line)?,
                None => {
                    undone += 1;
                    let error = Some(BatchItemError { code, message });
                    let id = new_line_id();
                    let line = BatchOutputLine { id, custom_id: &item.custom_id, response: None, error };
                    write(store, file, &serde_json::to_string(&line).unwrap_or_default())?;
                }
            }
        }
    }
    let facts = |what: &str| FileFacts {
        owner: batch.task.owner.clone(),
        filename: format!("{}_{what}.jsonl", batch.id),
        purpose: "batch_output".to_owned(),
        created_at: now(),
    };
    let output = output.map(|file| (file, facts("output")));
    let errors = errors.map(|file| (file, facts("error")));
    store.end_batch(&batch.id, BatchEnd { status, output, errors, undone }, now())?;
    tracing::info!(batch = batch.id, status = status.name(), undone, "batch ended");
    Ok(())
}

fn write(store: &Store, file: &mut Option<NewFile>, line: &str) -> Result<(), StoreError> {
    let file = match file {
        Some(file) => file,
        None => file.insert(store.new_file()?),
    };
    file.write(format!("{line}\n").as_bytes())
}

/// The id of a line of output.
pub(crate) fn new_line_id() -> String {
    format!("batch_req_{}", Uuid::new_v4().simple())
}
