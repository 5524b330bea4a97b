//! One line of a canonical dump: what it is about, its text, and the bytes that a comparison hashes in the text's
//! place.
//!
//! Invariant: two lines, of one state or of two, have equal bytes exactly when they have equal texts, but for a
//! collision of 128 bits of a name's hash; a property test holds the two against each other. Nearly all of the time of
//! a comparison would go into printing what nobody reads: so the bytes of an id and of a sketch are numbers, hashes of
//! names and what is stored, and their texts are made of those lines only that differ. Cells, which nearly all lines
//! are, have no bytes of their own, see [`crate::line_hash`]. All other rows are few, and their bytes are their text.

use std::fmt::Write as _;

use adtally_streams::id::Id;

use crate::cells::{Bucket, CellKey};
use crate::conversions::ConversionKey;
use crate::dump_names::Names;
use crate::dump_rows::uniques_text;
use crate::family::Family;
use crate::ids::{self, IdRecord};
use crate::line_hash::device;
use crate::metrics::{METRICS, Metrics};
use crate::spend;
use crate::symbols::{Space, Symbol};
use crate::uniques::UniquesKey;
use crate::verdicts::{FraudClick, FraudSumKey};

/// First byte of an id's bytes, and of a sketch's; a text begins with a letter.
const ID: u8 = 2;
const UNIQUES: u8 = 3;

const MINUTES_A_DAY: i64 = 1_440;
const DAY_MS: i64 = 86_400_000;

/// One line of a dump. Its text is made when it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub(crate) names: &'a Names,
    pub(crate) content: Content<'a>,
}

/// What a line says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'a> {
    /// The counters of a cell.
    Cell {
        cell: &'a CellKey,
        sums: &'a [i64; METRICS],
        /// Whether a question would read it.
        is_read: bool,
    },
    /// Who has an id.
    Id(ids::IdKey<'a>, IdRecord),
    /// A sketch of visitors as it is stored, which can be read.
    Uniques(UniquesKey, &'a [u8]),
    /// A row of another family under its key, as text.
    Row(Family, &'a [u8], &'a str),
}

impl Line<'_> {
    /// The family's name; `ids` for the id index.
    pub fn section(&self) -> &'static str {
        match self.content {
            Content::Cell { cell, .. } => cell.bucket.grain().family().name(),
            Content::Id(..) => "ids",
            Content::Uniques(..) => Family::Uniques.name(),
            Content::Row(family, ..) => family.name(),
        }
    }

    /// The campaign that it is about, where it is about one.
    pub fn campaign(&self) -> Option<&str> {
        let symbol = match self.content {
            Content::Cell { cell, .. } => Some(cell.campaign),
            Content::Id(..) => None,
            Content::Uniques(key, _) => Some(key.campaign),
            Content::Row(family, key, _) => About::row(family, key).campaign,
        };
        symbol.map(|symbol| self.names.of(Space::Campaign, symbol))
    }

    /// The day that it is about, counted from 1970-01-01: a civil day of the advertiser where the row says which,
    /// else the UTC day.
    pub fn day(&self) -> Option<i32> {
        match self.content {
            Content::Cell { cell, .. } => i32::try_from(day_of(cell.bucket)).ok(),
            Content::Id(_, record) => Some(ids::log_day(record.log_time_ms)),
            Content::Uniques(key, _) => Some(key.day),
            Content::Row(family, key, _) => About::row(family, key).day,
        }
    }

    /// The line.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.put_text(&mut out);
        out
    }

    fn put_text(&self, out: &mut String) -> std::fmt::Result {
        match &self.content {
            Content::Cell {
                cell,
                sums,
                is_read,
            } => {
                if !is_read {
                    out.write_str("unread ")?;
                }
                put_cell_text(out, self.names, cell, &Metrics::from_fields(**sums))
            }
            Content::Id(key, record) => {
                let IdRecord {
                    log_time_ms,
                    sequence,
                    content_hash,
                } = record;
                write!(
                    out,
                    "id {} log_time={log_time_ms} sequence={sequence} hash={content_hash:016x}",
                    id_text(self.names, key)
                )
            }
            Content::Uniques(key, value) => out.write_str(&uniques_text(self.names, key, value)),
            Content::Row(_, _, text) => out.write_str(text),
        }
    }

    /// Appends what a comparison hashes, nothing for a cell, and answers how many of these bytes are what the line is
    /// about; the others are what it says of it.
    pub(crate) fn put_bytes(&self, out: &mut Vec<u8>) -> usize {
        let begin = out.len();
        match &self.content {
            Content::Cell { .. } => 0,
            Content::Id(key, record) => {
                out.extend_from_slice(&[ID, key.kind as u8]);
                out.extend_from_slice(&self.names.hash(key.owner_space(), key.owner).to_le_bytes());
                put_id_bytes(out, key.id);
                let about = out.len() - begin;
                out.extend_from_slice(&record.log_time_ms.to_le_bytes());
                out.extend_from_slice(&record.sequence.to_le_bytes());
                out.extend_from_slice(&record.content_hash.to_le_bytes());
                about
            }
            Content::Uniques(key, value) => {
                out.extend_from_slice(&[UNIQUES, key.what as u8]);
                out.extend_from_slice(&key.day.to_le_bytes());
                out.extend_from_slice(
                    &self.names.hash(Space::Campaign, key.campaign).to_le_bytes(),
                );
                let about = out.len() - begin;
                out.extend_from_slice(value);
                about
            }
            Content::Row(_, _, text) => {
                out.extend_from_slice(text.as_bytes());
                parts(text).0.len()
            }
        }
    }
}

