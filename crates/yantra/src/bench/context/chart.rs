//! Curves as a picture: an SVG that follows the reader's light or dark page.

use super::{AS_TRAINED, report::Outcome};
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const PANEL: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 250.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 46.0;

/// Colours that stay apart for people who see few (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999"];

const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328}.title{font-weight:600}.axis{stroke:#59636e}\
.grid{stroke:#59636e;opacity:.2}@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.axis,.grid{stroke:#9198a1}}";

/// A chart with a line for each name.
pub(super) struct Panel {
    pub(super) title: String,
    /// From bottom to top, as shares of the height.
    pub(super) y: Vec<(f64, String)>,
    /// From left to right, as shares of the width.
    pub(super) x: Vec<(f64, String)>,
    pub(super) x_title: &'static str,
    /// Points with shares of width and height.
    pub(super) lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// Shares of right answers over depths, a panel for each length.
pub(super) fn of_depths(outcome: &Outcome) -> String {
    let mut lengths: Vec<usize> = outcome.curves.iter().map(|curve| curve.length).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let percents: Vec<(f64, String)> =
        [0, 25, 50, 75, 100].map(|percent| (f64::from(percent) / 100.0, format!("{percent} %"))).to_vec();
    let panels = lengths.into_iter().map(|length| {
        let mut lines = Vec::new();
        let mut line = |name: &str, values: Vec<f64>| {
            let last = (values.len() - 1).max(1) as f64;
            let points = values.into_iter().enumerate().map(|(index, value)| (index as f64 / last, value)).collect();
            lines.push((name.to_owned(), points));
        };
        for curve in outcome.curves.iter().filter(|curve| curve.length == length) {
            if curve.remedy == AS_TRAINED {
                line("greedy decoding", curve.greedy());
                line("best at both ends, by rank", curve.reordered());
                line("choice among answers", curve.chosen());
                line("calibrated by position", curve.calibrated());
            } else {
                line(&curve.remedy, curve.greedy());
            }
        }
        Panel {
            title: format!("{}, {length} tokens", outcome.model),
            y: percents.clone(),
            x: percents.clone(),
            x_title: "depth in the context",
            lines,
        }
    });
    svg(&format!("{}: right answers by where the document stands", outcome.model), &panels.collect::<Vec<_>>())
}

/// Panels below one another.
pub(super) fn svg(title: &str, panels: &[Panel]) -> String {
    let height = PANEL * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" width=\"{WIDTH:.0}\" \
         height=\"{height:.0}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n",
        escape(title)
    );
    for (index, panel) in panels.iter().enumerate() {
        draw(&mut svg, PANEL * index as f64, panel);
    }
    svg + "</svg>\n"
}

fn draw(svg: &mut String, top: f64, panel: &Panel) {
    let (width, height) = (WIDTH - LEFT - RIGHT, PANEL - TOP - BOTTOM);
    let (x, y) = (|part: f64| LEFT + part * width, |share: f64| top + TOP + (1.0 - share) * height);
    let title = escape(&panel.title);
    _ = writeln!(svg, "<text class=\"title\" x=\"{LEFT:.0}\" y=\"{:.0}\">{title}</text>", top + 24.0);
    for (share, label) in &panel.y {
        let at = y(*share);
        let class = if *share == 0.0 { "axis" } else { "grid" };
        _ = writeln!(
            svg,
            "<line class=\"{class}\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            x(0.0),
            x(1.0),
            LEFT - 8.0,
            at + 4.0,
            escape(label)
        );
    }
    let below = panel.x.iter().map(|(share, label)| (*share, 18.0, label.as_str()));
    for (share, down, label) in below.chain([(0.5, 36.0, panel.x_title)]) {
        let (at, down) = (x(share), y(0.0) + down);
        _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{down:.1}\" text-anchor=\"middle\">{}</text>", escape(label));
    }
    for (index, ((name, points), colour)) in panel.lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let points: Vec<String> = points.iter().map(|&(at, share)| format!("{:.1},{:.1}", x(at), y(share))).collect();
        let dash = if index == 0 { "" } else { " stroke-dasharray=\"6 3\"" };
        let at = top + TOP + 8.0 + 20.0 * index as f64;
        let start = x(1.0) + 16.0;
        _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash} points=\"{}\"/>\n\
             <line stroke=\"{colour}\" stroke-width=\"2\"{dash} x1=\"{start:.0}\" x2=\"{:.0}\" y1=\"{at:.0}\" y2=\"{at:.0}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
            points.join(" "),
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
