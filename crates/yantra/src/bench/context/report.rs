//! Curves over depths, and what remedies make of them.

use super::measure::Answers;
use crate::output::table;
use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};

/// All that was measured.
pub(super) struct Outcome {
    pub(super) model: String,
    pub(super) curves: Vec<Curve>,
    pub(super) positions: Vec<PositionCurve>,
}

/// Questions at each depth of contexts of a length, run in one way.
pub(super) struct Curve {
    pub(super) remedy: String,
    pub(super) length: usize,
    samples: usize,
    /// Sums over samples: the right answer was the likeliest of the answers, after calibration, was what greedy decoding
    /// gives, and its log-probability.
    chosen: Vec<f64>,
    calibrated: Vec<f64>,
    greedy: Vec<f64>,
    logprob: Vec<f64>,
}

/// How well a text is predicted by position.
#[derive(Serialize)]
pub(super) struct PositionCurve {
    pub(super) remedy: String,
    pub(super) length: usize,
    pub(super) bounds: Vec<usize>,
    pub(super) losses: Vec<f64>,
}

impl Curve {
    pub(super) fn new(remedy: &str, length: usize, depths: usize) -> Self {
        let zeros = || vec![0.0; depths];
        Self {
            remedy: remedy.to_owned(),
            length,
            samples: 0,
            chosen: zeros(),
            calibrated: zeros(),
            greedy: zeros(),
            logprob: zeros(),
        }
    }

    pub(super) fn add(&mut self, answers: &Answers) {
        let calibrated = calibrate(&answers.logprobs);
        self.samples += 1;
        for (depth, (raw, calibrated)) in answers.logprobs.iter().zip(&calibrated).enumerate() {
            self.chosen[depth] += f64::from(likeliest(raw) == depth);
            self.calibrated[depth] += f64::from(likeliest(calibrated) == depth);
            self.greedy[depth] += f64::from(answers.greedy[depth]);
            self.logprob[depth] += raw[depth];
        }
    }

    fn means(&self, sums: &[f64]) -> Vec<f64> {
        sums.iter().map(|sum| sum / self.samples.max(1) as f64).collect()
    }

    /// Shares of right answers by greedy decoding, by depth.
    pub(super) fn greedy(&self) -> Vec<f64> {
        self.means(&self.greedy)
    }

    /// Shares of right choices among the answers of all depths.
    pub(super) fn chosen(&self) -> Vec<f64> {
        self.means(&self.chosen)
    }

    /// Shares of right choices from calibrated scores.
    pub(super) fn calibrated(&self) -> Vec<f64> {
        self.means(&self.calibrated)
    }

    /// Shares of right answers for documents of each rank, if the best stood at both ends: documents are alike, so what
    /// one of a rank gets is what was measured where it would stand.
    pub(super) fn reordered(&self) -> Vec<f64> {
        let greedy = self.greedy();
        (0..greedy.len()).map(|rank| greedy[place(rank, greedy.len())]).collect()
    }

    fn json(&self) -> Value {
        json!({
            "remedy": self.remedy, "length": self.length, "samples": self.samples, "chosen": self.chosen(),
            "greedy": self.greedy(), "calibrated": self.calibrated(), "reordered": self.reordered(),
            "logprob": self.means(&self.logprob),
        })
    }
}

/// Where the document of a rank stands when the best are put at both ends, the worst in the middle.
fn place(rank: usize, count: usize) -> usize {
    if rank.is_multiple_of(2) { rank / 2 } else { count - 1 - rank / 2 }
}

/// Log-probabilities less what an answer's position gives it whatever is asked: its mean over the questions that it is wrong
/// for (after Hsieh et al. 2024, arXiv:2406.16008, who calibrate attention so).
fn calibrate(logprobs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let count = logprobs.len();
    let bias = |answered: usize| {
        let wrong = (0..count).filter(|asked| *asked != answered).map(|asked| logprobs[asked][answered]);
        wrong.sum::<f64>() / (count - 1).max(1) as f64
    };
    let bias: Vec<f64> = (0..count).map(bias).collect();
    logprobs.iter().map(|row| row.iter().zip(&bias).map(|(score, bias)| score - bias).collect()).collect()
}

fn likeliest(scores: &[f64]) -> usize {
    let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.map_or(0, |(index, _)| index)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

impl Outcome {
    pub(super) fn json(&self) -> Value {
        let curves: Vec<Value> = self.curves.iter().map(Curve::json).collect();
        json!({"model": self.model, "curves": curves, "positions": self.positions})
    }

    pub(super) fn print(&self) -> Result<()> {
        for curve in &self.curves {
            println!("{}, {} tokens, {}, {} contexts\n", self.model, curve.length, curve.remedy, curve.samples);
            let depths = curve.chosen.len();
            let mut header = vec!["depth".to_owned()];
            header.extend((0..depths).map(|depth| format!("{} %", 100 * depth / (depths - 1))));
            header.push("mean".to_owned());
            let percent = |name: &str, values: Vec<f64>| {
                let all = values.iter().copied().chain([mean(&values)]);
                [name.to_owned()].into_iter().chain(all.map(|value| format!("{:.0}", 100.0 * value))).collect()
            };
            let logprob = curve.means(&curve.logprob);
            let logprob = logprob.iter().copied().chain([mean(&logprob)]).map(|value| format!("{value:.2}"));
            let rows: Vec<Vec<String>> = vec![
                percent("greedy decoding, %", curve.greedy()),
                percent("best at both ends, by rank, %", curve.reordered()),
                percent("choice among answers, %", curve.chosen()),
                percent("calibrated by position, %", curve.calibrated()),
                ["log-probability".to_owned()].into_iter().chain(logprob).collect(),
            ];
            let header: Vec<&str> = header.iter().map(String::as_str).collect();
            println!("{}\n", table(&header, rows));
        }
        for curve in &self.positions {
            println!("perplexity by position, {} tokens, {}\n", curve.length, curve.remedy);
            let mut header = vec!["up to".to_owned()];
            header.extend(curve.bounds.iter().map(ToString::to_string));
            let header: Vec<&str> = header.iter().map(String::as_str).collect();
            let losses = curve.losses.iter().map(|loss| format!("{:.1}", loss.exp()));
            println!("{}\n", table(&header, [["perplexity".to_owned()].into_iter().chain(losses).collect()]));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_stand_at_both_ends() {
        let places: Vec<usize> = (0..5).map(|rank| place(rank, 5)).collect();
        assert_eq!(places, [0, 4, 1, 3, 2]);
        let mut even: Vec<usize> = (0..6).map(|rank| place(rank, 6)).collect();
        assert_eq!(even, [0, 5, 1, 4, 2, 3]);
        even.sort_unstable();
        assert_eq!(even, [0, 1, 2, 3, 4, 5]);
    }

    /// Three questions; the last position is given three nats whatever is asked.
    #[test]
    fn a_bias_of_a_position_is_taken_away() {
        let logprobs = vec![vec![-4.0, -9.0, -3.0], vec![-9.0, -4.0, -3.0], vec![-9.0, -9.0, -1.0]];
        let answers = Answers { logprobs, greedy: vec![false, false, true] };
        let mut curve = Curve::new("as trained", 100, 3);
        curve.add(&answers);
        assert_eq!(curve.chosen(), [0.0, 0.0, 1.0]);
        assert_eq!(curve.calibrated(), [1.0, 1.0, 1.0]);
        assert_eq!(curve.reordered(), [0.0, 1.0, 0.0]);
    }
}
