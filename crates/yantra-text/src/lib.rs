//! Tokenisers, incremental detokenisation, chat templates.
//!
//! Two roads lead to a [`Tokenizer`]. GGUF files carry their vocabulary as metadata; it is built here directly, in tens of
//! milliseconds, and splits text as llama.cpp does with the same file. Hugging Face directories carry a
//! `tokenizer.json`, a program of normalisers and pre-tokenisers, which the `tokenizers` crate runs. Either way the
//! result answers the same questions, and [`DetokenizeStream`] turns ids back into text as they are generated.
//!
//! [`ChatTemplate`] renders the Jinja templates models ship, to the letter as Python's Jinja2 does for Hugging Face.

mod bpe;
mod byte_level;
pub mod convert;
mod error;
mod gguf;
mod hf;
mod merge;
mod pair;
mod pretokenize;
mod special;
mod spm;
mod stream;
mod template;
mod tokenizer;
mod unicode;
mod unigram;
mod vocab;
mod wordpiece;

pub use error::TextError;
pub use pair::Pair;
pub use stream::DetokenizeStream;
pub use template::{ChatInput, ChatTemplate, Clock, Prompt, parse_rfc3339, strftime};
pub use tokenizer::{EncodeOptions, MAX_TEXT_BYTES, Tokenizer};
