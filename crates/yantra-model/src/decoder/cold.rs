//! Experts that lie in a file are read ahead: those a router chose at once, and those that are likely to be chosen in the next
//! layer while this one computes. What is likely is counted: which experts of a layer the tokens went to that went to an
//! expert of the layer before.
//!
//! Experts that were used lately are taken to be in memory: asking the system for them would cost more than it saves.

use super::mlp::Experts;

/// Steps after which an expert is asked for again.
const LATELY: u32 = 256;

/// Of this many tokens and more a step uses about every expert: there is nothing to foresee.
const MANY_TOKENS: usize = 32;

/// What is known of the experts of every layer that has some.
#[derive(Debug, Default)]
pub(super) struct ColdExperts {
    step: u32,
    /// The layer that was noted last.
    last: usize,
    layers: Vec<LayerHistory>,
    /// Likely experts with their counts; a buffer.
    likely: Vec<(u32, u32)>,
}

#[derive(Debug, Default)]
struct LayerHistory {
    /// One more than the step that last used or asked for an expert; 0: none did.
    used: Vec<u32>,
    /// What the tokens of the step chose, `[num_tokens, top_k]`.
    chosen: Vec<u32>,
    /// How often an expert of this layer followed one of the layer before, `[before, here]`.
    follows: Vec<u16>,
}

impl LayerHistory {
    /// Whether an expert has to be asked for; it is taken to be in memory from here on.
    fn is_cold(&mut self, expert: usize, step: u32) -> bool {
        let last = std::mem::replace(&mut self.used[expert], step + 1);
        last == 0 || step + 1 - last >= LATELY
    }

    /// Counts what followed what, for each token of a step.
    fn count(&mut self, before: &Self, top_k: usize) {
        let num_experts = self.used.len();
        self.follows.resize(before.used.len() * num_experts, 0);
        for (from, to) in before.chosen.chunks_exact(top_k).zip(self.chosen.chunks_exact(top_k)) {
            for &from in from {
                let row = &mut self.follows[from as usize * num_experts..][..num_experts];
                for &to in to {
                    if row[to as usize] == u16::MAX {
                        row.iter_mut().for_each(|count| *count /= 2);
                    }
                    row[to as usize] += 1;
                }
            }
        }
    }
}

impl ColdExperts {
    /// Has the system read what was chosen in a layer, and what is likely to be in the next.
    pub(super) fn read_ahead(
        &mut self,
        layer: usize,
        (chosen, top_k): (&[u32], usize),
        here: &Experts,
        next: Option<&Experts>,
    ) {
        self.note(layer, here.len(), (chosen, top_k), |expert| here.will_need(expert));
        if let Some(next) = next.filter(|_| chosen.len() < MANY_TOKENS * top_k) {
            self.foresee(layer + 1, chosen.len(), |expert| next.will_need(expert));
        }
    }

    /// Notes what the tokens of a step chose in a layer; asks for those used that may not be in memory.
    fn note(&mut self, layer: usize, num_experts: usize, (chosen, top_k): (&[u32], usize), mut ask: impl FnMut(usize)) {
        if self.layers.len() <= layer {
            self.layers.resize_with(layer + 1, LayerHistory::default);
        }
        self.step += u32::from(layer <= self.last);
        self.last = layer;
        let (before, here) = self.layers.split_at_mut(layer);
        let history = &mut here[0];
        history.used.resize(num_experts, 0);
        chosen.iter().filter(|&&expert| history.is_cold(expert as usize, self.step)).for_each(|&e| ask(e as usize));
        history.chosen.clear();
        history.chosen.extend_from_slice(chosen);
        if let Some(before) = before.last().filter(|before| before.chosen.len() == chosen.len()) {
            history.count(before, top_k);
        }
    }

    /// Asks for the experts that the tokens of this step are likely to choose in the next layer, `most` at most, if they may
    /// not be in memory.
    fn foresee(&mut self, next: usize, most: usize, mut ask: impl FnMut(usize)) {
        let Some((before, here)) = self.layers.split_at_mut_checked(next) else { return };
        let (Some(before), Some(history)) = (before.last(), here.first_mut()) else { return };
        let num_experts = history.used.len();
        if history.follows.is_empty() {
            return;
        }
        self.likely.clear();
        self.likely.extend((0..num_experts as u32).map(|expert| (0, expert)));
        for &expert in &before.chosen {
            let row = &history.follows[expert as usize * num_experts..][..num_experts];
            self.likely.iter_mut().zip(row).for_each(|(likely, count)| likely.0 += u32::from(*count));
        }
        self.likely.sort_unstable_by(|one, other| other.cmp(one));
        for &(count, expert) in self.likely.iter().take(most) {
            if count > 0 && history.is_cold(expert as usize, self.step) {
                ask(expert as usize);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layers of four experts, two for each token: expert `e` of the first is followed by `e` and `e + 1` of the second.
    fn step(cold: &mut ColdExperts, first: &[u32]) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
        let second: Vec<u32> = first.iter().map(|expert| (expert + first.len() as u32 / 2) % 4).collect();
        let (mut here, mut foreseen, mut after) = (Vec::new(), Vec::new(), Vec::new());
        cold.note(0, 4, (first, 2), |expert| here.push(expert));
        cold.foresee(1, first.len(), |expert| foreseen.push(expert));
        cold.note(1, 4, (&second, 2), |expert| after.push(expert));
        (here, foreseen, after)
    }

    #[test]
    fn what_was_used_lately_is_not_asked_for() {
        let mut cold = ColdExperts::default();
        assert_eq!(step(&mut cold, &[0, 1]), (vec![0, 1], vec![], vec![1, 2]));
        assert_eq!(step(&mut cold, &[0, 3]), (vec![3], vec![], vec![0]), "1 and 2 are likely, and in memory");
        for _ in 0..LATELY {
            assert_eq!(step(&mut cold, &[0, 3]), (vec![], vec![], vec![]));
        }
        assert_eq!(step(&mut cold, &[0, 1]).0, [1], "not used for long");
    }

    #[test]
    fn what_followed_is_foreseen_after_a_while() {
        let mut cold = ColdExperts::default();
        step(&mut cold, &[0, 1]);
        for _ in 0..=LATELY {
            step(&mut cold, &[2, 3]);
        }
        // 1 and 2 follow 0 and 1, 3 and 0 follow 2 and 3: only 1 and 2 were not used lately.
        let (here, mut foreseen, after) = step(&mut cold, &[0, 1]);
        foreseen.sort_unstable();
        assert_eq!((here, foreseen, after), (vec![0, 1], vec![1, 2], vec![]));
    }

    #[test]
    fn counts_are_halved_before_they_overflow() {
        let mut cold = ColdExperts::default();
        for _ in 0..70_000 {
            step(&mut cold, &[0, 1]);
        }
        let follows = &cold.layers[1].follows;
        assert!(follows[1] > 1 << 15 && follows[1] == follows[2] && follows[3] == 0, "{follows:?}");
    }
}
