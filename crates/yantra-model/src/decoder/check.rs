//! What a batch must be before a decoder runs it.

use super::Decoder;
use crate::{Batch, KvCache, ModelError, PAGE_TOKENS};

impl Decoder {
    pub(super) fn check(&self, batch: &Batch<'_>, kv: &KvCache) -> Result<(), ModelError> {
        let num_tokens = batch.tokens.len();
        let invalid = |message: String| Err(ModelError::Batch { message });
        if batch.positions.len() != num_tokens || batch.slots.len() != num_tokens {
            let (positions, slots) = (batch.positions.len(), batch.slots.len());
            return invalid(format!("{num_tokens} tokens, {positions} positions and {slots} slots"));
        }
        if let Some(token) = batch.tokens.iter().find(|token| **token as usize >= self.spec.vocab_size) {
            return invalid(format!("token {token} is outside the vocabulary of {}", self.spec.vocab_size));
        }
        if let Some(position) = batch.positions.iter().find(|position| **position as usize >= self.max_context) {
            return invalid(format!("position {position} is outside the context of {}", self.max_context));
        }
        let num_slots = kv.num_pages() * PAGE_TOKENS;
        if let Some(slot) = batch.slots.iter().find(|slot| **slot as usize >= num_slots) {
            return invalid(format!("slot {slot} is outside the cache of {num_slots}"));
        }
        if let Some(row) = batch.logit_rows.iter().find(|row| **row as usize >= num_tokens) {
            return invalid(format!("logits of token {row} wanted of a batch of {num_tokens}"));
        }
        let mut end = 0;
        for span in batch.adapters {
            if span.tokens.start < end || span.tokens.end < span.tokens.start || span.tokens.end > num_tokens {
                return invalid(format!("inconsistent span of an adapter {:?} in {num_tokens} tokens", span.tokens));
            }
            if !span.adapter.is_for(&self.id) {
                return invalid("an adapter of another model".to_owned());
            }
            end = span.tokens.end;
        }
        let mut next = 0;
        for sequence in batch.sequences {
            let pages = sequence.context_len.div_ceil(PAGE_TOKENS);
            let in_cache = sequence.pages.iter().all(|page| (*page as usize) < kv.num_pages());
            if sequence.query_start != next
                || sequence.query_len > sequence.context_len
                || sequence.pages.len() < pages
                || !in_cache
            {
                return invalid(format!("inconsistent sequence {sequence:?}"));
            }
            next += sequence.query_len;
        }
        if next == num_tokens { Ok(()) } else { invalid(format!("sequences cover {next} of {num_tokens} tokens")) }
    }
}
