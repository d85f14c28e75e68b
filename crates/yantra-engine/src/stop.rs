//! Stop strings over text that arrives in pieces.
//!
//! Text that could be the beginning of a stop string is held back until it is known not to be, so nothing of a stop
//! string ever leaves. The stop string that is complete first wins (among those complete at the same byte, the one that
//! began first), which makes the outcome independent of how the text was cut into pieces.

/// Finds a choice's stop strings.
#[derive(Debug)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    include_stop: bool,
    held: String,
}

/// The outcome of a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopping {
    /// Go on; this much is certain.
    Continue(String),
    /// A stop string is complete: the last text, and which it was.
    Stop { text: String, stop: String },
}

impl StopMatcher {
    pub(crate) fn new(stops: &[String], include_stop: bool) -> Self {
        Self { stops: stops.to_vec(), include_stop, held: String::new() }
    }

    /// Takes the next piece of text.
    pub(crate) fn push(&mut self, text: &str) -> Stopping {
        if self.stops.is_empty() {
            return Stopping::Continue(text.to_owned());
        }
        self.held.push_str(text);
        if let Some((start, end)) = self.first_match() {
            let stop = self.held[start..end].to_owned();
            self.held.truncate(if self.include_stop { end } else { start });
            return Stopping::Stop { text: std::mem::take(&mut self.held), stop };
        }
        let certain = self.held.len() - self.partial_match();
        Stopping::Continue(self.held.drain(..certain).collect())
    }

    /// Ends the text and returns what was held back.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start and end of the stop string that is complete first.
    fn first_match(&self) -> Option<(usize, usize)> {
        let matches = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start, start + stop.len()))
        });
        matches.min_by_key(|&(start, end)| (end, start))
    }

    /// Length in bytes of the longest end of the held text that begins a stop string.
    fn partial_match(&self) -> usize {
        let held = self.held.as_bytes();
        let longest = |stop: &String| {
            let most = held.len().min(stop.len() - 1);
            (1..=most).rev().find(|&len| {
                let boundary = self.held.is_char_boundary(held.len() - len);
                boundary && stop.as_bytes().starts_with(&held[held.len() - len..])
            })
        };
        self.stops.iter().filter_map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds pieces and returns the text let out and the stop string found.
    fn run(stops: &[&str], include_stop: bool, pieces: &[&str]) -> (String, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut matcher = StopMatcher::new(&stops, include_stop);
        let mut out = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                Stopping::Continue(text) => out += &text,
                Stopping::Stop { text, stop } => return (out + &text, Some(stop)),
            }
        }
        (out + &matcher.finish(), None)
    }

    fn check(stops: &[&str], pieces: &[&str], expected: &str, stop: Option<&str>) {
        assert_eq!(run(stops, false, pieces), (expected.to_owned(), stop.map(str::to_owned)), "{stops:?} {pieces:?}");
    }

    #[test]
    fn stop_strings_are_found_across_pieces() {
        check(&[], &["anything"], "anything", None);
        check(&["END"], &["abc", "E", "N", "D", "x"], "abc", Some("END"));
        check(&["END"], &["abc E", "N", "x"], "abc ENx", None);
        check(&["END"], &["EEN", "D"], "E", Some("END"));
        check(&["END"], &["the E"], "the E", None);
        check(&["\n\n", "stop"], &["a\n", "b\n", "\nc"], "a\nb", Some("\n\n"));
        check(&["aab"], &["aaaa", "b"], "aa", Some("aab"));
        check(&["abcd", "c"], &["xabcd"], "xab", Some("c"));
        check(&["bc", "abc"], &["xabc"], "x", Some("abc"));
        check(&["नमस्ते"], &["ओ न", "म", "स्", "ते", "!"], "ओ ", Some("नमस्ते"));
    }

    #[test]
    fn the_stop_string_can_be_kept() {
        assert_eq!(run(&["END"], true, &["a E", "NDb"]), ("a END".to_owned(), Some("END".to_owned())));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            text in "[abc é]{0,24}",
            stops in prop::collection::vec("[abc é]{1,4}", 1..4),
            cuts in prop::collection::vec(0usize..24, 0..8),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let single: Vec<&str> = chars.iter().map(String::as_str).collect();
            let mut pieces = vec![String::new()];
            for (i, character) in chars.iter().enumerate() {
                if cuts.contains(&i) {
                    pieces.push(String::new());
                }
                if let Some(piece) = pieces.last_mut() {
                    piece.push_str(character);
                }
            }
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (whole, found) = run(&stops, false, &pieces);
            prop_assert_eq!(run(&stops, false, &single), (whole.clone(), found.clone()));
            match found {
                None => prop_assert_eq!(whole, text),
                Some(stop) => {
                    let start = whole.clone() + &stop;
                    prop_assert!(text.starts_with(&start));
                    prop_assert!(stops.iter().all(|stop| !whole.contains(stop)));
                }
            }
        }
    }
}
