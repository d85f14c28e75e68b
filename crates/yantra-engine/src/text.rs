//! The little the engine must know of a tokenizer: token ids to text, one token at a time.

use crate::Vocabulary;

/// Turns one sequence's tokens into text, token by token.
pub trait Detokenizer {
    /// Takes the next token and returns the text that is now certain: whole UTF-8 characters only, possibly none.
    fn push(&mut self, id: u32) -> &str;
    /// Returns what is left at the end of the sequence (an incomplete character becomes U+FFFD).
    fn finish(&mut self) -> String;
}

/// Makes detokenizers and knows which tokens end a generation.
pub trait TextDecoder: Send + Sync {
    /// A detokenizer for one sequence. With `skip_special`, special tokens have no text.
    fn stream(&self, skip_special: bool) -> Box<dyn Detokenizer + Send>;
    /// Every end-of-generation token.
    fn eos_ids(&self) -> &[u32];
    /// What grammars must know of the tokens; `None` where answers can not be constrained.
    fn vocabulary(&self) -> Option<&dyn Vocabulary> {
        None
    }
}

impl Detokenizer for yantra_text::DetokenizeStream {
    fn push(&mut self, id: u32) -> &str {
        Self::push(self, id)
    }

    fn finish(&mut self) -> String {
        Self::finish(self)
    }
}

impl TextDecoder for yantra_text::Tokenizer {
    fn stream(&self, skip_special: bool) -> Box<dyn Detokenizer + Send> {
        Box::new(Self::stream(self, skip_special))
    }

    fn eos_ids(&self) -> &[u32] {
        Self::eos_ids(self)
    }

    fn vocabulary(&self) -> Option<&dyn Vocabulary> {
        Some(self)
    }
}
