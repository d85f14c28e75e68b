//! Byte-pair encoding with learnt merges, over bytes (GPT-2's way) or over characters with byte fallback (Gemma 4's way).

use std::cell::RefCell;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::TextError;
use crate::byte_level;
use crate::merge::{Merge, Symbol, merge_all};
use crate::pretokenize::{PreTokenizer, PreTokenizerSpec};
use crate::vocab::Vocab;

/// The encoder.
#[derive(Debug)]
pub(crate) struct Bpe {
    pre_tokenizer: PreTokenizer,
    /// Pair of tokens → what they merge to; the priority is the merge's place in the list.
    merges: HashMap<(u32, u32), Merge, FixedState>,
    ignore_merges: bool,
    /// Byte-level; else `▁` for spaces, characters as first symbols, `<0xNN>` tokens for characters unknown.
    byte_level: bool,
    /// The token each byte begins as ([`Symbol::NONE`] where there is none).
    byte_tokens: [u32; 256],
    unknown: Option<u32>,
}

impl Bpe {
    /// `merges` are pairs of token texts separated by a space, best first.
    pub(crate) fn new(
        vocab: &Vocab,
        merges: &[String],
        spec: &PreTokenizerSpec,
        unknown: Option<u32>,
    ) -> Result<Self, TextError> {
        let mut table = HashMap::with_capacity_and_hasher(merges.len(), FixedState::default());
        let mut merged = Vec::new();
        for (priority, line) in (0u32..).zip(merges) {
            // The first part may itself begin with a space.
            let split = line.char_indices().nth(1).and_then(|(from, _)| line[from..].find(' ').map(|at| from + at));
            let Some(at) = split else {
                return Err(TextError::Vocabulary(format!("merge {priority} is `{line}`, not two texts and a space")));
            };
            let (left, right) = (&line[..at], &line[at + 1..]);
            merged.clear();
            merged.extend_from_slice(left.as_bytes());
            merged.extend_from_slice(right.as_bytes());
            let ids = (vocab.find(left.as_bytes()), vocab.find(right.as_bytes()), vocab.find(&merged));
            if let (Some(left), Some(right), Some(id)) = ids {
                table.entry((left, right)).or_insert(Merge { priority, id });
            }
        }
        let byte_tokens = if spec.byte_level {
            std::array::from_fn(|byte| {
                let mut text = [0; 4];
                let character = byte_level::char_of(u8::try_from(byte).unwrap_or_default());
                vocab.find(character.encode_utf8(&mut text).as_bytes()).unwrap_or(Symbol::NONE)
            })
        } else {
            vocab.byte_tokens().map(|id| id.unwrap_or(Symbol::NONE))
        };
        Ok(Self {
            pre_tokenizer: PreTokenizer::new(spec.stages)?,
            merges: table,
            ignore_merges: spec.ignore_merges,
            byte_level: spec.byte_level,
            byte_tokens,
            unknown,
        })
    }

    /// The most bytes of a text that a token can stand for; `None` where bytes may vanish.
    pub(crate) fn longest_token(&self, vocab: &Vocab) -> Option<usize> {
        if self.unknown.is_none() && self.byte_tokens.contains(&Symbol::NONE) {
            return None;
        }
        Some(if self.byte_level { vocab.max_piece_bytes() } else { vocab.max_text_bytes() })
    }

    /// Appends the tokens of `text`, which holds no special tokens.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let escaped;
        let text = if self.byte_level {
            text
        } else {
            escaped = text.replace(' ', "▁");
            &escaped
        };
        let symbols = RefCell::new(Vec::new());
        let mut name = String::new();
        self.pre_tokenizer.split(text, |word| {
            if let Some(id) = self.whole_word(vocab, word, &mut name) {
                out.push(id);
                return;
            }
            let mut symbols = symbols.borrow_mut();
            symbols.clear();
            self.first_symbols(vocab, word, &mut symbols);
            merge_all(&mut symbols, |left, right| self.merges.get(&(left.id, right.id)).copied());
            for symbol in symbols.iter() {
                if symbol.id == Symbol::NONE {
                    out.extend(self.unknown);
                } else {
                    out.push(symbol.id);
                }
            }
        });
    }

    /// The token a word is without any merging, where the vocabulary wants it so.
    fn whole_word(&self, vocab: &Vocab, word: &str, name: &mut String) -> Option<u32> {
        let whole = self.ignore_merges || (!self.byte_level && word.starts_with('\n'));
        if !whole {
            return None;
        }
        if !self.byte_level {
            return vocab.find(word.as_bytes());
        }
        if word.len() > vocab.max_text_bytes() {
            return None;
        }
        name.clear();
        byte_level::encode(word.as_bytes(), name);
        vocab.find(name.as_bytes())
    }

    fn first_symbols(&self, vocab: &Vocab, word: &str, symbols: &mut Vec<Symbol>) {
        let mut at = 0u32;
        let mut push = |id: u32, length: u32| {
            symbols.push(Symbol { id, start: at, end: at + length });
            at += length;
        };
        if self.byte_level {
            word.bytes().for_each(|byte| push(self.byte_tokens[usize::from(byte)], 1));
            return;
        }
        for character in word.chars() {
            let mut buffer = [0; 4];
            let bytes = character.encode_utf8(&mut buffer).as_bytes();
            match vocab.find(bytes) {
                Some(id) => push(id, u32::try_from(bytes.len()).unwrap_or(1)),
                None => bytes.iter().for_each(|&byte| push(self.byte_tokens[usize::from(byte)], 1)),
            }
        }
    }
}
