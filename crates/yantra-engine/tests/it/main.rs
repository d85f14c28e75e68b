//! The engine as its users see it, on a model that detects wrong paging.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod adapters;
mod embedder;
mod engine;
mod failures;
mod fake;
mod gbnf;
mod limits;
mod plan;
mod real_model;
mod scheduler;
mod schema_suite;
mod speculation;
mod spill;
mod structured;
mod tenants;
mod text;
mod timeline;
