//! Rows of an answer as text: JSON, lines of JSON, or comma-separated values.
//!
//! Invariant: a row says what [`crate::table::Table`] says of it, under the contract's names; text that a format has a
//! meaning for is escaped. What rows have in common, a bucket's time and a group's names, is printed once and copied.

use chrono_tz::Tz;
use serde::Serialize;

use crate::bounds::print;
use crate::ratios::{Chosen, Figure, Metric};
use crate::table::{Row, Table};

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

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// About how many bytes a row takes that has so many names.
pub fn row_bytes(format: Format, metrics: Chosen, names: usize) -> usize {
    let keys: usize = match format {
        Format::Csv => 0,
        Format::Json | Format::Ndjson => {
            let metrics = metrics.metrics().map(|metric| KEYS[metric as usize].1);
            16 * names + metrics.sum::<usize>()
        }
    };
    24 + 6 * names + 4 * metrics.metrics().count() + keys
}

/// Prints rows, one after another.
#[derive(Debug)]
pub struct Printer {
    format: Format,
    zone: Tz,
    metrics: Vec<Metric>,
    /// Whether nothing was printed yet.
    is_first: bool,
    /// The slot that was printed last, and the length of its time, which stands at the beginning of the line.
    slot: Option<u32>,
    time: usize,
    /// By group where its names begin and end in `names`; nowhere before they are printed.
    groups: Vec<(u32, u32)>,
    names: Vec<u8>,
    line: Line,
}

impl Printer {
    /// Prints those metrics of the rows of a table with so many groups, with the times of a clock.
    pub fn new(format: Format, zone: Tz, metrics: Chosen, groups: usize) -> Self {
        Self {
            format,
            zone,
            metrics: metrics.metrics().collect(),
            is_first: true,
            slot: None,
            time: 0,
            groups: vec![(0, 0); groups],
            names: Vec::new(),
            line: Line::default(),
        }
    }

    /// The same behind other rows, so that there is no first one.
    pub fn behind_others(mut self) -> Self {
        self.is_first = false;
        self
    }

    /// Appends a row: one of a JSON array after a comma unless it is the first, any other one with the end of its line.
    pub fn row(&mut self, table: &Table, row: &Row, out: &mut Vec<u8>) {
        if self.slot != Some(row.slot) {
            self.slot = Some(row.slot);
            let slot = table.slot(row);
            let time = self.time(&print(slot.time_ms, slot.offset_s, self.zone));
            self.time = time.len();
            self.line.bytes[..self.time].copy_from_slice(&time);
        }
        let is_first = std::mem::take(&mut self.is_first);
        self.line.from = usize::from(is_first && self.format == Format::Json);
        self.line.to = self.time;
        self.group(table, row.group, out);
        for metric in &self.metrics {
            let figure = metric.of(&row.metrics);
            match self.format {
                Format::Csv => self.line.csv(figure),
                Format::Json | Format::Ndjson => self.line.json(*metric, figure),
            }
        }
        match self.format {
            Format::Json => self.line.put(b"}"),
            Format::Ndjson => self.line.put(b"}\n"),
            Format::Csv => self.line.put(b"\n"),
        }
        self.line.append_to(out);
    }

    /// How a row with a time begins, which is not the first one.
    fn time(&self, time: &str) -> Vec<u8> {
        let mut out = Vec::new();
        match self.format {
            Format::Csv => out.extend_from_slice(time.as_bytes()),
            Format::Json | Format::Ndjson => {
                if self.format == Format::Json {
                    out.push(b',');
                }
                out.extend_from_slice(b"{\"time\":");
                json(&time, &mut out);
            }
        }
        out
    }

