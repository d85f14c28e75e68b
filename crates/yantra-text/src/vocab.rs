//! The vocabulary: what each token is called, what it decodes to, and how to find it by its text.
//!
//! Texts lie end to end in one buffer: a vocabulary of 150 000 tokens loads with a handful of allocations.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// What a token is, in the terms of GGUF's `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// An ordinary piece of text.
    Normal,
    /// Stands for what the vocabulary cannot express.
    Unknown,
    /// Structure, not text: begin of sequence, end of turn, …
    Control,
    /// Text that is always one token, found before anything else is split.
    UserDefined,
    /// Reserved.
    Unused,
    /// One byte, written `<0xNN>`, where a character has no token of its own.
    Byte,
}

impl TokenKind {
    /// From the number GGUF stores.
    pub(crate) fn from_number(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// Byte strings numbered from 0, stored end to end.
#[derive(Debug, Default)]
pub(crate) struct ByteTable {
    data: Vec<u8>,
    /// End of each entry; its start is the end of the one before.
    ends: Vec<usize>,
}

impl ByteTable {
    pub(crate) fn with_capacity(entries: usize, bytes: usize) -> Self {
        Self { data: Vec::with_capacity(bytes), ends: Vec::with_capacity(entries) }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.ends.push(self.data.len());
    }

    /// Appends an entry that `write` produces.
    pub(crate) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.data);
        self.ends.push(self.data.len());
    }

    pub(crate) fn get(&self, index: u32) -> Option<&[u8]> {
        let index = index as usize;
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        self.data.get(start..end)
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }
}

/// The tokens of a model.
#[derive(Debug)]
pub(crate) struct Vocab {
    /// As the vocabulary file writes them (`Ġthe`, `▁the`, `<0x0A>`).
    texts: ByteTable,
    /// What they decode to (` the`, ` the`, a newline).
    pieces: ByteTable,
    kinds: Vec<TokenKind>,
    /// Log probabilities or merge priorities; empty where the vocabulary has none.
    scores: Vec<f32>,
    by_text: HashTable<u32>,
    hasher: FixedState,
    max_text_bytes: usize,
}

impl Vocab {
    /// Builds from texts, kinds and scores (which may be empty); `decode` appends the bytes a text of a kind stands for.
    /// Of two tokens with the same text the first is found.
    pub(crate) fn new<'a>(
        texts: impl ExactSizeIterator<Item = &'a str>,
        kinds: Vec<TokenKind>,
        scores: Vec<f32>,
        decode: impl Fn(&str, TokenKind, &mut Vec<u8>),
    ) -> Self {
        let count = texts.len();
        let hasher = FixedState::default();
        let mut vocab = Self {
            texts: ByteTable::with_capacity(count, count * 8),
            pieces: ByteTable::with_capacity(count, count * 8),
            kinds,
            scores,
            by_text: HashTable::with_capacity(count),
            hasher,
            max_text_bytes: 0,
        };
        for (id, text) in (0u32..).zip(texts) {
            let kind = vocab.kind(id);
            vocab.texts.push(text.as_bytes());
            vocab.pieces.push_with(|out| decode(text, kind, out));
            vocab.max_text_bytes = vocab.max_text_bytes.max(text.len());
        }
        let Self { texts, by_text, hasher, .. } = &mut vocab;
        let text_of = |id: u32| texts.get(id).unwrap_or_default();
        for id in 0..u32::try_from(texts.len()).unwrap_or(u32::MAX) {
            let text = text_of(id);
            by_text
                .entry(hasher.hash_one(text), |&other| text_of(other) == text, |&other| hasher.hash_one(text_of(other)))
                .or_insert(id);
        }
        vocab
    }

    pub(crate) fn len(&self) -> usize {
        self.texts.len()
    }

    /// The token whose text is exactly `text`.
    pub(crate) fn find(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.max_text_bytes {
            return None;
        }
        let hash = self.hasher.hash_one(text);
        self.by_text.find(hash, |&id| self.texts.get(id) == Some(text)).copied()
    }

    pub(crate) fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id).and_then(|text| std::str::from_utf8(text).ok())
    }

    pub(crate) fn piece(&self, id: u32) -> Option<&[u8]> {
        self.pieces.get(id)
    }

    pub(crate) fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Normal)
    }

    pub(crate) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        let wanted = id as usize + 1;
        if self.kinds.len() < wanted && wanted <= self.len() {
            self.kinds.resize(wanted, TokenKind::Normal);
        }
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    pub(crate) fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    /// Length of the longest text.
    pub(crate) fn max_text_bytes(&self) -> usize {
        self.max_text_bytes
    }

    /// Length of the longest piece.
    pub(crate) fn max_piece_bytes(&self) -> usize {
        self.ids().filter_map(|id| self.pieces.get(id)).map(<[u8]>::len).max().unwrap_or(0)
    }

    pub(crate) fn ids(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    /// The 256 byte tokens `<0x00>` … `<0xFF>`, where there are such.
    pub(crate) fn byte_tokens(&self) -> [Option<u32>; 256] {
        std::array::from_fn(|byte| self.find(format!("<0x{byte:02X}>").as_bytes()))
    }
}

/// The byte a `<0xNN>` token stands for.
pub(crate) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
