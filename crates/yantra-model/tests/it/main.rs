//! Models against references we did not compute: logits, greedy texts, perplexities and embeddings.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests")]

mod adapters;
mod cold_experts;
mod convert;
mod determinism;
mod embeddings;
mod encoders;
mod encoders_gguf;
mod families;
mod families_table;
mod footprint;
mod gguf;
mod harness;
mod long_context;
mod made;
mod quantized;
mod references;
mod stories;
