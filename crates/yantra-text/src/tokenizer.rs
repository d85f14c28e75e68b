//! The tokeniser everything above uses, whichever file it came from.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use yantra_formats::{Checkpoint, Metadata};

use crate::bpe::Bpe;
use crate::hf::HuggingFace;
use crate::special::{Fragment, Guard, SpecialTokens};
use crate::spm::SentencePiece;
use crate::stream::DetokenizeStream;
use crate::template::Aliases;
use crate::unigram::Unigram;
use crate::vocab::{TokenKind, Vocab};
use crate::wordpiece::WordPiece;
use crate::{TextError, gguf, hf};

/// Longest text accepted, in bytes: positions are 32-bit, and no context is this long.
pub const MAX_TEXT_BYTES: usize = 1 << 30;

/// Turns text into token ids and back. Cheap to clone, and shared between threads freely.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
    /// The most bytes of a text that a token can stand for; `None` where that is not known.
    longest_token: Option<usize>,
}

pub(crate) struct Inner {
    pub(crate) vocab: Vocab,
    pub(crate) model: Model,
    pub(crate) specials: Specials,
    /// SentencePiece: a space is put before a text, and dropped again in decoding.
    pub(crate) add_space_prefix: bool,
    /// Texts of named special tokens (`unk_token`, `pad_token`, …), as templates know them.
    pub(crate) named: Vec<(String, String)>,
    /// What conversations are guarded against; made when first wanted.
    pub(crate) guard: OnceLock<Guard>,
}

/// Ids with a meaning.
#[derive(Debug, Default)]
pub(crate) struct Specials {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    /// Every id that ends a generation, sorted.
    pub(crate) end_of_generation: Vec<u32>,
    /// What is put before and after a text where special tokens are asked for.
    pub(crate) prefix: Option<u32>,
    pub(crate) suffix: Option<u32>,
    /// What is put between the first text of a pair, with its suffix, and the second.
    pub(crate) pair_separator: Option<u32>,
}

/// How text is encoded.
#[expect(clippy::large_enum_variant, reason = "one for each loaded model")]
pub(crate) enum Model {
    /// Here: special tokens are found first, what lies between them is encoded.
    Native { special: SpecialTokens, encoder: Encoder },
    /// By the `tokenizers` crate.
    HuggingFace(Box<HuggingFace>),
}

/// How text between special tokens is encoded.
#[expect(clippy::large_enum_variant, reason = "one for each loaded model")]
pub(crate) enum Encoder {
    Bpe(Bpe),
    SentencePiece(SentencePiece),
    WordPiece(WordPiece),
    Unigram(Unigram),
}

/// What [`Tokenizer::encode`] does besides encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add begin- and end-of-sequence tokens as the model asks for them.
    pub add_special: bool,
    /// Read the texts of control tokens (`<|im_start|>`) as those tokens. Off for text from users, so that they cannot
    /// write them; on for rendered templates.
    pub parse_special: bool,
}

impl EncodeOptions {
    /// For a text that is the whole prompt, from a user: special tokens are added, none are read.
    #[must_use]
    pub const fn text() -> Self {
        Self { add_special: true, parse_special: false }
    }

    /// For a rendered chat template, which holds every special token it wants.
    #[must_use]
    pub const fn rendered() -> Self {
        Self { add_special: false, parse_special: true }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    pub(crate) fn new(inner: Inner) -> Self {
        let vocab = &inner.vocab;
        let longest_token = match &inner.model {
            Model::HuggingFace(model) => model.keeps_every_byte().then(|| vocab.max_piece_bytes()),
            Model::Native { special, .. } if special.swallow_space() => None,
            Model::Native { encoder: Encoder::Bpe(bpe), .. } => bpe.longest_token(vocab),
            Model::Native { encoder: Encoder::SentencePiece(spm), .. } => spm.longest_token(vocab),
            // They rewrite the text first.
            Model::Native { encoder: Encoder::WordPiece(_) | Encoder::Unigram(_), .. } => None,
        };
        Self { inner: Arc::new(inner), longest_token: longest_token.filter(|&bytes| bytes > 0) }
    }

    /// Builds the tokeniser that `tokenizer.ggml.*` describes.
    ///
    /// # Errors
    /// When metadata are missing or contradict themselves, or name a kind of vocabulary or a pre-tokeniser unknown here.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TextError> {
        gguf::load(metadata).map(Self::new)
    }

