//! Medians, spreads, ratios and shares of the roof, as a Markdown table.

use super::{
    cases::{CASES, Case, Engine, Work},
    state::{Results, Roofs, Sizes},
    statistics::{median, spread},
};
use std::fmt::Write as _;

/// An engine's figure for a case.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) engine: Engine,
    pub(crate) value: f64,
    pub(crate) spread: f64,
    /// Of what the hardware allows; `None` where no roof is known.
    pub(crate) share: Option<f64>,
    /// Whether the engine computes something else than it should here.
    pub(crate) is_wrong: bool,
}

/// A case with everybody's figures, ours first.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) figures: Vec<Figure>,
    /// Ours against the best peer that computes the right thing: the median of the rounds' ratios, and the peer.
    pub(crate) ratio: Option<(f64, Engine)>,
}

/// The rows of all cases that were measured.
pub(crate) fn rows(results: &Results) -> Vec<Row> {
    let measured = CASES.iter().filter(|case| results.runs.iter().any(|run| run.case == case.name));
    measured.map(|case| row(results, case)).collect()
}

fn row(results: &Results, case: &Case) -> Row {
    let figures: Vec<Figure> = Engine::ALL.iter().filter_map(|&engine| figure(results, case, engine)).collect();
    let peers = figures.iter().filter(|figure| figure.engine != Engine::Yantra && !figure.is_wrong);
    let best = peers.max_by(|a, b| a.value.total_cmp(&b.value)).map(|figure| figure.engine);
    let ratio = best.and_then(|peer| {
        let of = |engine, round| results.of(case.name, engine).find(|run| run.round == round);
        let rounds = results.of(case.name, Engine::Yantra);
        let ratios: Vec<f64> = rounds.filter_map(|ours| Some(ours.value / of(peer, ours.round)?.value)).collect();
        Some((median(&ratios)?, peer))
    });
    Row { case: *case, figures, ratio }
}

fn figure(results: &Results, case: &Case, engine: Engine) -> Option<Figure> {
    let values: Vec<f64> = results.of(case.name, engine).map(|run| run.value).collect();
    let value = median(&values)?;
    let sizes = results.sizes.get(case.model.name);
    let shares: Vec<f64> = results
        .of(case.name, engine)
        .filter_map(|run| {
            let roofs = results.roofs_of(case.name, run.round)?;
            Some(run.value / roof(case.work, sizes?, roofs)?)
        })
        .collect();
    let check = results.check(engine, case.model.name);
    let is_wrong = check.is_some_and(|check| check.is_wrong()) && case.work.tokens_at_once() > SMALL_STEP;
    Some(Figure { engine, value, spread: spread(&values)?, share: median(&shares), is_wrong })
}

/// The check compares with steps of eight tokens; what wrong kernels there are begin above sixteen.
const SMALL_STEP: usize = 16;

/// The most of a case's unit per second that the hardware allows: the weights' multiplications or their reading, whichever
/// takes longer. Attention is not counted.
fn roof(work: Work, sizes: &Sizes, roofs: &Roofs) -> Option<f64> {
    match work {
        Work::Prompt { .. } => Some(roofs.int8 / (2.0 * sizes.body)),
        Work::Generate { batch, .. } => {
            let batch = batch as f64;
            let reading = sizes.bytes / roofs.memory;
            let multiplying = 2.0 * (sizes.body + sizes.head) * batch / roofs.int8;
            Some(batch / reading.max(multiplying))
        }
        Work::Embed { tokens, .. } => Some(roofs.float / (2.0 * sizes.body * tokens as f64)),
        Work::Serve { .. } => None,
    }
}

