//! Tests of finding and downloading models. None touches the network.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests")]

mod catalogue;
mod fakes;
mod pip;
mod pull;
mod repositories;
mod resolve;
