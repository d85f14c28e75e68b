//! What happened to a request in the engine and when, for whoever wonders why it was slow.
//!
//! Written as steps are committed, from times that steps take anyway, and handed over once, with the last event. Lists are
//! bounded; what no longer fits is in the sums beside them.

use std::time::{Duration, Instant};

/// Gaps kept one by one; of later ones the longest [`MAX_LONG_GAPS`] are.
pub const MAX_GAPS: usize = 4096;
/// See [`MAX_GAPS`].
pub const MAX_LONG_GAPS: usize = 64;
/// Prompt chunks kept.
pub const MAX_CHUNKS: usize = 1024;
/// Preemptions kept, and as many restores.
pub const MAX_INTERRUPTIONS: usize = 256;

/// A request's way through the engine. Times count from its submission, in microseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timeline {
    /// Sequences in the batch when it came.
    pub running_at_arrival: usize,
    /// Sequences that waited when it came.
    pub waiting_at_arrival: usize,
    /// When its first step began; `None` when it had none.
    pub admitted_us: Option<u64>,
    /// When its first token was there; `None` when there was none.
    pub first_token_us: Option<u64>,
    /// When it ended.
    pub ended_us: u64,
    /// The steps that computed its prompt, and what was lost by preemption, in order; at most [`MAX_CHUNKS`].
    pub chunks: Vec<PrefillChunk>,
    /// All such steps.
    pub prefill: Prefill,
    /// The time between its consecutive tokens, in order; at most [`MAX_GAPS`]. Tokens of one step have none between them.
    pub gaps: Vec<Gap>,
    /// The longest ones after those in `gaps`, in no order.
    pub long_gaps: Vec<LongGap>,
    /// All gaps.
    pub decode: Decode,
    /// When it lost its place in the batch; at most [`MAX_INTERRUPTIONS`].
    pub preemptions: Vec<Interruption>,
    /// How often it did.
    pub num_preemptions: usize,
    /// When it waited for pages from disk; at most [`MAX_INTERRUPTIONS`].
    pub restores: Vec<Interruption>,
    /// Tokens guessed for it that were computed.
    pub drafted_tokens: usize,
    /// Those of them that were right.
    pub accepted_tokens: usize,
    /// Work on masks of its grammar, most of it beside forward passes.
    pub mask_us: u64,
    /// How long steps waited for its masks.
    pub mask_wait_us: u64,
}

/// A step's part in computing a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrefillChunk {
    /// When the step began.
    pub at_us: u64,
    /// How long it took.
    pub took_us: u32,
    /// The choice it was for.
    pub choice: u32,
    /// The first position computed: what lies before it was there already.
    pub from: u32,
    /// Tokens computed.
    pub tokens: u32,
    /// Tokens that the step computed for others.
    pub other_tokens: u32,
    /// How many of them had been computed before, and were lost by preemption.
    pub tokens_again: u32,
}

/// Sums over all steps with prompt tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prefill {
    /// How many there were.
    pub chunks: usize,
    /// How long they took.
    pub took_us: u64,
    /// Tokens computed.
    pub tokens: usize,
    /// Tokens computed again after a preemption, which are in `tokens` too.
    pub tokens_again: usize,
}

/// The time between two tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gap {
    /// How long.
    pub us: u32,
    /// Sequences in the step at its end.
    pub sequences: u16,
    /// Prompt tokens in that step.
    pub prompt_tokens: u16,
}

/// A gap whose place is not told by those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LongGap {
    /// When it began.
    pub at_us: u64,
    /// The gap.
    pub gap: Gap,
}

/// Sums over all gaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decode {
    /// How many there were.
    pub gaps: usize,
    /// How long they were together.
    pub took_us: u64,
    /// How long the longest was.
    pub longest_us: u32,
    /// Sequences in the steps at their ends, added up.
    pub sequences: u64,
    /// Tokens computed in those steps, added up.
    pub step_tokens: u64,
}

/// A time in which nothing was computed for a choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interruption {
    /// When it began.
    pub at_us: u64,
    /// How long it was; until the request's end, if that came first.
    pub took_us: u64,
    /// The choice.
    pub choice: u32,
    /// Pages that came from disk.
    pub pages: u32,
    /// Whether it is over.
    pub(crate) ended: bool,
}

/// What a step computes, for everybody together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepLoad {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) sequences: usize,
    pub(crate) tokens: usize,
    pub(crate) prompt_tokens: usize,
}

