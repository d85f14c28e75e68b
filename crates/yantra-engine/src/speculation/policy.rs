//! How many drafted tokens a step computes: as many as make tokens per second highest, by what was measured so far.
//!
//! A sequence whose guesses are right at rate `r` gains `r + r² + … + rᵏ` tokens from a draft of `k`
//! (Leviathan et al. 2023, section 3.1); a step of `n` tokens takes the time that such steps took lately. Drafted
//! tokens of all sequences are tried in order of what they promise. Where decoding waits for memory they cost little and
//! even poor guesses pay; in a large batch only good ones do, and often none.

/// Weight of one guess in a sequence's rate.
const GUESS_WEIGHT: f64 = 0.1;
/// Nothing is certain.
const MAX_RATE: f64 = 0.98;
/// Drafted tokens that promise less are not worth finding out what they cost.
const MIN_GAIN: f64 = 0.2;
/// How much better than plain decoding a draft must look.
const MARGIN: f64 = 1.08;
/// Weight of one step in the time of its kind.
const STEP_WEIGHT: f64 = 0.2;
/// Steps after which the time of a kind that was not tried since is doubted: one bad measurement must not last.
const DOUBTED_AFTER: u64 = 128;
/// Up to so many tokens, steps larger than all that were measured are expected to cost no more; tried once, they tell.
const FLAT_TOKENS: f64 = 32.0;
/// Steps without a draft before a drafter that costs is tried again; doubles up to the second number.
const PATIENCE: (u32, u32) = (16, 1024);
/// Tokens of such a trial.
const TRIAL: usize = 2;

/// What a step of `n` tokens takes.
#[derive(Debug, Default)]
pub struct StepCosts {
    /// By kind: steps of about as many tokens.
    kinds: Vec<Option<Kind>>,
    steps: u64,
    /// Scratch: tokens and seconds, ascending in both.
    curve: Vec<(f64, f64)>,
}

#[derive(Debug, Clone, Copy)]
struct Kind {
    tokens: f64,
    seconds: f64,
    measured: u64,
}

impl StepCosts {
    /// Takes in a measurement.
    pub fn note(&mut self, tokens: usize, seconds: f64) {
        self.steps += 1;
        let (tokens, steps) = (tokens.max(1) as f64, self.steps);
        let kind = if tokens <= 32.0 { tokens } else { 32.0 + (tokens / 32.0).log2() * 4.0 } as usize;
        if self.kinds.len() <= kind {
            self.kinds.resize(kind + 1, None);
        }
        let new = Kind { tokens, seconds, measured: steps };
        self.kinds[kind] = Some(match self.kinds[kind] {
            Some(old) if steps - old.measured < DOUBTED_AFTER => {
                // Other programs' turns on the processor are not the step's time.
                let seconds = seconds.min(2.0 * old.seconds);
                Kind {
                    tokens: old.tokens + (tokens - old.tokens) * STEP_WEIGHT,
                    seconds: old.seconds + (seconds - old.seconds) * STEP_WEIGHT,
                    measured: steps,
                }
            }
            _ => new,
        });
    }

    /// Prepares [`Self::seconds`] for steps of `base` tokens and more; `false` while nothing is known.
    fn prepare(&mut self, base: usize) -> bool {
        self.curve.clear();
        let mut highest = 0.0f64;
        for kind in self.kinds.iter().flatten() {
            if kind.tokens <= base as f64 || self.steps - kind.measured < DOUBTED_AFTER {
                highest = highest.max(kind.seconds);
                self.curve.push((kind.tokens, highest));
            }
        }
        !self.curve.is_empty()
    }

    fn seconds(&self, tokens: usize) -> f64 {
        let tokens = tokens as f64;
        let above = self.curve.partition_point(|&(n, _)| n < tokens);
        match (above.checked_sub(1).map(|below| self.curve[below]), self.curve.get(above)) {
            (Some((n0, t0)), Some(&(n1, t1))) => t0 + (t1 - t0) * (tokens - n0) / (n1 - n0),
            (None, Some(&(_, first))) => first,
            (Some((n, last)), None) => last * (tokens / n.max(FLAT_TOKENS)).max(1.0),
            (None, None) => 0.0,
        }
    }
}

