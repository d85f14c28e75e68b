//! Hugging Face `tokenizer.json`, run by the `tokenizers` crate; decoding and special tokens are done here, as for GGUF.

use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::{PostProcessor, TruncationDirection};

use crate::pair::{self, Pair};
use crate::special::{Fragment, SpecialTokens, Strip, end_of_generation};
use crate::template::Aliases;
use crate::tokenizer::{EncodeOptions, Inner, Model, Specials};
use crate::vocab::{TokenKind, Vocab, byte_of};
use crate::{TextError, byte_level};

/// The encoder.
pub(crate) struct HuggingFace {
    tokenizer: tokenizers::Tokenizer,
    /// The same, but reading the texts of special tokens as text. A copy, since the crate keeps this as state; made when
    /// first wanted.
    literal: OnceLock<tokenizers::Tokenizer>,
    /// The control tokens, where they must be found here; made when first wanted.
    special: OnceLock<SpecialTokens>,
    /// What an empty text encodes to: the special tokens the post-processor adds.
    prefix: Vec<u32>,
}

/// Special tokens `tokenizer_config.json` names.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Builds from `tokenizer.json`, `tokenizer_config.json` and the end-of-sequence ids of the generation configuration.
pub(crate) fn load(bytes: &[u8], config: Option<&Value>, eos_ids: &[u32]) -> Result<Inner, TextError> {
    let refuse = |error: tokenizers::Error| TextError::TokenizerJson(error.to_string());
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(refuse)?;
    // Some files carry the truncation and padding of a training run.
    tokenizer.with_truncation(None).map_err(refuse)?;
    tokenizer.with_padding(None);
    let style = DecodeStyle::of(&tokenizer);
    let mut vocab = read_vocab(&tokenizer, style)?;
    let named: Vec<(String, String)> = NAMED
        .iter()
        .filter_map(|&name| Some((name.to_owned(), token_content(config?.get(name)?)?.to_owned())))
        .collect();
    let id_of = |vocab: &Vocab, wanted: &str| {
        let (_, text) = named.iter().find(|(name, _)| name == wanted)?;
        vocab.find(text.as_bytes())
    };
    let bos = id_of(&vocab, "bos_token");
    let eos = id_of(&vocab, "eos_token").or(eos_ids.first().copied());
    let declared: Vec<u32> = eos_ids.iter().copied().chain(eos).collect();
    let end_of_generation = end_of_generation(&mut vocab, &declared);
    let prefix = tokenizer.encode_fast("", true).map_err(refuse)?.get_ids().to_vec();
    let add_space_prefix = style.drops_first_space(&tokenizer);
    let specials = Specials { bos, eos, end_of_generation, ..Specials::default() };
    let model = Model::HuggingFace(Box::new(HuggingFace {
        tokenizer,
        literal: OnceLock::new(),
        special: OnceLock::new(),
        prefix,
    }));
    Ok(Inner { vocab, model, specials, add_space_prefix, named, guard: OnceLock::new() })
}

impl HuggingFace {
    pub(crate) fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TextError> {
        let tokenizer = if options.parse_special { &self.tokenizer } else { self.literal() };
        encode(tokenizer, text, options.add_special)
    }

    /// The tokens of both texts, cut to `most` with those that the post-processor puts around a pair.
    pub(crate) fn encode_pair(&self, first: &str, second: &str, most: usize) -> Result<Pair, TextError> {
        let tokenizer = self.literal();
        let tokens = |text: &str| tokenizer.encode_fast(text, false).map_err(failed(text));
        let (mut left, mut right) = (tokens(first)?, tokens(second)?);
        let added = tokenizer.get_post_processor().map_or(0, |post| post.added_tokens(true));
        let kept = pair::longest_first(left.len(), right.len(), pair::room(added, most)?);
        left.truncate(kept.0, 0, TruncationDirection::Right);
        right.truncate(kept.1, 0, TruncationDirection::Right);
        // Without a post-processor nothing tells the two apart but this.
        right.set_type_ids(vec![1; right.len()]);
        let bytes = first.len() + second.len();
        let failed = |error: tokenizers::Error| TextError::Encode { bytes, message: error.to_string() };
        let whole = tokenizer.post_process(left, Some(right), true).map_err(failed)?;
        let tokens = whole.get_ids().to_vec();
        let second = whole.get_type_ids().iter().position(|kind| *kind != 0).unwrap_or(tokens.len());
        Ok(Pair { tokens, second })
    }

