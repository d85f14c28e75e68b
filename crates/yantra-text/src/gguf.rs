//! Reads `tokenizer.ggml.*`: what a GGUF file says of its tokeniser, with the defaults each kind of vocabulary implies.

use std::sync::OnceLock;

use yantra_formats::{Array, Metadata, Value};

use crate::bpe::Bpe;
use crate::pretokenize;
use crate::special::{SpecialTokens, Strip, end_of_generation};
use crate::spm::SentencePiece;
use crate::tokenizer::{Encoder, Inner, Model, Specials};
use crate::unigram::{CharsMap, Normalizer, Unigram};
use crate::vocab::{TokenKind, Vocab, byte_of};
use crate::wordpiece::WordPiece;
use crate::{TextError, byte_level};

/// What the kind of vocabulary implies where the file says nothing.
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
}

/// The kinds of vocabulary, by `tokenizer.ggml.model`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bpe,
    SentencePiece,
    WordPiece,
    Unigram,
}

/// Builds the tokeniser.
pub(crate) fn load(metadata: &Metadata) -> Result<Inner, TextError> {
    let model = metadata.get_str("tokenizer.ggml.model")?;
    let kind = match model {
        "gpt2" | "gemma4" => Kind::Bpe,
        "llama" => Kind::SentencePiece,
        "bert" => Kind::WordPiece,
        "t5" => Kind::Unigram,
        other => return Err(TextError::UnknownVocabularyKind { model: other.to_owned() }),
    };
    let pre =
        if model == "gemma4" { "gemma4" } else { metadata.find::<&str>("tokenizer.ggml.pre")?.unwrap_or("default") };
    let spec = if kind == Kind::Bpe { Some(pretokenize::spec(pre)?) } else { None };
    let byte_level = spec.is_some_and(|spec| spec.byte_level);
    let mut vocab = read_vocab(metadata, byte_level)?;
    let defaults = defaults(kind, spec.is_some_and(|spec| spec.add_bos));
    let unknown = special_id(metadata, &vocab, "unknown", defaults.unknown)?;
    let add_space_prefix =
        metadata.find::<bool>("tokenizer.ggml.add_space_prefix")?.unwrap_or(defaults.add_space_prefix);
    let specials = read_specials(metadata, &mut vocab, kind, &defaults, pre)?;
    let special = SpecialTokens::new(&vocab, kind != Kind::Unigram, strip_rule(metadata, &vocab, pre)?)?;
    let encoder = match spec {
        Some(spec) => Encoder::Bpe(Bpe::new(&vocab, metadata.get_strings("tokenizer.ggml.merges")?, &spec, unknown)?),
        None => match kind {
            Kind::WordPiece => Encoder::WordPiece(read_wordpiece(metadata, unknown)?),
            Kind::Unigram => {
                let normalizer = read_normalizer(metadata, add_space_prefix)?;
                Encoder::Unigram(Unigram::new(&vocab, normalizer, unknown.unwrap_or(2)))
            }
            Kind::Bpe | Kind::SentencePiece => Encoder::SentencePiece(SentencePiece::new(&vocab, unknown)),
        },
    };
    let model = Model::Native { special, encoder };
    let named = named_tokens(metadata, &vocab, unknown)?;
    // WordPiece writes a space before every word; decoding drops the first.
    let add_space_prefix = (add_space_prefix && kind != Kind::Bpe) || kind == Kind::WordPiece;
    Ok(Inner { vocab, model, specials, add_space_prefix, named, guard: OnceLock::new() })
}

fn defaults(kind: Kind, pre_adds_bos: bool) -> Defaults {
    let plain =
        Defaults { bos: None, eos: None, unknown: None, add_bos: false, add_eos: false, add_space_prefix: false };
    match kind {
        Kind::Bpe => Defaults { add_bos: pre_adds_bos, ..plain },
        Kind::SentencePiece => {
            Defaults { bos: Some(1), eos: Some(2), unknown: Some(0), add_bos: true, add_space_prefix: true, ..plain }
        }
        Kind::WordPiece => Defaults { bos: Some(101), unknown: Some(100), add_bos: true, ..plain },
        Kind::Unigram => Defaults { eos: Some(1), unknown: Some(2), add_eos: true, ..plain },
    }
}

