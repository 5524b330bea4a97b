//! The manifest: an entry for each segment, each an object that is written once and never changed.
//!
//! Invariant: an entry is the one truth about its sequences. It is put only where none is, under a name that its first
//! sequence and its revision make, so that of two archivers one is refused. What no entry names is no part of the
//! archive. A revision takes the place of the entry before it; only an erasure makes one.

use chrono::{DateTime, Datelike, Timelike};
use serde::{Deserialize, Serialize};

use crate::segment::Rows;

/// The layout of an entry that this program writes and reads.
pub const ENTRY_VERSION: u32 = 1;
/// Folder of the segments.
pub const LOG: &str = "log";
/// Folder of the entries.
pub const MANIFEST: &str = "manifest";

/// A file as an entry names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Its place in the archive.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of all of it, hexadecimal, as `sha256sum` prints it.
    pub sha256: String,
}

/// That the rows of one user were given another name in a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// When, RFC 3339.
    pub at: String,
    /// Who, as the command was told or the system says.
    pub by: String,
    /// In how many rows.
    pub rows: u64,
    /// The file from before, which is gone.
    pub before: FileRef,
    /// The file since then.
    pub after: FileRef,
}

/// What the archive holds of one run of a shard's sequences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentEntry {
    /// [`ENTRY_VERSION`].
    pub version: u32,
    /// The shard.
    pub shard: u16,
    /// When its stream was created, in nanoseconds of the Unix epoch: the archive of another stream is another's.
    pub stream_created_ns: i64,
    /// The first sequence that it answers for.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// How often it has been rewritten.
    pub revision: u32,
    /// Messages that it holds; fewer than sequences where the stream skipped some.
    pub messages: u64,
    /// Rows that it holds.
    pub rows: Rows,
    /// Log time of its first message, Unix milliseconds: the running maximum of the broker's timestamps.
    pub log_time_from_ms: i64,
    /// Log time of its last message.
    pub log_time_to_ms: i64,
    /// Where the rows are.
    pub file: FileRef,
    /// When it was first written, RFC 3339.
    pub written_at: String,
    /// Who wrote it.
    pub archiver: String,
    /// What has been erased in it.
    #[serde(default)]
    pub erasures: Vec<Erasure>,
}

impl SegmentEntry {
    /// Its place in the archive.
    pub fn path(&self) -> String {
        entry_path(self.shard, self.first, self.revision)
    }
}

/// Place of the entry of that first sequence.
pub fn entry_path(shard: u16, first: u64, revision: u32) -> String {
    format!("{}/{first:020}-{revision:04}.json", entry_folder(shard))
}

/// Folder of a shard's entries.
pub fn entry_folder(shard: u16) -> String {
    format!("{MANIFEST}/shard={shard}")
}

/// First sequence and revision of the entry at that place.
pub fn read_entry_path(path: &str) -> Option<(u64, u32)> {
    let name = path.rsplit('/').next()?.strip_suffix(".json")?;
    let (first, revision) = name.split_once('-')?;
    Some((first.parse().ok()?, revision.parse().ok()?))
}

/// Folder of a shard's segments.
pub fn log_folder(shard: u16) -> String {
    format!("{LOG}/shard={shard}")
}

/// An hour of log time, counted from the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hour(i64);

/// Milliseconds of an hour.
const HOUR_MS: i64 = 3_600_000;

impl Hour {
    /// The hour in which that moment lies, Unix milliseconds.
    pub fn of(ms: i64) -> Self {
        Self(ms.div_euclid(HOUR_MS))
    }

    /// When it is over, Unix milliseconds.
    pub fn end_ms(self) -> i64 {
        (self.0 + 1).saturating_mul(HOUR_MS)
    }

    /// Its hive partition.
    fn partition(self) -> String {
        let begin = DateTime::from_timestamp_millis(self.0.saturating_mul(HOUR_MS));
        let begin = begin.unwrap_or_default();
        format!(
            "year={:04}/month={:02}/day={:02}/hour={:02}",
            begin.year(),
            begin.month(),
            begin.day(),
            begin.hour()
        )
    }
}

/// The place of a segment's file. `unique` keeps apart what two archivers write of the same sequences.
pub fn segment_path(shard: u16, hour: Hour, first: u64, revision: u32, unique: &str) -> String {
    let (folder, partition) = (log_folder(shard), hour.partition());
    format!("{folder}/{partition}/{first:020}-{revision:04}-{unique}.parquet")
}

/// First sequence and revision of the segment at that place.
pub fn read_segment_path(path: &str) -> Option<(u64, u32)> {
    let name = path.rsplit('/').next()?.strip_suffix(".parquet")?;
    let mut parts = name.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
