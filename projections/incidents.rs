//! Incidents: messages that could not be applied, and events whose id was taken by other content.
//!
//! Invariant: each is counted forever and has a record, of which the latest are kept. Records are numbered in log
//! order from 0, and record n drives out record n - limit, so that what is kept depends on the log alone.

use adtally_streams::id::Epoch;

use crate::codec::{Damaged, Reader, put_bytes, put_u64, put_varint};
use crate::family::{Changes, Family};

/// Records of conflicts that a shard keeps.
pub const MAX_CONFLICTS: u64 = 10_000;
/// Records of bad messages that a shard keeps.
pub const MAX_BAD_FRAMES: u64 = 10_000;
/// Bytes of a bad message's subject that are kept.
const MAX_SUBJECT: usize = 256;

/// The name in [`BadFrame::name`] of a frame that was applied but for some events.
pub const REFUSED_EVENTS: &str = "refused_events";
/// Likewise, of a frame whose kind is not its subject's.
pub const SUBJECT_MISMATCH: &str = "subject_mismatch";
/// Likewise, of a frame whose counters pass 2^64.
pub const COUNTER_OVERFLOW: &str = "counter_overflow";

/// Row in [`Family::Meta`]: how many conflicts there were.
pub const CONFLICTS_KEY: &[u8] = b"conflicts";
/// Row in [`Family::Meta`]: how many bad messages there were.
pub const BAD_FRAMES_KEY: &[u8] = b"bad_frames";

/// How many incidents of each sort there were: the numbers that the next records get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Conflicts.
    pub conflicts: u64,
    /// Bad messages.
    pub bad_frames: u64,
}

/// A message of the stream that was not applied, or not wholly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFrame {
    /// Its sequence.
    pub sequence: u64,
    /// Log time, Unix milliseconds.
    pub log_time_ms: i64,
    /// The error's stable name.
    pub name: String,
    /// The message's subject, cut.
    pub subject: String,
    /// How many of its events were refused, where that is known.
    pub events: u64,
}

/// An event that did not count, because another one of other content has its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The event's key in the id index: see [`crate::ids::IdKey`] for its kind, ad or advertiser, and id.
    pub id_key: Vec<u8>,
    /// Log time, Unix milliseconds.
    pub log_time_ms: i64,
    /// Sequence of its frame.
    pub sequence: u64,
    /// Epoch that sent it.
    pub epoch: Epoch,
    /// Its counter.
    pub counter: u64,
    /// Hash of what its publisher gave.
    pub content_hash: u64,
    /// Sequence of the frame with the event that counts.
    pub first_sequence: u64,
    /// Hash of what that one's publisher gave.
    pub first_content_hash: u64,
}

/// Row in [`Family::Conflicts`] and [`Family::BadFrames`].
pub fn key(out: &mut Vec<u8>, number: u64) {
    put_u64(out, number);
}

/// The number of a row.
pub fn decode_key(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

fn record(
    out: &mut Changes,
    family: Family,
    number: u64,
    limit: u64,
    value: impl FnOnce(&mut Vec<u8>),
) {
    out.put(family, |k| key(k, number), value);
    if number >= limit {
        out.delete(family, |k| key(k, number - limit));
    }
}

impl BadFrame {
    /// Records it as the incident of that number.
    pub fn write(&self, number: u64, out: &mut Changes) {
        record(out, Family::BadFrames, number, MAX_BAD_FRAMES, |v| {
            put_varint(v, self.sequence);
            put_varint(v, self.log_time_ms as u64);
            put_varint(v, self.events);
            put_bytes(v, self.name.as_bytes());
            put_bytes(
                v,
                &self.subject.as_bytes()[..self.subject.floor_char_boundary(MAX_SUBJECT)],
            );
        });
    }

    /// Reads a row's value.
    pub fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(value, "bad frame");
        let (sequence, log_time_ms, events) = (r.varint()?, r.varint()? as i64, r.varint()?);
        let bad = Self {
            sequence,
            log_time_ms,
            events,
            name: r.text()?.to_owned(),
            subject: r.text()?.to_owned(),
        };
        r.end()?;
        Ok(bad)
    }
}

impl Conflict {
    /// Records it as the incident of that number.
    pub fn write(&self, number: u64, out: &mut Changes) {
        record(out, Family::Conflicts, number, MAX_CONFLICTS, |v| {
            put_bytes(v, &self.id_key);
            put_varint(v, self.log_time_ms as u64);
            put_varint(v, self.sequence);
            put_u64(v, self.epoch.0);
            put_varint(v, self.counter);
            put_u64(v, self.content_hash);
            put_varint(v, self.first_sequence);
            put_u64(v, self.first_content_hash);
        });
    }

    /// Reads a row's value.
    pub fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(value, "conflict");
        let conflict = Self {
            id_key: r.bytes()?.to_vec(),
            log_time_ms: r.varint()? as i64,
            sequence: r.varint()?,
            epoch: Epoch(r.u64()?),
            counter: r.varint()?,
            content_hash: r.u64()?,
            first_sequence: r.varint()?,
            first_content_hash: r.u64()?,
        };
        r.end()?;
        Ok(conflict)
    }
}