    /// As [`encode`](Self::encode) of a rendered template, the characters that `aliases` stand for being put back after
    /// its control tokens have been found. Each stretch between these is encoded by itself.
    pub(crate) fn encode_protected(
        &self,
        vocab: &Vocab,
        text: &str,
        aliases: &Aliases,
        add_special: bool,
    ) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        let mut problem = None;
        self.special(vocab)?.split(text, true, |fragment| match fragment {
            Fragment::Token(id) => ids.push(id),
            Fragment::Text(text) => match self.encode_fragment(vocab, text, aliases) {
                Ok(more) => ids.extend(more),
                Err(error) => problem = problem.take().or(Some(error)),
            },
        });
        if let Some(problem) = problem {
            return Err(problem);
        }
        let tokens = ids.into_iter().map(|id| tokenizers::Token::new(id, String::new(), (0, 0))).collect();
        let encoding = tokenizers::Encoding::from_tokens(tokens, 0);
        let whole = self.tokenizer.post_process(encoding, None, add_special);
        whole.map(|whole| whole.get_ids().to_vec()).map_err(failed(text))
    }

    /// Encodes text between tokens. Added tokens that are not called special are found even where special ones are not; the
    /// text had none, so one that is found was put back, and the text is cut after its first character.
    fn encode_fragment(&self, vocab: &Vocab, text: &str, aliases: &Aliases) -> Result<Vec<u32>, TextError> {
        let ids = encode(self.literal(), &aliases.restore(text), false)?;
        if !ids.iter().any(|id| vocab.kind(*id) == TokenKind::UserDefined) {
            return Ok(ids);
        }
        let pieces = text.split_inclusive(|found| aliases.contain(found));
        let pieces = pieces.map(|piece| encode(self.literal(), &aliases.restore(piece), false));
        Ok(pieces.collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn literal(&self) -> &tokenizers::Tokenizer {
        self.literal.get_or_init(|| {
            let mut literal = self.tokenizer.clone();
            literal.set_encode_special_tokens(true);
            literal
        })
    }

    fn special(&self, vocab: &Vocab) -> Result<&SpecialTokens, TextError> {
        if let Some(special) = self.special.get() {
            return Ok(special);
        }
        let added = self.tokenizer.get_added_tokens_decoder();
        let strip = |id| added.get(&id).map(|token| Strip { left: token.lstrip, right: token.rstrip });
        let special = SpecialTokens::new(vocab, true, |id| strip(id).unwrap_or_default())?;
        Ok(self.special.get_or_init(|| special))
    }

    /// Whether every byte of a text is in some token: byte-level, nothing rewritten, nothing removed or swallowed.
    pub(crate) fn keeps_every_byte(&self) -> bool {
        let tokenizer = &self.tokenizer;
        let removes = tokenizer
            .get_pre_tokenizer()
            .and_then(|pre| serde_json::to_string(pre).ok())
            .is_some_and(|pre| pre.contains("Removed") || pre.contains("Whitespace") || pre.contains("Bert"));
        let swallows = tokenizer.get_added_tokens_decoder().values().any(|token| token.lstrip || token.rstrip);
        let is_byte_level = DecodeStyle::of(tokenizer) == DecodeStyle::ByteLevel;
        is_byte_level && tokenizer.get_normalizer().is_none() && !removes && !swallows
    }

    pub(crate) fn prefix(&self) -> &[u32] {
        &self.prefix
    }
}

fn encode(tokenizer: &tokenizers::Tokenizer, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
    let encoding = tokenizer.encode_fast(text, add_special);
    encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(failed(text))
}

fn failed(text: &str) -> impl Fn(tokenizers::Error) -> TextError {
    let bytes = text.len();
    move |error| TextError::Encode { bytes, message: error.to_string() }
}

/// A token in a configuration: its text, or an object that holds it.
fn token_content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn read_vocab(tokenizer: &tokenizers::Tokenizer, style: DecodeStyle) -> Result<Vocab, TextError> {
    let mut entries: Vec<(String, u32)> = tokenizer.get_vocab(true).into_iter().collect();
    entries.sort_unstable_by_key(|(_, id)| *id);
    let Some((_, last)) = entries.last() else {
        return Err(TextError::TokenizerJson("the vocabulary is empty".to_owned()));
    };
    let count = *last as usize + 1;
    if count > entries.len().saturating_mul(2) + 65_536 {
        let message = format!("the highest id is {last}, but there are only {} tokens", entries.len());
        return Err(TextError::TokenizerJson(message));
    }
    // Ids may have gaps; they are tokens without text.
    let mut texts = vec![""; count];
    for (text, id) in &entries {
        texts[*id as usize] = text;
    }
    let mut kinds = vec![TokenKind::Normal; count];
    for (id, token) in tokenizer.get_added_tokens_decoder() {
        if let Some(kind) = kinds.get_mut(id as usize) {
            *kind = if token.special { TokenKind::Control } else { TokenKind::UserDefined };
        }
    }
    if style == DecodeStyle::SentencePiece {
        for (kind, text) in kinds.iter_mut().zip(&texts) {
            if *kind == TokenKind::Normal && byte_of(text).is_some() {
                *kind = TokenKind::Byte;
            }
        }
    }
    Ok(Vocab::new(texts.into_iter(), kinds, Vec::new(), |text, kind, out| style.decode(text, kind, out)))
}

/// How token texts become text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DecodeStyle {
    ByteLevel,
    SentencePiece,
    WordPiece,
    Plain,
}

