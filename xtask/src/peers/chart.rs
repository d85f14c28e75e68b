//! The figures as a picture: an SVG that follows the reader's light or dark page.
//!
//! Each case has a scale of its own, up to its fastest engine: what is compared is engines, not cases.

use super::{
    cases::Engine,
    report::{Figure, Row, number, per_cent},
};
use std::fmt::Write as _;

const WIDTH: f64 = 880.0;
/// Where bars begin, and the most room they take; labels follow.
const LEFT: f64 = 230.0;
const BAR_WIDTH: f64 = 410.0;
const BAR: f64 = 13.0;
const BAR_STEP: f64 = 16.0;
const CASE_GAP: f64 = 12.0;
const TITLE_HEIGHT: f64 = 30.0;
const HEAD: f64 = 56.0;

const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328}\
.model{font-weight:600}.note{fill:#59636e;font-size:12px}.value{font-size:12px}\
.Yantra{fill:#0969da}.llama{fill:#8c959f}.ik{fill:#bf8700}.transformers{fill:#8250df}\
.wrong{opacity:.4}.ours{font-weight:600}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.note{fill:#9198a1}\
.Yantra{fill:#58a6ff}.llama{fill:#7d8590}.ik{fill:#d29922}.transformers{fill:#ab7df8}}";

fn class(engine: Engine) -> &'static str {
    match engine {
        Engine::Yantra => "Yantra",
        Engine::LlamaCpp => "llama",
        Engine::IkLlamaCpp => "ik",
        Engine::Transformers => "transformers",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Draws the cases that the chart shows.
pub(crate) fn svg(rows: &[Row], caption: &str) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.case.in_chart && !row.figures.is_empty()).collect();
    let mut body = String::new();
    let mut y = HEAD;
    let mut last_model = "";
    for row in &rows {
        if row.case.model.title != last_model {
            last_model = row.case.model.title;
            y += TITLE_HEIGHT;
            _ = writeln!(body, "<text class=\"model\" x=\"16\" y=\"{:.0}\">{}</text>", y - 10.0, escape(last_model));
        }
        draw_case(&mut body, row, y);
        y += BAR_STEP * row.figures.len() as f64 + CASE_GAP;
    }
    let height = y + 8.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" width=\"{WIDTH:.0}\" \
         height=\"{height:.0}\" role=\"img\" aria-label=\"{0}\">\n<title>{0}</title>\n<style>{STYLE}</style>\n",
        escape(caption)
    );
    legend(&mut text, &rows);
    _ = writeln!(text, "<text class=\"note\" x=\"16\" y=\"48\">{}</text>", escape(caption));
    text + &body + "</svg>\n"
}

fn legend(text: &mut String, rows: &[&Row]) {
    let mut x = 16.0;
    let drawn = |engine: &Engine| rows.iter().any(|row| row.figures.iter().any(|figure| figure.engine == *engine));
    for engine in Engine::ALL.into_iter().filter(drawn) {
        let name = engine.name();
        _ = writeln!(
            text,
            "<rect class=\"{}\" x=\"{x:.0}\" y=\"13\" width=\"12\" height=\"12\" rx=\"2\"/>",
            class(engine)
        );
        _ = writeln!(text, "<text x=\"{:.0}\" y=\"24\">{name}</text>", x + 18.0);
        x += 44.0 + 7.5 * name.len() as f64;
    }
}

fn draw_case(body: &mut String, row: &Row, top: f64) {
    let most = row.figures.iter().map(|figure| figure.value).fold(f64::MIN_POSITIVE, f64::max);
    let title = escape(row.case.title);
    _ = writeln!(body, "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{title}</text>", LEFT - 12.0, top + 11.0);
    for (position, figure) in row.figures.iter().enumerate() {
        let y = top + BAR_STEP * position as f64;
        let width = (BAR_WIDTH * figure.value / most).max(1.0);
        let wrong = if figure.is_wrong { " wrong" } else { "" };
        let class = class(figure.engine);
        _ = writeln!(
            body,
            "<rect class=\"{class}{wrong}\" x=\"{LEFT:.0}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{BAR:.0}\" rx=\"2\"/>"
        );
        let emphasis = if figure.engine == Engine::Yantra { " ours" } else { "" };
        let (x, y) = (LEFT + width + 6.0, y + 11.0);
        _ = writeln!(body, "<text class=\"value{emphasis}\" x=\"{x:.1}\" y=\"{y:.0}\">{}</text>", label(row, figure));
    }
}

fn label(row: &Row, figure: &Figure) -> String {
    let mut label = format!("{} {}", number(figure.value), row.case.work.unit());
    if let Some(share) = figure.share {
        _ = write!(label, " · {}", per_cent(share));
    }
    if figure.is_wrong {
        label += " · wrong results";
    }
    escape(&label)
}

#[cfg(test)]
mod tests {
    use super::super::report::{rows, tests::made_up};
    use super::*;

    #[test]
    fn bars_are_as_long_as_the_figures_say() {
        let text = svg(&rows(&made_up()), "Longer is <better>");
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert!(text.contains("Longer is &lt;better&gt;"), "{text}");
        // The fastest of its case fills the width; 400 of 2,200 and 160 of 310 do not.
        for (class, width) in [("ik wrong", 410.0), ("llama", 410.0 * 400.0 / 2200.0), ("ik", 410.0 * 160.0 / 310.0)] {
            let start = format!("<rect class=\"{class}\" x=\"230\"");
            let bar = text.lines().find(|line| line.starts_with(&start));
            assert!(bar.is_some_and(|bar| bar.contains(&format!("width=\"{width:.1}\""))), "{class} {width}: {bar:?}");
        }
        assert!(text.contains(">2,000 tok/s · 25 %</text>"), "{text}");
        assert_eq!(text.matches("wrong results").count(), 1);
    }

    #[test]
    fn nothing_measured_is_still_a_picture() {
        let text = svg(&[], "none");
        assert!(text.ends_with("</svg>\n"));
    }
}
