//! Prompt lookup: what followed the same words before follows them again.
//!
//! Edited code, quoted documents and forms repeat long passages of the prompt (Saxena 2023,
//! <https://github.com/apoorvumang/prompt-lookup-decoding>). The text is indexed as it grows, as LZ77 compressors do: a
//! hash table knows where each pair of tokens was last, a chain leads to the places before. The place with the longest
//! common past wins, and is followed as long as it is right; where an edit leaves it, places shortly after come first.

use std::collections::HashMap;

use super::{Draft, Drafter};
use crate::{EngineError, scheduler::SequenceKey};

/// Places looked at per search.
const MAX_PLACES: usize = 32;
/// Common past beyond this makes no place better.
const LONG: usize = 16;
/// How far behind the place that was left the text is expected to resume, in tokens.
const RESUME: usize = 24;
const NONE: u32 = u32::MAX;

/// Drafts from the sequence's own tokens.
#[derive(Debug, Default)]
pub struct PromptLookup {
    /// By the scheduler's keys.
    texts: Vec<Text>,
}

/// One sequence's index. A *place* is a position in the text, at which a passage goes on.
#[derive(Debug, Default)]
struct Text {
    /// The last place behind each pair of tokens.
    last: HashMap<[u32; 2], u32>,
    /// The place before with the same pair, by place.
    previous: Vec<u32>,
    /// Where the text is expected to go on, and how many tokens before it agree.
    following: Option<(usize, usize)>,
    /// The place that was followed until an edit, and how long the text was then.
    left: Option<(usize, usize)>,
}

impl Text {
    /// Takes in the tokens that came since the last time.
    fn extend(&mut self, history: &[u32]) {
        for end in self.previous.len()..=history.len() {
            if let Some(token) = end.checked_sub(1).map(|at| history[at]) {
                self.follow(history, token, end);
            }
            let pair = end.checked_sub(2).map(|start| [history[start], history[start + 1]]);
            let before = pair.and_then(|pair| self.last.insert(pair, end as u32));
            self.previous.push(before.unwrap_or(NONE));
        }
    }

    fn follow(&mut self, history: &[u32], token: u32, end: usize) {
        let Some((place, past)) = self.following else { return };
        self.following = (history[place] == token).then_some((place + 1, (past + 1).min(LONG)));
        // A passage of two tokens was none.
        if self.following.is_none() && past > 2 {
            self.left = Some((place, end));
        }
    }

    /// Finds the place that the text is expected to go on like.
    fn search(&mut self, history: &[u32]) {
        if self.following.is_some_and(|(_, past)| past >= LONG) {
            return;
        }
        let resumes = |place: usize| self.resumes_at(place, history.len());
        let mut best = self.following.map(|(place, past)| (past + usize::from(resumes(place)) * LONG, place, past));
        let mut place = self.previous[history.len()];
        for _ in 0..MAX_PLACES {
            if place == NONE {
                break;
            }
            let past = common_past(history, place as usize);
            let worth = past + usize::from(resumes(place as usize)) * LONG;
            // Among equals the latest, but behind an edit the nearest.
            if best.is_none_or(|(most, ..)| worth > most || (worth == most && worth > LONG)) {
                best = Some((worth, place as usize, past));
            }
            place = self.previous[place as usize];
        }
        self.following = best.map(|(_, place, past)| (place, past));
        if best.is_none_or(|(worth, ..)| worth < 4)
            && let Some(place) = self.resumption(history)
        {
            self.following = Some((place, 2));
        }
    }

    fn resumes_at(&self, place: usize, len: usize) -> bool {
        self.left.is_some_and(|(left, then)| place > left && place <= left + RESUME && len <= then + RESUME)
    }

    /// A place behind the one that was left, where the last token stands.
    fn resumption(&self, history: &[u32]) -> Option<usize> {
        let (left, _) = self.left?;
        let last = history.last()?;
        let places = left + 1..=(left + RESUME).min(history.len() - 1);
        places.into_iter().find(|&place| self.resumes_at(place, history.len()) && history[place - 1] == *last)
    }

