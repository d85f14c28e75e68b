//! GBNF, in which llama.cpp's users write grammars
//! (<https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md>), as Lark.
//!
//! GBNF knows only characters; llguidance reads lexemes, each as long as it can be. So a rule that does not contain itself
//! becomes one terminal, and so does each part of the others that holds no such rule. Where such a part could go on with
//! what may also follow it (`[0-9]+ ws` before a new line, if `ws` takes new lines), it is taken apart into characters,
//! which is slower and lets the parser decide ([`first`] works out where).

mod first;
mod lark;
mod read;

use super::ConstraintError;

/// Deepest nesting of groups.
const MAX_DEPTH: usize = 100;
/// Most repetitions that may be counted.
const MAX_REPEAT: u32 = 10_000;

/// A part of a rule.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    Text(String),
    /// One character of these ranges, or of all others.
    Class {
        ranges: Vec<(char, char)>,
        is_negated: bool,
    },
    /// The rule of that number.
    Rule(usize),
    Group(Choice),
    /// How often: at least, and at most.
    Repeat(Box<Item>, u32, Option<u32>),
}

/// Sequences, one of which it is.
type Choice = Vec<Vec<Item>>;

/// The same grammar in Lark, which llguidance reads.
pub(super) fn to_lark(text: &str) -> Result<String, ConstraintError> {
    let rules = read::rules(text).map_err(|message| ConstraintError::Invalid { message })?;
    Ok(lark::written(&rules))
}

/// Whether a grammar is written in GBNF: Lark has no `::=`.
pub(super) fn is_gbnf(grammar: &str) -> bool {
    let mut lines = grammar.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    lines
        .next()
        .is_some_and(|line| line.split_once("::=").is_some_and(|(name, _)| name.trim_end().chars().all(is_of_name)))
}