impl DecodeStyle {
    /// The decoder is a tree of steps; the names of the steps tell which of the few kinds in use it is.
    fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        let decoder = describe_decoder(tokenizer);
        let has = |name: &str| decoder.contains(name);
        if has("\"ByteLevel\"") {
            Self::ByteLevel
        } else if has("\"Metaspace\"") || has("\"ByteFallback\"") || has("▁") {
            Self::SentencePiece
        } else if has("\"WordPiece\"") {
            Self::WordPiece
        } else {
            Self::Plain
        }
    }

    fn drops_first_space(self, tokenizer: &tokenizers::Tokenizer) -> bool {
        let decoder = describe_decoder(tokenizer);
        match self {
            Self::WordPiece => true,
            Self::SentencePiece => {
                decoder.contains("\"Strip\"")
                    || (decoder.contains("\"Metaspace\"") && !decoder.contains("\"prepend_scheme\":\"never\""))
            }
            _ => false,
        }
    }

    fn decode(self, text: &str, kind: TokenKind, out: &mut Vec<u8>) {
        if matches!(kind, TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined) {
            out.extend_from_slice(text.as_bytes());
            return;
        }
        match self {
            Self::ByteLevel => byte_level::decode(text, out),
            Self::SentencePiece => match byte_of(text).filter(|_| kind == TokenKind::Byte) {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(text.replace('▁', " ").as_bytes()),
            },
            Self::WordPiece => match text.strip_prefix("##") {
                Some(rest) => out.extend_from_slice(rest.as_bytes()),
                None => {
                    out.push(b' ');
                    out.extend_from_slice(text.as_bytes());
                }
            },
            Self::Plain => out.extend_from_slice(text.as_bytes()),
        }
    }
}

fn describe_decoder(tokenizer: &tokenizers::Tokenizer) -> String {
    tokenizer.get_decoder().and_then(|decoder| serde_json::to_string(decoder).ok()).unwrap_or_default()
}
