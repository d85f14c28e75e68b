//! Everything that needs files: vocabularies, reference tokens, templates, real models.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::print_stdout, missing_docs)]

mod convert;
mod forgery;
mod hugging_face;
mod pairs;
mod properties;
mod reference;
mod sentencepiece;
mod streaming;
mod support;
mod templates;
mod vocabularies;