/// `1,824`
pub(crate) fn number(value: f64) -> String {
    if value < 99.95 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn per_cent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn cell(figure: &Figure, emphasis: &str) -> String {
    let (value, spread) = (number(figure.value), number(figure.spread));
    let share = figure.share.map_or_else(String::new, |share| format!(" ({})", per_cent(share)));
    let wrong = if figure.is_wrong { " †" } else { "" };
    format!("{emphasis}{value}{emphasis} ± {spread}{share}{wrong}")
}

/// The whole report, in Markdown.
pub(crate) fn markdown(results: &Results) -> String {
    let rows = rows(results);
    let engines: Vec<Engine> = Engine::ALL
        .into_iter()
        .filter(|engine| rows.iter().any(|row| row.figures.iter().any(|figure| figure.engine == *engine)))
        .collect();
    let mut text = String::new();
    let names: Vec<&str> = engines.iter().map(|engine| engine.name()).collect();
    _ = writeln!(text, "| model | work | {} | against the best |", names.join(" | "));
    _ = writeln!(text, "|---|---|{}---:|", "---:|".repeat(engines.len()));
    let mut last_model = "";
    for row in &rows {
        let model = if row.case.model.title == last_model { "" } else { row.case.model.title };
        last_model = row.case.model.title;
        let unit = if row.case.work.unit() == "tok/s" { "" } else { ", sentences/s" };
        let cells = engines.iter().map(|engine| {
            let emphasis = if *engine == Engine::Yantra { "**" } else { "" };
            let figure = row.figures.iter().find(|figure| figure.engine == *engine);
            figure.map_or_else(|| "–".to_owned(), |figure| cell(figure, emphasis))
        });
        let cells: Vec<String> = cells.collect();
        let ratio = row.ratio.map_or_else(|| "–".to_owned(), |(ratio, peer)| format!("{ratio:.2}× {}", peer.name()));
        _ = writeln!(text, "| {model} | {}{unit} | {} | {ratio} |", row.case.title, cells.join(" | "));
    }
    serving(results, &mut text);
    notes(results, &rows, &mut text);
    text
}

fn serving(results: &Results, text: &mut String) {
    let served: Vec<&Case> = CASES.iter().filter(|case| matches!(case.work, Work::Serve { .. })).collect();
    let mut lines = String::new();
    for case in served {
        for engine in Engine::ALL {
            let runs: Vec<_> = results.of(case.name, engine).filter_map(|run| run.serving).collect();
            let of = |value: fn(&super::state::Serving) -> f64| median(&runs.iter().map(value).collect::<Vec<_>>());
            if let (Some(p50), Some(p99)) = (of(|run| run.ttft_p50_ms), of(|run| run.ttft_p99_ms)) {
                let failed: usize = runs.iter().map(|run| run.failed).sum();
                let (p50, p99) = (number(p50), number(p99));
                _ = writeln!(lines, "| {} | {} | {p50} ms | {p99} ms | {failed} |", case.title, engine.name());
            }
        }
    }
    if !lines.is_empty() {
        *text += "\n| | | first token, middle | 99th percentile | failed |\n|---|---|---:|---:|---:|\n";
        *text += &lines;
    }
}

fn notes(results: &Results, rows: &[Row], text: &mut String) {
    let setting = &results.setting;
    let rounds = results.runs.iter().map(|run| run.round + 1).max().unwrap_or(0);
    let of = |value: fn(&Roofs) -> f64| {
        median(&results.roofs.iter().map(value).collect::<Vec<_>>())
            .map_or_else(String::new, |value| number(value / 1e9))
    };
    let versions: Vec<String> =
        results.versions.iter().map(|(engine, version)| format!("{} {version}", engine.name())).collect();
    _ = writeln!(
        text,
        "\nTokens per second (MiniLM: sentences), medians of {rounds} rounds in which the engines take turns, ± half the \
         distance between the quartiles. {}, {} threads; {}. Batches write 64 tokens after 128; clients stream 64 tokens \
         after 400 shared and 60 of their own.",
        setting.processor,
        setting.threads,
        if versions.is_empty() { "no peers".to_owned() } else { versions.join(", ") },
    );
    _ = writeln!(
        text,
        "\nIn brackets: the share of what the processor and its memory gave in the same minute (in the middle {} Gop/s of \
         int8, {} GFLOP/s of floats, which are bf16 where it has that, and {} GB/s). Reading a prompt multiplies \
         every weight once a token; writing reads every weight once a step. Attention is not counted, so after 2,048 \
         tokens the share is less than the work done.",
        of(|roofs| roofs.int8),
        of(|roofs| roofs.float),
        of(|roofs| roofs.memory),
    );
    if rows.iter().any(|row| row.figures.iter().any(|figure| figure.is_wrong)) {
        *text += "\n† Computes something else than it should, and is left out of the ratio: ";
        let mut wrong = Vec::new();
        for (engine, checks) in &results.checks {
            for (model, check) in checks.iter().filter(|(_, check)| check.is_wrong()) {
                let (batched, single) = (check.batched_nll, check.single_nll);
                wrong.push(format!(
                    "{} reads a text in {model} with a mean negative log-likelihood of {batched:.2} in one batch, {single:.2} \
                     in steps of eight tokens",
                    engine.name()
                ));
            }
        }
        _ = writeln!(text, "{}.", wrong.join("; "));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::state::{Check, Run, Serving, Setting};
    use super::*;
    use std::collections::BTreeMap;

    /// Three rounds of a few cases, with a peer that is wrong at one.
    pub(crate) fn made_up() -> Results {
        let mut runs = Vec::new();
        let mut add = |case: &str, engine, values: [f64; 3]| {
            for (round, value) in values.into_iter().enumerate() {
                let serving = case.contains("serve").then_some(Serving {
                    ttft_p50_ms: 160.0,
                    ttft_p99_ms: 1234.0 + round as f64,
                    failed: round,
                });
                runs.push(Run { case: case.into(), engine, round, value, serving });
            }
        };
        add("smollm2-prompt-512", Engine::Yantra, [2000.0, 2100.0, 1900.0]);
        add("smollm2-prompt-512", Engine::LlamaCpp, [400.0, 500.0, 380.0]);
        add("smollm2-prompt-512", Engine::IkLlamaCpp, [2200.0, 2300.0, 2100.0]);
        add("smollm2-generate-128", Engine::Yantra, [300.0, 310.0, 320.0]);
        add("smollm2-generate-128", Engine::IkLlamaCpp, [200.0, 155.0, 160.0]);
        add("smollm2-serve-16", Engine::Yantra, [900.0, 905.0, 910.0]);
        let mut roofs = Vec::new();
        for case in ["smollm2-prompt-512", "smollm2-generate-128"] {
            for round in 0..3 {
                roofs.push(Roofs { case: case.into(), round, memory: 50e9, int8: 1_680e9, float: 800e9 });
            }
        }
        let smollm2 = Sizes { body: 105e6, head: 28e6, bytes: 100e6 };
        let wrong = Check { batched_nll: 5.08, single_nll: 3.15 };
        Results {
            setting: Setting { processor: "A processor".into(), threads: 2, repeat: 3, yantra: "yantra 1".into() },
            versions: BTreeMap::from([(Engine::IkLlamaCpp, "0.1.5".into()), (Engine::LlamaCpp, "0.3.36".into())]),
            sizes: BTreeMap::from([("smollm2-135m".into(), smollm2)]),
            checks: BTreeMap::from([(Engine::IkLlamaCpp, BTreeMap::from([("smollm2-135m".into(), wrong)]))]),
            roofs,
            runs,
        }
    }

    #[test]
    fn ratios_are_those_of_the_rounds_and_leave_wrong_peers_out() {
        let rows = rows(&made_up());
        // 2000/400, 2100/500, 1900/380; ik_llama.cpp is faster and wrong.
        assert_eq!(rows[0].ratio, Some((5.0, Engine::LlamaCpp)));
        assert_eq!(rows[0].figures.iter().map(|figure| figure.is_wrong).collect::<Vec<_>>(), [false, false, true]);
        // Steps of one token are right; 300/200, 310/155, 320/160.
        assert_eq!(rows[1].ratio, Some((2.0, Engine::IkLlamaCpp)));
        assert_eq!(rows[2].ratio, None);
    }

    #[test]
    fn shares_of_the_roof() {
        let rows = rows(&made_up());
        // 1680e9 / (2 * 105e6) = 8000 tok/s; 50e9 / 100e6 = 500 tok/s.
        assert_eq!(rows[0].figures[0].share, Some(0.25));
        assert_eq!(rows[1].figures[0].share, Some(310.0 / 500.0));
        assert_eq!(rows[2].figures[0].share, None);
        // A large batch is bound by arithmetic: 1680e9 / (2 * 133e6).
        let sizes = made_up().sizes["smollm2-135m"];
        let most = roof(Work::Generate { tokens: 64, depth: 0, batch: 64 }, &sizes, &made_up().roofs[0]).unwrap();
        assert!((most - 1_680e9 / 266e6).abs() < 1e-6);
    }

    #[test]
    fn numbers_for_people() {
        let texts = [0.0, 46.25, 99.96, 412.4, 1823.6, 1_234_567.0].map(number);
        assert_eq!(texts, ["0.0", "46.2", "100", "412", "1,824", "1,234,567"]);
    }

    #[test]
    fn the_table() {
        let text = markdown(&made_up());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "| model | work | Yantra | llama.cpp | ik_llama.cpp | against the best |");
        assert_eq!(
            lines[2],
            "| SmolLM2-135M Q4_1 | read 512 | **2,000** ± 50.0 (25 %) | 400 ± 30.0 (5 %) | 2,200 ± 50.0 (28 %) † | 5.00× \
             llama.cpp |"
        );
        assert!(text.contains("| serve 16 clients | Yantra | 160 ms | 1,235 ms | 3 |"), "{text}");
        assert!(text.contains("† Computes something else") && text.contains("5.08 in one batch, 3.15 in"), "{text}");
    }
}
