//! SentencePiece's unigram model (`tokenizer.ggml.model = t5`): of all ways to cut a text into tokens, the likeliest.
//!
//! Kudo, "Subword Regularization" (2018); the search is Viterbi over byte positions. Before it the text is normalised by
//! the character map the model ships, in the format of SentencePiece's `precompiled_charsmap`: a double-array trie
//! (Darts-clone) of what is replaced, followed by the replacements as zero-terminated texts.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::TextError;
use crate::vocab::{TokenKind, Vocab};

/// How much less likely than the least likely token an unknown character is.
const UNKNOWN_PENALTY: f32 = 10.0;

/// What precedes the search.
#[derive(Debug, Default)]
pub(crate) struct Normalizer {
    pub(crate) charsmap: Option<CharsMap>,
    /// Put a space before the text.
    pub(crate) add_space_prefix: bool,
    /// Runs of spaces become one; those at the ends go.
    pub(crate) remove_extra_spaces: bool,
}

/// The encoder.
#[derive(Debug)]
pub(crate) struct Unigram {
    trie: Trie,
    normalizer: Normalizer,
    unknown: u32,
    unknown_score: f64,
    byte_tokens: Option<Box<[u32; 256]>>,
}

impl Unigram {
    pub(crate) fn new(vocab: &Vocab, normalizer: Normalizer, unknown: u32) -> Self {
        let mut trie = Trie::default();
        let mut lowest = f32::MAX;
        for id in vocab.ids() {
            let kind = vocab.kind(id);
            if kind == TokenKind::Normal {
                lowest = lowest.min(vocab.score(id));
            }
            if matches!(kind, TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused) {
                trie.insert(vocab.text(id).unwrap_or_default().as_bytes(), id);
            }
        }
        let lowest = if lowest == f32::MAX { 0.0 } else { lowest };
        let bytes = vocab.byte_tokens();
        let byte_tokens = bytes.iter().all(Option::is_some).then(|| Box::new(bytes.map(|id| id.unwrap_or(unknown))));
        Self { trie, normalizer, unknown, unknown_score: f64::from(lowest - UNKNOWN_PENALTY), byte_tokens }
    }

    /// Appends the tokens of `text`.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let text = self.normalizer.apply(text);
        if text.is_empty() {
            return;
        }
        let bytes = text.as_bytes();
        // best[end] is the best way to cut bytes[..end]: its last token, where that starts, the total score.
        let mut best = vec![(self.unknown, 0usize, f64::NEG_INFINITY); bytes.len() + 1];
        best[0].2 = 0.0;
        for (start, character) in text.char_indices() {
            let score_here = best[start].2;
            let character_end = start + character.len_utf8();
            let mut character_is_token = false;
            let mut offer = |end: usize, id: u32, score: f64| {
                if score > best[end].2 {
                    best[end] = (id, start, score);
                }
            };
            self.trie.prefixes(&bytes[start..], |length, id| {
                character_is_token |= start + length == character_end;
                // User-defined tokens win over any cut of the same text: log probabilities are negative.
                let score = if vocab.kind(id) == TokenKind::UserDefined { 0.0 } else { f64::from(vocab.score(id)) };
                offer(start + length, id, score_here + score);
            });
            if !character_is_token {
                offer(character_end, self.unknown, score_here + self.unknown_score);
            }
        }
        self.read_back(bytes, &best, out);
    }

    fn read_back(&self, bytes: &[u8], best: &[(u32, usize, f64)], out: &mut Vec<u32>) {
        let first = out.len();
        let mut end = bytes.len();
        let mut after_unknown = false;
        while end > 0 {
            let (id, start, _) = best[end];
            let is_unknown = id == self.unknown;
            match &self.byte_tokens {
                Some(tokens) if is_unknown => {
                    out.extend(bytes[start..end].iter().rev().map(|&byte| tokens[usize::from(byte)]));
                }
                // Neighbouring unknown characters are one unknown token.
                _ if is_unknown && after_unknown => {}
                _ => out.push(id),
            }
            after_unknown = is_unknown;
            end = start;
        }
        out[first..].reverse();
    }
}