    /// Builds from the bytes of a Hugging Face `tokenizer.json`; `config` is `tokenizer_config.json`, which says which
    /// tokens begin and end a sequence.
    ///
    /// # Errors
    /// When the JSON is not a tokeniser.
    pub fn from_tokenizer_json(bytes: &[u8], config: Option<&serde_json::Value>) -> Result<Self, TextError> {
        hf::load(bytes, config, &[]).map(Self::new)
    }

    /// Builds the tokeniser a checkpoint ships.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`] and [`Tokenizer::from_tokenizer_json`]; also when a directory has no `tokenizer.json`.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, TextError> {
        match checkpoint {
            Checkpoint::Gguf(file) => Self::from_gguf(file.metadata()),
            Checkpoint::HuggingFace(directory) => {
                let unreadable = |error: yantra_formats::FormatError| TextError::Checkpoint(error.to_string());
                let bytes = directory.read_tokenizer().map_err(unreadable)?.ok_or_else(|| {
                    let path = directory.path().display();
                    TextError::Checkpoint(format!("{path} has no tokenizer.json"))
                })?;
                let eos_ids = directory.eos_token_ids().map_err(unreadable)?;
                let config = directory.tokenizer_config().map(yantra_formats::hf::Config::value);
                hf::load(&bytes, config, &eos_ids).map(Self::new)
            }
        }
    }

    /// The token ids of `text`.
    ///
    /// # Errors
    /// [`TextError::Encode`] for texts over [`MAX_TEXT_BYTES`], or where the vocabulary cannot express the text.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TextError> {
        Self::check_length(text)?;
        match &self.inner.model {
            Model::HuggingFace(model) => model.encode(text, options),
            Model::Native { special, encoder } => Ok(self.encode_natively(special, encoder, text, options, None)),
        }
    }

    pub(crate) fn check_length(text: &str) -> Result<(), TextError> {
        if text.len() <= MAX_TEXT_BYTES {
            return Ok(());
        }
        let message = format!("longer than the {MAX_TEXT_BYTES} bytes allowed");
        Err(TextError::Encode { bytes: text.len(), message })
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// The tokens of a text from a user, nothing added.
    pub(crate) fn encode_plainly(&self, special: &SpecialTokens, encoder: &Encoder, text: &str) -> Vec<u32> {
        let options = EncodeOptions { add_special: false, parse_special: false };
        self.encode_natively(special, encoder, text, options, None)
    }

    /// The token ids of a rendered template in which `aliases` stand for characters that must not make a control token.
    pub(crate) fn encode_protected(
        &self,
        text: &str,
        aliases: &Aliases,
        add_special: bool,
    ) -> Result<Vec<u32>, TextError> {
        let options = EncodeOptions { add_special, parse_special: true };
        if text.len() > MAX_TEXT_BYTES || !aliases.occur_in(text) {
            return self.encode(text, options);
        }
        match &self.inner.model {
            Model::HuggingFace(model) => model.encode_protected(&self.inner.vocab, text, aliases, add_special),
            Model::Native { special, encoder } => {
                Ok(self.encode_natively(special, encoder, text, options, Some(aliases)))
            }
        }
    }

    /// What a conversation must be guarded against.
    pub(crate) fn guard(&self) -> Result<&Guard, TextError> {
        if let Some(guard) = self.inner.guard.get() {
            return Ok(guard);
        }
        let guard = Guard::new(&self.inner.vocab)?;
        Ok(self.inner.guard.get_or_init(|| guard))
    }

    /// The fewest tokens `text` can have, from its length alone: costs nothing, and lets a text that is far too long be
    /// refused before it is encoded. 0 where the vocabulary allows no such bound.
    #[must_use]
    pub fn min_tokens(&self, text: &str) -> usize {
        self.longest_token.map_or(0, |bytes| text.len().div_ceil(bytes))
    }

    fn encode_natively(
        &self,
        special: &SpecialTokens,
        encoder: &Encoder,
        text: &str,
        options: EncodeOptions,
        aliases: Option<&Aliases>,
    ) -> Vec<u32> {
        let Inner { vocab, specials, add_space_prefix, .. } = &*self.inner;
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        out.extend(specials.prefix.filter(|_| options.add_special));
        // SentencePiece puts a space before a text that begins the sequence or follows a special token.
        let mut after_special = true;
        special.split(text, options.parse_special, |fragment| {
            let text = match fragment {
                Fragment::Text(text) => text,
                Fragment::Token(id) => {
                    out.push(id);
                    after_special = true;
                    return;
                }
            };
            let text = &*aliases.map_or(Cow::Borrowed(text), |aliases| aliases.restore(text));
            match encoder {
                Encoder::Bpe(bpe) => bpe.encode(vocab, text, &mut out),
                Encoder::SentencePiece(spm) => spm.encode(vocab, text, *add_space_prefix && after_special, &mut out),
                Encoder::WordPiece(wordpiece) => wordpiece.encode(vocab, text, &mut out),
                Encoder::Unigram(unigram) => unigram.encode(vocab, text, &mut out),
            }
            after_special = false;
        });
        out.extend(specials.suffix.filter(|_| options.add_special));
        out
    }

    /// The text of `ids` taken as a text of their own; `skip_special` leaves out control tokens. Bytes that are not UTF-8
    /// become U+FFFD, ids outside the vocabulary nothing.
    #[must_use]
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = self.stream(skip_special).at_text_start();
        let mut text = String::with_capacity(ids.len() * 4);
        for &id in ids {
            text.push_str(stream.push(id));
        }
        text.push_str(&stream.finish());
        text
    }

    /// Decodes ids as they come, as a continuation of something.
    #[must_use]
    pub fn stream(&self, skip_special: bool) -> DetokenizeStream {
        DetokenizeStream::new(self.clone(), skip_special)
    }

    /// The bytes a token stands for (not necessarily UTF-8), or `None` outside the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        self.inner.vocab.piece(id).map(Cow::Borrowed)
    }

    /// What the vocabulary calls a token (`Ġthe`, `▁the`, `<|im_end|>`), or `None` outside it.
    #[must_use]
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.inner.vocab.text(id).map(str::to_owned)
    }

    /// The token of exactly that name.
    #[must_use]
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.inner.vocab.find(text.as_bytes())
    }

    /// Number of tokens. A model's output layer may be wider, for alignment.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab.len()
    }

    /// The token that begins a sequence.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.inner.specials.bos
    }

    /// The token that ends a sequence. Generation ends at any of [`Tokenizer::eos_ids`].
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.inner.specials.eos
    }

    /// Every id that ends a generation (end of sequence, of turn, of message, …), sorted.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.inner.specials.end_of_generation
    }

    /// Whether an id is structure rather than text.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.inner.vocab.kind(id), TokenKind::Control | TokenKind::Unknown)
    }

    /// Whether a text is the name of a token that is structure, or ends a generation, and so can not be a part of text.
    #[must_use]
    pub fn is_control(&self, text: &str) -> bool {
        self.token_id(text).is_some_and(|id| self.is_special(id) || self.eos_ids().contains(&id))
    }

    /// Whether [`EncodeOptions::add_special`] puts a begin-of-sequence token first.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        match &self.inner.model {
            Model::HuggingFace(model) => self.bos().is_some_and(|bos| model.prefix().first() == Some(&bos)),
            Model::Native { .. } => self.inner.specials.prefix.is_some() && self.inner.specials.prefix == self.bos(),
        }
    }

    pub(crate) fn piece(&self, id: u32) -> &[u8] {
        self.inner.vocab.piece(id).unwrap_or_default()
    }

    pub(crate) fn adds_space_prefix(&self) -> bool {
        self.inner.add_space_prefix
    }

    pub(crate) fn named_special_tokens(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inner.named.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }
}
