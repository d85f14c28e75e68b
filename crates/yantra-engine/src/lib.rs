//! Scheduler, paged KV cache, prefix tree, sampling: synchronous, on its own thread.
//!
//! [`Engine::spawn`] puts a [`StepModel`] on a thread of its own, which repeats `schedule → forward → commit`:
//! [`Scheduler`] decides which tokens of which sequences are computed (continuous batching, chunked prefill, preemption
//! by recompute), the model computes them, and the results are sampled ([`sampling`]), turned into text and sent to each
//! request's [`EventSink`]. Nothing here is async and nothing knows HTTP; callers talk to the thread through
//! [`EngineHandle`].
//!
//! What the engine promises:
//! - a request's tokens do not depend on what else is in the batch (given a model that promises the same of its logits),
//!   nor on [`speculation`];
//! - every accepted request gets exactly one [`Event::Done`] or [`Event::Error`], at its end;
//! - a cancelled request's pages are free again within one step;
//! - a failing forward pass fails only the requests in that batch.

mod batch;
mod config;
mod constraint;
mod embedder;
mod engine;
mod error;
mod event;
mod handle;
mod histogram;
pub mod kv;
pub mod load;
mod model_runner;
mod queue;
mod request;
pub mod sampling;
pub mod scheduler;
mod sink;
pub mod speculation;
pub mod spill;
mod stats;
mod step_model;
mod stop;
mod text;
pub mod timeline;

pub use yantra_model::Adapter;

pub use batch::{AdapterSpan, AttentionSequence, Batch};
pub use config::EngineConfig;
pub use constraint::{Constraint, ConstraintError, Grammar, MAX_GRAMMAR_BYTES, Preface, Vocabulary};
pub use embedder::{EmbedError, EmbedModel, EmbedSink, EmbedText, EmbedderHandle, EmbedderStats, EncoderRunner};
pub use engine::Engine;
pub use error::{EngineError, SubmitError};
pub use event::{Event, EventSink, FinishReason, Timings, TokenLogprobs, TopLogprob, Usage};
pub use handle::EngineHandle;
pub use histogram::HistogramSnapshot;
pub use model_runner::ModelRunner;
pub use request::{Request, RequestId, SamplingParams, limits};
pub use scheduler::Scheduler;
pub use speculation::{Speculation, SpeculationMethod};
pub use stats::{EngineStats, SpillStats};
pub use step_model::{PageBytes, StepModel};
pub use text::{Detokenizer, TextDecoder};
pub use timeline::Timeline;
pub use yantra_model::EncoderText;