impl Normalizer {
    fn apply(&self, text: &str) -> String {
        let mapped = match &self.charsmap {
            Some(map) => map.apply(text),
            None => text.to_owned(),
        };
        let mut out = String::with_capacity(mapped.len() + 3);
        let mut in_word = false;
        let mut prefixed = false;
        for character in mapped.chars() {
            if character != ' ' {
                if !in_word {
                    in_word = true;
                    if self.remove_extra_spaces || (self.add_space_prefix && !prefixed) {
                        out.push('▁');
                        prefixed = true;
                    }
                }
                out.push(character);
            } else {
                in_word = false;
                if !self.remove_extra_spaces {
                    out.push('▁');
                }
            }
        }
        out
    }
}

/// A trie over bytes, edges in one hash table.
#[derive(Debug, Default)]
struct Trie {
    edges: HashMap<(u32, u8), u32, FixedState>,
    /// Token ending at each node; node 0 is the root.
    tokens: Vec<Option<u32>>,
}

impl Trie {
    fn insert(&mut self, text: &[u8], id: u32) {
        if self.tokens.is_empty() {
            self.tokens.push(None);
        }
        let mut node = 0;
        for &byte in text {
            let fresh = u32::try_from(self.tokens.len()).unwrap_or(u32::MAX);
            node = *self.edges.entry((node, byte)).or_insert(fresh);
            if node == fresh {
                self.tokens.push(None);
            }
        }
        if node != 0 {
            self.tokens[node as usize].get_or_insert(id);
        }
    }

    /// Calls `found` with length and token of every token `text` begins with.
    fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let mut node = 0;
        for (at, &byte) in text.iter().enumerate() {
            let Some(&next) = self.edges.get(&(node, byte)) else { return };
            node = next;
            if let Some(id) = self.tokens[node as usize] {
                found(at + 1, id);
            }
        }
    }
}

/// SentencePiece's normalisation map.
#[derive(Debug)]
pub(crate) struct CharsMap {
    /// Units of the double-array trie.
    units: Vec<u32>,
    /// Zero-terminated replacements.
    replacements: Vec<u8>,
}

impl CharsMap {
    /// Reads `tokenizer.ggml.precompiled_charsmap`: the size of the trie in bytes (little-endian), the trie, the texts.
    pub(crate) fn parse(blob: &[u8]) -> Result<Self, TextError> {
        let malformed = || TextError::Vocabulary(format!("the character map of {} bytes is malformed", blob.len()));
        let (size, rest) = blob.split_first_chunk::<4>().ok_or_else(malformed)?;
        let size = u32::from_le_bytes(*size) as usize;
        if !size.is_multiple_of(4) || size > rest.len() {
            return Err(malformed());
        }
        let (trie, replacements) = rest.split_at(size);
        let units = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Self { units, replacements: replacements.to_vec() })
    }

    fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        while let Some(character) = text[at..].chars().next() {
            match self.longest_match(&text.as_bytes()[at..]).filter(|&(length, _)| text.is_char_boundary(at + length)) {
                Some((length, replacement)) => {
                    out.push_str(replacement);
                    at += length;
                }
                None => {
                    out.push(character);
                    at += character.len_utf8();
                }
            }
        }
        out
    }

    /// Length and replacement of the longest entry `text` begins with. A unit holds a label in bits 0–7, "a value hangs
    /// here" in bit 8, and the offset to its children in bits 10–31 (times 256 when bit 9 is set); a value has bit 31 set.
    fn longest_match(&self, text: &[u8]) -> Option<(usize, &str)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut node = offset(*self.units.first()?);
        let mut longest = None;
        for (at, &byte) in text.iter().enumerate() {
            if byte == 0 {
                break;
            }
            node ^= usize::from(byte);
            let Some(&unit) = self.units.get(node) else { break };
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = self.units.get(node).map(|value| (value & !(1 << 31)) as usize);
                longest = value.map(|value| (at + 1, value)).or(longest);
            }
        }
        let (length, start) = longest?;
        let tail = self.replacements.get(start..)?;
        let end = tail.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&tail[..end]).ok().map(|replacement| (length, replacement))
    }
}