/// Which campaign and day a row is about.
#[derive(Clone, Copy, Debug, Default)]
struct About {
    campaign: Option<Symbol>,
    day: Option<i32>,
}

impl About {
    /// Of a family without cells; nothing where it is about neither, or cannot be read.
    fn row(family: Family, key: &[u8]) -> Self {
        let of = |campaign, day: Option<i64>| Self {
            campaign,
            day: day.and_then(|day| i32::try_from(day).ok()),
        };
        match family {
            Family::Spend => spend::decode_key(key)
                .map(|(campaign, day)| of(Some(campaign), day.map(i64::from)))
                .unwrap_or_default(),
            Family::FraudSums => FraudSumKey::decode(key)
                .map(|k| of(Some(k.campaign), Some(k.minute.div_euclid(MINUTES_A_DAY))))
                .unwrap_or_default(),
            Family::FraudClicks => FraudClick::place(key)
                .map(|(campaign, ms)| of(Some(campaign), Some(ms.div_euclid(DAY_MS))))
                .unwrap_or_default(),
            Family::Conversions => ConversionKey::decode(key)
                .map(|k| of(None, Some(i64::from(k.day))))
                .unwrap_or_default(),
            _ => Self::default(),
        }
    }
}

fn day_of(bucket: Bucket) -> i64 {
    match bucket {
        Bucket::Minute(minute) => minute.div_euclid(MINUTES_A_DAY),
        Bucket::Hour { start_s, offset_s } => {
            (start_s + i64::from(offset_s)).div_euclid(DAY_MS / 1_000)
        }
        Bucket::Day(day) => i64::from(day),
    }
}

/// An id's kind, owner and text.
pub(crate) fn id_text(names: &Names, key: &ids::IdKey<'_>) -> String {
    let owner = names.of(key.owner_space(), key.owner);
    format!("{} {owner} {}", key.kind, key.text())
}

/// A packed id. One and the same text may have been packed as a text or as a UUID.
fn put_id_bytes(out: &mut Vec<u8>, packed: &[u8]) {
    let as_uuid = || {
        let text = std::str::from_utf8(packed.strip_prefix(&[ids::TEXT])?).ok()?;
        Id::new(text).ok()?.to_uuid()
    };
    match as_uuid() {
        Some(bytes) => {
            out.push(ids::UUID);
            out.extend_from_slice(&bytes);
        }
        None => out.extend_from_slice(packed),
    }
}

fn put_cell_text(
    out: &mut String,
    names: &Names,
    cell: &CellKey,
    sums: &Metrics,
) -> std::fmt::Result {
    write!(out, "cell {} ", names.of(Space::Campaign, cell.campaign))?;
    match cell.bucket {
        Bucket::Minute(minute) => write!(out, "minute={minute}")?,
        Bucket::Hour { start_s, offset_s } => write!(out, "hour={start_s}{offset_s:+}")?,
        Bucket::Day(day) => write!(out, "day={day}")?,
    }
    write!(
        out,
        " ad={} creative={:?} region={} device={} {sums}",
        names.of(Space::Ad, cell.ad),
        names.of(Space::Creative, cell.creative),
        names.of(Space::Region, cell.region),
        device(cell.device).name(),
    )
}

/// A text's key and value. The value is a printed structure, an id's record, or a list; a text without any is all
/// key. Two texts of one key are parted alike, whatever stands in the key.
pub(crate) fn parts(text: &str) -> (&str, &str) {
    let at = structure(text)
        .or_else(|| text.find(" log_time="))
        .or_else(|| text.find(" ["));
    match at {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    }
}

/// Where ` Name {` begins.
fn structure(text: &str) -> Option<usize> {
    text.match_indices(" {").find_map(|(brace, _)| {
        let at = text[..brace].rfind(' ')?;
        let name = &text[at + 1..brace];
        let is_name = name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.bytes().all(|b| b.is_ascii_alphanumeric());
        is_name.then_some(at)
    })
}

#[cfg(test)]
#[path = "dump_line_tests.rs"]
mod tests;
