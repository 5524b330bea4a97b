//! Rows of an answer as text: JSON, lines of JSON, or comma-separated values.
//!
//! Invariant: a row says what [`crate::merged::Table`] says of it, under the contract's names; text that a format has a
//! meaning for is escaped. What rows have in common, a bucket's time and a group's names, is printed once and copied.

use chrono_tz::Tz;
use serde::Serialize;

use crate::bounds::print;
use crate::merged::{Row, Table};
use crate::ratios::{Figure, Figures};

/// Bytes of groups' names that are kept as they are printed; those of more are printed row by row.
const MAX_NAMES: usize = 4 << 20;

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    #[default]
    Json,
    /// Comma-separated values with a header.
    Csv,
    /// A JSON object a line.
    Ndjson,
}

impl Format {
    /// The names of a question.
    pub const NAMES: [&'static str; 3] = ["json", "csv", "ndjson"];

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Format::Json),
            "csv" => Some(Format::Csv),
            "ndjson" => Some(Format::Ndjson),
            _ => None,
        }
    }
}

/// Prints rows, one after another.
#[derive(Debug)]
pub struct Printer {
    format: Format,
    zone: Tz,
    /// The slot that was printed last, and its time as a row begins with it.
    slot: Option<u32>,
    time: Vec<u8>,
    /// By group where its names begin and end in `names`; nowhere before they are printed.
    groups: Vec<(u32, u32)>,
    names: Vec<u8>,
}

impl Printer {
    /// Prints rows of a table with so many groups, with the times of a clock.
    pub fn new(format: Format, zone: Tz, groups: usize) -> Self {
        Self {
            format,
            zone,
            slot: None,
            time: Vec::new(),
            groups: vec![(0, 0); groups],
            names: Vec::new(),
        }
    }

    /// Appends a row, with the end of its line unless it is one of a JSON array.
    pub fn row(&mut self, table: &Table, row: &Row, out: &mut Vec<u8>) {
        if self.slot != Some(row.slot) {
            self.slot = Some(row.slot);
            let slot = table.slot(row);
            self.time = self.time(&print(slot.time_ms, slot.offset_s, self.zone));
        }
        out.extend_from_slice(&self.time);
        self.group(table, row.group, out);
        let figures = Figures::of(&row.metrics).values();
        match self.format {
            Format::Csv => {
                for figure in figures {
                    out.push(b',');
                    match figure {
                        Figure::Whole(Some(n)) => whole(n, out),
                        other => out.extend_from_slice(other.to_string().as_bytes()),
                    }
                }
            }
            Format::Json | Format::Ndjson => {
                for (name, figure) in JSON_NAMES.iter().zip(figures) {
                    out.extend_from_slice(name.as_bytes());
                    match figure {
                        Figure::Whole(Some(n)) => whole(n, out),
                        Figure::Ratio(Some(n)) => json(&n, out),
                        Figure::Whole(None) | Figure::Ratio(None) => {
                            out.extend_from_slice(b"null");
                        }
                    }
                }
                out.push(b'}');
            }
        }
        if self.format != Format::Json {
            out.push(b'\n');
        }
    }

    /// How a row with a time begins.
    fn time(&self, time: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(40);
        match self.format {
            Format::Csv => out.extend_from_slice(time.as_bytes()),
            Format::Json | Format::Ndjson => {
                out.extend_from_slice(b"{\"time\":");
                json(&time, &mut out);
            }
        }
        out
    }

    fn group(&mut self, table: &Table, group: u32, out: &mut Vec<u8>) {
        if table.group_by.is_empty() {
            return;
        }
        let (from, to) = self.groups[group as usize];
        if from < to {
            out.extend_from_slice(&self.names[from as usize..to as usize]);
            return;
        }
        let begin = out.len();
        match self.format {
            Format::Csv => {
                for (_, name) in table.names_of(group) {
                    out.push(b',');
                    csv_field(name, out);
                }
            }
            Format::Json | Format::Ndjson => {
                for (dimension, name) in table.names_of(group) {
                    out.extend_from_slice(b",\"");
                    out.extend_from_slice(dimension.name().as_bytes());
                    out.extend_from_slice(b"\":");
                    json(&name, out);
                }
            }
        }
        let printed = &out[begin..];
        if self.names.len() + printed.len() <= MAX_NAMES {
            let from = self.names.len() as u32;
            self.names.extend_from_slice(printed);
            self.groups[group as usize] = (from, self.names.len() as u32);
        }
    }
}

/// What stands before each figure of a row, in the order of [`Figures::NAMES`].
const JSON_NAMES: [&str; Figures::NAMES.len()] = [
    ",\"impressions\":",
    ",\"invalid_impressions\":",
    ",\"clicks\":",
    ",\"gross_clicks\":",
    ",\"invalid_clicks\":",
    ",\"general_invalid_clicks\":",
    ",\"sophisticated_invalid_clicks\":",
    ",\"invalid_click_rate\":",
    ",\"ctr\":",
    ",\"cost_micros\":",
    ",\"average_cpc_micros\":",
    ",\"average_cpm_micros\":",
    ",\"conversions\":",
    ",\"conversions_value_micros\":",
    ",\"cost_per_conversion_micros\":",
    ",\"late_events\":",
];

fn json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a text or number always has a JSON form");
}

fn whole(n: i64, out: &mut Vec<u8>) {
    match n {
        0..=9 => out.push(b'0' + n as u8),
        _ => json(&n, out),
    }
}

/// The line that says what the columns of comma-separated values are.
pub fn csv_head(table: &Table) -> Vec<u8> {
    let group = table.group_by.iter().map(|d| d.name());
    let names: Vec<&str> = std::iter::once("time")
        .chain(group)
        .chain(Figures::NAMES)
        .collect();
    let mut out = names.join(",").into_bytes();
    out.push(b'\n');
    out
}

/// A field of comma-separated values (RFC 4180), in quotes where it has to be.
fn csv_field(text: &str, out: &mut Vec<u8>) {
    if !text.contains([',', '"', '\n', '\r']) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_stands_behind_its_name() {
        for (name, printed) in Figures::NAMES.iter().zip(JSON_NAMES) {
            assert_eq!(printed, format!(",\"{name}\":"));
        }
    }
}
