//! The server over real sockets, in front of a real engine that steps a model made of a sentence.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic)]

mod batches;
mod cross_encoder;
mod dashboard;
mod dialects;
mod document;
mod embeddings;
mod endpoints;
mod generation;
mod lifecycle;
mod limits;
mod loading;
mod messages;
mod moderations;
mod refusals;
mod requests;
mod rerank;
mod responses;
mod robustness;
mod stress;
mod structured;
mod support;
mod telemetry;
mod tools;
mod traces;
