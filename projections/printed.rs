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
    line: Line,
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
            line: Line {
                bytes: [0; LINE_BYTES],
                len: 0,
            },
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
        let figures = Figures::of(&row.metrics);
        match self.format {
            Format::Csv => {
                for figure in figures.values() {
                    out.push(b',');
                    match figure {
                        Figure::Whole(Some(n)) => {
                            out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
                        }
                        other => out.extend_from_slice(other.to_string().as_bytes()),
                    }
                }
            }
            Format::Json | Format::Ndjson => {
                self.line.json(&figures);
                out.extend_from_slice(&self.line.bytes[..self.line.len]);
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

fn json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a text or number always has a JSON form");
}

/// Bytes of a row's figures at most: 340 of names, 13 whole numbers of 20, two ratios of 25.
const LINE_BYTES: usize = 1_024;

/// The figures of a row as JSON. They are put together in one place of fixed length, because that takes a third of the
/// time of appending them one by one.
#[derive(Debug)]
struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Line {
    fn json(&mut self, f: &Figures) {
        self.len = 0;
        self.whole(b",\"impressions\":", f.impressions);
        self.whole(b",\"invalid_impressions\":", f.invalid_impressions);
        self.whole(b",\"clicks\":", f.clicks);
        self.whole(b",\"gross_clicks\":", f.gross_clicks);
        self.whole(b",\"invalid_clicks\":", f.invalid_clicks);
        self.whole(b",\"general_invalid_clicks\":", f.general_invalid_clicks);
        self.whole(
            b",\"sophisticated_invalid_clicks\":",
            f.sophisticated_invalid_clicks,
        );
        self.ratio(b",\"invalid_click_rate\":", f.invalid_click_rate);
        self.ratio(b",\"ctr\":", f.ctr);
        self.whole(b",\"cost_micros\":", f.cost_micros);
        self.maybe(b",\"average_cpc_micros\":", f.average_cpc_micros);
        self.maybe(b",\"average_cpm_micros\":", f.average_cpm_micros);
        self.maybe(b",\"conversions\":", f.conversions);
        self.maybe(
            b",\"conversions_value_micros\":",
            f.conversions_value_micros,
        );
        self.maybe(
            b",\"cost_per_conversion_micros\":",
            f.cost_per_conversion_micros,
        );
        self.whole(b",\"late_events\":", f.late_events);
        self.put(b"}");
    }

    #[inline]
    fn put<const N: usize>(&mut self, text: &[u8; N]) {
        self.bytes[self.len..self.len + N].copy_from_slice(text);
        self.len += N;
    }

    #[inline]
    fn whole<const N: usize>(&mut self, name: &[u8; N], n: i64) {
        self.put(name);
        if (0..10).contains(&n) {
            self.bytes[self.len] = b'0' + n as u8;
            self.len += 1;
            return;
        }
        let mut digits = itoa::Buffer::new();
        let text = digits.format(n).as_bytes();
        self.bytes[self.len..self.len + text.len()].copy_from_slice(text);
        self.len += text.len();
    }

    #[inline]
    fn maybe<const N: usize>(&mut self, name: &[u8; N], n: Option<i64>) {
        match n {
            Some(n) => self.whole(name, n),
            None => {
                self.put(name);
                self.put(b"null");
            }
        }
    }

    #[inline]
    fn ratio<const N: usize>(&mut self, name: &[u8; N], n: Option<f64>) {
        self.put(name);
        match n {
            None => self.put(b"null"),
            Some(n) => {
                let mut rest = &mut self.bytes[self.len..];
                let before = rest.len();
                serde_json::to_writer(&mut rest, &n).expect("there is room for every number");
                let written = before - rest.len();
                self.len += written;
            }
        }
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
    if text.is_empty() {
        // The writer takes it for a record of nothing, which it puts in quotes.
        return;
    }
    let begin = out.len();
    // Every byte may be a quote that is doubled, and two more are around them.
    out.resize(begin + 2 * text.len() + 2, 0);
    let mut writer = csv_core::Writer::new();
    let (_, _, field) = writer.field(text.as_bytes(), &mut out[begin..]);
    let (_, end) = writer.finish(&mut out[begin + field..]);
    out.truncate(begin + field + end);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_figures_have_room_and_every_name_is_there() {
        let figures = Figures {
            impressions: i64::MIN,
            invalid_impressions: i64::MIN,
            clicks: i64::MIN,
            gross_clicks: i64::MAX,
            invalid_clicks: i64::MIN,
            general_invalid_clicks: i64::MIN,
            sophisticated_invalid_clicks: i64::MIN,
            invalid_click_rate: Some(-f64::MIN_POSITIVE / 3.0),
            ctr: Some(-1.234_567_890_123_456_7e-300),
            cost_micros: i64::MIN,
            average_cpc_micros: Some(i64::MIN),
            average_cpm_micros: Some(i64::MIN),
            conversions: Some(i64::MIN),
            conversions_value_micros: Some(-10),
            cost_per_conversion_micros: Some(0),
            late_events: 9,
        };
        let mut line = Line {
            bytes: [0; LINE_BYTES],
            len: 0,
        };
        line.json(&figures);
        let text = std::str::from_utf8(&line.bytes[..line.len]).unwrap();
        let read: serde_json::Value = serde_json::from_str(&format!("{{{}", &text[1..])).unwrap();
        for (name, figure) in Figures::NAMES.iter().zip(figures.values()) {
            // A reader of texts may round the last digit of a ratio.
            let printed = format!("\"{name}\":{}", serde_json::to_string(&figure).unwrap());
            assert!(text.contains(&printed) && !read[name].is_null(), "{name}");
        }
        let names: Vec<usize> = Figures::NAMES
            .iter()
            .map(|name| text.find(&format!("\"{name}\":")).unwrap())
            .collect();
        assert!(names.is_sorted(), "{text}");
    }

    #[test]
    fn a_field_of_csv_is_quoted_where_it_has_to_be() {
        for (text, want) in [
            ("", ""),
            ("US-CA", "US-CA"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("\"\"\"", "\"\"\"\"\"\"\"\""),
        ] {
            let mut out = Vec::new();
            csv_field(text, &mut out);
            assert_eq!(out, want.as_bytes());
        }
    }
}