/// Writes a [`Timeline`].
#[derive(Debug)]
pub(crate) struct Recorder {
    submitted: Instant,
    last_token: Option<Instant>,
    /// Nothing shorter belongs to the long gaps.
    long_us: u32,
    timeline: Timeline,
}

/// Microseconds, at most 71 minutes of them.
fn short(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

impl Recorder {
    pub(crate) fn new(submitted: Instant, running: usize, waiting: usize) -> Self {
        let timeline = Timeline { running_at_arrival: running, waiting_at_arrival: waiting, ..Timeline::default() };
        Self { submitted, last_token: None, long_us: 0, timeline }
    }

    fn at(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.submitted).as_micros() as u64
    }

    /// A step computed `tokens` of a choice's prompt, from position `from` on; before, it had once been computed up to
    /// `reached`.
    pub(crate) fn chunk(&mut self, load: &StepLoad, choice: usize, from: usize, tokens: usize, reached: usize) {
        let took = load.ended.saturating_duration_since(load.began);
        let tokens_again = reached.saturating_sub(from).min(tokens);
        let sums = &mut self.timeline.prefill;
        sums.chunks += 1;
        sums.took_us += took.as_micros() as u64;
        sums.tokens += tokens;
        sums.tokens_again += tokens_again;
        if self.timeline.chunks.len() < MAX_CHUNKS {
            let chunk = PrefillChunk {
                at_us: self.at(load.began),
                took_us: short(took),
                choice: choice as u32,
                from: from as u32,
                tokens: tokens as u32,
                other_tokens: load.tokens.saturating_sub(tokens) as u32,
                tokens_again: tokens_again as u32,
            };
            self.timeline.chunks.push(chunk);
        }
    }

    /// A step brought one or more tokens.
    pub(crate) fn token(&mut self, load: &StepLoad) {
        let Some(before) = self.last_token.replace(load.ended) else { return };
        // Other choices of the request in the same step.
        if before == load.ended {
            return;
        }
        let us = short(load.ended.saturating_duration_since(before));
        let narrow = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        let gap = Gap { us, sequences: narrow(load.sequences), prompt_tokens: narrow(load.prompt_tokens) };
        let sums = &mut self.timeline.decode;
        sums.gaps += 1;
        sums.took_us += u64::from(us);
        sums.longest_us = sums.longest_us.max(us);
        sums.sequences += load.sequences as u64;
        sums.step_tokens += load.tokens as u64;
        if self.timeline.gaps.len() < MAX_GAPS {
            self.timeline.gaps.push(gap);
        } else {
            let at_us = self.at(before);
            self.keep_if_long(LongGap { at_us, gap });
        }
    }

    fn keep_if_long(&mut self, long: LongGap) {
        let kept = &mut self.timeline.long_gaps;
        if kept.len() < MAX_LONG_GAPS {
            return kept.push(long);
        }
        if long.gap.us <= self.long_us {
            return;
        }
        if let Some(shortest) = kept.iter_mut().min_by_key(|kept| kept.gap.us) {
            *shortest = long;
        }
        self.long_us = kept.iter().map(|kept| kept.gap.us).min().unwrap_or(0);
    }

    /// A choice lost its place in the batch.
    pub(crate) fn preempted(&mut self, choice: usize, now: Instant) {
        self.timeline.num_preemptions += 1;
        let at_us = self.at(now);
        begin(&mut self.timeline.preemptions, at_us, choice);
    }

    /// A choice has its place again.
    pub(crate) fn resumed(&mut self, choice: usize, now: Instant) {
        let now = self.at(now);
        end(&mut self.timeline.preemptions, now, choice, 0);
    }

    /// A choice waits for the disk.
    pub(crate) fn restoring(&mut self, choice: usize, now: Instant) {
        let at_us = self.at(now);
        begin(&mut self.timeline.restores, at_us, choice);
    }

    /// A choice has what it waited for, or waits no longer.
    pub(crate) fn restored(&mut self, choice: usize, now: Instant, pages: usize) {
        let now = self.at(now);
        end(&mut self.timeline.restores, now, choice, pages);
    }

    /// A step computed so many guessed tokens for it, of which so many were right.
    pub(crate) fn drafted(&mut self, drafted: usize, accepted: usize) {
        self.timeline.drafted_tokens += drafted;
        self.timeline.accepted_tokens += accepted;
    }

    /// A choice is done with its grammar.
    pub(crate) fn masks(&mut self, work: Duration, wait: Duration) {
        self.timeline.mask_us += work.as_micros() as u64;
        self.timeline.mask_wait_us += wait.as_micros() as u64;
    }

    /// The timeline of a request that is over.
    pub(crate) fn finish(
        &mut self,
        started: Option<Instant>,
        first_token: Option<Instant>,
        now: Instant,
    ) -> Box<Timeline> {
        let mut timeline = Box::new(std::mem::take(&mut self.timeline));
        timeline.admitted_us = started.map(|time| self.at(time));
        timeline.first_token_us = first_token.map(|time| self.at(time));
        timeline.ended_us = self.at(now);
        let ended_us = timeline.ended_us;
        for open in timeline.preemptions.iter_mut().chain(&mut timeline.restores).filter(|it| !it.ended) {
            open.took_us = ended_us.saturating_sub(open.at_us);
        }
        // Kept for long by some, while room to grow is of no more use.
        timeline.gaps.shrink_to_fit();
        timeline.chunks.shrink_to_fit();
        timeline
    }
}

