//! Answers that must follow a grammar: JSON Schema, regular expressions, grammars in Lark or GBNF, choices.
//!
//! A [`Constraint`] is compiled once ([`crate::EngineHandle::compile`], on the caller's thread) into a [`Grammar`] that
//! requests carry and that compiled grammars are remembered by. `llguidance` does the parsing: for each state of a
//! grammar it knows the set of tokens that may come next. That set, the mask, is worked out by threads of its own while
//! the forward pass runs ([`masks`]), and is taken from the logits before anything else is done to them, so every other
//! sampling parameter means what it always means, among the tokens that are left. Log-probabilities stay the model's own.
//!
//! Where a grammar leaves one way to go on (`{"name": "`), the tokens are known without asking the model. They are computed
//! as a draft that is right by construction: several in one step. They are the tokens the tokeniser itself would write,
//! where it keeps every byte of a text; else nothing is forced, and masks alone hold the grammar.
//!
//! Limits are in what grammars do, not in seconds, so the same request always ends the same way; only the time a whole
//! request may take for masks is bounded by the clock ([`crate::EngineConfig::grammar_time`]).

mod cache;
mod following;
mod gbnf;
pub(crate) mod masks;
mod preface;
mod schema;
mod vocabulary;

pub(crate) use cache::GrammarCompiler;
pub(crate) use following::Following;
pub use preface::Preface;
pub use vocabulary::Vocabulary;

use std::sync::Arc;

use llguidance::{Matcher, api::TopLevelGrammar, toktrie::TokTrie};
use serde_json::Value;

/// Longest grammar, schema or list of choices, in bytes of text.
pub const MAX_GRAMMAR_BYTES: usize = 1 << 20;

/// What an answer must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// JSON that the schema allows. Objects have their properties in the schema's order, white space is a space or a new
    /// line and its indentation.
    JsonSchema(Value),
    /// A text that the regular expression matches as a whole, in the syntax of the `regex` crate without look-around.
    Regex(String),
    /// A text of the grammar, in llguidance's variant of Lark
    /// (<https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md>).
    Lark(String),
    /// A text of the grammar, as llama.cpp writes them
    /// (<https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md>).
    Gbnf(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Reasoning, free, and then what the other constraint says.
    After(Preface, Box<Constraint>),
}

/// A constraint that can not be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// It is no grammar, or one that is too large or not supported.
    #[error("{message}")]
    Invalid {
        /// What is wrong, and where.
        message: String,
    },
    /// The model has no vocabulary to speak of.
    #[error("the model has no tokenizer, so its answers can not be constrained")]
    NoVocabulary,
}

/// A compiled constraint. Cheap to clone; good for requests to the engine that compiled it.
#[derive(Clone)]
pub struct Grammar {
    start: Arc<Matcher>,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

/// The same compiled grammar, not one that happens to allow the same.
impl PartialEq for Grammar {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.start, &other.start)
    }
}

impl Grammar {
    /// A parser at the grammar's start. All of one grammar share what their lexer has learnt.
    fn matcher(&self) -> Matcher {
        Matcher::clone(&self.start)
    }

    /// Whether the grammar allows exactly this text.
    #[must_use]
    pub fn accepts(&self, text: &str) -> bool {
        self.read(text).is_some_and(|mut end| end.is_stopped() || end.is_accepting().unwrap_or(false))
    }

    /// Whether the grammar allows a text that begins so.
    #[must_use]
    pub fn accepts_start(&self, text: &str) -> bool {
        self.read(text).is_some()
    }

    /// The parser after `text`, if it can be read.
    fn read(&self, text: &str) -> Option<Matcher> {
        let mut matcher = self.matcher();
        let tokens = matcher.tok_env().ok()?.tok_trie().greedy_tokenize(text.as_bytes());
        let consumed = matcher.try_consume_tokens(&tokens).ok()?;
        (consumed == tokens.len()).then_some(matcher)
    }
}

impl Constraint {
    /// A text of a grammar, in Lark or in GBNF, which look different from the first line on.
    #[must_use]
    pub fn of_grammar(grammar: String) -> Self {
        if gbnf::is_gbnf(&grammar) { Self::Gbnf(grammar) } else { Self::Lark(grammar) }
    }

    /// Bytes of text, to be held to [`MAX_GRAMMAR_BYTES`].
    fn len(&self) -> usize {
        match self {
            Self::JsonSchema(schema) => schema.to_string().len(),
            Self::Regex(text) | Self::Lark(text) | Self::Gbnf(text) => text.len(),
            Self::Choice(choices) => choices.iter().map(String::len).sum(),
            Self::After(_, then) => then.len(),
        }
    }

    fn grammar(&self, vocabulary: &TokTrie) -> Result<TopLevelGrammar, ConstraintError> {
        Ok(match self {
            Self::JsonSchema(schema) => TopLevelGrammar::from_json_schema(schema::compiled(schema)),
            Self::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Self::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
            Self::Gbnf(grammar) => TopLevelGrammar::from_lark(gbnf::to_lark(grammar)?),
            Self::Choice(choices) => {
                let quoted = choices.iter().map(|choice| Value::from(choice.as_str()).to_string());
                TopLevelGrammar::from_lark(format!("start: {}", quoted.collect::<Vec<_>>().join(" | ")))
            }
            Self::After(preface, then) => preface.before(then.grammar(vocabulary)?, vocabulary),
        })
    }
}
