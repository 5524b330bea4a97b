//! Rows: one event, or the record of a refused one, as an outbox keeps it; and runs of rows.
//!
//! The rows of one lane in one group commit are one *run*: a click costs a few bytes in a put that it shares, not a
//! put of its own. A run knows how many rows it holds and how old they are, so recovery reads no row.

use crate::event::Event;
use crate::event_row::put_row;
use crate::lane::Lane;
use crate::recovery::recovered_parts;

/// Bytes before each row of a run: its length.
pub const ROW_PREFIX_BYTES: usize = 4;
/// Bytes before the rows of a run: version, count, oldest arrival.
const RUN_HEADER_BYTES: usize = 1 + 4 + 8;
const RUN_VERSION: u8 = 1;
/// What most events' rows fit in without growing.
const EVENT_ROW_ROOM_BYTES: usize = 512;

/// The stored form of an event.
pub fn event_row(event: &Event) -> Vec<u8> {
    let mut row = Vec::with_capacity(EVENT_ROW_ROOM_BYTES);
    put_row(&mut row, event);
    row
}

/// The stored form of a refused event's record: the reason's length in a byte, the reason, the JSON.
pub fn refused_row(reason: &str, json: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + reason.len() + json.len());
    row.push(reason.len() as u8);
    row.extend_from_slice(reason.as_bytes());
    row.extend_from_slice(json);
    row
}

/// Takes a refused event's row apart: the reason and the JSON.
pub fn refused_parts(row: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = row.split_first()?;
    let (reason, json) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(reason).ok()?, json))
}

/// A run that is being filled.
#[derive(Debug, Default)]
pub struct RunBuilder {
    value: Vec<u8>,
    count: u64,
    oldest_ms: i64,
}

impl RunBuilder {
    /// Appends a row whose event arrived at `arrival_ms`, in Unix milliseconds.
    pub fn push(&mut self, row: &[u8], arrival_ms: i64) {
        if self.count == 0 {
            self.value.clear();
            self.value.resize(RUN_HEADER_BYTES, 0);
            self.oldest_ms = arrival_ms;
        }
        self.count += 1;
        self.oldest_ms = self.oldest_ms.min(arrival_ms);
        self.value
            .extend_from_slice(&(row.len() as u32).to_le_bytes());
        self.value.extend_from_slice(row);
    }

    /// Rows so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of the rows so far, with their prefixes.
    pub fn bytes(&self) -> usize {
        self.value.len().saturating_sub(RUN_HEADER_BYTES)
    }

    /// The stored value; the builder is empty afterwards and keeps its room.
    pub fn finish(&mut self) -> &[u8] {
        if self.count > 0 {
            self.value[0] = RUN_VERSION;
            self.value[1..5].copy_from_slice(&(self.count as u32).to_le_bytes());
            self.value[5..RUN_HEADER_BYTES].copy_from_slice(&self.oldest_ms.to_le_bytes());
            self.count = 0;
        }
        &self.value
    }
}

/// A stored run: the count and oldest arrival that it states, and its rows.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Rows that it states.
    pub count: u64,
    /// No event of it arrived before this, in Unix milliseconds.
    pub oldest_ms: i64,
    rows: &'a [u8],
}

impl<'a> Run<'a> {
    /// Reads a stored value; none when it is not a run's.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let (header, rows) = value.split_at_checked(RUN_HEADER_BYTES)?;
        let count = u32::from_le_bytes(header.get(1..5)?.try_into().ok()?);
        let oldest_ms = i64::from_le_bytes(header.get(5..)?.try_into().ok()?);
        (header[0] == RUN_VERSION && count > 0).then_some(Self {
            count: u64::from(count),
            oldest_ms,
            rows,
        })
    }

    /// The next row, taken off what is left; none at the end, and where the run ends early.
    pub fn next_row(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rows.split_first_chunk::<ROW_PREFIX_BYTES>()?;
        let (row, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.rows = rest;
        Some(row)
    }

    /// What recovery needs of the run at `first`, without the counters below `from`; none when it ends early.
    pub fn info(mut self, first: u64, from: u64) -> Option<RunInfo> {
        let skipped = from.saturating_sub(first);
        for _ in 0..skipped {
            self.next_row()?;
        }
        Some(RunInfo {
            first: first + skipped,
            count: self.count.checked_sub(skipped)?,
            oldest_ms: self.oldest_ms,
            bytes: self.rows.len() as u64,
        })
    }
}

/// A run without its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunInfo {
    /// First counter that counts here: of the run, or of the part of it that was asked for.
    pub first: u64,
    /// Rows from there on.
    pub count: u64,
    /// No event of it arrived before this, in Unix milliseconds.
    pub oldest_ms: i64,
    /// Bytes of its rows with their prefixes.
    pub bytes: u64,
}

/// A lane's runs do not follow one another: rows between them are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("counters up to {expected} and then {found}")]
pub struct MissingRun {
    /// The counter that should have come next.
    pub expected: u64,
    /// The one that did.
    pub found: u64,
}

/// A lane of an earlier opening of which nothing is known to be lost: see [`recovered_parts`].
///
/// # Errors
/// [`MissingRun`] when a run in between is gone: the disk is damaged.
pub fn recovered_lane(acked: u64, runs: &[RunInfo]) -> Result<Lane, MissingRun> {
    let parts = recovered_parts(acked, runs, &[])?;
    Ok(parts.into_iter().next().unwrap_or_default())
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
