//! Two texts that a model reads together.

use crate::TextError;
use crate::tokenizer::{Inner, Model, Tokenizer};

/// The tokens of two texts, with the special ones around them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// All of them.
    pub tokens: Vec<u32>,
    /// Where those of type 1 begin, which are the second text's; the length of all where the tokeniser gives all the same
    /// type.
    pub second: usize,
}

impl Tokenizer {
    /// The tokens of a pair of texts from a user, put together as the model was trained (`[CLS] a [SEP] b [SEP]`). Where
    /// they are more than `most`, the longer text is cut, and both where each is longer than half ("longest first").
    ///
    /// # Errors
    /// [`TextError::Encode`] as of [`Tokenizer::encode`], and where `most` leaves no room for a text.
    pub fn encode_pair(&self, first: &str, second: &str, most: usize) -> Result<Pair, TextError> {
        for text in [first, second] {
            Self::check_length(text)?;
        }
        let Inner { model, specials, .. } = self.inner();
        let (special, encoder) = match model {
            Model::HuggingFace(model) => return model.encode_pair(first, second, most),
            Model::Native { special, encoder } => (special, encoder),
        };
        let around = [specials.prefix, specials.suffix, specials.pair_separator, specials.suffix];
        let room = room(around.iter().flatten().count(), most)?;
        let tokens = |text: &str| self.encode_plainly(special, encoder, text);
        let (mut left, mut right) = (tokens(first), tokens(second));
        let kept = longest_first(left.len(), right.len(), room);
        left.truncate(kept.0);
        right.truncate(kept.1);
        let mut tokens: Vec<u32> = specials.prefix.into_iter().chain(left).chain(specials.suffix).collect();
        tokens.extend(specials.pair_separator);
        let second = tokens.len();
        tokens.extend(right.into_iter().chain(specials.suffix));
        Ok(Pair { tokens, second })
    }
}

/// How many tokens are left for the texts.
pub(crate) fn room(added: usize, most: usize) -> Result<usize, TextError> {
    let message = || format!("{most} tokens leave no room for two texts and the {added} tokens around them");
    most.checked_sub(added).filter(|room| *room >= 2).ok_or_else(|| TextError::Encode { bytes: 0, message: message() })
}

/// How many tokens of each text are kept, as `longest_first` of Hugging Face's tokenisers cuts.
pub(crate) fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let shorter = first.min(second);
    let (shorter, longer) = if 2 * shorter <= room { (shorter, room - shorter) } else { (room / 2, room - room / 2) };
    if first <= second { (shorter, longer) } else { (longer, shorter) }
}

#[cfg(test)]
mod tests {
    use super::longest_first;

    /// Values of the `tokenizers` package 0.23: lengths of two texts, and of what is left with `truncation=True`,
    /// `max_length=13` and 3 special tokens.
    #[test]
    fn the_longer_text_is_cut_first() {
        for (given, expected) in [
            ((4, 6), (4, 6)),
            ((4, 9), (4, 6)),
            ((9, 4), (6, 4)),
            ((6, 9), (5, 5)),
            ((20, 30), (5, 5)),
            ((5, 6), (5, 5)),
            ((0, 30), (0, 10)),
        ] {
            assert_eq!(longest_first(given.0, given.1, 10), expected, "{given:?}");
        }
        assert_eq!((longest_first(20, 30, 11), longest_first(30, 20, 11)), ((5, 6), (6, 5)));
    }
}
