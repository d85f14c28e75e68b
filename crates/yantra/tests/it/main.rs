//! The binary from outside: help, wrong use, load tests against servers that behave and that do not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod batches;
mod bench_load;
mod chat;
mod convert;
mod fake_server;
mod help;
mod isolation;
mod keys;
mod serve;
mod serving;
mod traces;
mod wrong_use;
mod yantra;
