//! Rows of an answer as JSON, CSV or NDJSON, written piece by piece: a million rows are never one text in memory.

use std::collections::VecDeque;
use std::convert::Infallible;

use adtally_projections::bounds::print;
use adtally_projections::partial::{Row, Table};
use adtally_projections::ratios::Figures;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use chrono_tz::Tz;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// Rows that are written at a time.
const ROWS_AT_A_TIME: usize = 512;
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

/// A row with its bucket's time, its group and its figures.
struct Printed<'a> {
    table: &'a Table,
    row: &'a Row,
    zone: Tz,
}

impl Printed<'_> {
    fn time(&self) -> String {
        let slot = self.table.slot(self.row);
        print(slot.time_ms, slot.offset_s, self.zone)
    }
}

impl Serialize for Printed<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("time", &self.time())?;
        for (dimension, name) in self.table.group(self.row) {
            map.serialize_entry(dimension.name(), name)?;
        }
        serialize_figures(&Figures::of(&self.row.metrics), &mut map)?;
        map.end()
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
            answer,
            next: 0,
            ready,
            ended: false,
        }
    }

    fn rows(&mut self) -> Option<Bytes> {
        let table = &self.answer.table;
        let end = (self.next + ROWS_AT_A_TIME).min(table.rows.len());
        if self.next == end {
            return None;
        }
        let mut out = Vec::with_capacity(ROWS_AT_A_TIME * 384);
        for (at, row) in (self.next..end).zip(&table.rows[self.next..end]) {
            let printed = Printed {
                table,
                row,
                zone: self.answer.zone,
            };
            match self.answer.format {
                Format::Csv => csv_row(&printed, &mut out),
                Format::Json | Format::Ndjson => {
                    if self.answer.format == Format::Json && at > 0 {
                        out.push(b',');
                    }
                    serde_json::to_writer(&mut out, &printed)
                        .expect("a row of texts and numbers always has a JSON form");
                    if self.answer.format == Format::Ndjson {
                        out.push(b'\n');
                    }
                }
            }
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

fn csv_header(table: &Table) -> Vec<u8> {
    let group = table.group_by.iter().map(|d| d.name());
    csv_record(
        std::iter::once("time")
            .chain(group)
            .chain(Figures::NAMES)
            .map(str::to_owned),
    )
}

fn csv_row(printed: &Printed<'_>, out: &mut Vec<u8>) {
    let group = printed
        .table
        .group(printed.row)
        .map(|(_, name)| name.to_owned());
    let figures = Figures::of(&printed.row.metrics)
        .values()
        .into_iter()
        .map(|f| f.to_string());
    out.append(&mut csv_record(
        std::iter::once(printed.time()).chain(group).chain(figures),
    ));
}

fn csv_record(fields: impl Iterator<Item = String>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer
        .write_record(fields.map(String::into_bytes))
        .expect("a record in memory is always written");
    writer.into_inner().expect("memory is always flushed")
}
