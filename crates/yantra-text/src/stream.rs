//! Detokenising as tokens come: text leaves as soon as its bytes are complete UTF-8, and never sooner.

use crate::Tokenizer;

/// Turns a stream of token ids into a stream of text.
///
/// A character may be spread over several tokens; its bytes wait here until they are all there. Bytes that can no longer
/// become a character leave as U+FFFD, one for each maximal invalid sequence, just as [`String::from_utf8_lossy`] would
/// replace them in the whole. Each push costs time in proportion to the bytes of that token alone.
///
/// The text is taken to continue something (a prompt). For ids that are a text of their own use
/// [`DetokenizeStream::at_text_start`], which drops the space SentencePiece puts before a text.
#[derive(Debug, Clone)]
pub struct DetokenizeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    drop_space: bool,
    /// At most three bytes: the beginning of a character.
    pending: Vec<u8>,
    /// Buffers kept from push to push, so that none allocates.
    joined: Vec<u8>,
    text: String,
}

impl DetokenizeStream {
    pub(crate) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            drop_space: false,
            pending: Vec::new(),
            joined: Vec::new(),
            text: String::new(),
        }
    }

    /// Declares that the next id begins a text.
    #[must_use]
    pub fn at_text_start(mut self) -> Self {
        self.drop_space = self.tokenizer.adds_space_prefix();
        self
    }

    /// Takes the next id and returns the text it completes, which may be empty. Ids outside the vocabulary (a model's
    /// output layer may be wider than it) have no text.
    pub fn push(&mut self, id: u32) -> &str {
        self.text.clear();
        if self.skip_special && self.tokenizer.is_special(id) {
            return &self.text;
        }
        let Self { tokenizer, drop_space, pending, joined, text, .. } = self;
        let mut bytes = tokenizer.piece(id);
        if *drop_space && !bytes.is_empty() {
            *drop_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        if pending.is_empty() {
            take_complete(bytes, text, pending);
        } else {
            joined.clear();
            joined.append(pending);
            joined.extend_from_slice(bytes);
            take_complete(joined, text, pending);
        }
        text
    }

    /// Ends the stream: what is left is the beginning of a character that never came, U+FFFD, or nothing.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }

    /// Number of bytes waiting for the rest of their character.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }
}

/// Appends to `text` what of `bytes` is complete; an incomplete character at the end goes to `pending`.
fn take_complete(bytes: &[u8], text: &mut String, pending: &mut Vec<u8>) {
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid();
        if invalid.is_empty() {
            continue;
        }
        let is_last = chunks.peek().is_none();
        let may_complete = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if is_last && may_complete {
            pending.extend_from_slice(invalid);
        } else {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}
