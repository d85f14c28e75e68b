//! The engine as its users see it, on a model that detects wrong paging.
#![allow(clippy::unwrap_used, clippy::panic)]

mod engine;
mod failures;
mod fake;
mod limits;
mod scheduler;
mod text;
