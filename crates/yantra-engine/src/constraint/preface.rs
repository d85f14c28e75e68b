//! Reasoning before an answer that a grammar holds: free up to the marker that ends it.

use llguidance::{
    api::{GrammarWithLexer, TopLevelGrammar},
    toktrie::TokTrie,
};
use serde_json::Value;

use super::vocabulary::in_angles;

/// What the grammar of the answer itself is called.
const ANSWER: &str = "answer";

/// How a model's reasoning is marked, and what stands between it and the answer. Without it an answer that must be JSON
/// could not be thought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preface {
    /// What begins the reasoning; `None`: the prompt has begun it, and it can not be left out.
    pub begin: Option<String>,
    /// What ends it.
    pub end: String,
    /// What must follow it; where nothing must, some white space may.
    pub between: String,
    /// What must begin an answer without it.
    pub without: String,
}

impl Preface {
    /// The grammar of answers that `then` is the rest of.
    pub(super) fn before(&self, then: TopLevelGrammar, vocabulary: &TokTrie) -> TopLevelGrammar {
        let mut grammars = vec![GrammarWithLexer { lark_grammar: Some(self.lark(vocabulary)), ..Default::default() }];
        grammars.extend(then.grammars);
        if let Some(answer) = grammars.get_mut(1) {
            answer.name = Some(ANSWER.to_owned());
        }
        TopLevelGrammar { grammars, max_tokens: then.max_tokens }
    }

    fn lark(&self, vocabulary: &TokTrie) -> String {
        let control = |marker: &str| {
            let name = in_angles(marker);
            vocabulary.get_special_token(&name).map(|_| name)
        };
        let (thought, rules) = match control(&self.end) {
            Some(end) => (format!("/(?s:.*)/ {end}"), String::new()),
            None => ("thought".to_owned(), format!("thought[suffix={}]: /(?s:.*)/\n", quoted(&self.end))),
        };
        let between = if self.between.is_empty() { "/[ \\n]{1,4}/?".to_owned() } else { quoted(&self.between) };
        let start = match &self.begin {
            None => format!("{thought} {between} @{ANSWER}"),
            Some(begin) => {
                let begin = control(begin).unwrap_or_else(|| quoted(begin));
                format!("{begin} {thought} {between} @{ANSWER} | {} @{ANSWER}", quoted(&self.without))
            }
        };
        format!("start: {start}\n{rules}")
    }
}

/// A text in Lark.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