fn read_vocab(metadata: &Metadata, byte_level: bool) -> Result<Vocab, TextError> {
    let tokens = metadata.get_strings("tokenizer.ggml.tokens")?;
    if tokens.is_empty() {
        return Err(TextError::Vocabulary("`tokenizer.ggml.tokens` is empty".to_owned()));
    }
    let kinds = integers(metadata, "tokenizer.ggml.token_type")?;
    let scores = floats(metadata, "tokenizer.ggml.scores")?;
    for (key, length) in [("token_type", kinds.as_ref().map(Vec::len)), ("scores", scores.as_ref().map(Vec::len))] {
        if let Some(length) = length.filter(|&length| length < tokens.len()) {
            let count = tokens.len();
            let message = format!("`tokenizer.ggml.{key}` has {length} entries for {count} tokens");
            return Err(TextError::Vocabulary(message));
        }
    }
    if let Some(at) = scores.iter().flatten().position(|score| score.is_nan()) {
        return Err(TextError::Vocabulary(format!("the score of token {at} is not a number")));
    }
    let kinds = kinds.unwrap_or_default().into_iter().map(TokenKind::from_number).collect();
    let decode = |text: &str, kind: TokenKind, out: &mut Vec<u8>| decode_token(text, kind, byte_level, out);
    Ok(Vocab::new(tokens.iter().map(String::as_str), kinds, scores.unwrap_or_default(), decode))
}

/// Appends the bytes a token stands for.
fn decode_token(text: &str, kind: TokenKind, byte_level: bool, out: &mut Vec<u8>) {
    match kind {
        TokenKind::Control | TokenKind::Unknown => out.extend_from_slice(text.as_bytes()),
        TokenKind::Byte => match byte_of(text) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(text.as_bytes()),
        },
        TokenKind::Normal | TokenKind::Unused if byte_level => byte_level::decode(text, out),
        TokenKind::UserDefined if byte_level => out.extend_from_slice(text.as_bytes()),
        _ => out.extend_from_slice(text.replace('▁', " ").as_bytes()),
    }
}

fn integers(metadata: &Metadata, key: &str) -> Result<Option<Vec<i64>>, TextError> {
    Ok(metadata.find::<Vec<i64>>(key)?)
}

/// Scores are floats, or in some old files integers.
fn floats(metadata: &Metadata, key: &str) -> Result<Option<Vec<f32>>, TextError> {
    match metadata.value(key) {
        Some(Value::Array(Array::I32(scores))) => Ok(Some(scores.iter().map(|&score| score as f32).collect())),
        _ => Ok(metadata.find::<Vec<f32>>(key)?),
    }
}

/// An id of `tokenizer.ggml.NAME_token_id`; ids outside the vocabulary count as absent, as converters write them.
fn special_id(metadata: &Metadata, vocab: &Vocab, name: &str, default: Option<u32>) -> Result<Option<u32>, TextError> {
    let is_token = |id: &u32| (*id as usize) < vocab.len();
    let stated = metadata.find::<i64>(&format!("tokenizer.ggml.{name}_token_id"))?;
    let stated = stated.and_then(|id| u32::try_from(id).ok()).filter(is_token);
    Ok(stated.or(default.filter(is_token)))
}

