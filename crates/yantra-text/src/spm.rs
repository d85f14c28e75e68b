//! SentencePiece's BPE as GGUF stores it (`tokenizer.ggml.model = llama`): no list of merges, but a score per token.
//! Of all neighbours that together are a token, those whose token scores highest merge first.

use crate::merge::{Merge, Symbol, merge_all};
use crate::vocab::{TokenKind, Vocab};

/// The encoder.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    byte_tokens: [Option<u32>; 256],
    unknown: Option<u32>,
}

impl SentencePiece {
    pub(crate) fn new(vocab: &Vocab, unknown: Option<u32>) -> Self {
        Self { byte_tokens: vocab.byte_tokens(), unknown }
    }

    /// The most bytes of a text that a token can stand for; `None` where bytes may vanish.
    pub(crate) fn longest_token(&self, vocab: &Vocab) -> Option<usize> {
        let vanish = self.unknown.is_none() && self.byte_tokens.contains(&None);
        (!vanish).then(|| vocab.max_text_bytes())
    }

    /// Appends the tokens of `text`; `space_prefix` is whether a space is put before it.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &str, space_prefix: bool, out: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 4 + 3);
        if space_prefix {
            escaped.push('▁');
        }
        for character in text.chars() {
            escaped.push(if character == ' ' { '▁' } else { character });
        }
        let bytes = escaped.as_bytes();
        let mut symbols: Vec<Symbol> = Vec::with_capacity(escaped.len());
        for (start, character) in escaped.char_indices() {
            let end = start + character.len_utf8();
            let id = find_text(vocab, &bytes[start..end]).unwrap_or(Symbol::NONE);
            symbols.push(Symbol { id, start: narrow(start), end: narrow(end) });
        }
        merge_all(&mut symbols, |left, right| {
            let id = find_text(vocab, bytes.get(left.start as usize..right.end as usize)?)?;
            Some(Merge { priority: descending(vocab.score(id)), id })
        });
        for symbol in symbols {
            if symbol.id != Symbol::NONE {
                out.push(symbol.id);
                continue;
            }
            for &byte in bytes.get(symbol.start as usize..symbol.end as usize).unwrap_or_default() {
                out.extend(self.byte_tokens[usize::from(byte)].or(self.unknown));
            }
        }
    }
}

/// A token that stands for text: what is spelt like a control token is not one.
fn find_text(vocab: &Vocab, text: &[u8]) -> Option<u32> {
    vocab.find(text).filter(|&id| !matches!(vocab.kind(id), TokenKind::Control | TokenKind::Unknown))
}

/// Texts are limited well below 4 GiB.
fn narrow(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

/// Maps floats to integers so that a higher score is a lower priority number.
fn descending(score: f32) -> u32 {
    let bits = score.to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::descending;

    #[test]
    fn higher_scores_come_first() {
        let scores = [f32::MAX, 1e9, 1.0, 0.0, -1e-9, -1.0, -31_999.0, f32::MIN];
        assert!(scores.map(descending).is_sorted());
    }
}
