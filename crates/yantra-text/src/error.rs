//! What can go wrong between text and tokens, said so that the reader can act on it.

use yantra_formats::MetadataError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Tokeniser metadata of a GGUF file is missing or of the wrong type.
    #[error("tokeniser metadata: {0}")]
    Metadata(#[from] MetadataError),

    /// `tokenizer.ggml.model` names a kind of vocabulary this crate does not know.
    #[error("`tokenizer.ggml.model` is `{model}`; known kinds are gpt2, gemma4, llama, bert and t5")]
    UnknownVocabularyKind {
        /// The name found.
        model: String,
    },

    /// `tokenizer.ggml.pre` names a pre-tokeniser this crate does not know. Guessing would tokenise quietly wrong.
    #[error("`tokenizer.ggml.pre` is `{name}`, a pre-tokeniser this version does not know")]
    UnknownPreTokenizer {
        /// The name found.
        name: String,
    },

    /// The vocabulary contradicts itself.
    #[error("vocabulary: {0}")]
    Vocabulary(String),

    /// `tokenizer.json` or `tokenizer_config.json` could not be read.
    #[error("tokenizer.json: {0}")]
    TokenizerJson(String),

    /// A tokeniser that the other format can not express.
    #[error("{0}")]
    Convert(String),

    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab_size} tokens")]
    TokenOutOfRange {
        /// The id given.
        id: u32,
        /// Number of tokens known.
        vocab_size: usize,
    },

    /// The text could not be encoded.
    #[error("encoding a text of {bytes} bytes: {message}")]
    Encode {
        /// Length of the text.
        bytes: usize,
        /// What the tokeniser said.
        message: String,
    },

    /// The chat template could not be parsed, or refused the conversation.
    #[error("chat template: {0}")]
    Template(String),

    /// A file of the checkpoint could not be read.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
}
