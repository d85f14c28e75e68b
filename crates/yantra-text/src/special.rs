//! Special tokens: finding them in text before anything else is split, and knowing which of them end a generation.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, Input, MatchKind};

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
        let texts: Vec<&str> = ids.iter().map(|&id| vocab.text(id).unwrap_or_default()).collect();
        let automaton = automaton(&texts)?;
        Ok(Self { automaton: Some(automaton), ids, strip })
    }
}

/// Finds texts in a conversation that must not become the tokens they are the texts of.
#[derive(Debug)]
pub(crate) struct Guard {
    automaton: Option<AhoCorasick>,
    texts: Vec<String>,
    first_characters: BTreeSet<char>,
}

impl Guard {
    /// Guards against control tokens, and against those that give structure though they are shown as text.
    pub(crate) fn new(vocab: &Vocab) -> Result<Self, TextError> {
        let is_structure =
            |text: &str| [ALWAYS_SHOWN, END_OF_GENERATION, TURNS].iter().any(|list| list.contains(&text));
        let is_guarded = |id: &u32| match vocab.kind(*id) {
            TokenKind::Control | TokenKind::Unknown => true,
            TokenKind::UserDefined => vocab.text(*id).is_some_and(is_structure),
            _ => false,
        };
        let texts = vocab.ids().filter(is_guarded).filter_map(|id| vocab.text(id));
        let texts: Vec<String> = texts.filter(|text| !text.is_empty()).map(str::to_owned).collect();
        let automaton = if texts.is_empty() { None } else { Some(automaton(&texts)?) };
        let first_characters = texts.iter().filter_map(|text| text.chars().next()).collect();
        Ok(Self { automaton, texts, first_characters })
    }

    /// The characters guarded texts begin with.
    pub(crate) fn first_characters(&self) -> &BTreeSet<char> {
        &self.first_characters
    }

    /// Where guarded texts other than the `allowed` begin in `text`, in order, those within others too; with `may_go_on`
    /// also where the end of `text` is the beginning of one.
    pub(crate) fn starts(&self, text: &str, allowed: &[&str], may_go_on: bool) -> Vec<usize> {
        let mut starts = Vec::new();
        let Some(automaton) = &self.automaton else { return starts };
        let mut from = 0;
        while let Some(found) = automaton.find(Input::new(text).range(from..)) {
            let first = text[found.start()..].chars().next().map_or(1, char::len_utf8);
            if allowed.contains(&&text[found.range()]) {
                from = found.end();
            } else {
                starts.push(found.start());
                from = found.start() + first;
            }
        }
        if may_go_on {
            let longest = self.texts.iter().map(String::len).max().unwrap_or_default();
            let tail = text.len().saturating_sub(longest.saturating_sub(1));
            let is_begun = |at: &usize| self.texts.iter().any(|guarded| guarded.starts_with(&text[*at..]));
            let begun = text.char_indices().map(|(at, _)| at).filter(|at| *at >= tail && !starts.contains(at));
            let begun: Vec<usize> = begun.filter(is_begun).collect();
            starts.extend(begun);
            starts.sort_unstable();
        }
        starts
    }
}

fn automaton<T: AsRef<[u8]>>(texts: &[T]) -> Result<AhoCorasick, TextError> {
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(texts)
        .map_err(|error| TextError::Vocabulary(format!("{} special tokens: {error}", texts.len())))
}

/// Tokens that begin a turn, which some vocabularies do not call control tokens. Those that end one are found below.
const TURNS: &[&str] = &["<start_of_turn>", "<|turn>", "<|im_start|>", "<|start_header_id|>", "<|end_header_id|>"];

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