/// A sequence's luck with guesses.
#[derive(Debug, Clone, Copy)]
struct Odds {
    /// How often the next guess is right when those before it were, 0 to 1.
    rate: f64,
    /// Steps since the last draft.
    idle: u32,
    /// Steps to wait for the next trial.
    patience: u32,
}

impl Default for Odds {
    fn default() -> Self {
        Self { rate: 0.5, idle: 0, patience: PATIENCE.0 }
    }
}

/// A sequence that could use a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The sequence's key.
    pub index: usize,
    /// Drafted tokens: at most, and after [`Policy::choose`] how many.
    pub tokens: usize,
}

/// Decides how much is drafted, and learns from what came of it.
#[derive(Debug, Default)]
pub struct Policy {
    costs: StepCosts,
    odds: Vec<Odds>,
    /// What drafting itself takes.
    seconds_per_draft: Option<f64>,
    /// Scratch: what each drafted token promises, and whose it is.
    gains: Vec<(f64, usize)>,
}

impl Policy {
    fn odds_mut(&mut self, index: usize) -> &mut Odds {
        if self.odds.len() <= index {
            self.odds.resize(index + 1, Odds::default());
        }
        &mut self.odds[index]
    }

    /// A step of so many tokens took so long.
    pub fn note_step(&mut self, tokens: usize, seconds: f64) {
        self.costs.note(tokens, seconds);
    }

    /// Drafting so many tokens took so long.
    pub fn note_drafting(&mut self, tokens: usize, seconds: f64) {
        if tokens > 0 {
            let new = seconds / tokens as f64;
            let old = self.seconds_per_draft.unwrap_or(new);
            self.seconds_per_draft = Some(old + (new.min(2.0 * old) - old) * STEP_WEIGHT);
        }
    }

    /// The first `right` guesses for a sequence were right, and the next one was wrong if `missed`.
    pub fn note_guesses(&mut self, index: usize, right: usize, missed: bool) {
        let odds = self.odds_mut(index);
        for _ in 0..right {
            odds.rate += (1.0 - odds.rate) * GUESS_WEIGHT;
        }
        if missed {
            odds.rate -= odds.rate * GUESS_WEIGHT;
        }
        odds.patience = if right > 0 { PATIENCE.0 } else { (2 * odds.patience).min(PATIENCE.1) };
    }

    /// Forgets a sequence.
    pub fn forget(&mut self, index: usize) {
        *self.odds_mut(index) = Odds::default();
    }

    /// Cuts the wishes to what pays, at most `rows` tokens in all. `due` sequences decode in the step, which computes
    /// `base` tokens without drafts. Guesses that are not `free` of cost must earn it, and are tried again from time to
    /// time where they do not.
    pub fn choose(&mut self, due: usize, base: usize, rows: usize, free: bool, wishes: &mut [Wish]) {
        self.gains.clear();
        for (at, wish) in wishes.iter().enumerate() {
            let rate = self.odds_mut(wish.index).rate.min(MAX_RATE);
            let gains = (0..wish.tokens).scan(1.0, |gain, _| {
                *gain *= rate;
                Some(*gain)
            });
            self.gains.extend(gains.take_while(|&gain| gain >= MIN_GAIN).map(|gain| (gain, at)));
        }
        self.gains.sort_by(|a, b| b.0.total_cmp(&a.0));
        let chosen = if self.costs.prepare(base) { self.best_count(due, base, rows, free) } else { 0 };
        let mut wanted = vec![0; wishes.len()];
        self.gains[..chosen].iter().for_each(|&(_, at)| wanted[at] += 1);
        let mut left = rows - chosen;
        for (wish, chosen) in wishes.iter_mut().zip(wanted) {
            let odds = self.odds_mut(wish.index);
            let trial = !free && chosen == 0 && odds.idle >= odds.patience;
            let trial = if trial { TRIAL.min(left).min(wish.tokens) } else { 0 };
            left -= trial;
            wish.tokens = chosen + trial;
            odds.idle = if wish.tokens > 0 { 0 } else { odds.idle + 1 };
        }
    }