fn begin(list: &mut Vec<Interruption>, at_us: u64, choice: usize) {
    if list.len() < MAX_INTERRUPTIONS {
        list.push(Interruption { at_us, choice: choice as u32, ..Interruption::default() });
    }
}

fn end(list: &mut [Interruption], now_us: u64, choice: usize, pages: usize) {
    let is_open = |it: &&mut Interruption| it.choice == choice as u32 && !it.ended;
    if let Some(open) = list.iter_mut().rev().find(is_open) {
        (open.took_us, open.pages, open.ended) = (now_us.saturating_sub(open.at_us), pages as u32, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(began: Instant, took_us: u64) -> StepLoad {
        let ended = began + Duration::from_micros(took_us);
        StepLoad { began, ended, sequences: 3, tokens: 70_000, prompt_tokens: 69_998 }
    }

    #[test]
    fn lists_are_bounded_and_the_longest_gaps_are_kept() {
        let submitted = Instant::now();
        let mut recorder = Recorder::new(submitted, 1, 2);
        let mut now = submitted;
        for number in 0..(MAX_GAPS + 1000) as u64 {
            let took = if number == 4900 { 77_000 } else { 10 + number % 7 };
            let step = load(now, took);
            recorder.chunk(&step, 0, number as usize, 1, 0);
            recorder.token(&step);
            recorder.preempted(0, now);
            now = step.ended;
        }
        let timeline = recorder.finish(Some(submitted), Some(submitted), now);
        assert_eq!((timeline.chunks.len(), timeline.gaps.len()), (MAX_CHUNKS, MAX_GAPS));
        assert_eq!((timeline.long_gaps.len(), timeline.preemptions.len()), (MAX_LONG_GAPS, MAX_INTERRUPTIONS));
        assert_eq!((timeline.prefill.chunks, timeline.decode.gaps), (MAX_GAPS + 1000, MAX_GAPS + 999));
        assert_eq!((timeline.decode.longest_us, timeline.num_preemptions), (77_000, MAX_GAPS + 1000));
        let longest = timeline.long_gaps.iter().max_by_key(|long| long.gap.us).copied().unwrap_or_default();
        assert_eq!(longest.gap, Gap { us: 77_000, sequences: 3, prompt_tokens: u16::MAX });
        assert!(timeline.long_gaps.iter().all(|long| long.gap.us >= 16), "shorter ones have gone");
        assert_eq!(timeline.decode.took_us + 10, timeline.ended_us, "the first token ends no gap");
    }

    #[test]
    fn what_is_still_open_lasts_until_the_end() {
        let submitted = Instant::now();
        let at = |us| submitted + Duration::from_micros(us);
        let mut recorder = Recorder::new(submitted, 0, 0);
        recorder.restoring(0, at(5));
        recorder.restored(0, at(9), 3);
        recorder.preempted(1, at(20));
        recorder.resumed(0, at(25));
        let timeline = recorder.finish(None, None, at(50));
        let times = |list: &[Interruption]| list.iter().map(|it| (it.at_us, it.took_us, it.pages)).collect::<Vec<_>>();
        assert_eq!(times(&timeline.restores), [(5, 4, 3)]);
        assert_eq!(times(&timeline.preemptions), [(20, 30, 0)]);
    }
}
