//! Rows of an answer as JSON, CSV or NDJSON, written piece by piece: a million rows are never one text in memory.
//!
//! Invariant: what is sent is what is printed of the answer's own rows, whether it is printed now or was for an earlier answer
//! with the same ones ([`crate::query::printed_rows`]). Kept texts are looked for one by one as the body is read, so a client that reads slowly
//! holds no more of them than it would of what is printed for it alone. A client that takes gzip is sent, and has kept for it, what
//! [`super::gzip`] makes of each piece.

use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adtally_projections::buckets::Granularity;
use adtally_projections::metrics::Metrics;
pub use adtally_projections::printed::Format;
use adtally_projections::printed::{Printer, csv_head, row_bytes};
use adtally_projections::ratios::{Chosen, Metric};
use adtally_projections::stretches::{Stretch, Stretches};
use adtally_projections::table::Table;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use chrono_tz::Tz;
use futures_util::Stream;
use serde::ser::SerializeMap;
use tokio_util::task::AbortOnDropHandle;

use super::gzip::{self, Member};
use crate::query::printed_rows::{Coding, Key, OfAnAnswer, PrintedRows};
use crate::query::unread::Share;

/// Bytes from which on a piece is sent: few enough to be in a processor's cache still, and so many that handing them on
/// costs little. An answer of one piece says its length.
const PIECE_BYTES: usize = 128 << 10;
/// Bytes from which on a stretch that is still not at its end is sent in parts, and not kept.
const LONG_BYTES: usize = 2 * PIECE_BYTES;
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
    /// How fine its buckets are.
    pub granularity: Granularity,
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
    /// The response, whose body is written as it is read, of texts that are kept where there are some; for a client that
    /// takes gzip packed, where it is worth it.
    pub fn into_response(self, printed: Option<&PrintedRows>, takes_gzip: bool) -> Response {
        let (format, as_of) = (self.format, HeaderValue::from_str(&self.as_of));
        let is_packed = takes_gzip && self.likely_bytes() >= gzip::MIN_BYTES;
        let mut pieces = Pieces::new(self, printed, is_packed.then(Member::default));
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
        if is_packed {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        if let Ok(as_of) = as_of {
            headers.insert(AS_OF, as_of);
        }
        response
    }

    /// About how long the text of the rows is.
    fn likely_bytes(&self) -> usize {
        let of_row = row_bytes(self.format, self.metrics, self.table.group_by.len());
        self.table.len().saturating_mul(of_row)
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
    /// How a large answer goes on, where texts are kept.
    kept: Option<Kept>,
    /// What they are packed into, where they are.
    member: Option<Member>,
    ended: bool,
}

/// Rows whose texts are kept, stretch by stretch.
struct Kept {
    stretches: Stretches,
    texts: OfAnAnswer,
    /// What is left of a stretch that is too long to be kept, or to be printed at once.
    rest: Option<Stretch>,
}

impl Pieces {
    fn new(mut answer: Rendered, printed: Option<&PrintedRows>, member: Option<Member>) -> Self {
        let begun = match answer.format {
            Format::Json => {
                answer.before.push(b'[');
                std::mem::take(&mut answer.before)
            }
            Format::Csv => csv_head(&answer.table, answer.metrics),
            Format::Ndjson => Vec::new(),
        };
        let groups = answer.table.groups();
        let printer = Printer::new(answer.format, answer.zone, answer.metrics, groups);
        let printed_as = (answer.format, answer.zone, answer.metrics);
        let kept = printed.and_then(|printed| {
            Some(Kept {
                stretches: Stretches::of(&answer.table, answer.granularity, printed_as)?,
                texts: printed.of_an_answer(),
                rest: None,
            })
        });
        Self {
            printer: match kept {
                // A stretch may be the first of one answer and in the middle of another.
                Some(_) => printer.behind_others(),
                None => printer,
            },
            answer,
            begun,
            printed: 0,
            kept,
            member,
            ended: false,
        }
    }

    /// Appends rows up to a number, until there are so many bytes.
    fn print(&mut self, to: usize, enough: usize, out: &mut Vec<u8>) {
        let table = &self.answer.table;
        let left = to - self.printed;
        out.reserve((PIECE_BYTES + ROW_BYTES).min(left.saturating_mul(ROW_BYTES)));
        let _ = table.some_rows(self.printed..to).try_for_each(|row| {
            self.printer.row(table, &row, out);
            self.printed += 1;
            match out.len() < enough {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
    }

    /// The next stretch, or a part of it where it is long; none behind the last one.
    fn stretch(&mut self) -> Option<Bytes> {
        let is_first = self.is_first();
        let kept = self.kept.as_mut()?;
        let rest = kept.rest.take();
        let stretch = match rest {
            Some(rest) => rest,
            None => kept.stretches.at(&self.answer.table, self.printed)?,
        };
        let key = stretch.key.filter(|_| kept.texts.has_room());
        let key = key.map(|rows| Key {
            rows,
            is_first,
            coding: match self.member {
                Some(_) => Coding::Gzip,
                None => Coding::Identity,
            },
        });
        let coded = match key.and_then(|key| kept.texts.find(key)) {
            Some(found) => {
                self.printed = stretch.rows.end;
                found
            }
            None => self.print_stretch(stretch, key),
        };
        Some(self.added(coded))
    }

    /// Whether what comes next has no comma before it that others have.
    fn is_first(&self) -> bool {
        self.printed == 0 && self.answer.format == Format::Json
    }

    /// A stretch that is not kept, or is from now on, as it would be kept.
    fn print_stretch(&mut self, stretch: Stretch, key: Option<Key>) -> Bytes {
        let is_first = self.is_first();
        let mut text = Vec::new();
        self.print(stretch.rows.end, LONG_BYTES, &mut text);
        text.drain(..usize::from(is_first));
        let is_whole = self.printed == stretch.rows.end;
        let coded = self.coded(text);
        match (key, &mut self.kept) {
            (Some(key), Some(kept)) if is_whole => return kept.texts.keep(key, coded),
            (_, Some(kept)) if !is_whole => {
                kept.rest = Some(Stretch {
                    rows: self.printed..stretch.rows.end,
                    key: None,
                });
            }
            _ => {}
        }
        Bytes::from(coded)
    }

    /// A text as it is kept.
    fn coded(&self, text: Vec<u8>) -> Vec<u8> {
        match self.member {
            Some(_) => gzip::pack(&text),
            None => text,
        }
    }

    /// What is to be sent of a text as it is kept.
    fn added(&mut self, coded: Bytes) -> Bytes {
        match &mut self.member {
            Some(member) => member.add(&coded),
            None => coded,
        }
    }

    /// The next piece, without what a member has around its texts; an empty one is the last.
    fn piece(&mut self) -> Bytes {
        let mut out = std::mem::take(&mut self.begun);
        if self.kept.is_none() {
            self.print(self.answer.table.len(), PIECE_BYTES, &mut out);
        } else if out.is_empty()
            && let Some(stretch) = self.stretch()
        {
            return stretch;
        }
        if self.printed == self.answer.table.len() {
            self.ended = true;
            if self.answer.format == Format::Json {
                out.push(b']');
                out.append(&mut self.answer.after);
            }
        }
        let coded = self.coded(out);
        self.added(coded.into())
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        // Whatever is packed has a text in its first piece, rows or what stands before them.
        let begins = self.member.as_ref().is_some_and(Member::is_empty);
        let mut piece = self.piece();
        if let Some(member) = &self.member
            && (begins || self.ended)
        {
            let head = if begins { &gzip::HEAD[..] } else { &[] };
            let tail = if self.ended { member.end() } else { Vec::new() };
            piece = [head, &piece, &tail].concat().into();
        }
        (!piece.is_empty()).then_some(piece)
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
