//! Rows of an answer as JSON, CSV or NDJSON, written piece by piece: a million rows are never one text in memory.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write as _;
use std::sync::LazyLock;

use adtally_projections::bounds::print;
use adtally_projections::merged::{Row, Table};
use adtally_projections::ratios::{Figure, Figures};
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use chrono_tz::Tz;
use serde::ser::{Serialize, SerializeMap};

/// Rows that are written at a time.
const ROWS_AT_A_TIME: usize = 512;
/// Bytes that a row takes at first; it is given more when it has long names.
const ROW_BYTES: usize = 480;
/// Bytes of groups' names that are kept as they are printed; those of more are printed row by row.
const MAX_NAMES: usize = 4 << 20;
/// Which state an answer is made of, where the body has no room for it; the same JSON as `as_of`.
pub const AS_OF: HeaderName = HeaderName::from_static("x-adtally-as-of");

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

    fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Ndjson => "application/x-ndjson",
        }
    }
}

/// Writes the figures into a map that has other entries too.
pub fn serialize_figures<M: SerializeMap>(figures: &Figures, map: &mut M) -> Result<(), M::Error> {
    for (name, figure) in Figures::NAMES.iter().zip(figures.values()) {
        map.serialize_entry(name, &figure)?;
    }
    Ok(())
}

/// A whole answer: what stands before and after the rows of JSON, and the rows.
pub struct Rendered {
    /// How.
    pub format: Format,
    /// The rows.
    pub table: Table,
    /// The clock on which times are printed.
    pub zone: Tz,
    /// JSON up to and without the rows' opening bracket.
    pub before: Vec<u8>,
    /// JSON from after the rows' closing bracket.
    pub after: Vec<u8>,
    /// Which state it is, as JSON.
    pub as_of: String,
}

impl Rendered {
    /// The response, whose body is written as it is read.
    pub fn into_response(self) -> Response {
        let (format, as_of) = (self.format, HeaderValue::from_str(&self.as_of));
        let stream = futures_util::stream::iter(Pieces::new(self).map(Ok::<Bytes, Infallible>));
        let mut response = Response::new(Body::from_stream(stream));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(format.media_type()),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(as_of) = as_of {
            headers.insert(AS_OF, as_of);
        }
        response
    }
}

/// The body, a few hundred rows at a time.
struct Pieces {
    answer: Rendered,
    printer: Printer,
    next: usize,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Pieces {
    fn new(mut answer: Rendered) -> Self {
        let mut ready = VecDeque::new();
        match answer.format {
            Format::Json => {
                answer.before.push(b'[');
                ready.push_back(Bytes::from(std::mem::take(&mut answer.before)));
            }
            Format::Csv => ready.push_back(Bytes::from(csv_header(&answer.table))),
            Format::Ndjson => {}
        }
        Self {
            printer: Printer::new(answer.format, answer.zone, answer.table.groups()),
            answer,
            next: 0,
            ready,
            ended: false,
        }
    }

    fn rows(&mut self) -> Option<Bytes> {
        let table = &self.answer.table;
        let end = (self.next + ROWS_AT_A_TIME).min(table.len());
        if self.next == end {
            return None;
        }
        let mut out = Vec::with_capacity((end - self.next) * ROW_BYTES);
        for (at, row) in (self.next..end).zip(table.some_rows(self.next..end)) {
            if self.answer.format == Format::Json && at > 0 {
                out.push(b',');
            }
            self.printer.row(table, &row, &mut out);
        }
        self.next = end;
        Some(Bytes::from(out))
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.ready.pop_front() {
            return Some(piece);
        }
        if let Some(rows) = self.rows() {
            return Some(rows);
        }
        if self.ended || self.answer.format != Format::Json {
            return None;
        }
        self.ended = true;
        let mut after = vec![b']'];
        after.append(&mut self.answer.after);
        Some(Bytes::from(after))
    }
}

/// Prints rows. What rows have in common is printed once: a bucket's time, and a group's names.
struct Printer {
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
    fn new(format: Format, zone: Tz, groups: usize) -> Self {
        Self {
            format,
            zone,
            slot: None,
            time: Vec::new(),
            groups: vec![(0, 0); groups],
            names: Vec::new(),
        }
    }

    fn row(&mut self, table: &Table, row: &Row, out: &mut Vec<u8>) {
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
                        // Memory takes everything.
                        other => drop(write!(out, "{other}")),
                    }
                }
            }
            Format::Json | Format::Ndjson => {
                for (name, figure) in NAMES_OF_JSON.iter().zip(figures) {
                    out.extend_from_slice(name.as_bytes());
                    match figure {
                        Figure::Whole(Some(n)) => whole(n, out),
                        Figure::Ratio(Some(_)) => json(&figure, out),
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
                // As it stands behind a time: a text by itself would be quoted where it is empty.
                let names = table.names_of(group).map(|(_, name)| name);
                let record = csv_record(std::iter::once("t").chain(names));
                out.extend_from_slice(&record[1..record.len() - 1]);
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
static NAMES_OF_JSON: LazyLock<[String; Figures::NAMES.len()]> =
    LazyLock::new(|| Figures::NAMES.map(|name| format!(",\"{name}\":")));

fn json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a text or number always has a JSON form");
}

fn whole(n: i64, out: &mut Vec<u8>) {
    match n {
        0..=9 => out.push(b'0' + n as u8),
        _ => json(&n, out),
    }
}

fn csv_header(table: &Table) -> Vec<u8> {
    let group = table.group_by.iter().map(|d| d.name());
    csv_record(std::iter::once("time").chain(group).chain(Figures::NAMES))
}

fn csv_record<'a>(fields: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer
        .write_record(fields)
        .expect("a record in memory is always written");
    writer.into_inner().expect("memory is always flushed")
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
