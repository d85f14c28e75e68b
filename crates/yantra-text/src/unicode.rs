//! Unicode character classes, taken from the tables of `regex-syntax`.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// Decimal digits (category Nd).
pub(crate) static DECIMAL_DIGIT: LazyLock<CharClass> = LazyLock::new(|| CharClass::new(r"\p{Nd}"));
/// Marks that take no space of their own (category Mn): accents after decomposition.
pub(crate) static NONSPACING_MARK: LazyLock<CharClass> = LazyLock::new(|| CharClass::new(r"\p{Mn}"));
/// Punctuation of any kind (category P).
pub(crate) static PUNCTUATION: LazyLock<CharClass> = LazyLock::new(|| CharClass::new(r"\p{P}"));
/// Control, format, private and unassigned code points (category C).
pub(crate) static OTHER: LazyLock<CharClass> = LazyLock::new(|| CharClass::new(r"\p{C}"));

/// A set of characters as sorted ranges.
#[derive(Debug)]
pub(crate) struct CharClass {
    ranges: Vec<(char, char)>,
}

impl CharClass {
    /// From a class expression such as `\p{Mn}`.
    fn new(expression: &str) -> Self {
        let hir = regex_syntax::parse(expression);
        let ranges = match hir.as_ref().map(|hir| hir.kind()) {
            Ok(HirKind::Class(Class::Unicode(class))) => {
                class.ranges().iter().map(|range| (range.start(), range.end())).collect()
            }
            // The expressions are the constants above, which a test compiles.
            _ => Vec::new(),
        };
        Self { ranges }
    }

    pub(crate) fn contains(&self, character: char) -> bool {
        let after = self.ranges.partition_point(|&(start, _)| start <= character);
        after > 0 && character <= self.ranges[after - 1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_should() {
        assert!(DECIMAL_DIGIT.contains('५') && !DECIMAL_DIGIT.contains('½'));
        assert!(NONSPACING_MARK.contains('\u{301}') && !NONSPACING_MARK.contains('\u{93e}'));
        assert!(PUNCTUATION.contains('।') && !PUNCTUATION.contains('+'));
        assert!(OTHER.contains('\u{200b}') && !OTHER.contains('a'));
    }
}