    fn draft(&mut self, draft: &mut Draft<'_>) {
        self.extend(draft.history);
        self.search(draft.history);
        let Some((place, past)) = self.following else { return };
        // A short past promises a short future.
        for at in place..place + draft.most.min(2 * past) {
            // Beyond its end the text is expected to repeat itself.
            let token = draft.history.get(at).or_else(|| draft.tokens.get(at - draft.history.len()));
            let Some(&token) = token else { return };
            draft.tokens.push(token);
        }
    }
}

/// How many tokens before `place` are those at the text's end.
fn common_past(history: &[u32], place: usize) -> usize {
    let pairs = history[..place].iter().rev().zip(history.iter().rev());
    pairs.take(LONG).take_while(|(a, b)| a == b).count()
}

impl Drafter for PromptLookup {
    fn is_free(&self) -> bool {
        true
    }

    fn draft(&mut self, drafts: &mut [Draft<'_>]) -> Result<usize, EngineError> {
        for draft in drafts {
            let index = draft.key.index();
            if self.texts.len() <= index {
                self.texts.resize_with(index + 1, Text::default);
            }
            self.texts[index].draft(draft);
        }
        Ok(0)
    }

    fn forget(&mut self, key: SequenceKey) {
        if let Some(text) = self.texts.get_mut(key.index()) {
            *text = Text::default();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn draft(lookup: &mut PromptLookup, history: &[u32], most: usize) -> Vec<u32> {
        let mut drafts = [Draft { key: SequenceKey(0), history, most, tokens: Vec::new() }];
        lookup.draft(&mut drafts).unwrap();
        std::mem::take(&mut drafts[0].tokens)
    }

    /// A token per character.
    fn text(text: &str) -> Vec<u32> {
        text.chars().map(u32::from).collect()
    }

    fn check(history: &str, expected: &str) {
        let tokens = draft(&mut PromptLookup::default(), &text(history), 8);
        let found: String = tokens.into_iter().filter_map(char::from_u32).collect();
        assert_eq!(found, expected, "{history}");
    }

    #[test]
    fn the_longest_common_past_wins() {
        check("", "");
        check("a", "");
        check("abcdef", "");
        check("the cat. the dog. the c", "at. the ");
        check("abcd1 xbcd2 abcd", "1 xbcd2 ");
        check("xy1 xy2 xy", "2 xy2 ");
        check("ababab", "abababab");
        check("zaaaa", "aaaaaa");
    }

    #[test]
    fn behind_an_edit_the_passage_goes_on() {
        let mut lookup = PromptLookup::default();
        let before = "f(one, count); g(one, count); h(two, count) end | ";
        let mut history = text(before);
        let mut right = 0;
        for &token in &text("f(one, total); g(one, total); h(two, total) end") {
            right += usize::from(draft(&mut lookup, &history, 4).first() == Some(&token));
            history.push(token);
        }
        // Of 47 characters, 15 are new and the passage must be found first.
        assert!(right >= 28, "{right}");
    }

    #[test]
    fn a_forgotten_sequence_leaves_nothing() {
        let mut lookup = PromptLookup::default();
        assert_eq!(draft(&mut lookup, &[1, 2, 3, 1, 2], 1), [3]);
        lookup.forget(SequenceKey(0));
        assert!(draft(&mut lookup, &[1, 2], 1).is_empty());
    }

    proptest! {
        #[test]
        fn growing_by_steps_finds_what_the_past_holds(
            tokens in prop::collection::vec(0u32..3, 1..60),
            most in 0usize..9,
        ) {
            let mut lookup = PromptLookup::default();
            for len in 1..=tokens.len() {
                let found = draft(&mut lookup, &tokens[..len], most);
                prop_assert!(found.len() <= most);
                prop_assert!(found.iter().all(|token| tokens[..len].contains(token)));
                let seen = len >= 3 && tokens[..len - 1].windows(2).any(|pair| *pair == tokens[len - 2..len]);
                prop_assert!(!seen || most == 0 || !found.is_empty(), "{:?}", &tokens[..len]);
            }
        }
    }
}