    fn best_count(&self, due: usize, base: usize, rows: usize, free: bool) -> usize {
        let seconds_per_draft = if free { 0.0 } else { self.seconds_per_draft.unwrap_or(0.0) };
        let mut tokens = due as f64;
        let mut best = (0, MARGIN * tokens / self.costs.seconds(base));
        for (count, &(gain, _)) in (1..=rows).zip(&self.gains) {
            tokens += gain;
            let speed = tokens / (self.costs.seconds(base + count) + seconds_per_draft * count as f64);
            if speed > best.1 {
                best = (count, speed);
            }
        }
        best.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The draft of one sequence among `due`, after so many right and wrong guesses and with steps of the given
    /// milliseconds.
    fn chosen(due: usize, right: usize, wrong: usize, steps: &[(usize, f64)]) -> usize {
        let mut policy = Policy::default();
        for _ in 0..10 {
            steps.iter().for_each(|&(tokens, milliseconds)| policy.note_step(tokens, milliseconds / 1e3));
        }
        policy.note_guesses(0, right, false);
        (0..wrong).for_each(|_| policy.note_guesses(0, 0, true));
        let mut wishes = [Wish { index: 0, tokens: 16 }];
        policy.choose(due, due, 32, true, &mut wishes);
        wishes[0].tokens
    }

    #[test]
    fn drafts_are_as_long_as_they_pay() {
        // A large model, alone: sixteen tokens cost half more than one.
        let large = [(1, 20.0), (17, 30.0)];
        assert_eq!(chosen(1, 60, 0, &large), 16);
        assert!((2..=6).contains(&chosen(1, 2, 2, &large)), "{}", chosen(1, 2, 2, &large));
        assert_eq!(chosen(1, 0, 30, &large), 0, "hopeless");
        // In a batch a token costs what it brings.
        let batch = [(16, 16.0), (32, 32.0)];
        assert_eq!(chosen(16, 60, 0, &batch), 0);
        // What was never tried is tried, but for a promise.
        assert_eq!(chosen(1, 60, 0, &[(1, 20.0)]), 16);
        assert_eq!(chosen(1, 0, 30, &[(1, 20.0)]), 0);
        assert_eq!(chosen(1, 60, 0, &[]), 0, "one plain step comes first");
    }

    #[test]
    fn the_most_promising_sequences_get_the_rows() {
        let mut policy = Policy::default();
        policy.note_step(3, 0.01);
        policy.note_guesses(0, 60, false);
        (0..30).for_each(|_| policy.note_guesses(2, 0, true));
        let mut wishes = [0, 1, 2].map(|index| Wish { index, tokens: 8 });
        policy.choose(3, 3, 9, true, &mut wishes);
        assert_eq!(wishes.map(|wish| wish.tokens), [8, 1, 0]);
    }

    #[test]
    fn a_bad_measurement_does_not_last() {
        let mut policy = Policy::default();
        policy.note_step(1, 0.01);
        policy.note_step(9, 1.0);
        policy.note_guesses(0, 60, false);
        let choose = |policy: &mut Policy| {
            let mut wishes = [Wish { index: 0, tokens: 8 }];
            policy.choose(1, 1, 8, true, &mut wishes);
            wishes[0].tokens
        };
        assert_eq!(choose(&mut policy), 0);
        (0..DOUBTED_AFTER).for_each(|_| policy.note_step(1, 0.01));
        assert_eq!(choose(&mut policy), 8);
    }

    #[test]
    fn a_costly_drafter_that_does_not_pay_is_tried_ever_less() {
        let mut policy = Policy::default();
        let mut trials = Vec::new();
        for step in 0..4000 {
            policy.note_step(1, 0.01);
            let mut wishes = [Wish { index: 0, tokens: 8 }];
            policy.choose(1, 1, 8, false, &mut wishes);
            if wishes[0].tokens > 0 {
                trials.push(step);
                policy.note_drafting(wishes[0].tokens, 0.02 * wishes[0].tokens as f64);
                policy.note_guesses(0, 0, true);
            }
        }
        assert!((4..20).contains(&trials.len()), "{trials:?}");
        assert!(trials[trials.len() - 1] - trials[trials.len() - 2] > 500, "{trials:?}");
    }
}
