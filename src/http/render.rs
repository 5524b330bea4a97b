//! Rows of an answer as JSON, CSV or NDJSON, written piece by piece: a million rows are never one text in memory.

use std::io;
use std::ops::ControlFlow;
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

/// Bytes from which on a piece is sent: few enough to be in a processor's cache still, and so many that handing them on
/// costs little. An answer of one piece says its length.
const PIECE_BYTES: usize = 128 << 10;
/// Room for the row with which a piece reaches them; it is given more when that has long names.
const ROW_BYTES: usize = 1 << 10;
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
    #[expect(dead_code, reason = "it is held until the rows are let go of")]
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
        let mut pieces = Pieces::new(self);
        let first = pieces.next().unwrap_or_default();
        let body = match pieces.ended {
            true => Body::from(first),
            false => Body::from_stream(within(std::iter::once(first).chain(pieces), READ_WITHIN)),
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

/// The body, piece by piece.
struct Pieces {
    answer: Rendered,
    printer: Printer,
    /// The next piece as far as it is there.
    begun: Vec<u8>,
    /// Rows that are printed.
    printed: usize,
    ended: bool,
}

impl Pieces {
    fn new(mut answer: Rendered) -> Self {
        let begun = match answer.format {
            Format::Json => {
                answer.before.push(b'[');
                std::mem::take(&mut answer.before)
            }
            Format::Csv => csv_head(&answer.table, answer.metrics),
            Format::Ndjson => Vec::new(),
        };
        let groups = answer.table.groups();
        Self {
            printer: Printer::new(answer.format, answer.zone, answer.metrics, groups),
            answer,
            begun,
            printed: 0,
            ended: false,
        }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let (table, mut out) = (&self.answer.table, std::mem::take(&mut self.begun));
        let left = table.len() - self.printed;
        out.reserve((PIECE_BYTES + ROW_BYTES).min(left.saturating_mul(ROW_BYTES)));
        let rest = table
            .some_rows(self.printed..table.len())
            .try_for_each(|row| {
                self.printer.row(table, &row, &mut out);
                self.printed += 1;
                match out.len() {
                    0..PIECE_BYTES => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            });
        if rest.is_continue() {
            self.ended = true;
            if self.answer.format == Format::Json {
                out.push(b']');
                out.append(&mut self.answer.after);
            }
        }
        Some(Bytes::from(out))
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
