//! The conformance suite against every kind of model, and the HTTP client against servers that misbehave.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod conformance;
mod fake_server;
mod in_process;
mod misbehaviour;
