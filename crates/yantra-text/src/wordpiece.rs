//! BERT's WordPiece: normalise, cut into words and punctuation, then take the longest token from the left.
//!
//! GGUF stores word starts as `▁word` and continuations bare, the reverse of BERT's own `word` / `##ing`.

use unicode_normalization::UnicodeNormalization;

use crate::unicode::{NONSPACING_MARK, OTHER, PUNCTUATION};
use crate::vocab::Vocab;

/// Words longer than this are unknown, as in BERT (`max_input_chars_per_word`).
const MAX_WORD_CHARS: usize = 100;

/// The encoder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WordPiece {
    pub(crate) lowercase: bool,
    pub(crate) strip_accents: bool,
    pub(crate) unknown: u32,
}

impl WordPiece {
    /// Appends the tokens of `text`.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        // One buffer holds the word with its mark of a word start before it.
        let mut word = String::from("▁");
        let mark = word.len();
        let mut flush = |word: &mut String| {
            if word.len() > mark {
                self.encode_word(vocab, word, out);
                word.truncate(mark);
            }
        };
        self.normalise(text, |character| {
            if character.is_whitespace() {
                flush(&mut word);
            } else if stands_alone(character) {
                flush(&mut word);
                word.push(character);
                flush(&mut word);
            } else {
                word.push(character);
            }
        });
        flush(&mut word);
    }

    fn normalise(&self, text: &str, mut each: impl FnMut(char)) {
        let mut lower = |character: char| {
            if self.lowercase { character.to_lowercase().for_each(&mut each) } else { each(character) }
        };
        let cleaned = text.chars().filter(|&character| {
            matches!(character, '\t' | '\n' | '\r') || !(character == '\u{fffd}' || OTHER.contains(character))
        });
        if self.strip_accents {
            cleaned.nfd().filter(|&character| !NONSPACING_MARK.contains(character)).for_each(&mut lower);
        } else {
            cleaned.for_each(&mut lower);
        }
    }

    fn encode_word(&self, vocab: &Vocab, word: &str, out: &mut Vec<u32>) {
        let first = out.len();
        let mut at = 0;
        // The mark is one character more.
        let known = word.chars().count() <= MAX_WORD_CHARS + 1;
        while known && at < word.len() {
            let mut end = word.len().min(at + vocab.max_text_bytes());
            let found = loop {
                if end <= at {
                    break None;
                }
                if word.is_char_boundary(end)
                    && let Some(id) = vocab.find(&word.as_bytes()[at..end])
                {
                    break Some(id);
                }
                end -= 1;
            };
            match found {
                Some(id) => out.push(id),
                None => break,
            }
            at = end;
        }
        if at < word.len() {
            out.truncate(first);
            out.push(self.unknown);
        }
    }
}

/// Punctuation and Chinese characters are words of their own.
fn stands_alone(character: char) -> bool {
    character.is_ascii_punctuation()
        || PUNCTUATION.contains(character)
        || matches!(u32::from(character),
            0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b73f | 0x2b740..=0x2b81f
            | 0x2b820..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}