fn read_specials(
    metadata: &Metadata,
    vocab: &mut Vocab,
    kind: Kind,
    defaults: &Defaults,
    pre: &str,
) -> Result<Specials, TextError> {
    let flag = |name: &str, default: bool| -> Result<bool, TextError> {
        Ok(metadata.find::<bool>(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default))
    };
    let id = |vocab: &Vocab, name: &str, default| special_id(metadata, vocab, name, default);
    let bos = id(vocab, "bos", defaults.bos)?;
    let eos = id(vocab, "eos", defaults.eos)?;
    let mut declared: Vec<u32> = eos.into_iter().collect();
    for name in ["eot", "eom"] {
        declared.extend(id(vocab, name, None)?);
    }
    let end_of_generation = end_of_generation(vocab, &declared);
    // Gemma 4 was first converted with this flag false; the model needs the token.
    let add_bos = flag("add_bos_token", defaults.add_bos)? || pre == "gemma4";
    let (prefix, suffix) = match kind {
        Kind::WordPiece => {
            let separator = special_id(metadata, vocab, "seperator", Some(102).filter(|_| bos.is_some()))?;
            (bos, special_id(metadata, vocab, "separator", separator)?)
        }
        _ => (bos.filter(|_| add_bos), eos.filter(|_| flag("add_eos_token", defaults.add_eos).unwrap_or(false))),
    };
    if kind != Kind::WordPiece && add_bos && bos.is_none() {
        let message = "`add_bos_token` is true, but there is no `bos_token_id`".to_owned();
        return Err(TextError::Vocabulary(message));
    }
    // RoBERTa's `<s> a </s></s> b </s>`.
    let pair_separator = match kind {
        Kind::WordPiece => None,
        _ if flag("add_sep_token", false)? => special_id(metadata, vocab, "seperator", None)?.or(eos),
        _ => None,
    };
    Ok(Specials { bos, eos, end_of_generation, prefix, suffix, pair_separator })
}

fn read_wordpiece(metadata: &Metadata, unknown: Option<u32>) -> Result<WordPiece, TextError> {
    let lowercase = metadata.find::<bool>("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
    let strip_accents = metadata.find::<bool>("tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(lowercase);
    let unknown = unknown.ok_or_else(|| TextError::Vocabulary("there is no unknown token".to_owned()))?;
    Ok(WordPiece { lowercase, strip_accents, unknown })
}

fn read_normalizer(metadata: &Metadata, add_space_prefix: bool) -> Result<Normalizer, TextError> {
    let charsmap = match metadata.value("tokenizer.ggml.precompiled_charsmap") {
        Some(Value::Array(Array::U8(bytes))) => Some(CharsMap::parse(bytes)?),
        Some(Value::Array(Array::I8(bytes))) => {
            let bytes: Vec<u8> = bytes.iter().map(|&byte| byte.cast_unsigned()).collect();
            Some(CharsMap::parse(&bytes)?)
        }
        _ => None,
    };
    let remove_extra_spaces = metadata.find::<bool>("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false);
    Ok(Normalizer { charsmap, add_space_prefix, remove_extra_spaces })
}

/// Which special tokens swallow the space beside them. GGUF does not store it; the models concerned are known by name.
fn strip_rule(metadata: &Metadata, vocab: &Vocab, pre: &str) -> Result<impl Fn(u32) -> Strip + use<>, TextError> {
    let name = metadata.find::<&str>("general.name")?.unwrap_or_default().to_lowercase();
    let architecture = metadata.find::<&str>("general.architecture")?.unwrap_or_default();
    let is_phi3 = name.contains("phi-3") || name.contains("phi3");
    let keeps_right: Vec<u32> =
        ["<unk>", "<s>", "<|endoftext|>"].iter().filter_map(|text| vocab.find(text.as_bytes())).collect();
    let mask_strips_left = ["jina-v2-de", "jina-v2-es", "jina-v2-code"].contains(&pre)
        || ["nomic-bert-moe", "jina-bert-v3"].contains(&architecture);
    let mask = if mask_strips_left {
        vocab.find(b"<mask>")
    } else if name.contains("modern-bert") {
        vocab.find(b"[MASK]")
    } else {
        None
    };
    Ok(move |id| Strip { left: mask == Some(id), right: is_phi3 && !keeps_right.contains(&id) })
}

fn named_tokens(metadata: &Metadata, vocab: &Vocab, unknown: Option<u32>) -> Result<Vec<(String, String)>, TextError> {
    let mut named = Vec::new();
    let ids = [
        ("unk_token", unknown),
        ("pad_token", special_id(metadata, vocab, "padding", None)?),
        ("sep_token", special_id(metadata, vocab, "seperator", None)?),
        ("mask_token", special_id(metadata, vocab, "mask", None)?),
    ];
    for (name, id) in ids {
        if let Some(text) = id.and_then(|id| vocab.text(id)) {
            named.push((name.to_owned(), text.to_owned()));
        }
    }
    Ok(named)
}
