//! Pre-tokenisers: how a text is cut into words before byte-pair merging, which never crosses a cut.
//!
//! GGUF names them (`tokenizer.ggml.pre`); Hugging Face spells them out as regular expressions, most of which end in
//! `\s+(?!\S)|\s+`: white space, less the last character when a word follows. That look-ahead is the only thing the
//! automata of `regex-automata` lack, and it is easily done after the match ([`Stage::Words`]), so every text is cut in
//! linear time, whatever it holds.

mod registry;

use std::ops::Range;

use regex_automata::meta::Regex;

pub(crate) use registry::{PreTokenizerSpec, spec};

use crate::TextError;

/// One cut in the making, as the registry writes it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StageSpec {
    /// Matches are words; what lies between them is words too.
    Split(&'static str),
    /// Alternatives followed by `\s+(?!\S)|\s+`.
    Words(&'static str),
    /// As `Words`, but runs of white space are cut to at most these lengths, longest that fits first.
    WordsCascade(&'static str, &'static [usize]),
    /// Runs of digits are cut into threes from the right.
    DigitsFromRight(DigitRuns),
}

/// Which runs of digits [`StageSpec::DigitsFromRight`] cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DigitRuns {
    /// All of them.
    All,
    /// Those that end at a word boundary (`123` but not `123abc`).
    AtWordEnd,
}

/// A compiled pre-tokeniser.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    stages: Vec<Stage>,
}

#[derive(Debug)]
enum Stage {
    Split(Regex),
    /// Pattern 0 is the alternatives, pattern 1 white space.
    Words {
        regex: Regex,
        cascade: &'static [usize],
    },
    DigitsFromRight(DigitRuns),
}

impl PreTokenizer {
    pub(crate) fn new(stages: &[StageSpec]) -> Result<Self, TextError> {
        let compile = |patterns: &[&str]| {
            Regex::new_many(patterns)
                .map_err(|error| TextError::Vocabulary(format!("pre-tokeniser pattern {patterns:?}: {error}")))
        };
        let stages = stages.iter().map(|stage| match *stage {
            StageSpec::Split(pattern) => compile(&[pattern]).map(Stage::Split),
            StageSpec::Words(head) => Ok(Stage::Words { regex: compile(&[head, r"\s+"])?, cascade: &[] }),
            StageSpec::WordsCascade(head, cascade) => Ok(Stage::Words { regex: compile(&[head, r"\s+"])?, cascade }),
            StageSpec::DigitsFromRight(runs) => Ok(Stage::DigitsFromRight(runs)),
        });
        Ok(Self { stages: stages.collect::<Result<_, TextError>>()? })
    }

    /// Cuts `text` and hands every word to `each`, in order; the words put together are the text.
    pub(crate) fn split(&self, text: &str, mut each: impl FnMut(&str)) {
        match self.stages.as_slice() {
            [] => each(text),
            [only] => only.split(text, 0..text.len(), &mut |word| each(&text[word])),
            [stages @ .., last] => {
                let mut words: Vec<_> = std::iter::once(0..text.len()).collect();
                for stage in stages {
                    let mut finer = Vec::with_capacity(words.len() * 2);
                    for word in words {
                        stage.split(text, word, &mut |word| finer.push(word));
                    }
                    words = finer;
                }
                for word in words {
                    last.split(text, word, &mut |word| each(&text[word]));
                }
            }
        }
    }
}

impl Stage {
    /// Cuts `text[word]`, which the patterns see as a text of its own.
    fn split(&self, text: &str, word: Range<usize>, each: &mut dyn FnMut(Range<usize>)) {
        let (text, base) = (&text[word.clone()], word.start);
        let mut cut = Cutter { base, done: 0, each };
        match self {
            Self::Split(regex) => {
                for found in regex.find_iter(text) {
                    cut.word(found.range());
                }
            }
            Self::Words { regex, cascade } => {
                let mut at = 0;
                while let Some(found) = regex.find(regex_automata::Input::new(text).range(at..)) {
                    let is_space = found.pattern().as_usize() == 1;
                    let range = if is_space { space_word(text, found.range(), cascade) } else { found.range() };
                    at = range.end.max(at + 1);
                    cut.word(range);
                }
            }
            Self::DigitsFromRight(runs) => split_digits(text, *runs, &mut cut),
        }
        cut.rest(text.len());
    }
}

/// Hands out words and the gaps between them.
struct Cutter<'a> {
    base: usize,
    done: usize,
    each: &'a mut dyn FnMut(Range<usize>),
}

impl Cutter<'_> {
    fn word(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        self.rest(range.start);
        (self.each)(self.base + range.start..self.base + range.end);
        self.done = range.end;
    }

    fn rest(&mut self, end: usize) {
        if self.done < end {
            (self.each)(self.base + self.done..self.base + end);
            self.done = end;
        }
    }
}

/// What `\s+(?!\S)|\s+` matches of a whole run of white space, or of the run cut by `cascade`.
fn space_word(text: &str, run: Range<usize>, cascade: &[usize]) -> Range<usize> {
    let last_start = text[run.clone()].char_indices().next_back().map_or(run.start, |(at, _)| run.start + at);
    let end = if run.end == text.len() || last_start == run.start { run.end } else { last_start };
    if cascade.is_empty() {
        return run.start..end;
    }
    // Lengths count characters; a run of one is what the final `\s` takes.
    let longest = cascade.first().copied().unwrap_or(1);
    let ends: Vec<usize> =
        text[run.start..end].char_indices().take(longest).map(|(at, c)| run.start + at + c.len_utf8()).collect();
    let length = cascade.iter().copied().find(|&length| length <= ends.len()).unwrap_or(1);
    run.start..ends.get(length - 1).copied().unwrap_or(end)
}