    /// Puts the names of a group into the line, or behind what is there of it where they are too long for it.
    fn group(&mut self, table: &Table, group: u32, out: &mut Vec<u8>) {
        let (from, to) = self.groups[group as usize];
        let names = &self.names[from as usize..];
        match (to - from) as usize {
            0 => {}
            len @ 1..=NAMES_BYTES => return self.line.text(names, len),
            len => {
                self.line.append_to(out);
                return out.extend_from_slice(&names[..len]);
            }
        }
        self.line.append_to(out);
        let begin = out.len();
        for (dimension, name) in table.names_of(group) {
            match self.format {
                Format::Csv => {
                    out.push(b',');
                    csv_field(name, out);
                }
                Format::Json | Format::Ndjson => {
                    out.extend_from_slice(b",\"");
                    out.extend_from_slice(dimension.name().as_bytes());
                    out.extend_from_slice(b"\":");
                    json(name, out);
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

/// Bytes of a group's names up to which they are put into the line.
const NAMES_BYTES: usize = 128;
/// Bytes of a row at most: 64 of its time, its group's names, 340 of the metrics' names, 13 whole numbers of 20, two ratios
/// of 40, and what is copied beyond the end of a text.
const LINE_BYTES: usize = 1_024;
/// Bytes that are copied of the name of every metric, however long it is: as many as the longest takes.
const KEY_BYTES: usize = 32;
/// The same of the names of a group, where they are not longer.
const SHORT_BYTES: usize = 64;

/// How a metric's name stands in JSON, with a comma before and a colon behind it, and how many bytes that are.
type Key = ([u8; KEY_BYTES], usize);

const KEYS: [Key; Metric::ALL.len()] = {
    let mut keys = [([0; KEY_BYTES], 0); Metric::ALL.len()];
    let mut at = 0;
    while at < keys.len() {
        keys[at] = key(Metric::NAMES[at]);
        at += 1;
    }
    keys
};

const fn key(name: &str) -> Key {
    let name = name.as_bytes();
    let (mut key, mut at) = ([0; KEY_BYTES], 0);
    (key[0], key[1]) = (b',', b'"');
    while at < name.len() {
        key[2 + at] = name[at];
        at += 1;
    }
    (key[2 + at], key[3 + at]) = (b'"', b':');
    (key, 4 + at)
}

/// A row as it is put together, in one place of fixed length, because that takes a third of the time of appending its
/// parts one by one.
#[derive(Debug)]
struct Line {
    bytes: [u8; LINE_BYTES],
    /// Where that begins which was not yet appended to what is printed.
    from: usize,
    to: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; LINE_BYTES],
            from: 0,
            to: 0,
        }
    }
}

impl Line {
    fn append_to(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes[self.from..self.to]);
        self.from = self.to;
    }

    #[inline]
    fn json(&mut self, metric: Metric, figure: Figure) {
        let (key, len) = &KEYS[metric as usize];
        self.bytes[self.to..self.to + KEY_BYTES].copy_from_slice(key);
        self.to += len;
        match figure {
            Figure::Whole(Some(n)) => self.whole(n),
            Figure::Ratio(Some(n)) => self.ratio(n),
            Figure::Whole(None) | Figure::Ratio(None) => self.put(b"null"),
        }
    }

    fn csv(&mut self, figure: Figure) {
        self.put(b",");
        match figure {
            Figure::Whole(Some(n)) => self.whole(n),
            other => {
                let text = other.to_string();
                self.text(text.as_bytes(), text.len());
            }
        }
    }

    #[inline]
    fn put<const N: usize>(&mut self, text: &[u8; N]) {
        self.bytes[self.to..self.to + N].copy_from_slice(text);
        self.to += N;
    }

    /// Puts the first bytes of a text; what is behind them may be copied too, where that is quicker.
    #[inline]
    fn text(&mut self, text: &[u8], len: usize) {
        let room = &mut self.bytes[self.to..];
        match text.first_chunk::<SHORT_BYTES>() {
            Some(text) if len <= SHORT_BYTES => room[..SHORT_BYTES].copy_from_slice(text),
            _ => room[..len].copy_from_slice(&text[..len]),
        }
        self.to += len;
    }

    #[inline]
    fn whole(&mut self, n: i64) {
        let mut digits = itoa::Buffer::new();
        let text = digits.format(n).as_bytes();
        self.bytes[self.to..self.to + text.len()].copy_from_slice(text);
        self.to += text.len();
    }

    #[inline]
    fn ratio(&mut self, n: f64) {
        if n.to_bits() == 0 {
            return self.put(b"0.0");
        }
        let mut rest = &mut self.bytes[self.to..];
        let before = rest.len();
        serde_json::to_writer(&mut rest, &n).expect("there is room for every number");
        let written = before - rest.len();
        self.to += written;
    }
}

/// The line that says what the columns of comma-separated values are.
pub fn csv_head(table: &Table, metrics: Chosen) -> Vec<u8> {
    let group = table.group_by.iter().map(|d| d.name());
    let names: Vec<&str> = std::iter::once("time")
        .chain(group)
        .chain(metrics.metrics().map(Metric::name))
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
        let longest = |metric: Metric| match metric {
            Metric::InvalidClickRate => Figure::Ratio(Some(-f64::MIN_POSITIVE / 3.0)),
            Metric::Ctr => Figure::Ratio(Some(-1.234_567_890_123_456_7e-300)),
            Metric::GrossClicks => Figure::Whole(Some(i64::MAX)),
            Metric::ConversionsValueMicros => Figure::Whole(Some(-10)),
            Metric::LateEvents => Figure::Whole(Some(9)),
            _ => Figure::Whole(Some(i64::MIN)),
        };
        let figures = || {
            Metric::ALL
                .map(|metric| (metric, longest(metric)))
                .into_iter()
        };
        // Behind the longest time and names.
        let before = 64 + NAMES_BYTES;
        let mut line = Line {
            from: before,
            to: before,
            ..Line::default()
        };
        figures().for_each(|(metric, figure)| line.json(metric, figure));
        let text = std::str::from_utf8(&line.bytes[before..line.to]).unwrap();
        let read: serde_json::Value = serde_json::from_str(&format!("{{{}}}", &text[1..])).unwrap();
        for (metric, figure) in figures() {
            let name = metric.name();
            // A reader of texts may round the last digit of a ratio.
            let printed = format!("\"{name}\":{}", serde_json::to_string(&figure).unwrap());
            assert!(text.contains(&printed) && !read[name].is_null(), "{name}");
        }
        let names: Vec<usize> = Metric::NAMES
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
