//! A small model drafts for a large one: it decodes greedily ahead, all sequences of a step in one batch.
//!
//! It has a KV cache of its own, in which each sequence has its own pages. What it computed for a draft stays there as
//! far as the draft was right. Sequences that have not been drafted for longest give up their pages when there are none
//! left; they are read again if need be.

use super::{Draft, Drafter};
use crate::{AttentionSequence, Batch, EngineError, StepModel, kv::PagePool, sampling::math, scheduler::SequenceKey};

/// Drafts by a model with the same vocabulary.
pub struct DraftModel {
    model: Box<dyn StepModel>,
    pages: PagePool,
    /// By the scheduler's keys.
    sequences: Vec<Read>,
    /// Tokens read per call; a longer backlog takes several.
    token_budget: usize,
    calls: u64,
    input: Input,
    logits: Vec<f32>,
}

/// What the model has read of a sequence.
#[derive(Debug, Default)]
struct Read {
    /// The tokens whose keys and values are in the cache, drafted ones included.
    tokens: Vec<u32>,
    /// How many of them are known to be the sequence's.
    certain: usize,
    pages: Vec<u32>,
    last_call: u64,
}

/// The batch being made.
#[derive(Debug, Default)]
struct Input {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    rows: Vec<u32>,
    /// Which draft each row is for.
    drafts: Vec<usize>,
    /// Key, start, length and context of each sequence.
    spans: Vec<(usize, usize, usize, usize)>,
}

impl Input {
    fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.rows.clear();
        self.drafts.clear();
        self.spans.clear();
    }
}

impl Read {
    /// Forgets what turned out not to be the sequence's. The last token is always read again, for its logits.
    fn keep_common(&mut self, history: &[u32]) {
        let known = history.len().saturating_sub(1);
        let pairs = self.tokens.iter().zip(&history[..known]).skip(self.certain);
        self.certain = (self.certain + pairs.take_while(|(a, b)| a == b).count()).min(known);
        self.tokens.truncate(self.certain);
    }
}

impl DraftModel {
    /// Drafts with `model`, reading at most `token_budget` tokens per call.
    pub fn new(model: Box<dyn StepModel>, token_budget: usize) -> Self {
        Self {
            pages: PagePool::new(model.num_pages()),
            model,
            sequences: Vec::new(),
            token_budget,
            calls: 0,
            input: Input::default(),
            logits: Vec::new(),
        }
    }

    /// The size of its vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn release(&mut self, index: usize) {
        if let Some(read) = self.sequences.get_mut(index) {
            for page in std::mem::take(read).pages {
                if self.pages.release(page) == 0 {
                    self.pages.put_back(page);
                }
            }
        }
    }

    /// Makes sure of pages for `tokens` tokens of a sequence, at the cost of sequences that are not being drafted for.
    fn reserve(&mut self, index: usize, tokens: usize) -> bool {
        let needed = tokens.div_ceil(self.model.page_tokens());
        while self.sequences[index].pages.len() < needed {
            if let Some(page) = self.pages.allocate() {
                self.sequences[index].pages.push(page);
                continue;
            }
            let idle = self.sequences.iter().enumerate();
            let idle = idle.filter(|(_, read)| !read.pages.is_empty() && read.last_call < self.calls);
            match idle.min_by_key(|(_, read)| read.last_call).map(|(index, _)| index) {
                Some(victim) => self.release(victim),
                None => return false,
            }
        }
        true
    }

    /// Puts tokens of a sequence into the batch, with a row for the last if `draft` names the draft it is for.
    fn add(&mut self, index: usize, tokens: &[u32], draft: Option<usize>) {
        let page_tokens = self.model.page_tokens();
        let (input, read) = (&mut self.input, &mut self.sequences[index]);
        let start = input.tokens.len();
        for &token in tokens {
            let position = read.tokens.len();
            input.tokens.push(token);
            input.positions.push(position as u32);
            input.slots.push(read.pages[position / page_tokens] * page_tokens as u32 + (position % page_tokens) as u32);
            read.tokens.push(token);
        }
        input.spans.push((index, start, tokens.len(), read.tokens.len()));
        if let Some(draft) = draft {
            input.rows.push(input.tokens.len() as u32 - 1);
            input.drafts.push(draft);
        }
    }

    fn forward(&mut self) -> Result<(), EngineError> {
        let Self { model, sequences, input, logits, .. } = self;
        let span = |&(index, query_start, query_len, context_len): &(usize, usize, usize, usize)| AttentionSequence {
            query_start,
            query_len,
            context_len,
            pages: &sequences[index].pages,
        };
        let spans: Vec<AttentionSequence<'_>> = input.spans.iter().map(span).collect();
        let batch = Batch {
            tokens: &input.tokens,
            positions: &input.positions,
            slots: &input.slots,
            sequences: &spans,
            logit_rows: &input.rows,
            adapters: &[],
        };
        model.forward(&batch, logits)
    }

    /// Puts all that is still unread into the batch, as far as the budget goes. Returns how much older than the last
    /// token it was.
    fn catch_up(&mut self, drafts: &[Draft<'_>]) -> usize {
        self.input.clear();
        let mut backlog = 0;
        for (i, draft) in drafts.iter().enumerate() {
            let index = draft.key.index();
            if self.sequences.len() <= index {
                self.sequences.resize_with(index + 1, Read::default);
            }
            self.sequences[index].last_call = self.calls;
            let len = draft.history.len() + draft.most;
            if draft.most == 0 || len > self.model.max_context() || !self.reserve(index, len) {
                continue;
            }
            self.sequences[index].keep_common(draft.history);
            let unread = &draft.history[self.sequences[index].tokens.len()..];
            let count = unread.len().min(self.token_budget - self.input.tokens.len().min(self.token_budget));
            if count > 0 {
                self.add(index, &unread[..count], (count == unread.len()).then_some(i));
                // Two are usual: the last one drafted and the one sampled after it.
                backlog += count.saturating_sub(2);
            }
        }
        backlog
    }
}

impl Drafter for DraftModel {
    fn is_free(&self) -> bool {
        false
    }

    fn draft(&mut self, drafts: &mut [Draft<'_>]) -> Result<usize, EngineError> {
        self.calls += 1;
        let vocab_size = self.model.vocab_size();
        let backlog = self.catch_up(drafts);
        while !self.input.tokens.is_empty() {
            self.forward()?;
            let rows = std::mem::take(&mut self.input.drafts);
            self.input.clear();
            for (row, &i) in rows.iter().enumerate() {
                let row = self.logits.get(row * vocab_size..(row + 1) * vocab_size);
                let Some((token, _)) = row.and_then(math::argmax) else { continue };
                let draft = &mut drafts[i];
                draft.tokens.push(token);
                if draft.tokens.len() < draft.most {
                    self.add(draft.key.index(), &[token], Some(i));
                }
            }
        }
        Ok(backlog)
    }

    fn forget(&mut self, key: SequenceKey) {
        self.release(key.index());
    }
}
