//! What commands print: tables, JSON, progress on a terminal, numbers that people can read.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal, Write, stderr, stdout};

/// Prints a value as indented JSON on standard output.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// A table in the house style: a line under the header, numbers (all but the first column) to the right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for (position, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if position > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// A bar of `length` steps on a terminal; invisible elsewhere.
pub(crate) fn progress(length: u64, message: impl Into<String>) -> ProgressBar {
    styled(length, message.into(), "{msg} [{bar:30}] {pos}/{len} {eta}")
}

/// A bar of bytes on a terminal; invisible elsewhere.
pub(crate) fn progress_bytes(length: u64, message: impl Into<String>) -> ProgressBar {
    styled(length, message.into(), "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

fn styled(length: u64, message: String, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    if !stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.with_message(message)
}

/// `92.1 MiB`
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `134.5 M`
pub(crate) fn count(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{:.1} k", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", number as f64 / 1e6),
        _ => format!("{:.2} G", number as f64 / 1e9),
    }
}

/// A duration in milliseconds, in the unit that reads best.
pub(crate) fn milliseconds(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{:.1} s", value / 1000.0)
    } else if value >= 1000.0 {
        format!("{:.2} s", value / 1000.0)
    } else if value >= 100.0 {
        format!("{value:.0} ms")
    } else {
        format!("{value:.1} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!([bytes(7), bytes(98_362_432), bytes(3 << 30)], ["7 B", "93.8 MiB", "3.0 GiB"]);
        assert_eq!([count(9_999), count(134_515_008), count(1_540_000_000)], ["9999", "134.5 M", "1.54 G"]);
        let times = [milliseconds(3.123), milliseconds(812.3), milliseconds(2_345.0), milliseconds(61_000.0)];
        assert_eq!(times, ["3.1 ms", "812 ms", "2.35 s", "61.0 s"]);
    }

    #[test]
    fn tables_are_plain_text() {
        let text =
            table(&["test", "tok/s"], [vec!["pp512".into(), "1523.1".into()], vec!["tg128".into(), "9.0".into()]]);
        assert_eq!(text, "test    tok/s\npp512  1523.1\ntg128     9.0");
    }
}
