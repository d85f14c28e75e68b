//! What outlives the process: tables in an embedded SQLite, and the contents of files beside it, in one directory that the
//! user names.
//!
//! A [`Store`] is synchronous: its callers bring threads that may wait. One connection behind a mutex does all the work;
//! every change is one transaction that is on the disk when the call returns (write-ahead log, `synchronous = FULL`), so
//! that whatever was answered to somebody is still there after the power went.
//!
//! Each table has a module of its own, with its `SCHEMA`, its types and its part of `impl Store`. To add a table: write
//! that module, and add its schema at the end of `schema::STEPS`.

mod batches;
mod contents;
mod error;
mod files;
mod items;
mod page;
mod schema;
mod store;
mod trace_text;
mod traces;
mod usage;

pub use batches::{Batch, BatchEnd, BatchStatus, NewBatch};
pub use contents::NewFile;
pub use error::StoreError;
pub use files::{FileFacts, FileRecord};
pub use items::{Item, ItemState, StoredItem};
pub use page::{Page, PageOf};
pub use store::Store;
pub use traces::{NewTrace, Trace, TraceFacts, TraceSummary, TracesOf};
pub use usage::{UsageRow, Used};
