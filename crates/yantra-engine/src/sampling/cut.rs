//! The value below which tokens fall away.

/// A threshold: values above it stay, and the first `ties` (by token id) of those equal to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// The threshold.
    pub value: f32,
    /// How many values equal to it stay.
    pub ties: usize,
}

impl Cut {
    /// Whether a value stays; to be asked in order of token id.
    pub fn keeps(&mut self, value: f32) -> bool {
        if value == self.value && self.ties > 0 {
            self.ties -= 1;
            return true;
        }
        value > self.value
    }
}

/// Descending order; NaN must not occur.
pub(super) fn descending(a: &f32, b: &f32) -> std::cmp::Ordering {
    b.total_cmp(a)
}
