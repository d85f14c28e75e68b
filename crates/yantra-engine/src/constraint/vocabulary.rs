//! The vocabulary as grammars see it.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::ConstraintError;
use crate::TextDecoder;

/// What grammars must know of a vocabulary.
pub trait Vocabulary {
    /// Number of tokens.
    fn num_tokens(&self) -> usize;
    /// The bytes of text that a token stands for.
    fn token_bytes(&self, id: u32) -> Vec<u8>;
    /// The name of a token that is structure and not text, as grammars may write it: `<|im_end|>`. Names in other
    /// brackets are put into these: `[TOOL_CALLS]` is `<|TOOL_CALLS|>`.
    fn special_name(&self, id: u32) -> Option<String>;
    /// The tokens the model would have read this text as, in the middle of others; `None` where that is not known.
    fn encode(&self, text: &str) -> Option<Vec<u32>>;
}

/// A token's name as grammars write it.
pub(super) fn in_angles(name: &str) -> String {
    if name.starts_with('<') && name.ends_with('>') && name.len() > 2 {
        return name.to_owned();
    }
    format!("<|{}|>", name.trim_start_matches('[').trim_end_matches(']'))
}

impl Vocabulary for yantra_text::Tokenizer {
    fn num_tokens(&self) -> usize {
        self.vocab_size()
    }

    fn token_bytes(&self, id: u32) -> Vec<u8> {
        Self::token_bytes(self, id).unwrap_or_default().into_owned()
    }

    fn special_name(&self, id: u32) -> Option<String> {
        if !self.is_special(id) && !self.eos_ids().contains(&id) {
            return None;
        }
        self.token_text(id).map(|name| in_angles(&name))
    }

    fn encode(&self, text: &str) -> Option<Vec<u32>> {
        let options = yantra_text::EncodeOptions { add_special: false, parse_special: false };
        Self::encode(self, text, options).ok()
    }
}

/// Texts that a tokeniser must read without adding or changing anything, or tokens of it can not be forced.
const PROBES: [&str; 3] = ["{\"name\": \"", " a  b", "\n\t},\n"];

/// llguidance's view of a vocabulary.
struct Environment {
    trie: TokTrie,
    decoder: Arc<dyn TextDecoder>,
    is_canonical: bool,
}

/// Makes llguidance's view of a decoder's vocabulary.
pub(super) fn environment(decoder: &Arc<dyn TextDecoder>) -> Result<TokEnv, ConstraintError> {
    let vocabulary = decoder.vocabulary().ok_or(ConstraintError::NoVocabulary)?;
    let bytes_of = |id: u32| match vocabulary.special_name(id) {
        Some(name) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
        // llguidance takes what begins so for structure.
        None => Some(vocabulary.token_bytes(id)).filter(|bytes| !bytes.starts_with(&[0xff])).unwrap_or_default(),
    };
    let count = u32::try_from(vocabulary.num_tokens()).map_err(|_| ConstraintError::NoVocabulary)?;
    let words: Vec<Vec<u8>> = (0..count).map(bytes_of).collect();
    let ends: Vec<u32> = decoder.eos_ids().iter().copied().filter(|&id| id < count).collect();
    let Some(&first) = ends.first() else { return Err(ConstraintError::NoVocabulary) };
    let trie = TokTrie::from(&TokRxInfo::new(count, first), &words).with_eos_tokens(&ends);
    let reads_back = |text: &&str| {
        let tokens = vocabulary.encode(text).unwrap_or_default();
        tokens.iter().flat_map(|&id| vocabulary.token_bytes(id)).eq(text.bytes())
    };
    let is_canonical = PROBES.iter().all(reads_back);
    Ok(Arc::new(Environment { trie, decoder: Arc::clone(decoder), is_canonical }))
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, text: &[u8]) -> Vec<TokenId> {
        let encode = |text: &str| self.decoder.vocabulary().and_then(|vocabulary| vocabulary.encode(text));
        let encode = |text: &str| encode(text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()));
        self.trie.tokenize_with_greedy_fallback(text, encode)
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.is_canonical
    }
}
