//! Special tokens: finding them in text before anything else is split, and knowing which of them end a generation.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::TextError;
use crate::vocab::{TokenKind, Vocab};

/// A stretch of the text between special tokens, or one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

/// Which side's white space a special token swallows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Strip {
    pub(crate) left: bool,
    pub(crate) right: bool,
}

/// Finds special tokens. Of several that begin at one place the longest is taken.
#[derive(Debug)]
pub(crate) struct SpecialTokens {
    /// User-defined tokens, which are found always.
    user_defined: Matcher,
    /// Those and control and unknown tokens, found where special tokens are wanted.
    all: Matcher,
}

#[derive(Debug)]
struct Matcher {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
    strip: Vec<Strip>,
}

impl SpecialTokens {
    /// `user_defined` is whether user-defined tokens are found here; the unigram model finds them itself.
    pub(crate) fn new(vocab: &Vocab, user_defined: bool, strip: impl Fn(u32) -> Strip) -> Result<Self, TextError> {
        let collect = |control: bool| -> Vec<u32> {
            let is_wanted = |id: &u32| match vocab.kind(*id) {
                TokenKind::UserDefined => user_defined,
                TokenKind::Control | TokenKind::Unknown => control,
                _ => false,
            };
            let has_text = |id: &u32| vocab.text(*id).is_some_and(|text| !text.is_empty());
            vocab.ids().filter(|id| is_wanted(id) && has_text(id)).collect()
        };
        let (always, all) = (collect(false), collect(true));
        Ok(Self { user_defined: Matcher::new(vocab, always, &strip)?, all: Matcher::new(vocab, all, &strip)? })
    }

    /// Whether some token swallows white space beside it.
    pub(crate) fn swallow_space(&self) -> bool {
        let swallows = |matcher: &Matcher| matcher.strip.iter().any(|strip| strip.left || strip.right);
        swallows(&self.user_defined) || swallows(&self.all)
    }

    /// Cuts `text` at special tokens.
    pub(crate) fn split<'a>(&self, text: &'a str, parse_special: bool, mut each: impl FnMut(Fragment<'a>)) {
        let matcher = if parse_special { &self.all } else { &self.user_defined };
        let mut done = 0;
        for found in matcher.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            let index = found.pattern().as_usize();
            let strip = matcher.strip[index];
            // Empty also where the token before swallowed space that this one begins with.
            let mut before = text.get(done..found.start()).unwrap_or_default();
            if strip.left {
                before = before.trim_end();
            }
            if !before.is_empty() {
                each(Fragment::Text(before));
            }
            each(Fragment::Token(matcher.ids[index]));
            done = found.end();
            if strip.right {
                let after = &text[done..];
                done += after.len() - after.trim_start().len();
            }
        }
        let rest = text.get(done..).unwrap_or_default();
        if !rest.is_empty() {
            each(Fragment::Text(rest));
        }
    }
}

impl Matcher {
    fn new(vocab: &Vocab, ids: Vec<u32>, strip: impl Fn(u32) -> Strip) -> Result<Self, TextError> {
        let strip = ids.iter().map(|&id| strip(id)).collect();
        if ids.is_empty() {
            return Ok(Self { automaton: None, ids, strip });
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(ids.iter().map(|&id| vocab.text(id).unwrap_or_default()))
            .map_err(|error| TextError::Vocabulary(format!("{} special tokens: {error}", ids.len())))?;
        Ok(Self { automaton: Some(automaton), ids, strip })
    }
}

/// Tokens that end a turn, a message or a text whatever the metadata says: converters forget to say it.
const END_OF_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // Fill-in-the-middle: padding, and the start of another repository or file.
    "<|fim_pad|>",
    "<fim-pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Names short or plain enough to be ordinary text (`</s>` closes a strike-through in HTML): they count only where the
/// vocabulary itself calls them control tokens.
const ONLY_IF_CONTROL: &[&str] =
    &["</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<PAD>", "[PAD]", "<REPO>", "[e~["];

/// Tokens of the Harmony format that are structure the reader needs: never skipped.
const ALWAYS_SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Finds the tokens that end a generation among the vocabulary's by name, adds `declared` ones, and corrects the kinds of
/// both. Sorted, without repetition.
pub(crate) fn end_of_generation(vocab: &mut Vocab, declared: &[u32]) -> Vec<u32> {
    let named = |vocab: &Vocab, name: &str| vocab.find(name.as_bytes());
    let mut ids: Vec<u32> = Vec::new();
    for name in END_OF_GENERATION {
        let Some(id) = named(vocab, name) else { continue };
        if vocab.kind(id) == TokenKind::Control || !ONLY_IF_CONTROL.contains(name) {
            vocab.set_kind(id, TokenKind::Control);
            ids.push(id);
        }
    }
    for name in ALWAYS_SHOWN {
        if let Some(id) = named(vocab, name).filter(|&id| vocab.kind(id) == TokenKind::Control) {
            vocab.set_kind(id, TokenKind::UserDefined);
        }
    }
    ids.extend(declared.iter().copied().filter(|&id| (id as usize) < vocab.len()));
    let has = |vocab: &Vocab, name: &str| named(vocab, name).is_some_and(|id| ids.contains(&id));
    // In Harmony and Solar `<|end|>` ends a message, not the answer.
    let ends_messages =
        (has(vocab, "<|return|>") && has(vocab, "<|call|>")) || (has(vocab, "<|calls|>") && has(vocab, "<|flush|>"));
    let end = named(vocab, "<|end|>").filter(|id| ends_messages && !declared.contains(id));
    if let Some(end) = end {
        vocab.set_kind(end, TokenKind::UserDefined);
        ids.retain(|&id| id != end);
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}
