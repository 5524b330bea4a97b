//! Rows of an answer as JSON, CSV or NDJSON, written piece by piece: a million rows are never one text in memory.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adtally_projections::metrics::Metrics;
pub use adtally_projections::printed::Format;
use adtally_projections::printed::{Printer, csv_head};
use adtally_projections::ratios::{Chosen, Metric};
use adtally_projections::table::Table;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use chrono_tz::Tz;
use futures_util::Stream;
use serde::ser::SerializeMap;
use tokio_util::task::AbortOnDropHandle;

use crate::query::unread::Share;

/// Rows that are written at a time.
const ROWS_AT_A_TIME: usize = 512;
/// Bytes that a row takes at first; it is given more when it has long names.
const ROW_BYTES: usize = 480;
/// How long a client may take to read a large answer: a million rows are 400 MB of JSON, at 11 Mbit/s.
pub const READ_WITHIN: Duration = Duration::from_secs(300);
/// Which state an answer is made of, where the body has no room for it; the same JSON as `as_of`.
pub const AS_OF: HeaderName = HeaderName::from_static("x-adtally-as-of");

fn media_type(format: Format) -> &'static str {
    match format {
        Format::Json => "application/json",
        Format::Csv => "text/csv; charset=utf-8; header=present",
        Format::Ndjson => "application/x-ndjson",
    }
}

/// Writes the figures of some sums into a map that may have other entries too.
pub fn serialize_figures<M: SerializeMap>(
    chosen: Chosen,
    sums: &Metrics,
    map: &mut M,
) -> Result<(), M::Error> {
    chosen
        .metrics()
        .try_for_each(|metric: Metric| map.serialize_entry(metric.name(), &metric.of(sums)))
}

/// A whole answer: what stands before and after the rows of JSON, and the rows.
pub struct Rendered {
    /// How.
    pub format: Format,
    /// The rows.
    pub table: Table,
    /// What is said of each.
    pub metrics: Chosen,
    /// Room for them, where they are many.
    pub share: Option<Share>,
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
        let is_large = self.share.is_some();
        let pieces = Pieces::new(self);
        let body = if is_large {
            Body::from_stream(within(pieces, READ_WITHIN))
        } else {
            Body::from_stream(futures_util::stream::iter(pieces.map(Ok::<_, Infallible>)))
        };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(media_type(format)),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(as_of) = as_of {
            headers.insert(AS_OF, as_of);
        }
        response
    }
}

/// The items, until the time is over. Then they are dropped with all that they hold, also while nobody asks for more,
/// and whoever does is told by an error: a body that ends so is no whole answer to any client.
fn within<I>(items: I, time: Duration) -> impl Stream<Item = io::Result<I::Item>>
where
    I: Iterator + Send + 'static,
{
    let items = Arc::new(Mutex::new(Some(items)));
    let left = Arc::downgrade(&items);
    let timer = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::time::sleep(time).await;
        if let Some(items) = left.upgrade() {
            metrics::counter!("adtally_answers_cut_off_total").increment(1);
            locked(&items).take();
        }
    }));
    let mut is_told = false;
    futures_util::stream::iter(std::iter::from_fn(move || {
        let _ = &timer;
        match locked(&items).as_mut() {
            Some(items) => items.next().map(Ok),
            None if is_told => None,
            None => {
                is_told = true;
                let seconds = time.as_secs();
                Some(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("a large answer was not read within {seconds} s"),
                )))
            }
        }
    }))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // An iterator that has panicked is in the middle of nothing that another call would mend or harm.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            Format::Csv => ready.push_back(Bytes::from(csv_head(&answer.table, answer.metrics))),
            Format::Ndjson => {}
        }
        Self {
            printer: Printer::new(
                answer.format,
                answer.zone,
                answer.metrics,
                answer.table.groups(),
            ),
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

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