/// Cuts runs of decimal digits into threes counted from the right.
fn split_digits(text: &str, runs: DigitRuns, cut: &mut Cutter<'_>) {
    let mut digits: Vec<usize> = Vec::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if !is_digit(character) {
            continue;
        }
        digits.push(at);
        let (end, next) = characters.peek().map_or((text.len(), None), |&(at, next)| (at, Some(next)));
        if next.is_some_and(is_digit) {
            continue;
        }
        let is_word_end = !next.is_some_and(|next| next.is_alphanumeric() || next == '_');
        if runs == DigitRuns::All || is_word_end {
            let first = digits.len() % 3;
            let starts: Vec<usize> = (0..digits.len()).filter(|index| index % 3 == first || *index == 0).collect();
            for (position, &index) in starts.iter().enumerate() {
                let word_end = starts.get(position + 1).map_or(end, |&next| digits[next]);
                cut.word(digits[index]..word_end);
            }
        }
        digits.clear();
    }
}

/// `\d`: decimal digits of any script. `char::is_numeric` also counts ½ and Ⅷ, which are not.
fn is_digit(character: char) -> bool {
    character.is_ascii_digit() || (!character.is_ascii() && crate::unicode::DECIMAL_DIGIT.contains(character))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::collections::HashMap;
    use std::sync::{Arc, LazyLock, Mutex};

    use proptest::prelude::*;

    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        // Compiling is slow without optimisation, so every pre-tokeniser is compiled once.
        static COMPILED: LazyLock<Mutex<HashMap<String, Arc<PreTokenizer>>>> = LazyLock::new(Mutex::default);
        let compile = || Arc::new(PreTokenizer::new(spec(name).unwrap().stages).unwrap());
        let compiled = Arc::clone(COMPILED.lock().unwrap().entry(name.to_owned()).or_insert_with(compile));
        let mut words = Vec::new();
        compiled.split(text, |word| words.push(word.to_owned()));
        words
    }

    fn check(name: &str, text: &str, expected: &[&str]) {
        assert_eq!(words(name, text), expected, "{name}: {text:?}");
    }

    /// Expected values follow from the published expressions, checked with Python's `regex` module.
    #[test]
    fn words_are_cut_as_the_expressions_say() {
        check("gpt-2", "Hello  world's 123!\n\n", &["Hello", " ", " world", "'s", " 123", "!", "\n\n"]);
        check("llama-bpe", "I'LL 12345\n\n  x", &["I", "'LL", " ", "123", "45", "\n\n", " ", " x"]);
        check("qwen2", "12 ab\t\tc", &["1", "2", " ab", "\t", "\tc"]);
        check("smollm", "a 12", &["a", " ", "1", "2"]);
        check("falcon", "a12345 b", &["a", "123", "45", " b"]);
        check("tekken", "HelloWorld ABCdef", &["Hello", "World", " ABCdef"]);
        check("gpt-4o", "HelloWorld's don'T", &["Hello", "World's", " don'T"]);
        check("jais-2", &format!("a{}b", " ".repeat(7)), &["a", "    ", "  ", " b"]);
        check("tiny_aya", "1234567 1234x", &["1", "234", "567", " ", "123", "4", "x"]);
        check("superbpe", "1234567", &["1", "234", "567"]);
        check("kimi-k2", "中文English混 12345", &["中文", "English", "混", " ", "123", "45"]);
        check("qwen35", "हिन्दी", &["हिन्दी"]);
        check("gemma4", "a b\n\nc", &["a b", "\n\n", "c"]);
    }

    /// Expected words are the output of `tests/data/split_words.py`: the models' own expressions, run by Python's `regex`.
    #[test]
    fn words_are_those_of_a_backtracking_engine() {
        let expected: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/data/split_words.json")).unwrap();
        let texts = expected["texts"].as_array().unwrap();
        let mut wrong = Vec::new();
        for (name, lists) in expected["words"].as_object().unwrap() {
            for (text, list) in texts.iter().zip(lists.as_array().unwrap()) {
                let list: Vec<&str> = list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
                let got = words(name, text.as_str().unwrap());
                if got != list {
                    wrong.push(format!("{name}: {text}\n  got      {got:?}\n  expected {list:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn unknown_names_are_errors() {
        let error = spec("no-such-thing").unwrap_err().to_string();
        assert!(error.contains("no-such-thing"), "{error}");
    }

    #[test]
    fn every_registered_pre_tokeniser_compiles() {
        for name in registry::names() {
            PreTokenizer::new(spec(name).unwrap().stages).unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn words_put_together_are_the_text(text in "\\PC{0,20}|[ \\n\\ta-c0-9']{0,40}|(\\s|\\p{N}|.){0,30}") {
            for name in ["default", "gpt-2", "llama-bpe", "jais-2", "deepseek-llm", "tiny_aya", "superbpe", "kimi-k2", "afmoe", "chameleon"] {
                prop_assert_eq!(words(name, &text).concat(), text.as_str(), "{}", name);
            }
        }
    }
}
