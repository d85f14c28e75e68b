//! Tests of the model file formats.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests")]

mod checkpoint;
mod gguf;
mod gguf_split;
mod hf;
mod metadata;
mod real;
mod safetensors;
mod support;
