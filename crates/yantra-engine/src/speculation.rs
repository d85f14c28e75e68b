//! Speculation: several tokens of a sequence in one step, without changing any.
//!
//! A [`Drafter`] guesses how sequences go on; the guesses are computed together with the tokens that are due, in the same
//! batched forward pass, and every position is then sampled in order by the sequence's own sampler, as it would have been
//! without a draft. A drafted token that equals the one sampled has saved a step; at the first that does not, the rest
//! of the draft is dropped. So the tokens are those of plain decoding, greedy or not: draws depend on seed, choice and
//! position only. (Leviathan et al. 2023, <https://arxiv.org/abs/2211.17192>, keep only the distribution.)
//!
//! The guesses come from the sequence's own text ([`PromptLookup`]) or from a small model ([`DraftModel`]). How many are
//! computed is decided anew for each step by [`policy`], from how often guesses were right and what tokens cost: where
//! they do not pay, none are.

mod draft_model;
mod lookup;
pub mod policy;

pub use draft_model::DraftModel;
pub use lookup::PromptLookup;

use crate::{EngineError, scheduler::SequenceKey};

/// Where guesses come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SpeculationMethod {
    /// There are none.
    None,
    /// The sequence's own text: [`PromptLookup`].
    #[default]
    Lookup,
    /// A model with the same vocabulary: [`DraftModel`].
    DraftModel,
}

/// Settings of speculation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speculation {
    /// Where guesses come from.
    pub method: SpeculationMethod,
    /// Longest draft of a sequence, in tokens.
    pub max_draft: usize,
}

impl Default for Speculation {
    fn default() -> Self {
        Self { method: SpeculationMethod::default(), max_draft: 16 }
    }
}

impl Speculation {
    /// Longest draft that can be asked for.
    pub const MAX_DRAFT: usize = 128;

    /// Drafts of full length that one step computes, for all sequences together.
    pub(crate) const MAX_DRAFTS_PER_STEP: usize = 2;

    /// Tokens computed ahead in one step, for all sequences together, because grammars leave no choice in them.
    pub(crate) const FORCED_ROWS_PER_STEP: usize = 64;

    /// No speculation.
    pub const OFF: Self = Self { method: SpeculationMethod::None, max_draft: 16 };

    /// Most drafted tokens of all sequences in one step; each takes a row of logits.
    pub fn rows_per_step(&self) -> usize {
        if self.method == SpeculationMethod::None { 0 } else { Self::MAX_DRAFTS_PER_STEP * self.max_draft }
    }
}

/// One sequence's draft: what is asked of a [`Drafter`], and its answer.
#[derive(Debug)]
pub struct Draft<'a> {
    /// The sequence.
    pub key: SequenceKey,
    /// Its tokens so far. They only grow, until [`Drafter::forget`].
    pub history: &'a [u32],
    /// Most tokens wanted.
    pub most: usize,
    /// The guess at what follows; given empty.
    pub tokens: Vec<u32>,
}

/// Guesses how sequences go on. Wrong guesses cost time and nothing else.
pub trait Drafter: Send {
    /// Whether guesses cost next to nothing: then they are asked for at every step, used or not, and what they would have
    /// been worth is known without trying.
    fn is_free(&self) -> bool;

    /// Fills in the drafts' tokens, none where it has no guess. Returns how many tokens it had to read that were there
    /// before the last step: work that does not come again.
    ///
    /// # Errors
    /// Any error ends speculation for good; the engine goes on without.
    fn draft(&mut self, drafts: &mut [Draft<'_>]) -> Result<usize, EngineError>;

    /// The sequence is gone; its key may name another one from now on.
    fn forget(&mut self, key: SequenceKey);
}
