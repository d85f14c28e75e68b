//! The curves as a picture: an SVG that follows the reader's light or dark page, a panel for each length.

use super::{AS_TRAINED, report::Outcome};
use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const PANEL: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 210.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 46.0;

/// Colours that stay apart for people who see few (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999"];

const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328}.title{font-weight:600}.axis{stroke:#59636e}\
.grid{stroke:#59636e;opacity:.2}@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.axis,.grid{stroke:#9198a1}}";

pub(super) fn svg(outcome: &Outcome) -> String {
    let mut lengths: Vec<usize> = outcome.curves.iter().map(|curve| curve.length).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let height = PANEL * lengths.len() as f64;
    let title = format!("{}: right answers by where the document stands", outcome.model);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" width=\"{WIDTH:.0}\" \
         height=\"{height:.0}\" role=\"img\">\n<title>{0}</title>\n<style>{STYLE}</style>\n",
        escape(&title)
    );
    for (panel, length) in lengths.into_iter().enumerate() {
        let mut lines = Vec::new();
        for curve in outcome.curves.iter().filter(|curve| curve.length == length) {
            if curve.remedy == AS_TRAINED {
                lines.push(("greedy decoding".to_owned(), curve.greedy()));
                lines.push(("best at both ends, by rank".to_owned(), curve.reordered()));
                lines.push(("choice among answers".to_owned(), curve.chosen()));
                lines.push(("calibrated by position".to_owned(), curve.calibrated()));
            } else {
                lines.push((curve.remedy.clone(), curve.greedy()));
            }
        }
        draw(&mut svg, PANEL * panel as f64, &format!("{}, {length} tokens", outcome.model), &lines);
    }
    svg + "</svg>\n"
}

fn draw(svg: &mut String, top: f64, title: &str, lines: &[(String, Vec<f64>)]) {
    let (width, height) = (WIDTH - LEFT - RIGHT, PANEL - TOP - BOTTOM);
    let (x, y) = (|part: f64| LEFT + part * width, |share: f64| top + TOP + (1.0 - share) * height);
    _ = writeln!(svg, "<text class=\"title\" x=\"{LEFT:.0}\" y=\"{:.0}\">{}</text>", top + 24.0, escape(title));
    for percent in [0, 25, 50, 75, 100] {
        let at = y(f64::from(percent) / 100.0);
        let class = if percent == 0 { "axis" } else { "grid" };
        _ = writeln!(
            svg,
            "<line class=\"{class}\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            x(0.0),
            x(1.0)
        );
        _ = writeln!(svg, "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{percent} %</text>", LEFT - 8.0, at + 4.0);
        let along = f64::from(percent) / 100.0;
        _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{percent} %</text>",
            x(along),
            y(0.0) + 18.0
        );
    }
    _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">depth in the context</text>",
        x(0.5),
        y(0.0) + 36.0
    );
    for (index, ((name, values), colour)) in lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let last = (values.len() - 1).max(1) as f64;
        let points: Vec<String> =
            values.iter().enumerate().map(|(i, value)| format!("{:.1},{:.1}", x(i as f64 / last), y(*value))).collect();
        let dash = if index == 0 { "" } else { " stroke-dasharray=\"6 3\"" };
        _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash} points=\"{}\"/>",
            points.join(" ")
        );
        let at = top + TOP + 8.0 + 20.0 * index as f64;
        let start = x(1.0) + 16.0;
        _ = writeln!(
            svg,
            "<line stroke=\"{colour}\" stroke-width=\"2\"{dash} x1=\"{start:.0}\" x2=\"{:.0}\" y1=\"{at:.0}\" y2=\"{at:.0}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
            start + 22.0,
            start + 28.0,
            at + 4.0,
            escape(name)
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
